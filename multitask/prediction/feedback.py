"""Labels that come after the answers: checked as a label table is, kept as one, for `monitor` and `retrain`.

FOLDER/part-TIME-*.parquet: the id, `time`, and every label column of the model, empty where nothing was said. Of
several rows of one id the last value of each column counts, see `data.tables.latest`. Many parts are joined.
"""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from multitask.data.tables import Table, as_table
from multitask.errors import ConfigError, TableError, nearest
from multitask.prediction.log import size_of
from multitask.spec import ModelSpec, Task
from multitask.storage import replacing, sync

# Of one request, and of all that is kept: labels are never deleted, so beyond that none is taken.
MOST_ROWS, MOST_BYTES = 1_000, 1 << 30
LONGEST_TEXT = 1_024
# More parts than these are joined to one.
MOST_PARTS = 64
TIME = "time"


class Feedback:
    """A table of labels that grows; may be used from several threads, and by several servers.

    Args:
        folder: where parts go.
        id_column: name of the id column, as in the label table of the model.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path, id_column: str) -> None:
        self._folder, self._id_column, self._lock = folder, id_column, threading.Lock()
        with replacing(folder / "writable") as path:
            path.touch()
        (folder / "writable").unlink(missing_ok=True)

    def keep(self, spec: ModelSpec, body: bytes) -> int:
        """Keep the rows of a request, `{"rows": [{ID_COLUMN: id, COLUMN: label, ...}, ...]}`, all or none.

        Returns:
            How many; they are on the disk then.

        Raises:
            TableError: one is wrong; it is named.
        """
        if self._id_column in _columns(spec) or TIME in (*_columns(spec), self._id_column):
            raise ConfigError(
                f'the model has a label column "{TIME}" or "{self._id_column}"', where="--feedback", fix="Rename it."
            )
        rows = _checked(_rows(body), self._id_column, _columns(spec))
        table = _as_arrow(as_table(_frame(rows, self._id_column, spec), self._id_column, spec.tasks, "rows"), spec)
        table = table.rename_columns([self._id_column, *table.column_names[1:]])
        with self._lock:
            parts = self._parts()
            if sum(map(size_of, parts)) > MOST_BYTES:
                raise TableError(
                    "there is no room for more labels",
                    where=str(self._folder),
                    expected=f"at most {MOST_BYTES >> 20:,} MB",
                    fix="Move the parts away once they are used.",
                )
            self._write(f"part-{datetime.now(UTC):%Y%m%d%H%M%S%f}", table)
            if len(parts) > MOST_PARTS:
                self._join(parts)
        return len(table)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.parquet"))

    def _write(self, name: str, table: pa.Table) -> None:
        with replacing(self._folder / f"{name}-{uuid.uuid4().hex[:8]}.parquet") as path:
            pq.write_table(table, path, compression="zstd")
            sync(path)

    def _join(self, parts: list[Path]) -> None:
        """Join parts under the time of the last; a kill in between leaves rows twice, which changes nothing."""
        # Another server may be joining them, or a disk may have lost one: then they stay as they are.
        with contextlib.suppress(OSError, pa.ArrowException):
            tables = [pq.read_table(path) for path in parts]
            last = parts[-1].stem.rpartition("-")[0]
            self._write(last, pa.concat_tables(tables, promote_options="default"))
            for path in parts:
                path.unlink(missing_ok=True)


def _columns(spec: ModelSpec) -> list[str]:
    return [column for task in spec.tasks for column in task.columns]


def _rows(body: bytes) -> list[Any]:
    try:
        rows = json.loads(body)["rows"]
    except (ValueError, KeyError, TypeError, RecursionError):
        rows = None
    if not isinstance(rows, list) or not rows:
        raise TableError("no rows", where="body", expected='{"rows": [{"uuid": "...", "COLUMN": LABEL}, ...]}')
    if len(rows) > MOST_ROWS:
        raise TableError("too many rows", where="rows", expected=f"at most {MOST_ROWS:,}", received=f"{len(rows):,}")
    return rows


def _checked(rows: list[Any], id_column: str, columns: list[str]) -> list[dict[str, Any]]:
    """Refuse what no table could hold; what the labels must be, the tasks say."""
    for number, row in enumerate(rows):
        where = f"row {number}"
        if not isinstance(row, dict) or not isinstance(row.get(id_column), str) or not row[id_column]:
            raise TableError("has no id", where=where, expected=f'"{id_column}": "..."')
        unknown = next((name for name in row if name not in (id_column, *columns)), None)
        if unknown is not None:
            expected = f"some of {', '.join(columns)}"
            raise TableError(
                f'unknown column "{unknown[:60]}"', where=where, expected=expected, fix=nearest(unknown[:60], columns)
            )
        if not any(row.get(name) is not None for name in columns):
            raise TableError("says nothing", where=where, expected=f"some of {', '.join(columns)}")
        for name, value in row.items():
            if not _is_cell(value):
                expected = f"a text of at most {LONGEST_TEXT:,} letters, a number, true, false or a list of texts"
                raise TableError("wrong value", where=f"{where}, `{name}`", expected=expected)
    return rows


def _is_cell(value: object) -> bool:
    if isinstance(value, list):
        return len(value) <= MOST_ROWS and all(isinstance(part, str) and _is_cell(part) for part in value)
    if isinstance(value, str):
        return len(value) <= LONGEST_TEXT and value.isprintable()
    if isinstance(value, int | float):
        return abs(value) < 1e300
    return value is None


def _frame(rows: list[dict[str, Any]], id_column: str, spec: ModelSpec) -> pd.DataFrame:
    names = [id_column, *_columns(spec)]
    return pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in names})


def _as_arrow(table: Table, spec: ModelSpec) -> pa.Table:
    """Return checked labels as a label table holds them."""
    now = pa.array([datetime.now(UTC)] * len(table), pa.timestamp("us", "UTC"))
    columns: dict[str, pa.Array] = {"id": pa.array(table.ids, pa.string()), TIME: now}
    for task in spec.tasks:
        columns |= _label_columns(task, table.labels[task.name])
    return pa.table(columns)


def _label_columns(task: Task, labels: Any) -> dict[str, pa.Array]:
    if task.has_class_numbers:
        names = [None if np.isnan(label) else task.classes[int(label)] for label in labels]
        return {task.columns[0]: pa.array(names, pa.string())}
    if task.lists_tags:
        lists = [
            None if np.isnan(row).any() else [tag for tag, value in zip(task.classes, row, strict=True) if value]
            for row in labels
        ]
        return {task.columns[0]: pa.array(lists, pa.list_(pa.string()))}
    return {
        name: pa.array(values, pa.float64(), from_pandas=True)
        for name, values in zip(task.columns, labels.T.astype(np.float64), strict=True)
    }
