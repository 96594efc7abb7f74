"""Label columns of a table as numbers, one reader per kind of task; every wrong cell is named."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.data.cells import as_names, as_numbers, holds_lists, tag_lists
from multitask.data.locations import ROW
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


def column_of(frame: pd.DataFrame, name: str, where: str, fix: str = "") -> pd.Series[Any]:
    """Return a column; `row` is the number of the row in a table without a column of that name.

    Raises:
        TableError: there is none of that name; `fix` is added to what might have been meant.
    """
    if name in frame:
        return frame[name]
    if name == ROW:
        return pd.Series(range(len(frame)), name=ROW)
    known = nearest(name, map(str, frame.columns))
    raise TableError(f'no column "{name}"', where=where, fix=f"{known} {fix}".strip())


def _found_classes(frame: pd.DataFrame, task: TaskConfig, where: str) -> tuple[str, ...]:
    if task.classes:
        return task.classes
    values = pd.unique(as_names(column_of(frame, task.columns[0], where)))
    found = {task.merged(name) for name in values if name is not None}
    numeric = all(re.fullmatch(r"-?[0-9]+", name) for name in found)
    classes = sorted(found, key=lambda name: (int(name), name)) if numeric else sorted(found)
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


def _found_tags(frame: pd.DataFrame, task: TaskConfig, where: str) -> tuple[str, ...]:
    """Return the tags of a task: one per column, as given, or all that the lists of its one column hold."""
    if task.classes or len(task.columns) > 1:
        return task.classes or task.columns
    column = column_of(frame, task.columns[0], where)
    if not holds_lists(column):
        return task.columns
    tags = sorted({tag for cell in pd.unique(tag_lists(column)) if cell is not None for tag in cell})
    if not tags:
        raise TableError("no row has a tag", where=f"{where}, column {task.columns[0]}", fix="Name the tags: classes.")
    return tuple(tags)


def _read_tags(frame: pd.DataFrame, task: Task, ids: NDArray[np.object_], where: str) -> Labels:
    columns = [column_of(frame, column, where) for column in task.columns]
    if task.lists_tags:
        return _read_lists(columns[0], task, ids, where)
    return np.stack([_encode(column, _FLAGS, "0 or 1", ids, where) for column in columns], axis=1)


_FLAGS = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, **dict.fromkeys(("False", "false", "FALSE"), 0.0)}
_FLAGS |= dict.fromkeys(("True", "true", "TRUE"), 1.0)


def _read_lists(column: pd.Series[Any], task: Task, ids: NDArray[np.object_], where: str) -> Labels:
    """Read lists of tags: 1 for each that a cell names, 0 for the others, NaN for a cell that is missing."""
    positions, cells = pd.factorize(tag_lists(column), use_na_sentinel=True)
    place = {tag: number for number, tag in enumerate(task.classes)}
    found = np.zeros((len(cells) + 1, len(place)), np.float32)
    found[-1] = np.nan
    unknown = np.full(len(cells) + 1, None, object)
    for number, cell in enumerate(cells):
        found[number, [place[tag] for tag in cell if tag in place]] = 1
        unknown[number] = next((tag for tag in cell if tag not in place), None)
    is_wrong = np.array([tag is not None for tag in unknown])
    _refuse(column, is_wrong[positions], unknown[positions], f"one of {len(place)} tags", ids, where, place)
    return found[positions]


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
    numbers = as_numbers(column)
    with np.errstate(over="ignore"):
        found = numbers.astype(np.float32)
    is_wrong = ~column.isna().to_numpy(bool) & ~np.isfinite(found)
    rows = np.flatnonzero(is_wrong)
    is_wrong[rows] = [not _NO_NUMBER.fullmatch(str(value)) for value in column.iloc[rows]]
    _refuse(column, is_wrong, column.to_numpy(object), "a number", ids, where, ())
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


# The words by which programs write a number that is not there, in text.
_NO_NUMBER = re.compile(r"\s*(nan|na|n/a|null|none)?\s*", re.IGNORECASE)


LABELS = {
    "multiclass": Reader(_found_classes, _read_classes),
    "multilabel": Reader(_found_tags, _read_tags),
    "regression": Reader(_columns, _read_numbers),
}
