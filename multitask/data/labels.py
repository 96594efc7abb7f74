"""Label columns of a table as numbers, one reader per kind of task; every wrong cell is named."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.errors import TableError, nearest
from multitask.spec import Task, TaskConfig

Labels = NDArray[np.float32]


@dataclass(frozen=True)
class Reader:
    """How labels of one kind of task are read.

    Args:
        classes: (table, task, where) to the names of its answers, in score order.
        read: (table, task, ids, where) to float32 (rows,) class numbers or (rows, answers); NaN for a missing label.
    """

    classes: Callable[[pd.DataFrame, TaskConfig, str], tuple[str, ...]]
    read: Callable[[pd.DataFrame, Task, NDArray[np.object_], str], Labels]


def settle_classes(frame: pd.DataFrame, tasks: Mapping[str, TaskConfig], where: str) -> dict[str, tuple[str, ...]]:
    """Return the names of the answers of every task, in score order.

    The columns of tags and numbers; classes as given, else those found, sorted: numbers by value, names by letter.
    """
    return {name: LABELS[task.kind].classes(frame, task, where) for name, task in tasks.items()}


def column_of(frame: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    """Return a column.

    Raises:
        TableError: there is none of that name.
    """
    if name not in frame:
        raise TableError(f'no column "{name}"', where=where, fix=nearest(name, map(str, frame.columns)))
    return frame[name]


def as_names(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Return values as names: whole numbers without a decimal point, None for a missing value."""
    codes, values = pd.factorize(column.to_numpy(object), use_na_sentinel=True)
    names = np.array([*map(_name, values), None], object)
    return names[codes]


def _name(value: Any) -> str:
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _found_classes(frame: pd.DataFrame, task: TaskConfig, where: str) -> tuple[str, ...]:
    if task.classes:
        return task.classes
    values = pd.unique(as_names(column_of(frame, task.columns[0], where)))
    found = {task.merged(name) for name in values if name is not None}
    numeric = all(name.lstrip("-").isdigit() for name in found)
    classes = sorted(found, key=int) if numeric else sorted(found)
    if len(classes) < 2:
        raise TableError(
            "a multiclass task needs at least two classes",
            where=f"{where}, column {task.columns[0]}",
            received=f"{classes or 'no label at all'}",
        )
    return tuple(classes)


def _read_classes(frame: pd.DataFrame, task: Task, ids: NDArray[np.object_], where: str) -> Labels:
    codes: dict[str, float] = {name: code for code, name in enumerate(task.classes)}
    codes |= {old: codes[new] for new, names in task.merge.items() if new in codes for old in names}
    column = column_of(frame, task.columns[0], where)
    return _encode(column, codes, f"one of {len(task.classes)} classes", ids, where)


def _read_tags(frame: pd.DataFrame, task: Task, ids: NDArray[np.object_], where: str) -> Labels:
    codes = {"0": 0.0, "1": 1.0, "False": 0.0, "True": 1.0}
    columns = [column_of(frame, column, where) for column in task.columns]
    return np.stack([_encode(column, codes, "0 or 1", ids, where) for column in columns], axis=1)


def _read_numbers(frame: pd.DataFrame, task: Task, ids: NDArray[np.object_], where: str) -> Labels:
    return np.stack([_numbers(column_of(frame, column, where), ids, where) for column in task.columns], axis=1)


def _encode(
    column: pd.Series[Any], codes: Mapping[str, float], expected: str, ids: NDArray[np.object_], where: str
) -> Labels:
    positions, found = pd.factorize(as_names(column), use_na_sentinel=True)
    names = np.array([*found, None], object)
    is_known = np.array([name is None or name in codes for name in names])
    _refuse(column, ~is_known[positions], names[positions], expected, ids, where, codes)
    return np.array([codes.get(name, np.nan) for name in names], np.float32)[positions]


def _numbers(column: pd.Series[Any], ids: NDArray[np.object_], where: str) -> Labels:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    missing = column.isna().to_numpy(bool)
    _refuse(column, ~missing & ~np.isfinite(found), column.to_numpy(object), "a number", ids, where, ())
    return found


def _refuse(
    column: pd.Series[Any],
    is_wrong: NDArray[np.bool_],
    names: NDArray[np.object_],
    expected: str,
    ids: NDArray[np.object_],
    where: str,
    known: Any,
) -> None:
    """Raise TableError for the first wrong cell, if there is one."""
    wrong = np.flatnonzero(is_wrong)
    if len(wrong):
        row = int(wrong[0])
        more = f" (and {len(wrong) - 1:,} more rows)" if len(wrong) > 1 else ""
        raise TableError(
            "wrong label",
            where=f"{where}, `{column.name}` row {row} (id {ids[row]})",
            expected=expected,
            received=f'"{names[row]}"{more}',
            fix=f"{nearest(str(names[row]), known)} Fix the rows or add the class to the task."
            if known
            else "Fix the rows, or leave them empty.",
        )


def _columns(frame: pd.DataFrame, task: TaskConfig, where: str) -> tuple[str, ...]:
    return task.columns


LABELS = {
    "multiclass": Reader(_found_classes, _read_classes),
    "multilabel": Reader(_columns, _read_tags),
    "regression": Reader(_columns, _read_numbers),
}
