"""The idx files of MNIST and Fashion-MNIST, plain or gzipped: images as a container, labels as a table.

Format: http://yann.lecun.com/exdb/mnist/, repeated at https://github.com/zalandoresearch/fashion-mnist. The eighth
image of `train-images-idx3-ubyte.gz` has the id `train-000007`, as has the eighth label of the labels-idx1 file; that
of `emnist-letters-test-images-idx3-ubyte` has `emnist-letters-test-000007`.
"""

from __future__ import annotations

import gzip
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from multitask.errors import ArchiveError, TableError

_UNSIGNED_BYTES = 0x08
_DAMAGE = (OSError, EOFError, ValueError, MemoryError, OverflowError, struct.error, zlib.error)


def is_idx(path: Path) -> bool:
    """Tell an idx file of unsigned bytes by its first bytes."""
    try:
        with _open(path) as stream:
            head = stream.read(4)
    except (OSError, EOFError, zlib.error):
        return False
    return len(head) == 4 and head[:2] == b"\0\0" and head[2] == _UNSIGNED_BYTES and head[3] in (1, 3)


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an idx file of unsigned bytes.

    Raises:
        ValueError: it is shorter or longer than its header says.
    """
    with _open(path) as stream:
        count = stream.read(4)[3]
        shape = struct.unpack(f">{count}I", stream.read(4 * count))
        size = math.prod(shape)
        # Not a byte more than is told: a gzip file may hold a thousand times its size.
        data = stream.read(size + 1)
    if len(data) != size:
        raise ValueError(f"holds {_amount(len(data), size)} bytes where its header says {'x'.join(map(str, shape))}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _amount(found: int, expected: int) -> str:
    return f"more than {expected:,}" if found > expected else f"{found:,}"


def idx_ids(path: Path, count: int) -> list[str]:
    """Return the ids of what an idx file holds: its name as far as `images` or `labels`, and the position."""
    name = _part_name(path)
    return [f"{name}-{position:06}" for position in range(count)]


def _part_name(path: Path) -> str:
    return re.split(r"[-._](?:images|labels)\b", path.name)[0]


def idx_labels(path: Path) -> pd.DataFrame:
    """Read labels as a table: uuid, label (a number) and split (test for files named t10k or test, else train).

    Raises:
        TableError: the file is damaged, or holds images.
    """
    try:
        labels = read_idx(path)
    except _DAMAGE as error:
        raise TableError(f"cannot be read ({error})", where=str(path)) from None
    if labels.ndim != 1:
        raise TableError("holds images, not labels", where=str(path), fix="Name the labels-idx1 file.")
    split = "test" if {"t10k", "test"} & set(re.split(r"[-._]", _part_name(path))) else "train"
    return pd.DataFrame({"uuid": idx_ids(path, len(labels)), "label": labels.astype(np.int64), "split": split})


class IdxImages:
    """The images of an idx file, each given as a PNG file."""

    names_are_ids = True

    def __init__(self, path: Path) -> None:
        self.where, self._path = str(path), path
        try:
            self._images = read_idx(path)
        except _DAMAGE as error:
            raise ArchiveError(f"cannot be read ({error})", where=str(path)) from None
        if self._images.ndim != 3:
            raise ArchiveError("holds labels, not images", where=str(path), fix="Name the images-idx3 file.")
        facts = path.stat()
        self._stamp = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"

    def members(self) -> Iterator[str]:
        """Yield ids."""
        yield from idx_ids(self._path, len(self._images))

    def read(self, member: int, name: str) -> bytes:
        """Return an image as a PNG file."""
        stream = io.BytesIO()
        Image.fromarray(self._images[member]).save(stream, "PNG", compress_level=1)
        return stream.getvalue()

    def identity(self, member: int, name: str) -> str:
        """Return what changes when the file does."""
        return f"{self._stamp}|{member}"

    def close(self) -> None:
        """Forget the images."""
        self._images = self._images[:0]


def _open(path: Path) -> io.BufferedIOBase:
    with path.open("rb") as stream:
        is_gzip = stream.read(2) == b"\x1f\x8b"
    return gzip.open(path, "rb") if is_gzip else path.open("rb")
