"""Images in a column of a table: bytes, Hugging Face's `{bytes, path}`, file names, or http addresses.

Named as `TABLE::ID_COLUMN::IMAGE_COLUMN` wherever an archive can be named, e.g. `train.parquet::uuid::image`; for a
database as `ADDRESS::QUERY::ID_COLUMN::IMAGE_COLUMN`. Bytes in parquet files are streamed, never held.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from multitask.data.fetching import AT_ONCE_PER_HOST, Fetcher
from multitask.data.frames import explaining_table, parquet_files, read_frame
from multitask.errors import ArchiveError, TableError, nearest

SEPARATOR = "::"
# Rows of a parquet file decoded at once.
_BATCH_ROWS = 32


@dataclass(frozen=True)
class _Image:
    """An image of a row: its digest where the bytes lie in the table, else the name of its file or its address."""

    row: int
    digest: str
    place: str


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
            files = parquet_files(table)
            self._rows: _Held | _Streamed = _Streamed(files, *columns) if files else _Held(table, query, *columns)
            self._images = list(_distinct(self._rows))
        except TableError as error:
            raise ArchiveError(str(error)) from None

    @property
    def readers(self) -> int:
        """How many threads may read at once to some use: more than one where images are fetched."""
        return 2 * AT_ONCE_PER_HOST if any(_is_address(image.place) for _, image in self._images) else 1

    def members(self) -> Iterator[tuple[str, _Image]]:
        """Yield ids and images; one picture that several rows of an id show is given once."""
        yield from self._images

    def read(self, place: _Image) -> bytes:
        """Return the bytes of an image, fetched if need be."""
        if place.digest:
            return self._rows.read(place.row)
        if _is_address(place.place):
            return self._fetcher.get(place.place)
        return (self.path.parent / place.place).read_bytes()

    def identity(self, place: _Image) -> str:
        """Return what changes when an image does: its digest, its address, or its file's size and time."""
        if place.digest or _is_address(place.place):
            return place.digest or place.place
        facts = os.stat(self.path.parent / place.place)
        return f"{place.place}|{facts.st_size}|{facts.st_mtime_ns}"

    def close(self) -> None:
        """Close the table."""
        self._rows.close()


class _Held:
    """Rows of a table that is no parquet file; it is held whole."""

    def __init__(self, table: str, query: str, id_column: str, image_column: str) -> None:
        frame = read_frame(table, query)
        for column in (id_column, image_column):
            _check_column(column, list(map(str, frame.columns)), table)
        self._ids, self._images = frame[id_column].tolist(), frame[image_column].tolist()

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return zip(self._ids, self._images, strict=True)

    def read(self, row: int) -> bytes:
        return _bytes(self._images[row])

    def close(self) -> None:
        self._images = []


class _Streamed:
    """Rows of parquet files, which can only be read forward: a read further back starts anew at its row group."""

    def __init__(self, paths: list[Path], id_column: str, image_column: str) -> None:
        self._columns, self._lock = [id_column, image_column], threading.Lock()
        self._files = []
        # Where each row group begins: row, file, number of the group.
        self._groups: list[tuple[int, pq.ParquetFile, int]] = []
        rows = 0
        for path in paths:
            with explaining_table(str(path)):
                file = pq.ParquetFile(path, buffer_size=1 << 20)
            self._files.append(file)
            for column in self._columns:
                _check_column(column, file.schema_arrow.names, str(path))
            for group in range(file.num_row_groups):
                self._groups.append((rows, file, group))
                rows += file.metadata.row_group(group).num_rows
        self._batches: Iterator[tuple[int, pa.Array]] = iter(())
        self._batch: tuple[int, Any] = (0, [])

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        for _, file, group in self._groups:
            for batch in file.iter_batches(_BATCH_ROWS, [group], self._columns):
                columns = (batch.column(batch.schema.get_field_index(name)) for name in self._columns)
                yield from ((name.as_py(), image.as_py()) for name, image in zip(*columns, strict=True))

    def read(self, row: int) -> bytes:
        with self._lock:
            start, images = self._batch
            if row < start or start == len(images) == 0 or self._is_ahead(row):
                self._batches = self._from_group_of(row)
                start, images = next(self._batches)
            while row >= start + len(images):
                start, images = next(self._batches)
            self._batch = start, images
            return _bytes(images[row - start].as_py())

    def close(self) -> None:
        for file in self._files:
            file.close()

    def _is_ahead(self, row: int) -> bool:
        """Tell whether a row lies in a later group than the one that is being read."""
        return self._group_of(row) != self._group_of(self._batch[0])

    def _group_of(self, row: int) -> int:
        return max(number for number, (start, _, _) in enumerate(self._groups) if start <= row)

    def _from_group_of(self, row: int) -> Iterator[tuple[int, pa.Array]]:
        start, file, group = self._groups[self._group_of(row)]
        for batch in file.iter_batches(_BATCH_ROWS, [group], self._columns[1:]):
            yield start, batch.column(0)
            start += batch.num_rows


def _distinct(rows: _Held | _Streamed) -> Iterator[tuple[str, _Image]]:
    """Yield the id and image of every row that has one, a picture that an id shows again left out."""
    seen: set[tuple[str, str]] = set()
    for row, (name, value) in enumerate(rows):
        plain = _plain(value)
        if plain is None:
            continue
        digest, place = (hashlib.sha256(plain).hexdigest(), "") if isinstance(plain, bytes) else ("", plain)
        if (str(name), digest or place) not in seen:
            seen.add((str(name), digest or place))
            yield str(name), _Image(row, digest, place)


def _plain(value: Any) -> bytes | str | None:
    """Return the bytes or the place of an image; None for a missing one."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    return None if value is None or pd.isna(value) or not str(value) else str(value)


def _bytes(value: Any) -> bytes:
    plain = _plain(value)
    return plain if isinstance(plain, bytes) else b""


def _is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _check_column(column: str, known: list[str], where: str) -> None:
    if column not in known:
        raise TableError(f'no column "{column}"', where=where, fix=nearest(column, known))
