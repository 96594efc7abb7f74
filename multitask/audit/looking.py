"""Every image looked at once: in the order in which files lie, in batches, side by side, saved as it goes."""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.inspection import Look, look_at
from multitask.audit.looks import KEY_BYTES, Looks, LookStore
from multitask.data.archives import Archive, read_image
from multitask.errors import ArchiveError
from multitask.parallel import bounded_map
from multitask.workers import Nobody, Workers

# Numbers of names, each with its file and why there is none; and with what was found.
_Files = list[tuple[int, bytes, str]]
_Found = list[tuple[int, Look | str]]

# Looks are saved when there are so many, or after so long, which bounds the work that a kill can lose.
_SAVED_LOOKS, _SAVED_SECONDS = 5_000, 20.0
# Files that a thread looks at before it takes the next: so many, or of so many bytes.
_BATCH_FILES, _BATCH_BYTES = 64, 4 << 20
# Images that one process of several looks at before it takes the next.
_SHARE_IMAGES = 2_000
# Pictures are tiny below so many bytes on average.
_TINY_BYTES = 4096


def look_at_all(
    names: list[str],
    archive: Archive,
    max_pixels: int,
    cache: Path | None,
    advance: Callable[[int], None],
    workers: Workers = Nobody(),  # noqa: B008
) -> tuple[Looks, NDArray[np.int64], NDArray[np.object_], int]:
    """Return the distinct looks; per name which of them is its, and why there is none; how many images were read."""
    keys = [_key(archive, name, max_pixels) for name in names]
    with_key = np.array([bool(key) for key in keys], bool)
    store = LookStore(cache) if cache else None
    known, places = Looks.of(()), np.full(len(names), -1)
    if store and cache:
        present = [key for key in keys if key]
        known, places[with_key] = store.find(present)
        strangers = [name for name, place, key in zip(names, places, keys, strict=True) if key and place < 0]
        if workers.share(partial(_fill, archive, max_pixels, cache), strangers, "looking at images", _SHARE_IMAGES):
            known, places[with_key] = store.find(present)
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


def _fill(archive: Archive, max_pixels: int, cache: Path, names: list[str]) -> None:
    """Look at some images in another process, for whoever asks the cache for them."""
    saver = _Saver(LookStore(cache), [_key(archive, name, max_pixels) for name in names])
    _look(names, np.arange(len(names)), archive, max_pixels, saver, lambda done: None)
    saver.finish()


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

    def look(batch: _Files) -> _Found:
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
    look: Callable[[_Files], _Found],
    batches: Iterator[_Files],
) -> Iterator[_Found]:
    """Look side by side; where pictures are tiny, threads would wait for each other longer than they look."""
    for first in batches:
        is_tiny = sum(len(data) for _, data, _ in first) < _TINY_BYTES * len(first)
        every = itertools.chain([first], batches)
        yield from map(look, every) if is_tiny else bounded_map(look, every, 2 * (os.cpu_count() or 1))


def _batches(files: Iterable[tuple[int, bytes, str]]) -> Iterator[_Files]:
    """Group files to batches that are worth a thread's turn."""
    batch: _Files = []
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
