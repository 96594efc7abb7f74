"""Images in a column of a table: bytes, Hugging Face's `{bytes, path}`, file names, or http addresses.

How such a column is named says `locations`. Bytes in parquet files are streamed, never held.
"""

from __future__ import annotations

import hashlib
import os
import threading
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from multitask.data.cells import as_names
from multitask.data.fetching import AT_ONCE_PER_HOST, Fetcher
from multitask.data.folders import read_file
from multitask.data.frames import as_frame, explaining_table, parquet_parts, read_frame
from multitask.data.labels import column_of
from multitask.data.locations import ROW, Location, Part
from multitask.data.names import Texts
from multitask.errors import ArchiveError, TableError, nearest

# Bytes decoded at once, and read from the file at once.
_BATCH_BYTES = 4 << 20
_READ_BYTES = 1 << 20
# What a cell may be.
_BYTES, _FILE, _ADDRESS, _WRONG = range(4)
_DIGEST_BYTES = 32
# No path is longer, and no browser takes a longer address.
_LONGEST_PLACE = 4096


class ColumnImages:
    """The images of a column, by the id in another one; rows without an image or an id are left out.

    Args:
        table: where they lie.
        id_column: holds the ids; `row` stands for the number of the row.
        image_column: holds the images.
        fetcher: gets http addresses.
    """

    names_are_ids = True

    def __init__(self, table: Location, id_column: str, image_column: str, fetcher: Fetcher) -> None:
        self.where, self._folder, self._fetcher = str(table), table.folder, fetcher
        # Per image: its row, what its cell is, its digest where it is bytes, else its place or what is wrong.
        self._row_of, self._kind, self._digests, self._places = array("Q"), array("B"), bytearray(), Texts()
        try:
            with explaining_table(str(table)):
                parts = parquet_parts(table)
                self._rows: _Held | _Streamed = (
                    _Streamed(parts, id_column, image_column) if parts else _Held(table, id_column, image_column)
                )
        except TableError as error:
            raise ArchiveError(str(error)) from None

    @property
    def readers(self) -> int:
        """How many threads may read at once to some use: more than one where images are fetched."""
        return 2 * AT_ONCE_PER_HOST if _ADDRESS in self._kind else 1

    def members(self) -> Iterator[str]:
        """Yield ids; one picture that several rows of an id show is given once."""
        seen: set[bytes] = set()
        for row, (name, value) in enumerate(self._rows):
            kind, plain = _read_cell(value)
            if name is None or plain == "":
                continue
            digest = hashlib.sha256(plain).digest() if isinstance(plain, bytes) else bytes(_DIGEST_BYTES)
            place = "" if isinstance(plain, bytes) else plain
            key = hashlib.blake2b(
                b"\0".join([*(_raw(text) for text in (name, place)), digest]), digest_size=16
            ).digest()
            if key not in seen:
                seen.add(key)
                self._row_of.append(row)
                self._kind.append(kind)
                self._digests += digest
                self._places.add(place)
                yield name

    def read(self, member: int, name: str) -> bytes:
        """Return the bytes of an image, fetched if need be."""
        kind, place = self._kind[member], self._places[member]
        if kind == _BYTES:
            found = _read_cell(self._rows.read(self._row_of[member]))[1]
            return found if isinstance(found, bytes) else b""
        if kind == _WRONG:
            raise ValueError(place)
        return self._fetcher.get(place) if kind == _ADDRESS else read_file(self._folder / place)

    def identity(self, member: int, name: str) -> str:
        """Return what changes when an image does: its digest, that of its address, or its file's size and time."""
        kind, place = self._kind[member], self._places[member]
        if kind == _BYTES:
            return self._digests[_DIGEST_BYTES * member : _DIGEST_BYTES * (member + 1)].hex()
        if kind != _FILE:
            return hashlib.sha256(_raw(place)).hexdigest()
        facts = os.stat(self._folder / place)
        return f"{place}|{facts.st_size}|{facts.st_mtime_ns}"

    def close(self) -> None:
        """Close the table."""
        self._rows.close()


class _Held:
    """Rows of a table that is no parquet file; it is held whole."""

    def __init__(self, table: Location, id_column: str, image_column: str) -> None:
        frame = read_frame(table.place, table.query)
        self._ids = as_names(column_of(frame, id_column, str(table)))
        self._images = column_of(frame, image_column, str(table)).tolist()

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        return zip(self._ids, self._images, strict=True)

    def read(self, row: int) -> Any:
        return self._images[row]

    def close(self) -> None:
        self._images = []


class _Streamed:
    """Rows of parquet files, however large they and their row groups are; reads are safe from several threads.

    Parquet can only be read forward within a row group: a read further back starts anew at the beginning of its group.
    """

    def __init__(self, parts: Sequence[Part], id_column: str, image_column: str) -> None:
        self._id_column, self._image_column, self._lock = id_column, image_column, threading.Lock()
        self._files: list[pq.ParquetFile] = []
        # Per row group: its first row, its file, its number there.
        self._starts: list[int] = []
        self._groups: list[tuple[pq.ParquetFile, int]] = []
        rows = 0
        for part in parts:
            with explaining_table(part.name):
                # With pre_buffer, whole row groups are fetched ahead, of any size.
                file = pq.ParquetFile(part.open(), buffer_size=_READ_BYTES, pre_buffer=False)
            self._files.append(file)
            for column in (id_column, image_column):
                if column not in file.schema_arrow.names and (column, column) != (ROW, id_column):
                    raise TableError(
                        f'no column "{column}"', where=part.name, fix=nearest(column, file.schema_arrow.names)
                    )
            for group in range(file.num_row_groups):
                self._starts.append(rows)
                self._groups.append((file, group))
                rows += file.metadata.row_group(group).num_rows
        self._batches: Iterator[tuple[int, pa.Array]] = iter(())
        self._batch: tuple[int, Any] = (0, [])

    def __iter__(self) -> Iterator[tuple[str | None, Any]]:
        for start, (file, group) in zip(self._starts, self._groups, strict=True):
            columns = [name for name in (self._id_column, self._image_column) if name in file.schema_arrow.names]
            for batch in self._batches_of(file, group, list(dict.fromkeys(columns))):
                images = batch.column(batch.schema.get_field_index(self._image_column))
                ids: Iterable[str | None] = map(str, range(start, start + len(images)))
                if self._id_column in columns:
                    ids = as_names(
                        as_frame(pa.Table.from_batches([batch]).select([self._id_column]), "")[self._id_column]
                    )
                start += len(images)
                yield from ((name, image.as_py()) for name, image in zip(ids, images, strict=True))

    def read(self, row: int) -> Any:
        """Return the cell of a row."""
        with self._lock:
            start, images = self._batch
            if row < start or not len(images) or self._group_of(row) != self._group_of(start):
                self._batches = self._from_group_of(row)
                start, images = next(self._batches)
            while row >= start + len(images):
                start, images = next(self._batches)
            self._batch = start, images
            return images[row - start].as_py()

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close(force=True)

    def _group_of(self, row: int) -> int:
        return bisect_right(self._starts, row) - 1

    def _from_group_of(self, row: int) -> Iterator[tuple[int, pa.Array]]:
        number = self._group_of(row)
        start, (file, group) = self._starts[number], self._groups[number]
        self._batch = (0, [])
        for batch in self._batches_of(file, group, [self._image_column]):
            yield start, batch.column(0)
            start += batch.num_rows

    def _batches_of(self, file: pq.ParquetFile, group: int, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield a few rows of a group at a time, nothing of the group before being kept."""
        pa.default_memory_pool().release_unused()
        facts = file.metadata.row_group(group)
        rows = max(1, min(1024, _BATCH_BYTES * facts.num_rows // max(1, facts.total_byte_size)))
        yield from file.iter_batches(rows, [group], columns)


def _read_cell(value: Any) -> tuple[int, bytes | str]:
    """Return what a cell is, and its bytes, its place, what is wrong with it, or "" where there is nothing in it."""
    if isinstance(value, dict):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if isinstance(value, bytes | bytearray | memoryview):
        return _BYTES, bytes(value)
    if isinstance(value, str):
        if len(value) > _LONGEST_PLACE:
            return _WRONG, f"the cell is text of {len(value):,} letters; expected bytes, a file name or an address"
        return _ADDRESS if value.startswith(("http://", "https://")) else _FILE, value
    if value is None or (pd.api.types.is_scalar(value) and pd.isna(value)):
        return _FILE, ""
    return _WRONG, f"the cell is of type {type(value).__name__}; expected bytes, a file name or an address"


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
