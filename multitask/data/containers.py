"""One zip or tar of images: names of its files in physical order, and their bytes, without unpacking."""

from __future__ import annotations

import bz2
import contextlib
import lzma
import operator
import os
import tarfile
import threading
import zipfile
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.fs
from numpy.typing import NDArray

from multitask.errors import ArchiveError
from multitask.privacy import HIDDEN, hide_secrets

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
    ValueError,
    pa.ArrowException,
)


class Container(Protocol):
    """One archive or folder: names of its files in physical order, and their bytes.

    A file is asked for by its number, as `members` gave it, and its name. `members` is called once, before all else.
    """

    where: str
    """Its place, as errors name it."""
    names_are_ids: bool
    """Are the names ids as they are? Else an id is a file name without its extension."""

    def members(self) -> Iterable[str]:
        """Yield the name of each regular file."""

    def read(self, member: int, name: str) -> bytes:
        """Return the bytes of a file."""

    def identity(self, member: int, name: str) -> str:
        """Return what changes when a file does, without reading it."""

    def close(self) -> None:
        """Close the file."""


def open_container(path: Path) -> Container:
    """Open one archive; the kind is told by the content, not by the name.

    Raises:
        ArchiveError: it is missing, damaged, or of another kind.
    """
    if not path.is_file():
        raise ArchiveError(
            "no such file or folder",
            where=str(path),
            expected="a zip or tar archive or a folder of images",
            fix="Name the images with --images, or set data.images.",
        )
    with explaining(str(path), "its list of files"):
        if zipfile.is_zipfile(path):
            return _Zip(str(path), path, stamp(path))
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
    if url.startswith(("http://", "https://")):
        raise ArchiveError("archives are not fetched over http", where=url, fix="Download it, and name the file.")
    with explaining(hide_secrets(url), "its list of files"):
        filesystem, path = pyarrow.fs.FileSystem.from_uri(url.replace(f":{HIDDEN}@", "@", 1))
        facts = filesystem.get_file_info(path)
        if facts.type != pyarrow.fs.FileType.File:
            raise ArchiveError("no such file", where=url)
        stamp = f"{hide_secrets(url)}|{facts.size}|{facts.mtime_ns}"
        return _Zip(hide_secrets(url), filesystem.open_input_file(path), stamp)


_ZIP_FACTS = {
    "header_offset": np.uint64,
    "compress_size": np.uint64,
    "file_size": np.uint64,
    "CRC": np.uint32,
    "compress_type": np.uint16,
    "flag_bits": np.uint16,
}


class _Zip:
    """A zip archive; zipfile locks around each access, so threads may share it.

    Of each file 34 bytes are held, not the half kilobyte of zipfile's record.
    """

    names_are_ids = False

    def __init__(self, where: str, file: Any, stamp: str) -> None:
        self.where, self._file, self._stamp = where, zipfile.ZipFile(file), stamp
        self._facts: NDArray[Any] = np.zeros(0, list(_ZIP_FACTS.items()))

    def members(self) -> Iterator[str]:
        infos = sorted(
            (info for info in self._file.infolist() if not info.is_dir()), key=lambda info: info.header_offset
        )
        self._file.filelist.clear()
        self._file.NameToInfo.clear()
        facts_of = operator.attrgetter(*_ZIP_FACTS)
        self._facts = np.fromiter(map(facts_of, infos), self._facts.dtype, len(infos))
        for info in infos:
            yield info.filename

    def read(self, member: int, name: str) -> bytes:
        info = zipfile.ZipInfo(name)
        for fact, value in zip(_ZIP_FACTS, self._facts[member].tolist(), strict=True):
            setattr(info, fact, value)
        refuse_giants(info.file_size)
        if info.compress_type == zipfile.ZIP_BZIP2:
            return self._read_bzip2(info)
        data = bytearray()
        with self._file.open(info) as stream:
            # What inflates to more than its header says is seen after one byte too many. Lzma knows no bound on what a
            # piece inflates to, up to 7,000 times; so its pieces are small.
            piece = 4096 if info.compress_type == zipfile.ZIP_LZMA else info.file_size + 1
            while chunk := stream.read(piece):
                data += chunk
        return bytes(data)

    def _read_bzip2(self, info: zipfile.ZipInfo) -> bytes:
        """Inflate to no more than the header says, which zipfile does not: 40 bytes of bzip2 may be 45 MB."""
        refuse_giants(info.compress_size)
        size, checksum = info.file_size, info.CRC
        info.compress_type, info.file_size = zipfile.ZIP_STORED, info.compress_size
        del info.CRC
        with self._file.open(info) as stream:
            data = bz2.BZ2Decompressor().decompress(stream.read(), size + 1)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {info.filename!r}")
        return data

    def identity(self, member: int, name: str) -> str:
        facts = self._facts[member]
        return f"{self._stamp}|{facts['CRC']:08x}|{facts['header_offset']}"

    def close(self) -> None:
        self._file.close()


class _PlainTar:
    """An uncompressed tar: listed once, then read at offsets, without a lock."""

    names_are_ids = False

    def __init__(self, path: Path) -> None:
        self.where, self._path, self._file, self._stamp = str(path), path, path.open("rb"), stamp(path)
        self._offsets, self._sizes = array("Q"), array("Q")

    def members(self) -> Iterator[str]:
        with tarfile.open(self._path, "r:") as tar:
            for info in tar:
                _forget_members(tar)
                if info.isreg():
                    self._offsets.append(info.offset_data)
                    self._sizes.append(info.size)
                    yield info.name

    def read(self, member: int, name: str) -> bytes:
        size = self._sizes[member]
        refuse_giants(size)
        data = os.pread(self._file.fileno(), size, self._offsets[member])
        if len(data) < size:
            raise EOFError(f"the archive ends after {len(data)} of {size} bytes")
        return data

    def identity(self, member: int, name: str) -> str:
        return f"{self._stamp}|{self._offsets[member]}|{self._sizes[member]}"

    def close(self) -> None:
        self._file.close()


class _CompressedTar:
    """A compressed tar, which can only be read forward: a read further on streams, a read further back starts anew."""

    names_are_ids = False
    reads_forward_only = True

    def __init__(self, path: Path) -> None:
        self.where, self._path, self._lock, self._stamp = str(path), path, threading.Lock(), stamp(path)
        self._stream: tarfile.TarFile | None = None
        self._next = 0
        # Position of each regular file among all entries.
        self._entries = array("Q")

    def members(self) -> Iterator[str]:
        with tarfile.open(self._path, "r|*") as tar:
            for number, info in enumerate(tar):
                _forget_members(tar)
                if info.isreg():
                    self._entries.append(number)
                    yield info.name

    def read(self, member: int, name: str) -> bytes:
        place = self._entries[member]
        with self._lock:
            if self._stream is None or place < self._next:
                self.close()
                self._stream = tarfile.open(self._path, "r|*")  # noqa: SIM115
                self._next = 0
            while True:
                info = self._stream.next()
                _forget_members(self._stream)
                if info is None:
                    raise EOFError("the archive has become shorter")
                self._next += 1
                if self._next > place:
                    break
            refuse_giants(info.size)
            content = self._stream.extractfile(info)
            return content.read() if content else b""

    def identity(self, member: int, name: str) -> str:
        return f"{self._stamp}|{self._entries[member]}"

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def stamp(path: Path) -> str:
    """Return what changes when a file does."""
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


def refuse_giants(size: int) -> None:
    """Raise EOFError for more bytes than an image may have."""
    if size > MAX_MEMBER_BYTES:
        raise EOFError(f"declares {size:,} bytes, more than the {MAX_MEMBER_BYTES:,} an image may have")


@contextlib.contextmanager
def explaining(where: str, what: str) -> Iterator[None]:
    """Turn whatever a damaged archive raises into an ArchiveError that names it."""
    try:
        yield
    except _DAMAGE as error:
        cause = str(error) or type(error).__name__
        if "encrypted" in cause or "password" in cause:
            cause += "; pack it without a password"
        if "compression method" in cause or isinstance(error, NotImplementedError):
            cause += "; re-zip it with deflate"
        raise ArchiveError(f"{what} cannot be read ({cause})", where=where) from None
