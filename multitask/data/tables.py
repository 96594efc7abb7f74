"""Tables of images: ids, labels as numbers, and the other columns; new labels into an old table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.data.cells import as_names
from multitask.data.frames import IMAGE_COLUMNS, read_frame
from multitask.data.labels import LABELS, column_of
from multitask.data.locations import ROW, Location
from multitask.data.names import has_image_suffix
from multitask.errors import TableError
from multitask.spec import Task


@dataclass(frozen=True)
class Table:
    """Rows of a table of images.

    Args:
        ids: (rows,) str; "" where the table has none.
        labels: per task float32, (rows,) class numbers, (rows, tags) 0/1 or (rows, numbers); NaN for a missing label.
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


def read_table(location: str | Path | pd.DataFrame, id_column: str, tasks: Iterable[Task] = ()) -> Table:
    """Read a table, or take a frame, and interpret it; see `read_frame` and `as_table`."""
    where = "the frame" if isinstance(location, pd.DataFrame) else str(Location.of_table(str(location)))
    return as_table(read_frame(location), id_column, tasks, where)


def as_table(frame: pd.DataFrame, id_column: str, tasks: Iterable[Task], where: str) -> Table:
    """Return ids and the labels of some tasks; none for a test table.

    Raises:
        TableError: a column is missing, or a label is none of the task's; the first such row is named.
    """
    tasks = tuple(tasks)
    ids = as_names(column_of(frame, id_column, where, how_to_name_images(frame)))
    ids[pd.isna(ids)] = ""
    labels = {task.name: LABELS[task.kind].read(frame, task, ids, where) for task in tasks}
    used = {id_column, *(column for task in tasks for column in task.columns)}
    extra = frame[[column for column in frame if column not in used]].reset_index(drop=True)
    return Table(ids, labels, extra)


def how_to_name_images(frame: pd.DataFrame) -> str:
    """Say which words let the images of a table be found, where one of its columns holds them or names them."""
    words = [
        f"the images lie in {name}: --data.id-column {ROW} --images labels::{ROW}::{name}"
        for name in frame.attrs.get(IMAGE_COLUMNS, [])
    ]
    for name in map(str, frame.columns):
        value = next((value for value in frame[name].head(100) if isinstance(value, str)), "")
        if has_image_suffix(value) or value.startswith(("http://", "https://")):
            words.append(f"{name} names the images: --data.id-column {name} --images labels::{name}::{name}")
    return f"If {'; if '.join(words)}." if words else ""


def merge_labels(
    old: pd.DataFrame, new: pd.DataFrame, id_column: str, columns: Sequence[str]
) -> tuple[pd.DataFrame, Counter[str]]:
    """Merge new rows into an old table by their ids.

    A row of a new id is appended. A row of a known id replaces, in all old rows of that id, the values that it has; of
    several new rows of one id the last value counts. An empty cell says nothing.

    Args:
        old, new: tables with the id column.
        id_column: of both.
        columns: label columns; the new table needs one of them at least.

    Returns:
        The merged table, old rows first and in their order; and how many new ids were appended, changed or told nothing
        new.

    Raises:
        TableError: the new table lacks the id column, or every label column.
    """
    if id_column not in new or not any(name in new for name in columns):
        raise TableError(
            "holds no labels" if id_column in new else "has no id column",
            where="the new table",
            expected=f"{id_column} and some of {', '.join(columns)}",
            received=f"columns {', '.join(map(str, new.columns))}",
        )
    old, new = old.copy(), new[new[id_column].notna()].copy()
    old[id_column] = old[id_column].astype(str)
    last = latest(new, id_column)
    known = last.index.isin(old[id_column])
    changed: set[str] = set()
    for name in last.columns.intersection(old.columns):
        told = old[id_column].map(last[name])
        differs = told.notna() & ~_equal(told, old[name])
        changed |= set(old.loc[differs, id_column])
        if differs.any():
            old[name] = old[name].astype(object).where(~differs, told).infer_objects()
    appended = last[~known].reset_index()
    merged = pd.concat([old, appended], ignore_index=True).infer_objects() if len(appended) else old
    counts = Counter(appended=len(appended), changed=len(changed), unchanged=int(known.sum()) - len(changed))
    return merged, counts


def latest(frame: pd.DataFrame, id_column: str) -> pd.DataFrame:
    """Return a row per id: of each column the last value that is there; an empty cell says nothing."""
    named = frame[frame[id_column].notna()]
    return named.assign(**{id_column: named[id_column].astype(str)}).groupby(id_column, sort=False).last()


def _equal(left: pd.Series, right: pd.Series) -> pd.Series:
    """Compare what two tables say, whose numbers may be of different types."""
    return (left == right) | (left.astype(str) == right.astype(str))
