"""Which row trains, which validates, which tests: drawn, by time, or as a column says; a group is never parted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.config import DataConfig
from multitask.data.cells import as_numbers
from multitask.data.tables import Table
from multitask.errors import TableError, nearest
from multitask.spec import Task

# What people call the parts of a split.
_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def divide(
    table: Table,
    tasks: Sequence[Task],
    pictures: NDArray[np.object_],
    alike: NDArray[np.int64],
    data: DataConfig,
    seed: int,
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Group rows and divide them.

    Rows of one picture, of nearly the same picture, and of one value in a group column belong together.

    Args:
        table: the usable rows.
        tasks: whose labels are spread evenly.
        pictures: (rows,) what tells pictures apart: the digest of the image file, or the id where there are no images.
        alike: (rows,) see `Audit.alike`.
        data: group_columns, split_column, time_column and the shares.
        seed: of the draw.

    Returns:
        Number of each row's group, and its part.

    Raises:
        TableError: a column is missing or holds something else, or the given split parts a group.
    """
    columns = [_column(table, name, data) for name in data.group_columns]
    if data.split_column:
        groups = splits.group_rows(pictures, *columns)
        return groups, _given(table, tasks, groups, data, seed)
    near = [None if number < 0 else number for number in alike]
    groups = splits.group_rows(pictures, near, *columns)
    if data.time_column:
        return groups, _by_time(_times(table, data), groups, data)
    return groups, splits.split_rows(table.labels, tasks, groups, data.validation, data.test, seed)


def _given(
    table: Table, tasks: Sequence[Task], groups: NDArray[np.int64], data: DataConfig, seed: int
) -> NDArray[np.object_]:
    """Read the split from its column; without validation rows, some of the training rows become them."""
    where = f"{data.labels}, `{data.split_column}`"
    names = [str(value).strip().lower() for value in _column(table, data.split_column, data)]
    wrong = [row for row, name in enumerate(names) if name not in _NAMES]
    if wrong:
        raise TableError(
            "wrong split",
            where=f"{where} row {wrong[0]} (id {table.ids[wrong[0]]})",
            expected="train, validation or test",
            received=f'"{names[wrong[0]]}"',
        )
    parts = np.array([_NAMES[name] for name in names], object)
    for part in ("train", "test"):
        if not (parts == part).any():
            raise TableError(f"no row is in the {part} split", where=where)
    _refuse_overlap(table, groups, parts, where)
    if not (parts == "validation").any():
        rows = np.flatnonzero(parts == "train")
        share = data.validation / (1 - data.test)
        marks = splits.indicators({name: values[rows] for name, values in table.labels.items()}, tasks)
        renumbered = np.unique(groups[rows], return_inverse=True)[1]
        parts[rows[splits.assign(marks, renumbered, (1 - share, share), seed) == 1]] = "validation"
    return parts


def _refuse_overlap(table: Table, groups: NDArray[np.int64], parts: NDArray[np.object_], where: str) -> None:
    counts = pd.Series(parts).groupby(groups).nunique()
    parted = counts.index[counts > 1]
    if len(parted):
        rows = np.flatnonzero(groups == parted[0])
        shown = ", ".join(f"{table.ids[row]} ({parts[row]})" for row in rows[:4])
        raise TableError(
            f"{len(parted):,} groups of rows are in more than one split",
            where=where,
            expected="rows of one picture, and of one value in data.group_columns, on one side",
            received=shown,
            fix="Figures on such a split say too much. Correct the column, or leave it out.",
        )


def _times(table: Table, data: DataConfig) -> NDArray[np.float64]:
    values = pd.Series(_column(table, data.time_column, data))
    # Numbers may come as text, from a CSV file.
    if np.isnan(as_numbers(values)).any():
        values = pd.to_datetime(values, errors="coerce", format="mixed", utc=True)
        values = values.astype("int64").where(values.notna())
    times = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        raise TableError(
            "no time",
            where=f"{data.labels}, `{data.time_column}` row {row} (id {table.ids[row]})",
            expected="a date or a number",
            received=repr(table.extra[data.time_column].iloc[row]),
        )
    return times


def _by_time(times: NDArray[np.float64], groups: NDArray[np.int64], data: DataConfig) -> NDArray[np.object_]:
    """Let the oldest groups train and the newest test; a group is as old as its newest row."""
    newest = np.full(groups.max() + 1, -np.inf)
    np.maximum.at(newest, groups, times)
    order = np.argsort(newest, kind="stable")
    before = np.cumsum(np.bincount(groups)[order]) - np.bincount(groups)[order]
    edges = (1 - data.validation - data.test, 1 - data.test)
    part_of = np.empty(len(newest), object)
    part_of[order] = np.array(splits.PARTS, object)[np.searchsorted(edges, before / len(groups), side="right")]
    return part_of[groups]


def _column(table: Table, name: str, data: DataConfig) -> Any:
    if name not in table.extra:
        fix = nearest(name, map(str, table.extra.columns))
        raise TableError(f'no column "{name}"', where=data.labels, fix=fix)
    return table.extra[name].to_numpy(object)
