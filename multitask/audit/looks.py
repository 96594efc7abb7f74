"""What is known of image files: one table of columns, a row per file; kept on disk between runs, found by identity."""

from __future__ import annotations

import contextlib
import dataclasses
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multitask.audit.inspection import THUMBNAIL, Look
from multitask.storage import replacing

THUMBNAIL_BYTES = THUMBNAIL * THUMBNAIL * 3
KEY_BYTES = 16
# Raised whenever a look tells something else of the same file.
VERSION = 3
# Files of fewer rows are joined once there are so many of them.
_SMALL_ROWS, _MOST_SMALL = 50_000, 16

_PLAIN = {
    "width": np.int32,
    "height": np.int32,
    "orientation": np.int8,
    "brightness": np.float32,
    "contrast": np.float32,
    "sharpness": np.float32,
    "perceptual_hash": np.uint64,
}


@dataclass(frozen=True)
class Looks:
    """Looks at image files by column, each (files,); see `Look` for what they mean.

    Args:
        digest, reason, format: str.
        width, height: int32.
        orientation: int8.
        brightness, contrast, sharpness: float32.
        perceptual_hash: uint64.
        thumbnail: uint8 (files, 432); zeros where a file cannot be read.
    """

    digest: NDArray[np.object_]
    reason: NDArray[np.object_]
    format: NDArray[np.object_]
    width: NDArray[np.int32]
    height: NDArray[np.int32]
    orientation: NDArray[np.int8]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    perceptual_hash: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.digest)

    @classmethod
    def of(cls, looks: Sequence[Look]) -> Looks:
        """Return looks as columns."""
        columns: dict[str, Any] = {
            name: np.array([getattr(look, name) for look in looks], object) for name in ("digest", "reason", "format")
        }
        for name, dtype in _PLAIN.items():
            columns[name] = np.array([getattr(look, name) for look in looks], dtype)
        pixels = b"".join(look.thumbnail or bytes(THUMBNAIL_BYTES) for look in looks)
        columns["thumbnail"] = np.frombuffer(pixels, np.uint8).reshape(-1, THUMBNAIL_BYTES)
        return cls(**columns)

    @classmethod
    def together(cls, parts: Iterable[Looks]) -> Looks:
        """Return the rows of all parts, one after the other."""
        parts = [part for part in parts if len(part)] or [cls.of(())]
        if len(parts) == 1:
            return parts[0]
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in COLUMNS})

    def take(self, rows: NDArray[Any]) -> Looks:
        """Return some rows, by number or by a boolean mask."""
        return Looks(**{name: getattr(self, name)[rows] for name in COLUMNS})

    @property
    def longest(self) -> NDArray[np.int32]:
        """The longer side of each picture in pixels."""
        return np.maximum(self.width, self.height)

    def as_arrow(self) -> pa.Table:
        """Return the columns as an Arrow table."""
        columns: dict[str, Any] = {name: pa.array(getattr(self, name)) for name in _PLAIN}
        for name in ("digest", "reason", "format"):
            columns[name] = pa.array(getattr(self, name), pa.string())
        pixels = pa.py_buffer(np.ascontiguousarray(self.thumbnail))
        columns["thumbnail"] = pa.Array.from_buffers(pa.binary(THUMBNAIL_BYTES), len(self), [None, pixels])
        return pa.table({name: columns[name] for name in COLUMNS})

    @classmethod
    def from_arrow(cls, table: pa.Table) -> Looks:
        """Return the columns of an Arrow table as `as_arrow` makes it."""
        columns = {name: table[name].to_numpy().astype(dtype, copy=False) for name, dtype in _PLAIN.items()}
        columns["digest"] = table["digest"].to_numpy()
        for name in ("reason", "format"):
            # Few texts, which all rows share.
            encoded = table[name].combine_chunks().dictionary_encode()
            texts = np.array(encoded.dictionary.to_pylist(), object)
            columns[name] = texts[encoded.indices.to_numpy()] if len(texts) else texts
        columns["thumbnail"] = _bytes(table["thumbnail"], THUMBNAIL_BYTES)
        return cls(**columns)


COLUMNS = tuple(field.name for field in dataclasses.fields(Looks))


class LookStore:
    """Looks on disk, found by a key of 16 bytes that stands for the file: its place, size and time, or its checksum.

    One folder for all archives and tables, so that a look is found whatever was asked for when it was taken.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / f"looks-{VERSION}"

    def find(self, keys: Sequence[bytes]) -> tuple[Looks, NDArray[np.int64]]:
        """Return what is known, and per key the row in it; -1 for an unknown one."""
        rows, parts, count = np.full(len(keys), -1), [], 0
        wanted = pa.array(keys, pa.binary(KEY_BYTES))
        for path in self._files():
            with _ignoring_damage():
                places = pc.index_in(pq.read_table(path, columns=["key"])["key"], value_set=wanted)
                places = places.to_numpy(zero_copy_only=False).astype(np.float64)
                hits = np.flatnonzero(~np.isnan(places))
                if len(hits):
                    parts.append(Looks.from_arrow(pq.read_table(path, columns=list(COLUMNS)).take(hits)))
                    rows[places[hits].astype(np.int64)] = count + np.arange(len(hits))
                    count += len(hits)
        return Looks.together(parts), rows

    def add(self, keys: Sequence[bytes], looks: Looks) -> None:
        """Write some more."""
        self._write(looks.as_arrow().append_column("key", pa.array(keys, pa.binary(KEY_BYTES))))

    def tidy(self) -> None:
        """Join small files, so that many small runs do not make reading slow."""
        small = []
        for path in self._files():
            with _ignoring_damage():
                if pq.read_metadata(path).num_rows < _SMALL_ROWS:
                    small.append((path, pq.read_table(path)))
        if len(small) > _MOST_SMALL:
            self._write(pa.concat_tables([table for _, table in small]))
            for path, _ in small:
                path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("*.parquet") if not path.name.startswith("."))

    def _write(self, table: pa.Table) -> None:
        with replacing(self._folder / f"{uuid.uuid4().hex}.parquet") as path:
            pq.write_table(table, path, compression="zstd")


@contextlib.contextmanager
def _ignoring_damage() -> Iterator[None]:
    """Pass over a file that is damaged, or that another process has just joined with others: it is looked at anew."""
    with contextlib.suppress(pa.ArrowException, OSError, KeyError):
        yield


def _bytes(column: pa.ChunkedArray, width: int) -> NDArray[np.uint8]:
    """Return a column of fixed width as uint8 (rows, width)."""
    chunks = [
        np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * width : (chunk.offset + len(chunk)) * width]
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate([np.empty(0, np.uint8), *chunks]).reshape(-1, width)
