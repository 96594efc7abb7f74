"""Look at every row and image once before training: what is missing, broken, repeated, alike or contradictory."""

from __future__ import annotations

import functools
import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.duplicates import near_duplicates
from multitask.audit.inspection import Look, look_at
from multitask.audit.looks import KEY_BYTES, Looks, LookStore
from multitask.data.archives import Archive, read_image
from multitask.data.tables import Table
from multitask.errors import ArchiveError
from multitask.parallel import bounded_map
from multitask.settings import DataConfig
from multitask.spec import Task

# Looks are saved when there are so many, or after so long, which bounds the work that a kill can lose.
_SAVED_LOOKS, _SAVED_SECONDS = 5_000, 20.0
# Files that a thread looks at before it takes the next: so many, or of so many bytes.
_BATCH_FILES, _BATCH_BYTES = 64, 4 << 20
# Pictures are tiny below so many bytes on average.
_TINY_BYTES = 4096
# A reason names so many rows of one picture, whatever their number.
_NAMED_ROWS = 3
# Nearly equal pictures are few; a group of more files than both of these is probably of mere look-alikes.
_LARGE_GROUP, _LARGE_SHARE = 50, 0.01


@dataclass(frozen=True)
class Audit:
    """What is known of each row of a label table.

    Args:
        looks: what the distinct image files look like.
        images: int64 (rows,) which of `looks` shows each row's image; -1 where there is no file.
        alike: int64 (rows,) rows of one number show nearly the same picture; -1 for one like no other.
        reasons: (rows,) why the row cannot be used; "" where it can.
        looked: how many images were looked at now; the others are known from before.
    """

    looks: Looks
    images: NDArray[np.int64]
    alike: NDArray[np.int64]
    reasons: NDArray[np.object_]
    looked: int

    @functools.cached_property
    def digests(self) -> NDArray[np.object_]:
        """SHA-256 of each row's image file in hexadecimal; "" where there is no image."""
        return np.append(self.looks.digest, "")[self.images]

    @functools.cached_property
    def warnings(self) -> tuple[str, ...]:
        """What a person should look at before trusting the groups of nearly equal pictures."""
        rows = self.alike >= 0
        groups = pd.Series(self.images[rows]).groupby(self.alike[rows]).nunique()
        limit = max(_LARGE_GROUP, _LARGE_SHARE * len(self.looks))
        if groups.max() > limit:
            row = int(np.flatnonzero(self.alike == groups.idxmax())[0])
            return (
                f"{groups.max():,} of {len(self.looks):,} images are taken for nearly the same picture (that of row"
                f" {row}) and stay on one side of the split; if they are different ones, set data.near_duplicates"
                " = false",
            )
        return ()


def audit_rows(
    table: Table,
    tasks: Iterable[Task],
    archive: Archive,
    max_pixels: int,
    cache: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
    near: bool = True,
) -> Audit:
    """Look at every image once and compare the labels of rows that show the same picture.

    Args:
        table: ids and labels.
        tasks: of the model.
        archive: the images.
        max_pixels: images of more are refused.
        cache: folder where looks are kept between runs; a file that has changed since is looked at again.
        advance: told how many images are done.
        near: search for nearly equal pictures; else no row is like another.
    """
    tasks = tuple(tasks)
    codes, names = pd.factorize(table.ids)
    looks, found, missing, looked = _look_at_all(list(names), archive, max_pixels, cache, advance)
    images = found[codes]
    reasons = np.where(images >= 0, np.append(looks.reason, "")[images], missing[codes])
    unlabelled = np.ones(len(table), bool)
    for task in tasks:
        unlabelled &= np.isnan(_by_row(table.labels[task.name])).all(axis=1)
    reasons[unlabelled & (reasons == "")] = "no label for any task"
    _note_contradictions(table, tasks, images, reasons)
    alike = np.append(near_duplicates(looks), -1)[images] if near else np.full(len(table), -1)
    return Audit(looks, images, alike, reasons, looked)


def audit_cache(data: DataConfig) -> Path:
    """Return the folder where looks at images are kept, beside the features."""
    return Path(data.features).parent / "audits"


def _look_at_all(
    names: list[str], archive: Archive, max_pixels: int, cache: Path | None, advance: Callable[[int], None]
) -> tuple[Looks, NDArray[np.int64], NDArray[np.object_], int]:
    """Return the distinct looks; per name which of them is its, and why there is none; how many images were read."""
    keys = [_key(archive, name, max_pixels) for name in names]
    with_key = np.array([bool(key) for key in keys], bool)
    store = LookStore(cache) if cache else None
    known, places = Looks.of(()), np.full(len(names), -1)
    if store:
        known, places[with_key] = store.find([key for key in keys if key])
    advance(int((places >= 0).sum()))
    unknown = np.flatnonzero(places < 0)
    saver = _Saver(store, keys)
    missing = _look(names, unknown, archive, max_pixels, saver, advance)
    new, of = saver.finish()
    places[of] = len(known) + np.arange(len(of))
    looks = Looks.together([known, new])
    numbers, _ = pd.factorize(looks.digest)
    first = np.unique(numbers, return_index=True)[1]
    distinct = looks if len(first) == len(looks) else looks.take(first)
    return distinct, np.append(numbers, -1)[places], missing, len(unknown)


def _look(
    names: list[str],
    unknown: NDArray[np.int64],
    archive: Archive,
    max_pixels: int,
    saver: _Saver,
    advance: Callable[[int], None],
) -> NDArray[np.object_]:
    """Look at some images and give the looks to `saver`; return per name why there is no file to look at.

    Bytes are read one after the other, in archive order: a compressed tar can only be read forward, and a disk likes it
    too; addresses are fetched several at once. Pictures are decoded side by side.
    """

    def read(at: int) -> tuple[int, bytes, str]:
        return at, *read_image(archive, names[at])

    def look(batch: list[tuple[int, bytes, str]]) -> list[tuple[int, Look | str]]:
        return [(at, reason or look_at(data, max_pixels)) for at, data, reason in batch]

    missing = np.full(len(names), "", object)
    ordered = (int(unknown[at]) for at in archive.in_order([names[at] for at in unknown]))
    files = map(read, ordered) if archive.readers == 1 else bounded_map(read, ordered, archive.readers)
    for batch in _looked_at(look, _batches(files)):
        for at, found in batch:
            # Why a file could not be read is not remembered: a server or a disk may answer the next time.
            if isinstance(found, str):
                missing[at] = found
            else:
                saver.add(at, found)
        advance(len(batch))
    return missing


def _looked_at(
    look: Callable[[list[tuple[int, bytes, str]]], list[tuple[int, Look | str]]],
    batches: Iterator[list[tuple[int, bytes, str]]],
) -> Iterator[list[tuple[int, Look | str]]]:
    """Look side by side; where pictures are tiny, threads would wait for each other longer than they look."""
    for first in batches:
        is_tiny = sum(len(data) for _, data, _ in first) < _TINY_BYTES * len(first)
        every = itertools.chain([first], batches)
        yield from map(look, every) if is_tiny else bounded_map(look, every, 2 * (os.cpu_count() or 1))


def _batches(files: Iterable[tuple[int, bytes, str]]) -> Iterator[list[tuple[int, bytes, str]]]:
    """Group files to batches that are worth a thread's turn."""
    batch: list[tuple[int, bytes, str]] = []
    size = 0
    for file in files:
        batch.append(file)
        size += len(file[1])
        if len(batch) == _BATCH_FILES or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


class _Saver:
    """Turns looks into columns as they come, and saves them where there is a store."""

    def __init__(self, store: LookStore | None, keys: list[bytes]) -> None:
        self._store, self._keys = store, keys
        self._pending: list[tuple[int, Look]] = []
        self._parts: list[Looks] = []
        self._order: list[int] = []
        self._saved = time.monotonic()

    def add(self, at: int, look: Look) -> None:
        """Take the look at the image of name `at`."""
        self._pending.append((at, look))
        if len(self._pending) >= _SAVED_LOOKS or time.monotonic() - self._saved > _SAVED_SECONDS:
            self._flush()

    def finish(self) -> tuple[Looks, NDArray[np.int64]]:
        """Save the rest; return all looks, and of which name each is."""
        self._flush()
        if self._store and self._order:
            self._store.tidy()
        looks = Looks.together(self._parts)
        self._parts.clear()
        return looks, np.array(self._order, np.int64)

    def _flush(self) -> None:
        looks = Looks.of([look for _, look in self._pending])
        names = [at for at, _ in self._pending]
        kept = np.array([bool(self._keys[at]) for at in names], bool)
        if self._store and kept.any():
            self._store.add([self._keys[at] for at in names if self._keys[at]], looks.take(kept))
        self._parts.append(looks)
        self._order += names
        self._pending, self._saved = [], time.monotonic()


def _key(archive: Archive, name: str, max_pixels: int) -> bytes:
    """Return what the look depends on, in few bytes; none where there is no file, which is seen at once every time."""
    if name not in archive:
        return b""
    try:
        identity = f"{archive.identity(name)}|{max_pixels}"
    except ArchiveError:
        return b""
    return hashlib.blake2b(identity.encode(), digest_size=KEY_BYTES).digest()


def _note_contradictions(
    table: Table, tasks: Iterable[Task], images: NDArray[np.int64], reasons: NDArray[np.object_]
) -> None:
    """Give rows of one picture whose labels differ their reason; a missing label contradicts nothing."""
    rows = np.flatnonzero((images >= 0) & (np.bincount(images + 1)[images + 1] > 1))
    rows = rows[np.argsort(images[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(images[rows], prepend=-1))
    ends = np.append(starts[1:], len(rows))
    for task in tasks if len(rows) else ():
        labels = _by_row(table.labels[task.name])[rows]
        # fmin and fmax pass over what is missing.
        lowest, highest = np.fmin.reduceat(labels, starts), np.fmax.reduceat(labels, starts)
        for number in np.flatnonzero((highest > lowest).any(axis=1)):
            members = rows[starts[number] : ends[number]]
            text = f'contradictory labels of "{task.name}" for one picture: {_named(members, table)}'
            reasons[members[reasons[members] == ""]] = text


def _named(rows: NDArray[np.int64], table: Table) -> str:
    shown = ", ".join(f"row {row} ({table.ids[row]})" for row in rows[:_NAMED_ROWS])
    more = len(rows) - _NAMED_ROWS
    return shown + (f" and {more:,} more rows" if more > 0 else "")


def _by_row(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return labels as (rows, columns)."""
    return labels.reshape(len(labels), -1)
