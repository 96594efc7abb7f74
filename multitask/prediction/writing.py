"""The prediction table: its columns, and its writer; file or folder appears when all went well, else not at all."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from multitask.data.containers import explaining
from multitask.errors import TableError
from multitask.prediction.decisions import DECISIONS
from multitask.privacy import HIDDEN, hide_secrets
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


# Of a folder of parts: few megabytes each, and few enough files for a billion rows.
PART_ROWS = 1 << 16
SUCCESS = "_SUCCESS"


class PredictionWriter(contextlib.AbstractContextManager["PredictionWriter"]):
    """Writes a prediction table block by block; it appears when all went well, else not at all.

    Args:
        path: the parquet file; or a folder, for parts of PART_ROWS rows in their order.
        spec: the model; its JSON, with class order and thresholds, goes into the metadata as `multitask.spec`.
        id_column: name of the id column.
        metadata: more of it, e.g. run and model version.
        in_parts: is it a folder?
    """

    def __init__(
        self,
        path: str | Path,
        spec: ModelSpec,
        id_column: str,
        metadata: Mapping[str, str],
        *,
        in_parts: bool = False,
    ) -> None:
        self.spec = spec
        facts = {**metadata, "multitask.spec": spec.model_dump_json()}
        self.schema = prediction_schema(spec, id_column).with_metadata(facts)
        self._stack, self._rows, self._in_parts = contextlib.ExitStack(), 0, in_parts
        self._place = self._stack.enter_context(replacing(path))
        if in_parts:
            self._place.mkdir()
        self._writer = self._open()

    def __exit__(self, *error: Any) -> bool | None:
        # Also where closing fails, on a full disk, nothing half-written stays.
        with self._stack:
            self._writer.close()
            if self._in_parts:
                (self._place / SUCCESS).touch()
            if error[1] is not None:
                raise error[1]
        return None

    def _open(self) -> pq.ParquetWriter:
        part = f"part-{self._rows // PART_ROWS:06d}.parquet"
        return pq.ParquetWriter(self._place / part if self._in_parts else self._place, self.schema)

    def write(self, ids: Sequence[str], scores: Mapping[str, NDArray[np.float32]], status: Sequence[str]) -> None:
        """Append at most PART_ROWS rows; see `prediction_rows`."""
        if self._in_parts and self._rows and self._rows % PART_ROWS == 0:
            self._writer.close()
            self._writer = self._open()
        self._writer.write_table(prediction_rows(self.spec, self.schema, ids, scores, status))
        self._rows += len(ids)


def deliver(place: Path, address: str) -> None:
    """Move a written table, file or folder, to an object store; see pyarrow.fs for addresses and credentials.

    A file is there whole or not at all. Of a folder, parts of an earlier table go first, and `_SUCCESS` comes last.

    Raises:
        ArchiveError: nothing can be written there; the table stays where it is.
    """
    with explaining(hide_secrets(address), f"the place for {place}"):
        filesystem, target = pyarrow.fs.FileSystem.from_uri(address.replace(f":{HIDDEN}@", "@", 1))
        if place.is_dir():
            filesystem.create_dir(target)
            filesystem.delete_dir_contents(target)
        for path in sorted(place.glob("part-*")) if place.is_dir() else [place]:
            name = f"{target.rstrip('/')}/{path.name}" if place.is_dir() else target
            pyarrow.fs.copy_files(str(path), name, destination_filesystem=filesystem)
        if place.is_dir():
            filesystem.open_output_stream(f"{target.rstrip('/')}/{SUCCESS}").close()
    shutil.rmtree(place) if place.is_dir() else place.unlink()


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
