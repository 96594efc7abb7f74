"""Look at every row and image once before training: what is missing, broken, repeated, alike or contradictory."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.duplicates import near_duplicates
from multitask.audit.inspection import Look, look_at
from multitask.config import DataConfig
from multitask.data.archives import Archive, read_image
from multitask.data.tables import Table
from multitask.errors import ArchiveError
from multitask.parallel import bounded_map
from multitask.spec import Task
from multitask.storage import replacing

# Raised whenever a look tells something else of the same file.
_VERSION = 1


@dataclass(frozen=True)
class Audit:
    """What is known of each row of a label table.

    Args:
        looks: (rows,) what its image looks like.
        alike: int64 (rows,) rows of one number show nearly the same picture; -1 for one like no other.
        reasons: (rows,) why the row cannot be used; "" where it can.
        looked: how many images were looked at now; the others are known from before.
    """

    looks: tuple[Look, ...]
    alike: NDArray[np.int64]
    reasons: NDArray[np.object_]
    looked: int

    @property
    def digests(self) -> NDArray[np.object_]:
        """SHA-256 of each row's image file in hexadecimal; "" where there is no image."""
        return np.array([look.digest for look in self.looks], object)


def audit_rows(
    table: Table,
    tasks: Iterable[Task],
    archive: Archive,
    max_pixels: int,
    cache: Path | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Audit:
    """Look at every image once and compare the labels of rows that show the same picture.

    Args:
        table: ids and labels.
        tasks: of the model.
        archive: the images.
        max_pixels: images of more are refused.
        cache: folder where looks are kept between runs; a file that has changed since is looked at again.
        advance: told how many images are done.
    """
    tasks = tuple(tasks)
    known, looked = _look_at_all(list(dict.fromkeys(table.ids)), archive, max_pixels, cache, advance)
    looks = tuple(known[name] for name in table.ids)
    reasons = np.array([look.reason for look in looks], object)
    unlabelled = np.logical_and.reduce([np.isnan(_by_row(table.labels[task.name])).all(axis=1) for task in tasks])
    reasons[unlabelled & (reasons == "")] = "no label for any task"
    for row, reason in _contradictions(table, tasks, looks).items():
        reasons[row] = reasons[row] or reason
    return Audit(looks, _alike(looks), reasons, looked)


def audit_cache(data: DataConfig) -> Path:
    """Return the folder where looks at images are kept, beside the features."""
    return Path(data.features).parent / "audits"


def _look_at_all(
    names: list[str], archive: Archive, max_pixels: int, cache: Path | None, advance: Callable[[int], None]
) -> tuple[dict[str, Look], int]:
    """Return a look per id, and how many images were read for it."""
    identities = {name: _identity(archive, name, max_pixels) for name in names}
    path = cache / f"{_digest(sorted({text.split('|')[0] for text in identities.values()}))}.parquet" if cache else None
    before = _load(path)
    known = {name: before[identity] for name, identity in identities.items() if identity in before}
    advance(len(known))
    unknown = [name for name in names if name not in known]

    # Bytes are read one after the other, in archive order: a compressed tar can only be read forward, and a disk likes
    # it too; addresses are fetched several at once. Pictures are decoded side by side.
    def read(name: str) -> tuple[str, bytes, str]:
        return name, *read_image(archive, name)

    ordered = (unknown[at] for at in archive.in_order(unknown))
    files = map(read, ordered) if archive.readers == 1 else bounded_map(read, ordered, archive.readers)

    def look(file: tuple[str, bytes, str]) -> tuple[str, Look]:
        name, data, reason = file
        return name, Look("", reason) if reason else look_at(data, max_pixels)

    for name, found in bounded_map(look, files, 2 * (os.cpu_count() or 1)):
        known[name] = found
        advance(1)
    if path and unknown:
        # What could not be read is not remembered: a server that was busy is asked again the next time.
        _save(path, {identities[name]: look for name, look in known.items() if identities[name] and look.digest})
    return known, len(unknown)


def _identity(archive: Archive, name: str, max_pixels: int) -> str:
    """Return what the look depends on; "" where there is no file to look at, which is seen at once every time."""
    if name not in archive:
        return ""
    try:
        return f"{archive.identity(name)}|{max_pixels}|{_VERSION}"
    except ArchiveError:
        return ""


def _load(path: Path | None) -> dict[str, Look]:
    if path is None or not path.is_file():
        return {}
    frame = pd.read_parquet(path)
    columns = [frame[field.name].tolist() for field in dataclasses.fields(Look)]
    return {name: Look(*values) for name, *values in zip(frame["identity"], *columns, strict=True)}


def _save(path: Path, looks: dict[str, Look]) -> None:
    columns: dict[str, Any] = {"identity": list(looks)}
    for field in dataclasses.fields(Look):
        columns[field.name] = [getattr(look, field.name) for look in looks.values()]
    columns["perceptual_hash"] = np.array(columns["perceptual_hash"], np.uint64)
    with replacing(path) as temporary:
        pd.DataFrame(columns).to_parquet(temporary, index=False)


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def _alike(looks: tuple[Look, ...]) -> NDArray[np.int64]:
    """Return near duplicates by row; rows of one file are compared once."""
    distinct = list({look.digest: look for look in looks if look.digest}.values())
    numbers = {look.digest: number for look, number in zip(distinct, near_duplicates(distinct), strict=True)}
    return np.array([numbers.get(look.digest, -1) for look in looks], np.int64)


def _contradictions(table: Table, tasks: Iterable[Task], looks: tuple[Look, ...]) -> dict[int, str]:
    """Find rows of one picture whose labels differ; a missing label contradicts nothing."""
    found = {}
    for rows in _rows_of_one_picture(looks):
        for task in tasks:
            labels = _by_row(table.labels[task.name])[rows]
            lowest, highest = np.nanmin(labels, axis=0, initial=np.inf), np.nanmax(labels, axis=0, initial=-np.inf)
            if (highest > lowest).any():
                others = ", ".join(f"row {row} ({table.ids[row]})" for row in rows)
                found.update(dict.fromkeys(rows, f'contradictory labels of "{task.name}" for one picture: {others}'))
    return found


def _rows_of_one_picture(looks: tuple[Look, ...]) -> Iterator[list[int]]:
    rows_of: dict[str, list[int]] = {}
    for row, look in enumerate(looks):
        if look.digest:
            rows_of.setdefault(look.digest, []).append(row)
    return (rows for rows in rows_of.values() if len(rows) > 1)


def _by_row(labels: NDArray[np.float32]) -> NDArray[Any]:
    """Return labels as (rows, columns)."""
    return labels.reshape(len(labels), -1)
