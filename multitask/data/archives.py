"""Zip, tar or folder of images seen as one mapping id -> bytes, without unpacking.

An id is a file name without its extension, whatever the folder and the case of the extension. What bears one name in
two folders is told apart by its path, with or without the extension. Several archives of any kind make one mapping.
Reads are safe from several threads.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.data.columns import ColumnImages
from multitask.data.containers import Container, explaining, open_container, open_remote
from multitask.data.fetching import Fetcher
from multitask.data.folders import FolderImages
from multitask.data.idx import IdxImages, is_idx
from multitask.data.locations import SEPARATOR, Location
from multitask.data.names import Index, Texts, has_image_suffix, is_image, stem, without_suffix
from multitask.errors import ArchiveError


class Archive(Mapping[str, bytes]):
    """Images of one or several containers by id; a context manager.

    Every file is given once: by its id, or by its path without extension where several files bear the id.
    Reading raises KeyError for an unknown id and ArchiveError for a member that cannot be read. About 65 bytes and the
    length of its name are held per file.

    Attributes:
        ambiguous: ids and paths that several files bear, with those files; they are no keys of the mapping.
    """

    def __init__(self, containers: Sequence[Container], locations: Sequence[str] = ()) -> None:
        self._containers, self._locations = containers, tuple(locations)
        self._names, self._container, self._member = Texts(), array("I"), array("I")
        self._ids, self._paths = Index(self._id), Index(self._path)
        for number, container in enumerate(containers):
            with explaining(container.where, "its list of files"):
                for member, name in enumerate(container.members()):
                    self._add(number, member, name, container.names_are_ids)
        self._ids.close()
        self._paths.close()
        self._has_id = np.ones(len(self._names), bool)
        self._has_path = np.ones(len(self._names), bool)
        shared: dict[str, tuple[str, ...]] = {}
        for index, is_own in ((self._ids, self._has_id), (self._paths, self._has_path)):
            for name, files in index.shared():
                is_own[files] = False
                shared[name] = tuple(map(self._where, files))
        self.ambiguous: Mapping[str, tuple[str, ...]] = shared

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an archive cross processes as the locations that it was opened from; there it is opened once."""
        return _opened_once, self._locations

    def _add(self, container: int, member: int, name: str, is_id: bool) -> None:
        if not (is_id or is_image(name)):
            return
        number = len(self._names)
        self._names.add(name)
        self._container.append(container)
        self._member.append(member)
        self._ids.add(name if is_id else stem(name), number)
        if not is_id and "/" in (path := without_suffix(name)):
            self._paths.add(path, number)

    def _id(self, file: int) -> str:
        name = self._names[file]
        return stem(name) if self._has_suffix(file) else name

    def _path(self, file: int) -> str:
        return without_suffix(self._names[file])

    def _files(self, name: str) -> list[int]:
        """Return the files that a row may mean by a name: by id, by path, by path with extension."""
        found = self._ids.find(name)
        if len(found) != 1:
            found = self._paths.find(name) or found
        return found if found or not has_image_suffix(name) else self._by_full_name(name.removeprefix("./"))

    def _by_full_name(self, name: str) -> list[int]:
        """Return the files of a name with extension: its path may begin with the folder that was opened."""
        if "/" not in name:
            return [file for file in self._ids.find(stem(name)) if self._names[file].rpartition("/")[2] == name]
        found = set()
        for number, container in enumerate(self._containers):
            for start in ("", f"{container.where.rstrip('/')}/", f"{Path(container.where).name}/"):
                if name.startswith(start):
                    rest = name[len(start) :]
                    files = (self._paths if "/" in rest else self._ids).find(without_suffix(rest))
                    own = (file for file in files if self._container[file] == number)
                    found |= {file for file in own if self._names[file].removeprefix("./") == rest}
        return sorted(found)

    def _find(self, name: str) -> tuple[Container, int, str]:
        files = self._files(name)
        if len(files) != 1:
            raise KeyError(name)
        return self._containers[self._container[files[0]]], self._member[files[0]], self._names[files[0]]

    def __getitem__(self, name: str) -> bytes:
        container, member, file = self._find(name)
        with explaining(container.where, file):
            return container.read(member, file)

    def identity(self, name: str) -> str:
        """Return a text that changes whenever the file of an id does: place, size, time or checksum."""
        container, member, file = self._find(name)
        with explaining(container.where, file):
            return f"{container.identity(member, file)}|{file}"

    def fingerprint(self, names: Iterable[str]) -> str:
        """Return 64 hexadecimal digits that change whenever the file of one of the ids does, or goes, or comes."""
        digest = hashlib.sha256()
        for name in names:
            try:
                found = self.identity(name)
            except (KeyError, ArchiveError) as error:
                found = type(error).__name__
            digest.update(f"{name}\0{found}\0".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    @property
    def readers(self) -> int:
        """How many threads may read at once to some use; 1 for what lies on a disk, which likes one after the other."""
        return max((getattr(container, "readers", 1) for container in self._containers), default=1)

    @property
    def reads_forward_only(self) -> bool:
        """Does any of the images lie where all before it must be read first?"""
        return any(getattr(container, "reads_forward_only", False) for container in self._containers)

    def __iter__(self) -> Iterator[str]:
        for file in range(len(self._names)):
            if self._has_id[file]:
                yield self._id(file)
            elif self._has_own_path(file):
                yield self._path(file)

    def _has_own_path(self, file: int) -> bool:
        return bool(self._has_path[file]) and self._has_suffix(file) and "/" in self._path(file)

    def _has_suffix(self, file: int) -> bool:
        return not self._containers[self._container[file]].names_are_ids

    def __len__(self) -> int:
        others = np.flatnonzero(~self._has_id)
        return len(self._names) - len(others) + sum(self._has_own_path(int(file)) for file in others)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and len(self._files(name)) == 1

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
        places = self._ids.likely(names)
        for position in np.flatnonzero(places < 0).tolist():
            files = self._files(names[position])
            places[position] = files[0] if files else np.iinfo(np.int64).max
        return np.argsort(places, kind="stable")

    def row_names(self) -> list[str]:
        """Return a name for each file that tells it from all others: its path without extension where that does."""
        paths = (self._path(file) if self._has_suffix(file) else self._id(file) for file in range(len(self._names)))
        return [path if self._files(path) == [file] else self._names[file] for file, path in enumerate(paths)]

    def without_row(self, names: Iterable[str]) -> list[str]:
        """Return the files that none of the names means, by their paths without extension."""
        is_named = np.zeros(len(self._names), bool)
        for name in names:
            is_named[self._files(name)] = True
        rest = np.flatnonzero(~is_named).tolist()
        return [self._path(file) if self._has_suffix(file) else self._id(file) for file in rest]

    def files(self, name: str) -> tuple[str, ...]:
        """Return the files that bear an id, as they are named in reasons."""
        return tuple(map(self._where, self._files(name)))

    def _where(self, file: int) -> str:
        return f"{Path(self._containers[self._container[file]].where).name}:{self._names[file]}"


def open_archive(*paths: str | Path) -> Archive:
    """Open archives as one mapping: zip, tar, folder, idx file, TABLE::ID_COLUMN::IMAGE_COLUMN, s3://bucket/photos.zip.

    The kind of a file is told by its content, not by its name; a name with * or ? stands for every file that fits.

    Raises:
        ArchiveError: a path is missing, damaged, or of another kind.
    """
    if not paths:
        raise ArchiveError("no image archive named", fix="Name one: --images ARCHIVE.")
    locations = [str(path) for path in paths]
    return Archive([container for location in locations for container in _open(location)], locations)


@functools.lru_cache(maxsize=4)
def _opened_once(*locations: str) -> Archive:
    return open_archive(*locations)


def read_image(archive: Archive, name: str) -> tuple[bytes, str]:
    """Return the bytes of an image file and "", or no bytes and the reason why there are none."""
    if not name:
        return b"", "no id"
    try:
        return archive[name], ""
    except KeyError:
        files = archive.files(name)
        return b"", f"several files bear this id: {', '.join(files)}" if files else "no image with this id"
    except ArchiveError as error:
        return b"", str(error)


def _open(location: str) -> list[Container]:
    if SEPARATOR in location:
        return [ColumnImages(*Location.of_column(location), Fetcher())]
    if "://" in location:
        return [open_remote(location)]
    path = Path(location)
    if not path.exists() and any(letter in location for letter in "*?["):
        return _fitting(location)
    if path.is_dir():
        return [FolderImages(path)]
    if path.is_file() and has_image_suffix(path.name):
        return [FolderImages(path.parent, [path.name])]
    return [IdxImages(path)] if path.is_file() and is_idx(path) else [open_container(path)]


def _fitting(pattern: str) -> list[Container]:
    """Open every file that fits a pattern, pictures among them as one folder."""
    found = sorted(glob.glob(pattern, recursive=True))
    pictures = [name for name in found if has_image_suffix(name) and os.path.isfile(name)]
    chosen = set(pictures)
    others = [container for name in found if name not in chosen for container in _open(name)]
    if not found:
        raise ArchiveError("no file fits", where=pattern, expected="images", fix="Check the pattern of --images.")
    if not pictures:
        return others
    root = os.path.commonpath([os.path.dirname(name) for name in pictures])
    return [FolderImages(Path(root), [os.path.relpath(name, root) for name in pictures]), *others]
