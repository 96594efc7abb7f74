"""The prediction log: what was answered, when and by what, and what the picture looked like; never the picture.

FOLDER/date=YYYY-MM-DD/part-*.parquet, days in UTC: `pyarrow.dataset`, pandas, DuckDB and Spark read it as one table. A
part is written whole or not at all. A kill loses what is not written yet.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multitask.audit.measures import MEASURES
from multitask.errors import ConfigError, TableError
from multitask.prediction.writing import prediction_rows, prediction_schema
from multitask.spec import ModelSpec
from multitask.storage import replacing

# A part is written when it has so many rows, or after so long.
PART_ROWS, PART_SECONDS = 5_000, 30.0
MODEL_KEY = b"multitask.model"
SPEC_KEY = b"multitask.spec"


def log_schema(spec: ModelSpec) -> pa.Schema:
    """Return the columns of a log: id, time, the columns of a prediction table, measures (float32), latency_ms.

    Raises:
        TableError: an answer has the name of another column.
    """
    id_field, *answers = prediction_schema(spec, "id")
    own = [pa.field("time", pa.timestamp("ms", "UTC"))]
    end = [pa.field(name, pa.float32()) for name in (*MEASURES, "latency_ms")]
    taken = {field.name for field in answers} & {field.name for field in (*own, *end)}
    if taken:
        raise TableError(
            f'the answer "{min(taken)}" has the name of a column of the log', fix="Rename it in the tasks."
        )
    return pa.schema([id_field, *own, *answers, *end])


class PredictionLog(contextlib.AbstractContextManager["PredictionLog"]):
    """Appends to a log, from any thread.

    Args:
        folder: of the log; other processes may write there too.
        gigabytes: largest size; the oldest parts are deleted beyond.
        rows, seconds: a part is written when it has so many rows, or after so long.

    Raises:
        ConfigError: the size is none.
    """

    def __init__(self, folder: Path, gigabytes: float, rows: int = PART_ROWS, seconds: float = PART_SECONDS) -> None:
        if not gigabytes > 0:
            raise ConfigError("wrong value", where="--log-gb", expected="more than 0", received=f"{gigabytes:g}")
        self._folder, self._max_bytes, self._rows, self._seconds = folder, gigabytes * 1e9, rows, seconds
        self._lock = threading.Lock()
        self._waiting: dict[tuple[str, str, str], list[pa.Table]] = {}
        self._closed = threading.Event()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writer = threading.Thread(target=self._keep_writing, daemon=True)
        self._writer.start()

    def __exit__(self, *error: Any) -> None:
        self._closed.set()
        self._writer.join()
        self.flush()

    def add(
        self,
        spec: ModelSpec,
        model: str,
        ids: Sequence[str],
        scores: Mapping[str, NDArray[np.float32]],
        status: Sequence[str],
        measures: NDArray[np.float32],
        latency_ms: float | None = None,
    ) -> None:
        """Append rows; see `prediction_rows`.

        Args:
            spec: of the model.
            model: run, or name and version of a served model.
            ids, scores, status: of the rows.
            measures: (rows, measures), see `audit.measures`; NaN for what was not measured.
            latency_ms: from request to answer, where there was one.
        """
        now = datetime.now(UTC)
        answers = prediction_rows(spec, prediction_schema(spec, "id"), ids, scores, status).columns
        times = pa.array([now] * len(ids), pa.timestamp("ms", "UTC"))
        latency = np.full(len(ids), np.nan if latency_ms is None else latency_ms)
        end = [pa.array(values, pa.float32(), from_pandas=True) for values in (*measures.T, latency)]
        table = pa.Table.from_arrays([answers[0], times, *answers[1:], *end], schema=log_schema(spec))
        with self._lock:
            key = (now.date().isoformat(), spec.model_dump_json(), model)
            self._waiting.setdefault(key, []).append(table)
            is_full = sum(map(len, self._waiting[key])) >= self._rows
        if is_full:
            self.flush()

    def flush(self) -> None:
        """Write what waits, then delete the oldest parts beyond the limit."""
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for (date, spec, model), tables in waiting.items():
            rows = pa.concat_tables(tables).combine_chunks()
            name = f"part-{datetime.now(UTC):%H%M%S%f}-{uuid.uuid4().hex[:8]}.parquet"
            with replacing(self._folder / f"date={date}" / name) as path:
                pq.write_table(rows.replace_schema_metadata({SPEC_KEY: spec, MODEL_KEY: model}), path)
        if waiting:
            self._make_room()

    def _keep_writing(self) -> None:
        while not self._closed.wait(self._seconds):
            # A full disk must not end the thread; the next rows may find room again.
            with contextlib.suppress(OSError):
                self.flush()

    def _make_room(self) -> None:
        parts = log_parts(self._folder)
        sizes = [_size(path) for path in parts]
        total = sum(sizes)
        for path, size in zip(parts[:-1], sizes, strict=False):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        # What a killed writer has left of a day goes with the last part of that day.
        kept = {path.parent for path in parts if path.exists()}
        for day in self._folder.glob("date=*"):
            if day not in kept and day < parts[-1].parent:
                shutil.rmtree(day, ignore_errors=True)


def log_parts(folder: Path) -> list[Path]:
    """Return the parts of a log, oldest first."""
    return sorted(folder.glob("date=*/part-*.parquet"))


def _size(path: Path) -> int:
    """Return the size of a part, which another process may just have deleted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
