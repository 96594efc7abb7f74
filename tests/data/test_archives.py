"""archives: every kind of container, good and bad, becomes ids and bytes or a clear error."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data import containers
from multitask.data.archives import Archive, open_archive, read_image
from multitask.errors import ArchiveError
from tests.conftest import photo, write_zip

ROOT = Path(__file__).parents[2]
MEMBERS = {f"deep/er/{number:03d}.jpg": bytes([number]) * (number + 1) for number in range(60)}
IDS = [f"{number:03d}" for number in range(60)]


def write_tar(path: Path, mode: str, members: dict[str, bytes] = MEMBERS) -> Path:
    with tarfile.open(path, mode) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_folder(path: Path, members: dict[str, bytes] = MEMBERS) -> Path:
    for name, data in members.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


WRITERS = {
    "stored zip": lambda path: write_zip(path / "a.zip", MEMBERS),
    "deflated zip": lambda path: write_zip(path / "a.zip", MEMBERS, zipfile.ZIP_DEFLATED),
    "bzip2 zip": lambda path: write_zip(path / "a.zip", MEMBERS, zipfile.ZIP_BZIP2),
    "lzma zip": lambda path: write_zip(path / "a.zip", MEMBERS, zipfile.ZIP_LZMA),
    "plain tar": lambda path: write_tar(path / "a.tar", "w"),
    "gzip tar": lambda path: write_tar(path / "a.tar.gz", "w:gz"),
    "bzip2 tar": lambda path: write_tar(path / "a.tbz", "w:bz2"),
    "xz tar": lambda path: write_tar(path / "a.tar.xz", "w:xz"),
    "folder": lambda path: write_folder(path / "folder"),
}


@pytest.fixture(params=WRITERS, ids=lambda name: name.replace(" ", "_"))
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    with open_archive(WRITERS[request.param](tmp_path)) as opened:
        yield opened


def test_every_kind_gives_all_images_in_any_order(archive: Archive) -> None:
    assert sorted(archive) == IDS
    for number in np.random.default_rng(0).permutation(60):
        assert archive[f"{number:03d}"] == bytes([number]) * (number + 1)


def test_reads_from_eight_threads_do_not_disturb_each_other(archive: Archive) -> None:
    wanted = np.random.default_rng(1).integers(0, 60, 300)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: archive[f"{number:03d}"], wanted))
    assert found == [bytes([number]) * (number + 1) for number in wanted]


def test_an_unknown_id_is_a_key_error(archive: Archive) -> None:
    assert "nobody" not in archive
    with pytest.raises(KeyError):
        archive["nobody"]


def test_order_is_that_of_the_archive_with_unknown_ids_last(archive: Archive) -> None:
    wanted = ["059", "nobody", "003", "030", "003"]
    assert [wanted[position] for position in archive.in_order(wanted)] == ["003", "003", "030", "059", "nobody"]


def test_a_zip64_archive_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w", allowZip64=True) as file:
        with file.open("x/one.jpg", "w", force_zip64=True) as member:
            member.write(b"one")
        for number in range(66_000):  # more members than a plain zip can count
            file.writestr(f"x/{number}.txt", b"")
    with open_archive(tmp_path / "a.zip") as archive:
        assert dict(archive) == {"one": b"one"}


def test_the_kind_is_told_by_content_not_by_name(tmp_path: Path) -> None:
    with open_archive(write_tar(tmp_path / "photos.zip", "w:gz")) as archive:
        assert archive["007"] == b"\x07" * 8


def test_extensions_of_any_case_count_and_other_files_do_not(tmp_path: Path) -> None:
    names = ["a.JPG", "b.JpEg", "c.PNG", "d.webp", "e.gif", "f.bmp", "g.TIFF", "h.txt", "labels.csv", "no_extension"]
    with open_archive(write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))) as archive:
        assert sorted(archive) == list("abcdefg")


def test_names_with_dots_spaces_and_unicode_are_ids(tmp_path: Path) -> None:
    names = ["v1.2.jpg", "rosa Bluse.jpg", "Röckchen/Größe 38.jpg", "花/裙子.png"]
    for path in (
        write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x")),
        write_tar(tmp_path / "a.tar", "w", dict.fromkeys(names, b"x")),
    ):
        with open_archive(path) as archive:
            assert sorted(archive) == sorted(["v1.2", "rosa Bluse", "Größe 38", "裙子"])


def test_names_that_lead_out_and_litter_are_skipped(tmp_path: Path) -> None:
    names = [
        "../up.jpg",
        "/etc/absolute.jpg",
        "a/../../b.jpg",
        "__MACOSX/c.jpg",
        "x/._d.jpg",
        "..\\e.jpg",
        "./fine.jpg",
    ]
    names += [".ipynb_checkpoints/fine-checkpoint.jpg", "x/.hidden.jpg", "y\\.thumbs\\f.jpg"]
    with open_archive(write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))) as archive:
        assert list(archive) == ["fine"]


def test_an_id_that_two_files_bear_is_ambiguous_and_names_them(tmp_path: Path) -> None:
    first = write_zip(tmp_path / "one.zip", {"x/twin.jpg": b"1", "single.jpg": b"2", "x/twin.png": b"3"})
    second = write_tar(tmp_path / "two.tar", "w", {"y/twin.jpg": b"4"})
    with open_archive(first, second) as archive:
        assert list(archive) == ["single", "y/twin"]
        assert archive.ambiguous == {
            "twin": ("one.zip:x/twin.jpg", "one.zip:x/twin.png", "two.tar:y/twin.jpg"),
            "x/twin": ("one.zip:x/twin.jpg", "one.zip:x/twin.png"),
        }
        assert len(archive) == 2
        assert (archive["y/twin"], archive["x/twin.png"]) == (b"4", b"3")
        assert "twin" not in archive


def test_several_archives_and_folders_are_one_mapping(tmp_path: Path) -> None:
    zipped = write_zip(tmp_path / "one.zip", {"a.jpg": b"a"})
    folder = write_folder(tmp_path / "more", {"b.jpg": b"b", "c/d.jpg": b"d"})
    with open_archive(zipped, folder, write_tar(tmp_path / "t.tgz", "w:gz", {"e.jpg": b"e"})) as archive:
        assert dict(archive) == {"a": b"a", "b": b"b", "d": b"d", "e": b"e"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "no such file"), (b"hello there", "neither a zip nor a tar"), (b"", "neither a zip nor a tar")],
)
def test_what_is_no_archive_is_refused_with_the_next_step(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(ArchiveError, match=problem) as caught:
        open_archive(tmp_path / "a.zip")
    assert "a.zip" in str(caught.value)


def test_a_truncated_zip_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", MEMBERS)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArchiveError):
        open_archive(path)


def test_a_truncated_compressed_tar_is_refused(tmp_path: Path) -> None:
    members = {f"{number}.jpg": os.urandom(2000) for number in range(50)}
    path = write_tar(tmp_path / "a.tar.gz", "w:gz", members)
    path.write_bytes(path.read_bytes()[:40_000])
    with pytest.raises(ArchiveError, match="list of files"):
        open_archive(path)


def test_a_damaged_member_is_an_error_that_names_it_and_spares_the_others(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"good.jpg": b"g" * 500, "x/bad.jpg": b"b" * 500})
    path.write_bytes(path.read_bytes().replace(b"b" * 100, b"?" * 100, 1))
    with open_archive(path) as archive:
        assert archive["good"] == b"g" * 500
        with pytest.raises(ArchiveError, match=r"x/bad\.jpg"):
            archive["bad"]


def test_an_encrypted_member_says_so(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"abc"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the encryption flag of the local header
    data[data.index(b"PK\x01\x02") + 8] |= 1  # and of the central one
    path.write_bytes(data)
    with open_archive(path) as archive, pytest.raises(ArchiveError, match="without a password"):
        archive["a"]


def test_an_unknown_compression_asks_to_zip_anew(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", {"a.jpg": b"abc"})
    data = bytearray(path.read_bytes())
    struct.pack_into("<H", data, 8, 9)  # deflate64, which Python does not know
    struct.pack_into("<H", data, data.index(b"PK\x01\x02") + 10, 9)
    path.write_bytes(data)
    with open_archive(path) as archive, pytest.raises(ArchiveError, match="re-zip"):
        archive["a"]


def test_a_member_that_declares_absurd_size_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBER_BYTES", 1000)
    for path in (
        write_zip(tmp_path / "a.zip", {"big.jpg": b"0" * 1001, "fits.jpg": b"0" * 1000}, zipfile.ZIP_DEFLATED),
        write_tar(tmp_path / "a.tar", "w", {"big.jpg": b"0" * 1001, "fits.jpg": b"0" * 1000}),
        write_tar(tmp_path / "a.tgz", "w:gz", {"big.jpg": b"0" * 1001, "fits.jpg": b"0" * 1000}),
        write_folder(tmp_path / "folder", {"big.jpg": b"0" * 1001, "fits.jpg": b"0" * 1000}),
    ):
        with open_archive(path) as archive:
            assert len(archive["fits"]) == 1000
            with pytest.raises(ArchiveError, match="1,001 bytes"):
                archive["big"]


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_bomb_whose_header_lies_costs_no_memory(method: int, tmp_path: Path) -> None:
    """It declares a thousand bytes and inflates to 200 million; the process reading it stays small."""
    zeros = bytes(50 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as file, file.open("bomb.jpg", "w") as member:
        for _ in range(4):
            member.write(zeros)
    with zipfile.ZipFile(path) as file:
        size = file.getinfo("bomb.jpg").file_size
    path.write_bytes(path.read_bytes().replace(struct.pack("<I", size), struct.pack("<I", 1000)))
    code = f"""
from multitask.data.archives import open_archive, read_image
from tests.conftest import peak_kilobytes
with open_archive({str(path)!r}) as archive:
    base = peak_kilobytes()
    assert read_image(archive, "bomb")[1], "a reason"
grown = peak_kilobytes() - base
assert grown < 120 << 10, grown
"""
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_an_archive_of_many_members_is_held_as_arrays(tmp_path: Path) -> None:
    """A hundred bytes a member, with its name; zipfile alone takes five times as much."""
    names = [f"photos/{number % 100:02}/image-{number:06}.jpg" for number in range(40_000)]
    path = write_zip(tmp_path / "a.zip", dict.fromkeys(names, b"x"))
    with open_archive(path):
        pass
    tracemalloc.start()
    with open_archive(path) as archive:
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert held / len(names) < 180
        assert len(archive) == len(names)
        assert archive["image-031234"] == archive["photos/34/image-031234"] == b"x"
        wanted = ["image-039999", "image-000000", "nobody", "photos/01/image-000001.jpg"]
        assert archive.in_order(wanted).tolist() == [1, 3, 0, 2]


def test_a_file_may_be_named_with_its_extension_and_the_folder_that_was_opened(tmp_path: Path) -> None:
    members = {"Pants/x.jpg": b"1", "Pants/y.JPG": b"2", "Hats/x.jpg": b"3", "top.png": b"4", "a.b.jpg": b"5"}
    folder = write_folder(tmp_path / "tree", members)
    names = {"Pants/x.jpg": b"1", "tree/Pants/x.jpg": b"1", f"{folder}/Hats/x.jpg": b"3", "./Pants/y.JPG": b"2"}
    names |= {"top.png": b"4", "y.JPG": b"2", "Pants/x": b"1", "a.b": b"5", "tree/top.png": b"4"}
    with open_archive(folder) as archive:
        for name, data in names.items():
            assert archive[name] == data, name
        for name in ("x", "x.jpg", "Pants/x.png", "tree/Pants/z.jpg", "top.jpg", "a"):
            assert name not in archive
        assert read_image(archive, "x.jpg")[1].startswith("several files bear this id: tree:Hats/x.jpg, tree:Pants/x")
        assert sorted(archive.row_names()) == ["Hats/x", "Pants/x", "Pants/y", "a.b", "top"]
        assert archive.without_row(["tree/Pants/x.jpg", "top", "a.b.jpg"]) == ["Hats/x", "Pants/y"]


def test_a_pattern_of_pictures_is_one_folder_and_one_that_fits_nothing_is_explained(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"a/1.jpg": b"1", "b/2.jpg": b"2", "b/3.txt": b"3"})
    with open_archive(str(tmp_path / "folder/*/*.jpg")) as archive:
        assert dict(archive) == {"1": b"1", "2": b"2"}
        assert archive["b/2"] == b"2"
    with open_archive(tmp_path / "folder/a/1.jpg") as archive:
        assert dict(archive) == {"1": b"1"}
    with pytest.raises(ArchiveError, match=r"no file fits.*--images"):
        open_archive(str(tmp_path / "nothing/*.jpg"))


def test_links_in_a_tar_are_no_images(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("secret.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with open_archive(tmp_path / "a.tar") as archive:
        assert len(archive) == 0


def test_a_folder_with_a_link_to_itself_is_read_once(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"a.jpg": b"a"})
    (tmp_path / "folder/again").symlink_to(tmp_path / "folder", target_is_directory=True)
    with open_archive(tmp_path / "folder") as archive:
        assert dict(archive) == {"a": b"a"}


def test_a_file_that_vanishes_from_a_folder_is_an_error_of_its_own(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", {"a.jpg": b"a", "b.jpg": b"b"})
    with open_archive(tmp_path / "folder") as archive:
        (tmp_path / "folder/a.jpg").unlink()
        with pytest.raises(ArchiveError, match=r"a\.jpg"):
            archive["a"]
        assert archive["b"] == b"b"


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_characters="\x00/\\."), min_size=1, max_size=12),
        st.binary(max_size=50),
        max_size=8,
    )
)
def test_whatever_the_names_what_goes_in_comes_out(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, bytes]
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.tar"
    with open_archive(write_tar(path, "w", {f"{name}.jpg": data for name, data in members.items()})) as archive:
        assert dict(archive) == members


def test_real_photos_come_out_byte_for_byte(tmp_path: Path) -> None:
    data = photo(seed=5)
    with open_archive(write_zip(tmp_path / "a.zip", {"p.jpg": data}, zipfile.ZIP_DEFLATED)) as archive:
        assert archive["p"] == data
