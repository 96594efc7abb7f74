"""One zip, tar or folder of images: names of its files in physical order, and their bytes, without unpacking."""

from __future__ import annotations

import contextlib
import lzma
import os
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs

from multitask.errors import ArchiveError

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
    pa.ArrowException,
)


class Container(Protocol):
    """One archive or folder: names of its files in physical order, and their bytes."""

    path: Path
    names_are_ids: bool
    """Are the names ids as they are? Else an id is a file name without its extension."""

    def members(self) -> Iterable[tuple[str, Any]]:
        """Yield the name of each regular file and what `read` needs to find it."""

    def read(self, place: Any) -> bytes:
        """Return the bytes of a member."""

    def identity(self, place: Any) -> str:
        """Return what changes when a member does, without reading it."""

    def close(self) -> None:
        """Close the file."""


def open_container(path: Path) -> Container:
    """Open one archive or folder; the kind is told by the content, not by the name.

    Raises:
        ArchiveError: it is missing, damaged, or of another kind.
    """
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ArchiveError(
            "no such file or folder",
            where=str(path),
            expected="a zip or tar archive or a folder of images",
            fix="Name the images with --images, or set data.images.",
        )
    with explaining(path, "its list of files"):
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


def open_remote(url: str) -> Container:
    """Open a zip archive in an object store, read in ranges; see pyarrow.fs for addresses and credentials.

    Raises:
        ArchiveError: it is missing, cannot be reached, or is no zip archive.
    """
    with explaining(Path(url), "its list of files"):
        filesystem, path = pyarrow.fs.FileSystem.from_uri(url)
        facts = filesystem.get_file_info(path)
        if facts.type != pyarrow.fs.FileType.File:
            raise ArchiveError("no such file", where=url)
        stamp = f"{url}|{facts.size}|{facts.mtime_ns}"
        return _Zip(Path(url), filesystem.open_input_file(path), stamp)


class _Folder:
    """Images as files below a folder."""

    names_are_ids = False

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

    def identity(self, place: str) -> str:
        return _stamp(Path(place))

    def close(self) -> None:
        pass


class _Zip:
    """A zip archive; zipfile locks around each access, so threads may share it."""

    names_are_ids = False

    def __init__(self, path: Path, file: Any = None, stamp: str = "") -> None:
        self.path, self._file, self._stamp = path, zipfile.ZipFile(file or path), stamp or _stamp(path)

    def members(self) -> Iterator[tuple[str, zipfile.ZipInfo]]:
        for info in sorted(self._file.infolist(), key=lambda info: info.header_offset):
            if not info.is_dir():
                yield info.filename, info

    def read(self, place: zipfile.ZipInfo) -> bytes:
        _refuse_giants(place.file_size)
        return self._file.read(place)

    def identity(self, place: zipfile.ZipInfo) -> str:
        return f"{self._stamp}|{place.CRC:08x}|{place.header_offset}"

    def close(self) -> None:
        self._file.close()


class _PlainTar:
    """An uncompressed tar: listed once, then read at offsets, without a lock."""

    names_are_ids = False

    def __init__(self, path: Path) -> None:
        self.path, self._file, self._stamp = path, path.open("rb"), _stamp(path)

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

    def identity(self, place: tuple[int, int]) -> str:
        return f"{self._stamp}|{place}"

    def close(self) -> None:
        self._file.close()


class _CompressedTar:
    """A compressed tar, which can only be read forward: a read further on streams, a read further back starts anew."""

    names_are_ids = False

    def __init__(self, path: Path) -> None:
        self.path, self._lock, self._stamp = path, threading.Lock(), _stamp(path)
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

    def identity(self, place: int) -> str:
        return f"{self._stamp}|{place}"

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _stamp(path: Path) -> str:
    facts = path.stat()
    return f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"


def _forget_members(tar: Any) -> None:
    """Keep tarfile from holding every header it has seen in memory."""
    tar.members = []


def _is_plain_tar(path: Path) -> bool:
    try:
        tarfile.open(path, "r:").close()
    except tarfile.TarError:
        return False
    return True


def _refuse_giants(size: int) -> None:
    if size > MAX_MEMBER_BYTES:
        raise EOFError(f"declares {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} an image may have")


@contextlib.contextmanager
def explaining(path: Path, what: str) -> Iterator[None]:
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
