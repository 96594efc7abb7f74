"""Images in a column of a table: bytes, Hugging Face's `{bytes, path}`, file names, or http addresses.

Named as `TABLE::ID_COLUMN::IMAGE_COLUMN` wherever an archive can be named, e.g. `train.parquet::uuid::image`; for a
database as `ADDRESS::QUERY::ID_COLUMN::IMAGE_COLUMN`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from multitask.errors import ArchiveError, TableError, nearest
from multitask.fetching import AT_ONCE_PER_HOST, Fetcher
from multitask.frames import read_frame

SEPARATOR = "::"


class ColumnImages:
    """The images of a column, by the id in another one; rows without an image are left out.

    Args:
        location: as on top of this file.
        fetcher: gets http addresses.
    """

    names_are_ids = True

    def __init__(self, location: str, fetcher: Fetcher) -> None:
        table, *columns = location.rsplit(SEPARATOR, 2)
        table, _, query = table.partition(SEPARATOR)
        self.path, self._fetcher = Path(table), fetcher
        if len(columns) != 2:
            raise ArchiveError(
                "is no column of images", where=location, expected=f"TABLE{SEPARATOR}ID_COLUMN{SEPARATOR}IMAGE_COLUMN"
            )
        try:
            frame = read_frame(table, query)
        except TableError as error:
            raise ArchiveError(str(error)) from None
        for column in columns:
            if column not in frame:
                raise ArchiveError(f'no column "{column}"', where=table, fix=nearest(column, map(str, frame.columns)))
        pairs = zip(frame[columns[0]], map(_plain, frame[columns[1]]), strict=True)
        known = [(str(name), image) for name, image in pairs if image is not None]
        self._ids = [name for name, _ in known]
        self._images: list[bytes | str] = [image for _, image in known]

    @property
    def readers(self) -> int:
        """How many threads may read at once to some use: more than one where images are fetched."""
        is_fetched = any(isinstance(image, str) and image.startswith(("http://", "https://")) for image in self._images)
        return 2 * AT_ONCE_PER_HOST if is_fetched else 1

    def members(self) -> Iterator[tuple[str, int]]:
        """Yield ids and positions; one picture that several rows of an id name is given once."""
        seen: dict[str, Any] = {}
        for position, name in enumerate(self._ids):
            if name not in seen or seen[name] != self._images[position]:
                yield name, position
            seen.setdefault(name, self._images[position])

    def read(self, place: int) -> bytes:
        """Return the bytes of an image, fetched if need be."""
        image = self._images[place]
        if isinstance(image, bytes):
            return image
        if image.startswith(("http://", "https://")):
            return self._fetcher.get(image)
        return (self.path.parent / image).read_bytes()

    def identity(self, place: int) -> str:
        """Return what changes when an image does: its digest, its address, or its file's size and time."""
        image = self._images[place]
        if isinstance(image, bytes):
            return hashlib.sha256(image).hexdigest()
        if image.startswith(("http://", "https://")):
            return str(image)
        facts = os.stat(self.path.parent / image)
        return f"{image}|{facts.st_size}|{facts.st_mtime_ns}"

    def close(self) -> None:
        """Forget the images."""
        self._images = []


def _plain(value: Any) -> bytes | str | None:
    """Return the bytes or the place of an image; None for a missing one."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return None if value is None or pd.isna(value) or not str(value) else str(value)
