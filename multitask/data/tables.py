"""Label and prediction tables: schemas, checks, atomic writes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multitask.data.frames import read_frame
from multitask.errors import TableError, nearest
from multitask.spec import ModelSpec, Task, TaskConfig
from multitask.storage import replacing


@dataclass(frozen=True)
class Table:
    """Rows of a table of images.

    Args:
        ids: (rows,) str; "" where the table has none.
        labels: per task float32, (rows,) class numbers or (rows, tags) 0/1; NaN for a missing label.
        extra: the other columns, in the same order of rows.
    """

    ids: NDArray[np.object_]
    labels: dict[str, NDArray[np.float32]]
    extra: pd.DataFrame

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: Any) -> Table:
        """Return some rows, by number or by a boolean mask."""
        extra = self.extra.iloc[np.arange(len(self))[rows]].reset_index(drop=True)
        return Table(self.ids[rows], {name: values[rows] for name, values in self.labels.items()}, extra)


def settle_classes(frame: pd.DataFrame, tasks: Mapping[str, TaskConfig], where: str) -> dict[str, tuple[str, ...]]:
    """Return the class names of every task, in score order.

    Those given in the task; the columns of a multilabel task; else the values found, sorted: numbers by value, names
    by letter.
    """
    return {name: _classes(frame, task, where) for name, task in tasks.items()}


def _classes(frame: pd.DataFrame, task: TaskConfig, where: str) -> tuple[str, ...]:
    if task.kind == "multilabel":
        return task.columns
    if task.classes:
        return task.classes
    found = {task.merged(name) for name in _names(_column(frame, task.columns[0], where)) if name is not None}
    numeric = all(name.lstrip("-").isdigit() for name in found)
    classes = sorted(found, key=int) if numeric else sorted(found)
    if len(classes) < 2:
        raise TableError(
            "a multiclass task needs at least two classes",
            where=f"{where}, column {task.columns[0]}",
            received=f"{classes or 'no label at all'}",
        )
    return tuple(classes)


def read_table(path: str | Path, id_column: str, tasks: Iterable[Task] = ()) -> Table:
    """Read a table and interpret it; see `read_frame` and `as_table`."""
    return as_table(read_frame(path), id_column, tasks, str(path))


def as_table(frame: pd.DataFrame, id_column: str, tasks: Iterable[Task], where: str) -> Table:
    """Return ids and the labels of some tasks; none for a test table.

    Raises:
        TableError: a column is missing, or a label is none of the task's; the first such row is named.
    """
    tasks = tuple(tasks)
    ids = np.array([name or "" for name in _names(_column(frame, id_column, where))], object)
    labels = {task.name: _labels(frame, task, ids, where) for task in tasks}
    used = {id_column, *(column for task in tasks for column in task.columns)}
    extra = frame[[column for column in frame if column not in used]].reset_index(drop=True)
    return Table(ids, labels, extra)


def _column(frame: pd.DataFrame, name: str, where: str) -> pd.Series[Any]:
    if name not in frame:
        raise TableError(f'no column "{name}"', where=where, fix=nearest(name, map(str, frame.columns)))
    return frame[name]


def _names(column: pd.Series[Any]) -> list[str | None]:
    """Return values as names: whole numbers without a decimal point, None for a missing value."""

    def name(value: Any) -> str | None:
        if pd.isna(value):
            return None
        if isinstance(value, float | np.floating) and float(value).is_integer():
            return str(int(value))
        return str(value)

    return [name(value) for value in column]


def _labels(frame: pd.DataFrame, task: Task, ids: NDArray[np.object_], where: str) -> NDArray[np.float32]:
    columns = [_column(frame, column, where) for column in task.columns]
    if task.kind == "multiclass":
        codes: dict[str, float] = {name: code for code, name in enumerate(task.classes)}
        codes |= {old: codes[new] for new, names in task.merge.items() if new in codes for old in names}
        return _encode(columns[0], codes, f"one of {len(task.classes)} classes", ids, where)
    codes = {"0": 0.0, "1": 1.0, "False": 0.0, "True": 1.0}
    return np.stack([_encode(column, codes, "0 or 1", ids, where) for column in columns], axis=1)


def _encode(
    column: pd.Series[Any], codes: Mapping[str, float], expected: str, ids: NDArray[np.object_], where: str
) -> NDArray[np.float32]:
    names = _names(column)
    wrong = [row for row, name in enumerate(names) if name is not None and name not in codes]
    if wrong:
        row, name = wrong[0], names[wrong[0]]
        more = f" (and {len(wrong) - 1:,} more rows)" if len(wrong) > 1 else ""
        raise TableError(
            "wrong label",
            where=f"{where}, `{column.name}` row {row} (id {ids[row]})",
            expected=expected,
            received=f'"{name}"{more}',
            fix=f"{nearest(str(name), codes)} Fix the rows or add the class to the task.",
        )
    return np.array([np.nan if name is None else codes[name] for name in names], np.float32)


def decisions(task: Task, scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Decide from scores (rows, classes): the numbers of the `top_k` best classes, best first, or 0/1 per tag.

    Of equal scores the class that comes first wins. A tag is present from its threshold on.
    """
    if task.kind == "multiclass":
        return np.argsort(-scores, axis=1, kind="stable")[:, : task.top_k].astype(np.int64)
    return (scores >= np.asarray(task.settled_thresholds(), np.float32)).astype(np.int64)


def prediction_schema(spec: ModelSpec, id_column: str) -> pa.Schema:
    """Return the columns of a prediction table.

    The id; per task the decisions (int64); then class names (string); then scores (float32); then the status.

    Raises:
        TableError: the id column has the name of another column.
    """
    fields = [(id_column, pa.string())]
    fields += [(column, pa.int64()) for task in spec.tasks for column in task.decision_columns]
    fields += [(column, pa.string()) for task in spec.tasks for column in task.name_columns]
    fields += [(column, pa.float32()) for task in spec.tasks for column in task.score_columns]
    fields.append(("status", pa.string()))
    if id_column in [name for name, _ in fields[1:]]:
        raise TableError(f'the id column "{id_column}" has the name of a prediction column', fix="Rename it.")
    return pa.schema(fields)


class PredictionWriter(contextlib.AbstractContextManager["PredictionWriter"]):
    """Writes a prediction table block by block; the file appears when all went well, else not at all.

    Args:
        path: the parquet file.
        spec: the model; its JSON, with class order and thresholds, goes into the metadata as `multitask.spec`.
        id_column: name of the id column.
        metadata: more of it, e.g. run and model version.
    """

    def __init__(self, path: str | Path, spec: ModelSpec, id_column: str, metadata: Mapping[str, str]) -> None:
        self.spec = spec
        facts = {**metadata, "multitask.spec": spec.model_dump_json()}
        self.schema = prediction_schema(spec, id_column).with_metadata(facts)
        self._stack = contextlib.ExitStack()
        temporary = self._stack.enter_context(replacing(path))
        self._writer = self._stack.enter_context(pq.ParquetWriter(temporary, self.schema))

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def write(self, ids: Sequence[str], scores: Mapping[str, NDArray[np.float32]], status: Sequence[str]) -> None:
        """Append rows; where the status is not "ok", decisions and scores are null."""
        missing = np.array([value != "ok" for value in status])
        decided, named, scored = [], [], []
        for task in self.spec.tasks:
            chosen = decisions(task, scores[task.name])
            decided += [pa.array(column, mask=missing) for column in chosen.T]
            if task.kind == "multiclass":
                names = np.array(task.classes, object)
                named += [pa.array(names[column], pa.string(), mask=missing) for column in chosen.T]
            scored += [pa.array(column, pa.float32(), mask=missing) for column in scores[task.name].T]
        columns = [pa.array(ids, pa.string()), *decided, *named, *scored, pa.array(status, pa.string())]
        self._writer.write_table(pa.Table.from_arrays(columns, schema=self.schema))
