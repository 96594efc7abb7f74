"""Where a table or a column of images lies, as one text: which files it stands for, and how they are opened.

data.parquet   parts/   "parts/*.parquet"        files: one, those of a folder, those that fit a pattern
s3://bucket/data.parquet   gs://  abfs://  file: the same in an object store, through pyarrow.fs
sqlite:///shop.db   postgresql+psycopg://host    a database, with a query: ADDRESS::QUERY
TABLE::ID_COLUMN::IMAGE_COLUMN                   a column of images, of any of these; for a database
ADDRESS::QUERY::ID_COLUMN::IMAGE_COLUMN
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs

from multitask.errors import ArchiveError, TableError
from multitask.privacy import HIDDEN, hide_secrets

SEPARATOR = "::"
# The name of a column that every table has: the number of the row, for tables whose rows have no ids.
ROW = "row"
TABLE_SUFFIXES = (".parquet", ".pq", ".csv", ".tsv", ".arrow", ".feather")

_STORES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs", "file")
_WEB = ("http", "https")
# What a run keeps of an address has no password; it is given here instead.
_PASSWORD = "MULTITASK_DATABASE_PASSWORD"


@dataclass(frozen=True)
class Part:
    """One file of a table.

    Args:
        name: as it is named in errors.
        open: opens it.
        path: where it lies on a disk; None in an object store.
    """

    name: str
    open: Callable[[], pa.NativeFile]
    path: Path | None = None

    @property
    def suffix(self) -> str:
        """The extension of its name, in small letters."""
        return PurePosixPath(self.name.split("?")[0]).suffix.lower()


@dataclass(frozen=True)
class Location:
    """Where a table lies.

    Args:
        place: a path, a pattern, or an address, with all its secrets.
        query: for a database: what to select.
    """

    place: str
    query: str = ""

    def __str__(self) -> str:
        return hide_secrets(self.place)

    @classmethod
    def of_table(cls, text: str, query: str = "") -> Location:
        """Read PLACE or ADDRESS::QUERY."""
        location = cls(text, query)
        if not query and location.is_database and SEPARATOR in text:
            return cls(*text.split(SEPARATOR, 1))
        return location

    @classmethod
    def of_column(cls, text: str) -> tuple[Location, str, str]:
        """Read a column of images: its table, the column of ids and that of images.

        Raises:
            ArchiveError: it names no two columns.
        """
        table, *columns = text.rsplit(SEPARATOR, 2)
        if len(columns) != 2 or not all(columns):
            raise ArchiveError(
                "is no column of images",
                where=text,
                expected=f"TABLE{SEPARATOR}ID_COLUMN{SEPARATOR}IMAGE_COLUMN",
                fix=f"Where the table has no ids, let the number of the row be one: TABLE{SEPARATOR}{ROW}{SEPARATOR}"
                f"{columns[-1] if columns and columns[-1] else 'IMAGE_COLUMN'}, with --data.id-column {ROW}.",
            )
        return cls.of_table(table), columns[0], columns[1]

    @property
    def scheme(self) -> str:
        """What stands before `://`; "" for a path."""
        return self.place.split("://")[0].lower() if "://" in self.place else ""

    @property
    def is_database(self) -> bool:
        """Is it the address of a database?"""
        return self.scheme not in ("", *_STORES, *_WEB)

    @property
    def name(self) -> str:
        """The last part of the place, for headings and file names."""
        return PurePosixPath(self.place.split("?")[0]).name or "table"

    @property
    def stem(self) -> str:
        """The name without its extension."""
        return PurePosixPath(self.name).stem

    @property
    def folder(self) -> Path:
        """Where file names in a column are relative to: the folder of the table; the working one where it is remote."""
        return Path() if self.scheme else Path(self.place).parent

    def with_password(self) -> str:
        """Return the address of a database as it is opened: where a run has hidden its password, with another one.

        That of $MULTITASK_DATABASE_PASSWORD, else none, so that the ways of the driver apply ($PGPASSWORD and such).
        """
        given = quote(os.environ.get(_PASSWORD, ""), safe="")
        return self.place.replace(f":{HIDDEN}@", f":{given}@" if given else "@", 1)

    def parts(self) -> list[Part]:
        """Return the files of a table in the order of their names; a folder of pictures stands for itself.

        Raises:
            TableError: there is none.
            pyarrow.ArrowException, OSError: the store cannot be reached.
        """
        if self.scheme in _WEB:
            raise TableError(
                "tables are not fetched over http", where=self.place, fix="Download it, and name the file."
            )
        return self._stored() if self.scheme else self._files()

    def _files(self) -> list[Part]:
        path = Path(self.place)
        if path.is_dir():
            found = [part for part in sorted(path.iterdir()) if _is_table(part.name) and not part.is_dir()] or [path]
        else:
            found = [path] if path.is_file() else sorted(map(Path, glob.glob(self.place)))
        if not found:
            raise TableError(
                "no such file",
                where=self.place,
                expected="a table",
                fix="Name the table with --labels, or set data.labels.",
            )
        return [Part(str(path), partial(pa.OSFile, str(path)), path) for path in found]

    def _stored(self) -> list[Part]:
        address = self.place.replace(f":{HIDDEN}@", "@", 1)
        filesystem, path = pyarrow.fs.FileSystem.from_uri(address)
        kind = filesystem.get_file_info(path).type
        if kind == pyarrow.fs.FileType.NotFound:
            raise TableError("no such file", where=self.place)
        names = [path]
        if kind == pyarrow.fs.FileType.Directory:
            listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
            names = sorted(entry.path for entry in listed if _is_table(PurePosixPath(entry.path).name))
        return [Part(name, partial(filesystem.open_input_file, name)) for name in names]


def _is_table(name: str) -> bool:
    is_part = PurePosixPath(name).suffix.lower() in TABLE_SUFFIXES or "idx1" in name
    return is_part and not name.startswith((".", "_"))
