"""Names of image files: which are images, what a row can call them, and where each of a million names is found."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

# The last four cannot be decoded, but are found, so that they are reported as unsupported rather than missing.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
)


def is_image(name: str) -> bool:
    """Tell whether a member is an image that belongs here: no path out of the archive, nothing hidden, no litter."""
    suffix = name[name.rfind(".") :].lower() if "." in name else ""
    if suffix not in IMAGE_SUFFIXES or name.startswith("/"):
        return False
    return not any(is_litter(part) for part in name.replace("\\", "/").split("/") if part != ".")


def is_litter(part: str) -> bool:
    """Tell a file or folder that programs leave behind, and a step upwards: `.ipynb_checkpoints`, `._a.jpg`, `..`."""
    return part.startswith(".") or part == "__MACOSX"


def without_suffix(name: str) -> str:
    """Return a path without its extension: `a/v1.2.jpg` becomes `a/v1.2`."""
    if name.startswith("./") or "//" in name or "/./" in name:
        name = str(PurePosixPath(name))
    stem, dot, _ = name.rpartition(".")
    return stem if dot else name


def stem(name: str) -> str:
    """Return a file name without folder and extension."""
    return without_suffix(name).rpartition("/")[2]


def has_image_suffix(name: str) -> bool:
    """Tell whether a name ends like an image file."""
    return "." in name and name[name.rfind(".") :].lower() in IMAGE_SUFFIXES


class Texts:
    """Texts that are added and read by number; a byte per letter, and eight each."""

    def __init__(self) -> None:
        self._bytes, self._ends = bytearray(), array("Q", [0])

    def add(self, text: str) -> None:
        """Add one behind the others."""
        # File systems know names that are no text; Python passes their bytes through as surrogates.
        self._bytes += text.encode("utf-8", "surrogatepass")
        self._ends.append(len(self._bytes))

    def __getitem__(self, number: int) -> str:
        return self._bytes[self._ends[number] : self._ends[number + 1]].decode("utf-8", "surrogatepass")

    def __len__(self) -> int:
        return len(self._ends) - 1


class Index:
    """From a name to the numbers of the files that bear it.

    Only hashes are kept, 12 bytes a name; whether a file really bears a name says `name_of`.

    Args:
        name_of: number of a file to its name.
    """

    def __init__(self, name_of: Callable[[int], str]) -> None:
        self._name_of = name_of
        self._added, self._files = array("q"), array("I")
        self._hashes: NDArray[np.int64] = np.zeros(0, np.int64)
        self._numbers: NDArray[np.uint32] = np.zeros(0, np.uint32)

    def add(self, name: str, number: int) -> None:
        """Add a file; `close` comes after the last one."""
        self._added.append(hash(name))
        self._files.append(number)

    def close(self) -> None:
        """Put the names in order."""
        hashes, numbers = np.frombuffer(self._added, np.int64), np.frombuffer(self._files, np.uint32)
        order = np.argsort(hashes, kind="stable")
        self._hashes, self._numbers = hashes[order], numbers[order]
        self._view = memoryview(self._hashes.data)
        self._added, self._files = array("q"), array("I")

    def find(self, name: str) -> list[int]:
        """Return the numbers of the files of a name, in their order."""
        wanted = hash(name)
        at = bisect_left(self._view, wanted)
        found = []
        while at < len(self._view) and self._view[at] == wanted:
            number = int(self._numbers[at])
            if self._name_of(number) == name:
                found.append(number)
            at += 1
        return found

    def likely(self, names: Sequence[str]) -> NDArray[np.int64]:
        """Return per name the number of a file that probably bears it, -1 for none; for sorting."""
        if not len(self._hashes):
            return np.full(len(names), -1, np.int64)
        wanted = np.fromiter(map(hash, names), np.int64, len(names))
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        return np.where(self._hashes[at] == wanted, self._numbers[at].astype(np.int64), -1)

    def shared(self) -> Iterator[tuple[str, list[int]]]:
        """Yield the names that several files bear, with these files."""
        again = np.flatnonzero(self._hashes[1:] == self._hashes[:-1])
        for name in dict.fromkeys(self._name_of(int(self._numbers[at + end])) for at in again for end in (0, 1)):
            numbers = self.find(name)
            if len(numbers) > 1:
                yield name, numbers
