"""Which row trains, which validates, which tests: drawn, by time, or as a column says; a group is never parted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.data.cells import as_names, as_numbers
from multitask.data.tables import Table
from multitask.errors import TableError, nearest
from multitask.settings import DataConfig
from multitask.spec import Task

# What people call the parts of a split.
_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_DAY_AND_MONTH = r"^\s*(\d{1,2})[/.-](\d{1,2})[/.-]\d"


def divide(
    table: Table,
    tasks: Sequence[Task],
    pictures: NDArray[np.object_],
    alike: NDArray[np.int64],
    data: DataConfig,
) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
    """Group rows and divide them.

    Rows of one picture, of nearly the same picture, and of one value in a group column belong together.

    Args:
        table: the usable rows.
        tasks: whose labels are spread evenly.
        pictures: (rows,) what tells pictures apart: the digest of the image file, or the id where there are no images.
        alike: (rows,) see `Audit.alike`.
        data: group_columns, split_column, time_column, the shares and the seed of the draw.

    Returns:
        Number of each row's group, and its part.

    Raises:
        TableError: a column is missing or holds something else, a part would be empty, or the given split parts rows of
            one picture or of one value in a group column. It may part nearly equal pictures: see `crossing`.
    """
    columns = [as_names(pd.Series(_column(table, name, data), name=name)) for name in data.group_columns]
    near = np.where(alike < 0, np.nan, alike)
    groups = splits.group_rows(pictures, near, *columns)
    if data.split_column:
        exact = splits.group_rows(pictures, *columns)
        return groups, _given(table, tasks, pictures, groups, exact, data)
    if data.time_column:
        return groups, _by_time(_times(table, data), groups, data)
    parts = splits.split_rows(table.labels, tasks, groups, pictures, data.validation, data.test, data.split_seed)
    return groups, parts


def crossing(groups: NDArray[np.int64], parts: NDArray[np.object_]) -> int:
    """Return how many groups lie in more than one part: under a given split nearly equal pictures may."""
    codes = pd.factorize(parts)[0]
    return len(np.unique(groups * len(splits.PARTS) + codes)) - len(np.unique(groups))


def warn_of_crossing(count: int) -> str:
    """Say what it means when a given split parts nearly equal pictures."""
    return (
        f"{count:,} groups of nearly the same picture lie in more than one split: figures on it say too much."
        " Correct data.split_column, or leave it out"
    )


def _given(
    table: Table,
    tasks: Sequence[Task],
    pictures: NDArray[np.object_],
    groups: NDArray[np.int64],
    exact: NDArray[np.int64],
    data: DataConfig,
) -> NDArray[np.object_]:
    """Read the split from its column; without validation rows, some of the training rows become them.

    A row without a value goes where its group is, to training if that is in several parts; if it is nowhere, it is
    drawn. A group of `exact` must lie in one part; validation rows are drawn so that no group of `groups` is parted
    either.
    """
    where = f"{data.labels}, `{data.split_column}`"
    given = _column(table, data.split_column, data)
    is_open = np.array([pd.isna(value) or not str(value).strip() for value in given], bool)
    codes, values = pd.factorize(np.where(is_open, "train", given), use_na_sentinel=False)
    names = [str(value).strip().lower() for value in values]
    wrong = np.flatnonzero(~np.isin(codes, [code for code, name in enumerate(names) if name in _NAMES]))
    if len(wrong):
        raise TableError(
            "wrong split",
            where=f"{where} row {wrong[0]} (id {table.ids[wrong[0]]})",
            expected="train, validation or test",
            received=f'"{names[codes[wrong[0]]]}"',
        )
    parts = np.array([_NAMES[name] for name in names], object)[codes]
    if is_open.any():
        _place_open(table, tasks, pictures, groups, parts, is_open, data)
    for part in ("train", "test"):
        if not (parts == part).any():
            raise TableError(f"no row is in the {part} split", where=where)
    _refuse_overlap(table, exact, parts, where)
    if not (parts == "validation").any():
        rows = np.flatnonzero(parts == "train")
        share = data.validation / (1 - data.test)
        marks = splits.indicators({name: values[rows] for name, values in table.labels.items()}, tasks)
        renumbered = np.unique(groups[rows], return_inverse=True)[1]
        keys = splits.content_keys(pictures[rows])
        drawn = splits.assign(marks, renumbered, (1 - share, share), keys, data.split_seed)
        parts[rows[drawn == 1]] = "validation"
    return parts


def _place_open(
    table: Table,
    tasks: Sequence[Task],
    pictures: NDArray[np.object_],
    groups: NDArray[np.int64],
    parts: NDArray[np.object_],
    is_open: NDArray[np.bool_],
    data: DataConfig,
) -> None:
    """Give rows without a part the one of their group, or a drawn one."""
    for part in reversed(splits.PARTS):
        held = np.isin(groups, groups[~is_open & (parts == part)])
        parts[is_open & held] = part
    rows = np.flatnonzero(is_open & ~np.isin(groups, groups[~is_open]))
    if len(rows):
        labels = {name: values[rows] for name, values in table.labels.items()}
        numbers = np.unique(groups[rows], return_inverse=True)[1]
        shares = (1 - data.validation - data.test, data.validation, data.test)
        marks, keys = splits.indicators(labels, tasks), splits.content_keys(pictures[rows])
        parts[rows] = np.array(splits.PARTS, object)[splits.assign(marks, numbers, shares, keys, data.split_seed)]


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
    """Return when each row was: numbers as they are, dates as a count since 1970."""
    values = pd.Series(_column(table, data.time_column, data))
    times = as_numbers(values)
    if np.isnan(times).all():
        _refuse_ambiguous(table, values, data)
        dates = pd.to_datetime(values, errors="coerce", format="mixed", utc=True)
        times = np.where(dates.isna(), np.nan, dates.astype("int64").to_numpy(np.float64))
    if np.isnan(times).any():
        row = int(np.flatnonzero(np.isnan(times))[0])
        raise TableError(
            "no time",
            where=_place(table, row, data),
            expected="a date or a number",
            received=repr(values.iloc[row]),
        )
    return times


def _refuse_ambiguous(table: Table, values: pd.Series[Any], data: DataConfig) -> None:
    """Refuse dates such as 03/04/2026: whether day or month comes first cannot be told from them."""
    texts = values.where(values.map(lambda value: isinstance(value, str)), "").astype(str)
    found = texts.str.extract(_DAY_AND_MONTH)
    both = found.astype(float).le(12).all(axis=1) & (found[0].str.lstrip("0") != found[1].str.lstrip("0"))
    rows = np.flatnonzero(both.to_numpy(bool))
    if len(rows):
        shown = ", ".join(f"row {row}: {values.iloc[row]!r}" for row in rows[:3])
        raise TableError(
            f"{len(rows):,} dates can be read as day first or as month first",
            where=_place(table, int(rows[0]), data),
            expected="dates such as 2026-04-13, or numbers",
            received=shown,
        )


def _place(table: Table, row: int, data: DataConfig) -> str:
    return f"{data.labels}, `{data.time_column}` row {row} (id {table.ids[row]})"


def _by_time(times: NDArray[np.float64], groups: NDArray[np.int64], data: DataConfig) -> NDArray[np.object_]:
    """Let the oldest groups train and the newest test; a group is as old as its newest row."""
    newest = np.full(groups.max() + 1, -np.inf)
    np.maximum.at(newest, groups, times)
    order = np.argsort(newest, kind="stable")
    before = np.cumsum(np.bincount(groups)[order]) - np.bincount(groups)[order]
    edges = (1 - data.validation - data.test, 1 - data.test)
    part_of = np.empty(len(newest), object)
    part_of[order] = np.array(splits.PARTS, object)[np.searchsorted(edges, before / len(groups), side="right")]
    parts = part_of[groups]
    for part in splits.PARTS:
        if not (parts == part).any():
            raise TableError(
                f"no row is in the {part} split",
                where=f"{data.labels}, `{data.time_column}`",
                received=f"a largest group of {np.bincount(groups).max():,} of {len(groups):,} rows that stay together",
                fix="Divide by a column with more values (data.group_columns), or let rows be drawn.",
            )
    return parts


def _column(table: Table, name: str, data: DataConfig) -> Any:
    if name not in table.extra:
        fix = nearest(name, map(str, table.extra.columns))
        raise TableError(f'no column "{name}"', where=data.labels, fix=fix)
    return table.extra[name].to_numpy(object)
