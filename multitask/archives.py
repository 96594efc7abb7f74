"""Zip, tar or folder of images seen as one mapping id -> bytes, without unpacking.

An id is a file name without its extension, whatever the folder and the case of the extension. Several archives of any
kind make one mapping. Reads are safe from several threads.
"""

from __future__ import annotations

import contextlib
import lzma
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from multitask.errors import ArchiveError

# The last four cannot be decoded, but are found, so that they are reported as unsupported rather than missing.
IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".heic", ".avif")
)
# No photo is as large; what declares more is a bomb or a mistake, and is refused before it is inflated.
MAX_MEMBER_BYTES = 256 << 20

_DAMAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    RuntimeError,
    NotImplementedError,
)


class Container(Protocol):
    """One archive or folder: names of its files in physical order, and their bytes."""

    path: Path

    def members(self) -> Iterable[tuple[str, Any]]:
        """Yield the name of each regular file and what `read` needs to find it."""

    def read(self, place: Any) -> bytes:
        """Return the bytes of a member."""

    def close(self) -> None:
        """Close the file."""


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
            with _explaining(container.path, "its list of files"):
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
        with _explaining(container.path, member):
            return container.read(place)

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
    return Archive([_open(Path(path)) for path in paths])


def _open(path: Path) -> Container:
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ArchiveError(
            "no such file or folder",
            where=str(path),
            expected="a zip or tar archive or a folder of images",
            fix="Name the images with --images, or set data.images.",
        )
    with _explaining(path, "its list of files"):
        if zipfile.is_zipfile(path):
            return _Zip(path)
        if tarfile.is_tarfile(path):
            return _PlainTar(path) if _is_plain_tar(path) else _CompressedTar(path)
    raise ArchiveError(
        "is neither a zip nor a tar archive nor a folder",
        where=str(path),
        received=f"a file that begins with {path.open('rb').read(8)!r}",
        fix="An incomplete download looks like this too: fetch it again or pack it anew.",
    )


class _Folder:
    """Images as files below a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def members(self) -> Iterator[tuple[str, str]]:
        for directory, subdirectories, files in os.walk(self.path):
            subdirectories.sort()
            for name in sorted(files):
                path = os.path.join(directory, name)
                yield os.path.relpath(path, self.path).replace(os.sep, "/"), path

    def read(self, place: str) -> bytes:
        _refuse_giants(os.path.getsize(place))
        return Path(place).read_bytes()

    def close(self) -> None:
        pass


class _Zip:
    """A zip archive; zipfile locks around each access, so threads may share it."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, zipfile.ZipFile(path)

    def members(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        for info in sorted(self._file.infolist(), key=lambda info: info.header_offset):
            if not info.is_dir():
                yield info.filename, info

    def read(self, place: zipfile.ZipInfo) -> bytes:
        _refuse_giants(place.file_size)
        return self._file.read(place)

    def close(self) -> None:
        self._file.close()


class _PlainTar:
    """An uncompressed tar: listed once, then read at offsets, without a lock."""

    def __init__(self, path: Path) -> None:
        self.path, self._file = path, path.open("rb")

    def members(self) -> Iterator[tuple[str, tuple[int, int]]]:
        with tarfile.open(self.path, "r:") as tar:
            for info in tar:
                _forget_members(tar)
                if info.isreg():
                    yield info.name, (info.offset_data, info.size)

    def read(self, place: tuple[int, int]) -> bytes:
        offset, size = place
        _refuse_giants(size)
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) < size:
            raise EOFError(f"the archive ends after {len(data)} of {size} bytes")
        return data

    def close(self) -> None:
        self._file.close()


class _CompressedTar:
    """A compressed tar, which can only be read forward: a read further on streams, a read further back starts anew."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self._stream: tarfile.TarFile | None = None
        self._next = 0

    def members(self) -> Iterator[tuple[str, int]]:
        with tarfile.open(self.path, "r|*") as tar:
            for number, info in enumerate(tar):
                _forget_members(tar)
                if info.isreg():
                    yield info.name, number

    def read(self, place: int) -> bytes:
        with self._lock:
            if self._stream is None or place < self._next:
                self.close()
                self._stream = tarfile.open(self.path, "r|*")  # noqa: SIM115
                self._next = 0
            while True:
                info = self._stream.next()
                _forget_members(self._stream)
                if info is None:
                    raise EOFError("the archive has become shorter")
                self._next += 1
                if self._next > place:
                    break
            _refuse_giants(info.size)
            content = self._stream.extractfile(info)
            return content.read() if content else b""

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _forget_members(tar: Any) -> None:
    """Keep tarfile from holding every header it has seen in memory."""
    tar.members = []


def _is_plain_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return False
    return True


def _is_image(name: str) -> bool:
    """Tell whether a member is an image that belongs here: no path out of the archive, no litter of macOS."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or "__MACOSX" in parts.parts or parts.name.startswith("._"):
        return False
    return parts.suffix.lower() in IMAGE_SUFFIXES


def _refuse_giants(size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise EOFError(f"declares {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} an image may have")


@contextlib.contextmanager
def _explaining(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a damaged archive raises into an ArchiveError that names it."""
    try:
        yield
    except _DAMAGE as error:
        cause = str(error) or type(error).__name__
        if "encrypted" in cause or "password" in cause:
            cause += "; pack it without a password"
        if "compression method" in cause or isinstance(error, NotImplementedError):
            cause += "; re-zip it with deflate"
        raise ArchiveError(f"{what} cannot be read ({cause})", where=str(path)) from None
