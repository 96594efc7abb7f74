"""Draws the demo dataset: photos of five kinds of garment in three fabric patterns, with the defects of real data.

Awkward on purpose, one of each: an id repeated with the same labels and one with other labels, a truncated JPEG, a text
file named .jpg, a row without its file, a file without a row, a copy of a picture under another id, a PNG with alpha, a
grey JPEG, rows without a category or without tags. The test table has a broken, a missing and a repeated image too.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.random import Generator
from PIL import Image

from multitask.demo.drawing import COLOURS, Garment, draw_photo
from multitask.storage import replacing

KINDS = {"BLOUSES": 0.33, "TANK_TOPS": 0.175, "CASUAL_DRESSES": 0.17, "MINI_DRESSES": 0.165, "SHIRTS": 0.16}
PATTERNS = ("polka dot", "floral", "checker")
TEST_SHARE = 0.08
# No garment has a pattern, one of them, two, or all three.
PATTERN_COUNTS = (0.32, 0.56, 0.1, 0.02)


def draw_sample(directory: str | Path, images: int = 1000, seed: int = 0) -> Path:
    """Draw `data.parquet`, `test.parquet` and `images.zip` into a folder, the same bytes for the same seed.

    Args:
        directory: appears when all is drawn, or not at all; must not exist.
        images: how many photos.
        seed: of everything.

    Returns:
        The folder.
    """
    random, directory = np.random.default_rng(seed), Path(directory)
    with replacing(directory) as temporary:
        temporary.mkdir(parents=True)
        rows: list[dict[str, Any]] = []
        with zipfile.ZipFile(temporary / "images.zip", "w") as archive:
            for number in range(images):
                row, data = _draw_row(number, images, random)
                rows.append(row)
                _store(archive, f"photos/{row['uuid']}.jpg", data)
            frame, test = _with_awkward_rows(pd.DataFrame(rows), archive, random)
        frame.to_parquet(temporary / "data.parquet", index=False)
        test.to_parquet(temporary / "test.parquet", index=False)
    return directory


def _draw_row(number: int, images: int, random: Generator) -> tuple[dict[str, Any], bytes]:
    kind = str(random.choice(list(KINDS), p=list(KINDS.values())))
    count = int(random.choice(4, p=PATTERN_COUNTS))
    patterns = frozenset(map(str, random.choice(PATTERNS, count, replace=False)))
    colour = str(random.choice(list(COLOURS)))
    photo = draw_photo(Garment(kind, colour, patterns), random)
    name = f"{number:04d}_{random.integers(16**6):06x}"
    tags = {pattern: int(pattern in patterns) for pattern in PATTERNS}
    sender = f"sender_{random.integers(max(images // 4, 1)):03d}"
    row = {"uuid": name, "cc3": kind, **tags, "color1": colour, "sender_id": sender, "width": photo.garment_width}
    return row, _jpeg(photo.picture, random)


def _jpeg(photo: Image.Image, random: Generator) -> bytes:
    """Encode as a phone would: any quality, and sometimes stored lying with an EXIF note that says so."""
    exif = Image.Exif()
    if random.random() < 0.06:
        exif[0x0112] = 6
        photo = photo.transpose(Image.Transpose.ROTATE_90)
    stream = io.BytesIO()
    photo.save(stream, "JPEG", quality=int(random.integers(40, 93)), exif=exif)
    return stream.getvalue()


def _with_awkward_rows(
    frame: pd.DataFrame, archive: zipfile.ZipFile, random: Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide into label and test table and add the defects that the top of this file lists."""
    count = int(len(frame) * TEST_SHARE)
    test, frame = frame["uuid"].iloc[:count], frame.iloc[count:].reset_index(drop=True)
    frame = frame.astype(dict.fromkeys(PATTERNS, "Int64"))
    frame.loc[0, "cc3"] = None
    frame.loc[1, list(PATTERNS)] = pd.NA
    contrary = frame.iloc[[3]].assign(cc3="SHIRTS" if frame.loc[3, "cc3"] != "SHIRTS" else "BLOUSES")
    extra = frame.iloc[[4, 5, 6, 7, 8, 9]].assign(uuid=["truncated", "text", "nowhere", "copy", "alpha", "grey"])
    awkward = pd.concat([frame.iloc[[2]], contrary, extra])

    def stored(row: int) -> bytes:
        return archive.read(f"photos/{frame['uuid'].iloc[row]}.jpg")

    photo = stored(4)
    _store(archive, "photos/truncated.jpg", photo[: len(photo) // 3])
    _store(archive, "photos/text.jpg", b"This was a photo once.\n")
    _store(archive, "photos/orphan.jpg", photo)
    _store(archive, "photos/copy.JPG", stored(7))
    _store(archive, "photos/alpha.png", _as_png(stored(8)))
    _store(archive, "photos/grey.jpeg", _as_grey(stored(9)))
    _store(archive, "photos/test_broken.jpg", photo[:200])
    frame = pd.concat([frame, awkward]).sample(frac=1, random_state=int(random.integers(2**31)))
    ids = [*test, "test_broken", "test_missing", test.iloc[0]]
    return frame.reset_index(drop=True), pd.DataFrame({"uuid": ids})


def _as_png(photo: bytes) -> bytes:
    image, stream = Image.open(io.BytesIO(photo)).convert("RGBA"), io.BytesIO()
    image.putalpha(235)
    image.save(stream, "PNG")
    return stream.getvalue()


def _as_grey(photo: bytes) -> bytes:
    stream = io.BytesIO()
    Image.open(io.BytesIO(photo)).convert("L").save(stream, "JPEG", quality=85)
    return stream.getvalue()


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    """Add a member with a fixed date, so that the archive is the same whenever it is drawn."""
    archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), data)
