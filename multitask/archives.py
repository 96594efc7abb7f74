"""Zip, tar or folder of images seen as one mapping id -> bytes, without unpacking.

An id is a file name without its extension, whatever the folder and the case of the extension. Several archives of any
kind make one mapping. Reads are safe from several threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.containers import Container, explaining, open_container
from multitask.errors import ArchiveError

# The last four cannot be decoded, but are found, so that they are reported as unsupported rather than missing.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
)


class Archive(Mapping[str, bytes]):
    """Images of one or several containers by id; a context manager.

    Reading raises KeyError for an unknown id and ArchiveError for a member that cannot be read.

    Attributes:
        ambiguous: ids that several files bear, with those files; they are no keys of the mapping.
    """

    def __init__(self, containers: Sequence[Container]) -> None:
        self._containers = containers
        self._places: dict[str, tuple[int, int, Any, str]] = {}
        names: dict[str, list[str]] = {}
        position = 0
        for number, container in enumerate(containers):
            with explaining(container.path, "its list of files"):
                for name, place in container.members():
                    if _is_image(name):
                        stem = PurePosixPath(name).stem
                        if stem in self._places:
                            names.setdefault(stem, [self._where(stem)]).append(f"{container.path.name}:{name}")
                        else:
                            self._places[stem] = (position, number, place, name)
                    position += 1
        self.ambiguous: Mapping[str, tuple[str, ...]] = {stem: tuple(files) for stem, files in names.items()}
        for stem in names:
            del self._places[stem]

    def __getitem__(self, name: str) -> bytes:
        _, number, place, member = self._places[name]
        container = self._containers[number]
        with explaining(container.path, member):
            return container.read(place)

    def identity(self, name: str) -> str:
        """Return a text that changes whenever the file of an id does: place, size, time or checksum."""
        _, number, place, member = self._places[name]
        with explaining(self._containers[number].path, member):
            return f"{self._containers[number].identity(place)}|{member}"

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every container."""
        for container in self._containers:
            container.close()

    def in_order(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return positions in `names`, sorted by where the images lie; unknown ids come last."""
        unknown = (np.iinfo(np.int64).max,)
        return np.argsort([self._places.get(name, unknown)[0] for name in names], kind="stable")

    def _where(self, stem: str) -> str:
        _, number, _, member = self._places[stem]
        return f"{self._containers[number].path.name}:{member}"


def open_archive(*paths: str | Path) -> Archive:
    """Open zip and tar archives and folders as one mapping; the kind is told by the content, not by the name.

    Raises:
        ArchiveError: a path is missing, damaged, or of another kind.
    """
    if not paths:
        raise ArchiveError("no image archive named", fix="Name one: --images ARCHIVE.")
    return Archive([open_container(Path(path)) for path in paths])


def _is_image(name: str) -> bool:
    """Tell whether a member is an image that belongs here: no path out of the archive, no litter of macOS."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "__MACOSX" in parts.parts or parts.name.startswith("._"):
        return False
    return parts.suffix.lower() in IMAGE_SUFFIXES
