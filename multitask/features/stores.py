"""Rows of numbers on disk, found by the digest of their image: appended in chunks, read row by row, within a budget.

A store is one folder per frozen network, `<features>/<key>/`. A chunk is a `.npy` and a `.sha256`
that lists its rows; the list is renamed into place last, so a chunk without it was interrupted and does not count, nor
does one whose rows are gone or damaged: they are computed anew. A folder that holds anything else than a store does is
somebody else's: it is neither counted nor deleted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from multitask.errors import ConfigError, RunError
from multitask.storage import replacing

# Every open chunk holds a file descriptor, of which a process has about a thousand: with more chunks than this, those
# that fit together are joined to larger ones.
MOST_CHUNKS, JOINED_BYTES = 64, 1 << 30
_STORE_FILE = re.compile(r"in-use|\.?[0-9a-f]{32}(\.[0-9a-f]{8})?\.(npy|sha256)")


class FeatureStore:
    """The features of one frozen network, found by image digest; a context manager that marks the store as in use.

    Args:
        root: folder of all stores.
        key: from `store_key`.
        shape: of one row's features.
        dtype: uint8, float32, float16 or bfloat16.
        to_add: only adds: what is there is not read.
    """

    def __init__(self, root: Path, key: str, shape: tuple[int, ...], dtype: str, *, to_add: bool = False) -> None:
        self.directory, self.name, self.shape = root / key, key, shape
        self.dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            # Its time of change says when the store was last used.
            (self.directory / "in-use").touch()
            self._lock = (self.directory / "in-use").open("a")
        except OSError as error:
            raise ConfigError(
                f"features cannot be kept there ({error.strerror})",
                where=f"data.features, {self.directory}",
                fix="Name a folder that can be written.",
            ) from None
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        if not to_add:
            self._join_chunks()
        self._chunks: list[_Chunk] = []
        # Rows count through all chunks, in the order in which they were opened.
        self._starts: list[int] = [0]
        self._rows: dict[str, int] = {}
        for listing in [] if to_add else self._listings():
            self._open_chunk(listing)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs delete this store when they need its space."""
        self._lock.close()
        for chunk in self._chunks:
            chunk.file.close()

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    @property
    def row_bytes(self) -> int:
        """Bytes on disk per image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def add(self, digests: Sequence[str], features: NDArray[Any]) -> None:
        """Append features (n, *shape) as one chunk, whole or not at all."""
        name = uuid.uuid4().hex
        # numpy's file format does not know bfloat16: its bits are stored.
        bits = np.ascontiguousarray(features, dtype=self.dtype).view(_storable(self.dtype))
        with replacing(self.directory / f"{name}.npy") as path:
            np.save(path, bits)
        _write_listing(self.directory / f"{name}.sha256", digests)
        self._open_chunk(self.directory / f"{name}.sha256")

    def gather(self, digests: Sequence[str]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return a function from row numbers (n,), which count as in `digests`, to features (n, *shape)."""
        stored = np.array([self._rows[digest] for digest in digests], np.int64)

        def fetch(rows: NDArray[np.int64]) -> NDArray[Any]:
            features = np.empty((len(rows), *self.shape), self.dtype)
            buffers = features.view(np.uint8).reshape(len(rows), self.row_bytes)
            places = stored[rows]
            chunks = np.searchsorted(self._starts, places, side="right") - 1
            for buffer, chunk, row in zip(buffers, chunks, places - np.take(self._starts, chunks), strict=True):
                self._chunks[chunk].read(int(row), buffer)
            return features

        return fetch

    def _listings(self) -> list[Path]:
        return sorted(self.directory.glob("[0-9a-f]*.sha256"))

    def _open_chunk(self, listing: Path) -> None:
        """Take the rows of a chunk in; pass over one that cannot be read or is of another size."""
        with contextlib.suppress(OSError, ValueError, EOFError):
            digests, _ = self._read_chunk(listing)
            self._rows.update({digest: self._starts[-1] + row for row, digest in enumerate(digests)})
            self._chunks.append(_Chunk(listing.with_suffix(".npy"), len(digests), self.row_bytes))
            self._starts.append(self._starts[-1] + len(digests))

    def _read_chunk(self, listing: Path) -> tuple[list[str], NDArray[Any]]:
        digests = listing.read_text(encoding="ascii").split()
        chunk = np.load(listing.with_suffix(".npy"), mmap_mode="r").view(self.dtype)
        if chunk.shape != (len(digests), *self.shape):
            raise ValueError(f"{listing} is not a chunk of these features")
        return digests, chunk

    def _join_chunks(self) -> None:
        """Join small chunks, if there are many and nobody else has the store open."""
        if len(self._listings()) <= MOST_CHUNKS:
            return
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        at_most = max(JOINED_BYTES // max(self.row_bytes, 1), 1)
        together: list[Path] = []
        count = 0
        for listing in self._listings():
            with contextlib.suppress(OSError, ValueError, EOFError):
                rows = len(self._read_chunk(listing)[0])
                if count + rows > at_most:
                    self._join(together, count)
                    together, count = [], 0
                together.append(listing)
                count += rows
        self._join(together, count)
        fcntl.flock(self._lock, fcntl.LOCK_SH)

    def _join(self, listings: list[Path], count: int) -> None:
        """Write chunks as one and remove them; a kill in between leaves rows twice, which harms nothing."""
        if len(listings) < 2:
            return
        name = uuid.uuid4().hex
        digests: list[str] = []
        with replacing(self.directory / f"{name}.npy") as path:
            joined = np.lib.format.open_memmap(path, "w+", _storable(self.dtype), (count, *self.shape))
            for listing in listings:
                names, chunk = self._read_chunk(listing)
                joined[len(digests) : len(digests) + len(names)] = chunk.view(joined.dtype)
                digests += names
            joined.flush()
        _write_listing(self.directory / f"{name}.sha256", digests)
        for listing in listings:
            listing.unlink()
            listing.with_suffix(".npy").unlink()


class _Chunk:
    """The rows of an open chunk, read one by one: what is mapped would count as memory of this process for ever."""

    def __init__(self, path: Path, rows: int, row_bytes: int) -> None:
        self._row_bytes = row_bytes
        self.file = path.open("rb", buffering=0)
        # What follows the header are the rows and nothing else.
        self._begin = path.stat().st_size - rows * row_bytes

    def read(self, row: int, buffer: NDArray[np.uint8]) -> None:
        """Fill a buffer (row_bytes,)."""
        found = os.preadv(self.file.fileno(), [buffer.data], self._begin + row * self._row_bytes)
        if found != self._row_bytes:
            raise RunError(
                "stored features are cut off", where=self.file.name, fix="Delete the file; they are computed anew."
            )


def _write_listing(path: Path, digests: Sequence[str]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("\n".join(digests), encoding="ascii")


def make_room(root: Path, key: str, wanted_bytes: int, budget_bytes: int) -> list[str]:
    """Delete the stores unused for longest until `wanted_bytes` more fit the budget; return what was deleted.

    A store that another process has open is never deleted, nor a folder that is none.

    Raises:
        ConfigError: they would not fit beside what the same store holds of other images.
    """
    sizes = {folder: _bytes_in(folder) for folder in root.iterdir() if _is_store(folder)} if root.is_dir() else {}
    if sizes.get(root / key, 0) + wanted_bytes > budget_bytes:
        raise ConfigError(
            "the features of these images do not fit the disk budget",
            where="data.features_gb",
            expected=f"at least {(sizes.get(root / key, 0) + wanted_bytes) / 1e9:.1f}",
            received=f"{budget_bytes / 1e9:.1f}",
            fix=f"Raise it; or delete {root / key} if what it holds of other images is not needed.",
        )
    deleted = []
    for folder in sorted(sizes, key=lambda folder: (folder / "in-use").stat().st_mtime):
        if sum(sizes.values()) + wanted_bytes <= budget_bytes:
            break
        if folder.name != key and _delete_unused(folder):
            deleted.append(folder.name)
            del sizes[folder]
    return deleted


def _delete_unused(folder: Path) -> bool:
    with (folder / "in-use").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(folder)
    return True


def _is_store(folder: Path) -> bool:
    """Tell a folder of features: marked, with a chunk in it, and with nothing that a store does not write."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    has_chunk = any(name.endswith(".npy") for name in names)
    return "in-use" in names and has_chunk and all(_STORE_FILE.fullmatch(name) for name in names)


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _storable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
