"""The prediction table: its columns, and its writer; the file appears when all went well, else not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multitask.errors import TableError
from multitask.prediction.decisions import DECISIONS
from multitask.spec import ModelSpec
from multitask.storage import replacing


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
        """Append rows; see `prediction_rows`."""
        self._writer.write_table(prediction_rows(self.spec, self.schema, ids, scores, status))


def prediction_rows(
    spec: ModelSpec,
    schema: pa.Schema,
    ids: Sequence[str],
    scores: Mapping[str, NDArray[np.float32]],
    status: Sequence[str],
) -> pa.Table:
    """Return rows of a prediction table; where the status is not "ok", decisions and scores are null."""
    missing = np.array([value != "ok" for value in status], bool)
    decided, named, scored = [], [], []
    for task in spec.tasks:
        answers = DECISIONS[task.kind]
        chosen = answers.decide(task, scores[task.name])
        decided += [pa.array(column, mask=missing) for column in chosen.T]
        named += [pa.array(column, pa.string(), mask=missing) for column in answers.names(task, chosen).T]
        scored += [pa.array(column, pa.float32(), mask=missing) for column in scores[task.name].T]
    columns = [pa.array(ids, pa.string()), *decided, *named, *scored, pa.array(status, pa.string())]
    return pa.Table.from_arrays(columns, schema=schema)
