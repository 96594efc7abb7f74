"""Look at every row and image once before training: what is missing, broken, repeated, alike or contradictory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.duplicates import near_duplicates
from multitask.audit.looking import look_at_all
from multitask.audit.looks import Looks
from multitask.data.archives import Archive
from multitask.data.tables import Table
from multitask.settings import DataConfig
from multitask.spec import Task
from multitask.workers import Nobody, Workers

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
    workers: Workers = Nobody(),  # noqa: B008
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
        workers: who may look beforehand.
    """
    tasks = tuple(tasks)
    codes, names = pd.factorize(table.ids)
    looks, found, missing, looked = look_at_all(list(names), archive, max_pixels, cache, advance, workers)
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
