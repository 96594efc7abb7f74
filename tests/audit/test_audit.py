"""inspection, duplicates, audit: every image is looked at once, and what is wrong with it is seen."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from multitask.audit import looking as room
from multitask.audit.duplicates import near_duplicates
from multitask.audit.inspection import Look, look_at
from multitask.audit.looks import Looks
from multitask.audit.rows import audit_rows
from multitask.data.archives import open_archive
from multitask.data.tables import read_table
from multitask.demo.drawing import Garment, draw_photo
from multitask.demo.probe import encode, probe_images
from multitask.spec import Task
from tests.conftest import photo, write_table, write_zip

LIMIT = 64_000_000
TASK = Task(name="tags", kind="multilabel", columns=("t",), classes=("t",))


def scene(seed: int, size: tuple[int, int] = (400, 530)) -> Image.Image:
    """A picture with coarse structure and fine detail, unlike that of another seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 5, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 256, (size[1] // 2, size[0] // 2, 3), np.uint8)).resize(size)
    return Image.blend(coarse, grain, 0.15)


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    return encode(picture, "JPEG", quality=quality)


def test_a_look_tells_what_the_file_is() -> None:
    found = look_at(jpeg(scene(1)), LIMIT)
    assert (found.reason, found.format, found.width, found.height, found.orientation) == ("", "JPEG", 400, 530, 1)
    assert 0.2 < found.brightness < 0.8
    assert len(found.thumbnail) == 12 * 12 * 3


@pytest.mark.parametrize("name", [name for name in probe_images() if not name.startswith("broken")])
def test_every_readable_format_is_looked_at(name: str) -> None:
    found = look_at(probe_images()[name], LIMIT)
    assert found.reason == ""
    assert found.contrast > 0.05
    assert found.orientation == (int(name[-1]) if "orientation" in name else 1)


def test_orientations_of_one_picture_look_alike_upright() -> None:
    upright = probe_images()["jpeg_orientation_1"]
    with Image.open(io.BytesIO(upright)) as opened:
        turned = opened.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    looks = [look_at(upright, LIMIT), look_at(encode(turned, "JPEG", exif=exif, quality=95), LIMIT)]
    assert near_duplicates(Looks.of(looks)).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"text", "not an image"),
        (jpeg(scene(0))[:5000], "damaged image"),
        (encode(scene(0), "TIFF"), "TIFF is not supported"),
        (encode(Image.new("1", (9000, 8000)), "PNG"), "too large: 9000x8000"),
    ],
)
def test_what_cannot_be_read_has_its_reason(data: bytes, reason: str) -> None:
    assert look_at(data, LIMIT).reason.startswith(reason)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(list(probe_images().values())), st.integers(0, 3000), st.binary(max_size=6))
def test_no_file_makes_a_look_fail(data: bytes, at: int, other: bytes) -> None:
    assert isinstance(look_at(data[:at] + other + data[at + len(other) :], LIMIT), Look)


def test_dark_blank_and_blurred_pictures_measure_so() -> None:
    plain = look_at(jpeg(scene(2)), LIMIT)
    dark = look_at(jpeg(ImageEnhance.Brightness(scene(2)).enhance(0.2)), LIMIT)
    blurred = look_at(jpeg(scene(2).filter(ImageFilter.GaussianBlur(6))), LIMIT)
    blank = look_at(jpeg(Image.new("RGB", (400, 530), "gray")), LIMIT)
    assert dark.brightness < 0.3 * plain.brightness
    assert blurred.sharpness < 0.1 * plain.sharpness
    assert blank.contrast < 0.005
    assert abs(blurred.brightness - plain.brightness) < 0.02


COPIES = {
    "compressed again": lambda picture: jpeg(picture, 40),
    "half as large": lambda picture: jpeg(picture.resize((200, 265))),
    "brighter": lambda picture: jpeg(ImageEnhance.Brightness(picture).enhance(1.1)),
    "another format": lambda picture: encode(picture, "PNG"),
    "cropped a little": lambda picture: jpeg(picture.crop((5, 7, 395, 523))),
}


@pytest.mark.parametrize("change", COPIES)
def test_a_copy_is_nearly_the_same_picture(change: str) -> None:
    files = [jpeg(scene(seed)) for seed in range(20)] + [COPIES[change](scene(seed)) for seed in range(5)]
    groups = near_duplicates(Looks.of([look_at(data, LIMIT) for data in files]))
    assert groups[:5].tolist() == groups[20:].tolist()
    assert len(set(groups[:5])) == 5
    assert (groups[5:20] == -1).all()


def test_different_pictures_of_like_things_are_not_the_same() -> None:
    rng = np.random.default_rng(0)
    drawn = [draw_photo(Garment("SHIRTS", "black", frozenset({"floral"})), rng).picture for _ in range(60)]
    assert (near_duplicates(Looks.of([look_at(jpeg(picture), LIMIT) for picture in drawn])) == -1).all()


def test_blank_pictures_are_not_called_copies() -> None:
    blank = [look_at(jpeg(Image.new("RGB", (50, 50), colour)), LIMIT) for colour in ("white", "gray", "black")]
    assert (near_duplicates(Looks.of(blank)) == -1).all()


def test_a_thousand_copies_are_one_group_quickly() -> None:
    look = look_at(jpeg(scene(3)), LIMIT)
    assert set(near_duplicates(Looks.of([look] * 3000)).tolist()) == {0}
    assert near_duplicates(Looks.of([])).tolist() == []


@pytest.fixture
def archive_path(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "a.zip", {f"p{number}.jpg": jpeg(scene(number)) for number in range(6)})


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count how often an image is decoded."""
    seen: list[int] = []
    real = room.look_at

    def look(data: bytes, limit: int) -> Look:
        seen.append(len(data))
        return real(data, limit)

    monkeypatch.setattr(room, "look_at", look)
    return seen


def test_a_second_audit_decodes_nothing_and_knows_the_same(
    archive_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch)
    table = read_table(write_table(tmp_path / "t.parquet", [f"p{n}" for n in range(6)], t=[0, 1] * 3), "uuid", [TASK])
    with open_archive(archive_path) as archive:
        first = audit_rows(table, [TASK], archive, LIMIT, tmp_path / "cache")
        second = audit_rows(table, [TASK], archive, LIMIT, tmp_path / "cache")
    assert (first.looked, second.looked, len(seen)) == (6, 0, 6)
    assert first.looks.as_arrow() == second.looks.as_arrow()
    assert first.images.tolist() == second.images.tolist()
    assert first.reasons.tolist() == second.reasons.tolist()


@pytest.mark.parametrize("kind", ["zip", "folder", "limit"])
def test_what_has_changed_is_looked_at_again(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch)
    images = {f"p{number}.jpg": jpeg(scene(number)) for number in range(3)}
    folder = tmp_path / "images"
    folder.mkdir()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    path = folder if kind == "folder" else write_zip(tmp_path / "a.zip", images)
    table = read_table(write_table(tmp_path / "t.parquet", ["p0", "p1", "p2"], t=[0, 1, 0]), "uuid", [TASK])
    with open_archive(path) as archive:
        audit_rows(table, [TASK], archive, LIMIT, tmp_path / "cache")
    edited = jpeg(scene(9))
    if kind == "folder":
        (folder / "p1.jpg").write_bytes(edited)
        os.utime(folder / "p1.jpg", ns=(1, 1))
    elif kind == "zip":
        write_zip(path, images | {"p1.jpg": edited})
        os.utime(path, ns=(1, 1))
    seen.clear()
    with open_archive(path) as archive:
        found = audit_rows(table, [TASK], archive, 1000 if kind == "limit" else LIMIT, tmp_path / "cache")
    assert len(seen) == {"folder": 1, "zip": 3, "limit": 3}[kind]
    if kind == "limit":
        assert all(reason.startswith("too large") for reason in found.reasons)
    else:
        assert found.digests[1] == look_at(edited, LIMIT).digest


def test_missing_broken_and_repeated_rows_are_told_apart(tmp_path: Path) -> None:
    images = {"a.jpg": photo(1), "b.jpg": photo(1), "c.jpg": b"no image", "d.jpg": photo(2), "e.jpg": b""}
    ids = ["a", "b", "c", "d", "d", "e", "f", ""]
    table = read_table(write_table(tmp_path / "t.parquet", ids, t=[0, 0, 1, 1, 0, 1, 1, 1]), "uuid", [TASK])
    with open_archive(write_zip(tmp_path / "a.zip", images)) as archive:
        found = audit_rows(table, [TASK], archive, LIMIT)
    starts = ["", "", "not an image", "contradictory", "contradictory", "empty file", "no image with this id", "no id"]
    assert all(
        reason.startswith(start) and bool(reason) == bool(start)
        for reason, start in zip(found.reasons, starts, strict=True)
    )
    assert found.digests[0] == found.digests[1] != ""


def test_an_archive_that_is_cut_during_the_run_costs_its_rows_and_nothing_else(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {f"p{number}.jpg": jpeg(scene(number)) for number in range(6)})
    table = read_table(write_table(tmp_path / "t.parquet", [f"p{n}" for n in range(6)], t=[0, 1] * 3), "uuid", [TASK])
    with open_archive(path) as archive:
        with zipfile.ZipFile(path) as opened:
            end = opened.getinfo("p3.jpg").header_offset
        os.truncate(path, end)
        found = audit_rows(table, [TASK], archive, LIMIT)
    assert [bool(reason) for reason in found.reasons] == [False, False, False, True, True, True]
    assert "a.zip" in found.reasons[3]
