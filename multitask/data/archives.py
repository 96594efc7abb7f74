"""Zip, tar or folder of images seen as one mapping id -> bytes, without unpacking.

An id is a file name without its extension, whatever the folder and the case of the extension. Several archives of any
kind make one mapping. Reads are safe from several threads.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.columns import SEPARATOR, ColumnImages
from multitask.data.containers import Container, explaining, open_container, open_remote
from multitask.data.fetching import Fetcher
from multitask.data.idx import IdxImages, is_idx
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
        # A file in a folder can also be named by its path, which tells apart what bears one name in two folders.
        self._paths: dict[str, tuple[int, int, Any, str]] = {}
        names: dict[str, list[str]] = {}
        position = 0
        for number, container in enumerate(containers):
            with explaining(container.path, "its list of files"):
                for name, place in container.members():
                    for known, key in self._keys(container, name):
                        if key in known:
                            names.setdefault(key, [self._where(known[key])]).append(f"{container.path.name}:{name}")
                        else:
                            known[key] = (position, number, place, name)
                    position += 1
        self.ambiguous: Mapping[str, tuple[str, ...]] = {key: tuple(files) for key, files in names.items()}
        for key in names:
            self._places.pop(key, None)
            self._paths.pop(key, None)

    def _keys(self, container: Container, name: str) -> list[tuple[dict[str, tuple[int, int, Any, str]], str]]:
        """Return what a file can be named by, and where that is kept."""
        if container.names_are_ids:
            return [(self._places, name)]
        if not _is_image(name):
            return []
        path = PurePosixPath(name)
        keys = [(self._places, path.stem)]
        return keys if len(path.parts) == 1 else [*keys, (self._paths, str(path.with_suffix("")))]

    def _find(self, name: str) -> tuple[int, int, Any, str]:
        return self._places[name] if name in self._places else self._paths[name]

    def __getitem__(self, name: str) -> bytes:
        _, number, place, member = self._find(name)
        container = self._containers[number]
        with explaining(container.path, member):
            return container.read(place)

    def identity(self, name: str) -> str:
        """Return a text that changes whenever the file of an id does: place, size, time or checksum."""
        _, number, place, member = self._find(name)
        with explaining(self._containers[number].path, member):
            return f"{self._containers[number].identity(place)}|{member}"

    @property
    def readers(self) -> int:
        """How many threads may read at once to some use; 1 for what lies on a disk, which likes one after the other."""
        return max((getattr(container, "readers", 1) for container in self._containers), default=1)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places or name in self._paths

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
        unknown = (np.iinfo(np.int64).max, 0, None, "")
        places = (self._places.get(name) or self._paths.get(name, unknown) for name in names)
        return np.argsort([place[0] for place in places], kind="stable")

    def _where(self, found: tuple[int, int, Any, str]) -> str:
        _, number, _, member = found
        return f"{self._containers[number].path.name}:{member}"


def open_archive(*paths: str | Path) -> Archive:
    """Open archives as one mapping: zip, tar, folder, idx file, TABLE::ID_COLUMN::IMAGE_COLUMN, s3://bucket/photos.zip.

    The kind of a file is told by its content, not by its name; a name with * or ? stands for every file that fits.

    Raises:
        ArchiveError: a path is missing, damaged, or of another kind.
    """
    if not paths:
        raise ArchiveError("no image archive named", fix="Name one: --images ARCHIVE.")
    return Archive([container for path in paths for container in _open(str(path))])


def read_image(archive: Archive, name: str) -> tuple[bytes, str]:
    """Return the bytes of an image file and "", or no bytes and the reason why there are none."""
    if not name:
        return b"", "no id"
    if name in archive.ambiguous:
        return b"", f"several files bear this id: {', '.join(archive.ambiguous[name])}"
    try:
        return archive[name], ""
    except KeyError:
        return b"", "no image with this id"
    except ArchiveError as error:
        return b"", str(error)


def _open(location: str) -> list[Container]:
    if SEPARATOR in location:
        return [ColumnImages(location, Fetcher())]
    if "://" in location:
        return [open_remote(location)]
    path = Path(location)
    if not path.exists() and any(letter in location for letter in "*?["):
        return [container for found in sorted(glob.glob(location)) for container in _open(found)]
    return [IdxImages(path)] if path.is_file() and is_idx(path) else [open_container(path)]


def _is_image(name: str) -> bool:
    """Tell whether a member is an image that belongs here: no path out of the archive, no litter of macOS."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "__MACOSX" in parts.parts or parts.name.startswith("._"):
        return False
    return parts.suffix.lower() in IMAGE_SUFFIXES
