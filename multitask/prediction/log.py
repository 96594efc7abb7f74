"""The prediction log: what was answered, when and by what, and what the picture looked like; never the picture.

FOLDER/date=YYYY-MM-DD/part-*.parquet, days in UTC: `pyarrow.dataset`, pandas, DuckDB and Spark read it as one table. A
part is written whole or not at all. A kill loses what is not written yet.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
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

# A part is due when it has so many rows, or after so long.
PART_ROWS, PART_SECONDS = 5_000, 30.0
MODEL_KEY = b"multitask.model"
SPEC_KEY = b"multitask.spec"
LATENCY = "latency_ms"


def log_schema(spec: ModelSpec) -> pa.Schema:
    """Return the columns of a log: id, time, the columns of a prediction table, measures (float32), latency_ms.

    Raises:
        TableError: an answer has the name of another column.
    """
    id_field, *answers = prediction_schema(spec, "id")
    own = [pa.field("time", pa.timestamp("ms", "UTC"))]
    end = [pa.field(name, pa.float32()) for name in (*MEASURES, LATENCY)]
    taken = {field.name for field in answers} & {field.name for field in (*own, *end)}
    if taken:
        raise TableError(
            f'the answer "{min(taken)}" has the name of a column of the log', fix="Rename it in the tasks."
        )
    return pa.schema([id_field, *own, *answers, *end])


class PredictionLog(contextlib.AbstractContextManager["PredictionLog"]):
    """Appends to a log, from one thread; what is added waits to be written by `flush`.

    Args:
        folder: of the log; other processes may write there too.
        gigabytes: largest size; the oldest parts are deleted beyond.

    Raises:
        ConfigError: the size is none.
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path, gigabytes: float) -> None:
        if not gigabytes > 0:
            raise ConfigError("wrong value", where="--log-gb", expected="more than 0", received=f"{gigabytes:g}")
        self._folder, self._max_bytes = folder, gigabytes * 1e9
        self._waiting: dict[tuple[str, str, str], list[pa.Table]] = {}
        self._flushed = time.monotonic()
        # Said now rather than after the first thousand answers.
        with replacing(folder / "writable") as path:
            path.touch()
        (folder / "writable").unlink(missing_ok=True)

    def __exit__(self, *error: Any) -> None:
        self.flush()

    @property
    def waiting(self) -> int:
        """How many rows are not written yet."""
        return sum(len(table) for tables in self._waiting.values() for table in tables)

    @property
    def is_due(self) -> bool:
        """Is it time to write?"""
        return self.waiting >= PART_ROWS or time.monotonic() - self._flushed > PART_SECONDS

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
        self._waiting.setdefault((now.date().isoformat(), spec.model_dump_json(), model), []).append(table)

    def flush(self) -> None:
        """Write what waits, then delete the oldest parts beyond the limit; what cannot be written waits on."""
        self._flushed = time.monotonic()
        for key, tables in list(self._waiting.items()):
            date, spec, model = key
            rows = pa.concat_tables(tables).combine_chunks()
            name = f"part-{datetime.now(UTC):%H%M%S%f}-{uuid.uuid4().hex[:8]}.parquet"
            with replacing(self._folder / f"date={date}" / name) as path:
                pq.write_table(rows.replace_schema_metadata({SPEC_KEY: spec, MODEL_KEY: model}), path)
            del self._waiting[key]
            self._make_room()

    def _make_room(self) -> None:
        parts = log_parts(self._folder)
        sizes = [size_of(path) for path in parts]
        total = sum(sizes)
        for path, size in zip(parts[:-1], sizes, strict=False):
            if total <= self._max_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
        # The last day may be written to at this moment, by another process the day before as well.
        for day in sorted(self._folder.glob("date=*"))[:-2]:
            if not any(day.glob("part-*.parquet")):
                # What a killed writer has left.
                for path in day.glob(".part-*.parquet"):
                    path.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    day.rmdir()


def log_parts(folder: Path) -> list[Path]:
    """Return the parts of a log, oldest first."""
    return sorted(folder.glob("date=*/part-*.parquet"))


def image_id(data: bytes) -> str:
    """Return the id of a picture that came without one: the first half of its SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()[:32] if data else ""


def size_of(path: Path) -> int:
    """Return the size of a part, which another process may just have deleted."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
