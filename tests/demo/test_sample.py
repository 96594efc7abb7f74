"""sample and drawing: the same pictures every time, with the promised defects."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps

from multitask.audit.inspection import explain_unreadable
from multitask.data.archives import open_archive
from multitask.demo.drawing import COLOURS, SHAPES, Garment, draw_photo
from multitask.demo.sample import KINDS, PATTERNS, draw_sample


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_same_seed_draws_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw_sample(tmp_path / name, images=40, seed=3)
    draw_sample(tmp_path / "other", images=40, seed=4)
    assert digest(tmp_path / "one/images.zip") == digest(tmp_path / "two/images.zip")
    assert digest(tmp_path / "one/images.zip") != digest(tmp_path / "other/images.zip")
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "one/data.parquet"), pd.read_parquet(tmp_path / "two/data.parquet")
    )


def test_the_promised_defects_are_there(sample: Path) -> None:
    table, test = pd.read_parquet(sample / "data.parquet"), pd.read_parquet(sample / "test.parquet")
    repeated = table[table.duplicated("uuid", keep=False)].groupby("uuid")["cc3"].nunique()
    assert sorted(repeated) == [1, 2]
    assert table["cc3"].isna().sum() == 1
    assert table[list(PATTERNS)].isna().all(axis=1).sum() == 1
    with open_archive(sample / "images.zip") as archive:
        assert sorted(set(table["uuid"]) - set(archive)) == ["nowhere"]
        assert sorted(set(archive) - set(table["uuid"]) - set(test["uuid"])) == ["orphan"]
        assert explain_unreadable(archive["text"], 10**8) == "not an image"
        assert "damaged" in explain_unreadable(archive["truncated"], 10**8)
        assert Image.open(io.BytesIO(archive["alpha"])).mode == "RGBA"
        assert Image.open(io.BytesIO(archive["grey"])).mode == "L"
        twins = [name for name in archive if archive[name] == archive["copy"]]
        assert len(twins) == 2
    assert test.duplicated("uuid").sum() == 1
    assert {"test_broken", "test_missing"} <= set(test["uuid"])
    assert not set(test["uuid"]) & set(table["uuid"])


def test_classes_and_patterns_are_spread_like_the_real_data(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    assert sum(KINDS.values()) == pytest.approx(1)
    assert sorted(SHAPES) == sorted(KINDS)
    photos = [draw_photo(Garment(kind, "navy", frozenset()), random).picture for kind in KINDS]
    assert all(160 <= photo.width < 250 and photo.height > photo.width for photo in photos)


def test_some_photos_are_stored_lying_with_a_note(sample: Path) -> None:
    with zipfile.ZipFile(sample / "images.zip") as archive:
        lying = []
        for name in archive.namelist():
            if (
                name.endswith(".jpg")
                and archive.read(name)[:2] == b"\xff\xd8"
                and "truncated" not in name
                and "broken" not in name
            ):
                image = Image.open(io.BytesIO(archive.read(name)))
                if image.getexif().get(0x0112) == 6:
                    lying.append((image.size, ImageOps.exif_transpose(image).size))
    assert lying
    assert all(stored[0] > stored[1] and upright[1] > upright[0] for stored, upright in lying)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_changes_the_fabric_and_nothing_else_does(pattern: str) -> None:
    def middle(patterns: frozenset[str]) -> np.ndarray:
        photo = draw_photo(Garment("SHIRTS", "white", patterns), np.random.default_rng(5)).picture
        width, height = photo.size
        return np.asarray(photo.crop((width // 3, height // 3, 2 * width // 3, 2 * height // 3)), float)

    assert middle(frozenset([pattern])).std() > 1.15 * middle(frozenset()).std()


def test_a_drawing_that_is_stopped_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multitask.demo.sample._jpeg", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        draw_sample(tmp_path / "demo", images=40)
    assert list(tmp_path.iterdir()) == []


def test_all_garments_come_in_all_colours() -> None:
    random = np.random.default_rng(0)
    for colour in COLOURS:
        assert draw_photo(Garment("BLOUSES", colour, frozenset(PATTERNS)), random).picture.mode == "RGB"
