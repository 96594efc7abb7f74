"""Folders of pictures: their images as a container; and as a table, where folders bear the names of classes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from multitask.data import containers
from multitask.data.names import is_image, is_litter, without_suffix
from multitask.errors import TableError

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def read_file(path: Path) -> bytes:
    """Return the bytes of a file that is no larger than an image may be."""
    with path.open("rb") as stream:
        containers.refuse_giants(os.fstat(stream.fileno()).st_size)
        return stream.read(containers.MAX_MEMBER_BYTES)


class FolderImages:
    """Images as files below a folder, all of them or some."""

    names_are_ids = False

    def __init__(self, path: Path, names: Sequence[str] = ()) -> None:
        self.where, self._path, self._chosen = str(path), path, names

    def members(self) -> Iterator[str]:
        """Yield the names of all files below the folder, sorted."""
        yield from self._chosen
        for directory, subdirectories, files in () if self._chosen else os.walk(self._path):
            subdirectories.sort()
            for name in sorted(files):
                yield os.path.relpath(os.path.join(directory, name), self._path).replace(os.sep, "/")

    def read(self, member: int, name: str) -> bytes:
        """Return the bytes of a file."""
        return read_file(self._path / name)

    def identity(self, member: int, name: str) -> str:
        """Return what changes when a file does."""
        return containers.stamp(self._path / name)

    def close(self) -> None:
        """Do nothing; no file is held open."""


def class_folders(root: Path) -> pd.DataFrame:
    """Return columns uuid (the path without extension), folder (the class), and split where folders say so.

    A picture counts here where `open_archive` finds it too; hidden folders are no classes.

    Raises:
        TableError: there is no picture in any folder.
    """
    rows = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories[:] = sorted(name for name in subdirectories if not is_litter(name))
        parents = Path(directory).relative_to(root).parts
        split = _SPLITS.get(parents[0].lower(), "") if parents else ""
        if not parents or (split and len(parents) < 2):
            continue
        label = parents[1] if split else parents[0]
        names = ("/".join([*parents, name]) for name in sorted(files))
        rows += [(without_suffix(name), label, split) for name in names if is_image(name)]
    if not rows:
        raise TableError(
            "is a folder without tables and without pictures in folders",
            where=str(root),
            expected="parts of a table, or a folder per class",
        )
    frame = pd.DataFrame(rows, columns=["uuid", "folder", "split"])
    return frame if frame["split"].any() else frame.drop(columns="split")
