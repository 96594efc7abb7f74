"""Predict a table: rows and images in, `predictions.parquet` out; the same for every predictor."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.audit import cost
from multitask.audit.inspection import explain_unreadable
from multitask.audit.measures import MEASURES, measure
from multitask.data.archives import Archive, read_image
from multitask.parallel import bounded_map
from multitask.prediction.log import PredictionLog
from multitask.prediction.protocol import Predictor, Scores
from multitask.prediction.writing import PredictionWriter
from multitask.progress import Progress, Quiet
from multitask.spec import ModelSpec
from multitask.storage import replacing

BATCH_ROWS = 32
# Rows are answered in archive order within a block and written in table order: reading stays sequential, also through
# a compressed tar, no more than a block of scores is held, and no more than a block is lost when a run is broken off.
BLOCK_ROWS = 1024


def predict_table(
    predictor: Predictor,
    ids: Sequence[str],
    archive: Archive,
    out: Path,
    *,
    id_column: str = "uuid",
    metadata: Mapping[str, str] | None = None,
    in_parts: bool = False,
    workers: int | None = None,
    resume: str = "",
    progress: Progress = Quiet(),  # noqa: B008
    log: PredictionLog | None = None,
) -> Counter[str]:
    """Write one prediction row per id, in order; a row that cannot be predicted carries its reason as status.

    Args:
        predictor: answers for image files.
        ids: of the test table, repeated ids included.
        archive: where the image files are.
        out: the parquet file to write, or the folder of parts.
        id_column: name of the id column.
        metadata: for the parquet file, e.g. run and model version.
        in_parts: is it a folder?
        workers: batches in work at once; by default as many as keep the predictor busy.
        resume: says what the answers depend on beside ids and model, e.g. the image files. With it, a run that was
            broken off goes on where it stopped, as long as all of that is the same; "" starts anew.
        progress: where to report.
        log: where the answers are appended as well, with measures of the images; blocks that an earlier run has
            answered are in it already.

    Returns:
        How many rows have which status.
    """
    model = " ".join((metadata or {}).values())
    parts = _Parts(out, block_key(predictor.spec, ids, metadata or {}, resume))
    statuses: Counter[str] = Counter()
    with (
        PredictionWriter(out, predictor.spec, id_column, metadata or {}, in_parts=in_parts) as writer,
        progress.track("predicting", len(ids)) as advance,
    ):
        for start, block in blocks_of(ids):
            found = parts.load(start)
            if found:
                advance(len(block))
            else:
                measures = np.full((len(block), len(MEASURES)), np.nan, np.float32)
                watch = functools.partial(_measure, measures, predictor.spec.image.max_pixels)
                found = score_rows(predictor, block, archive, workers, advance, watch if log else None)
                if log:
                    log.add(predictor.spec, model, block, *found, measures)
                    log.flush()
                parts.save(start, *found)
            scores, status = found
            writer.write(block, scores, status)
            statuses.update(status)
    parts.remove()
    return statuses


def fill_blocks(
    make: functools.partial[Predictor],
    archive: Archive,
    out: Path,
    key: str,
    blocks: list[tuple[int, list[str]]],
) -> None:
    """Answer some blocks in another process, for a `predict_table` there is.

    Args:
        make: returns the predictor; called once per process.
        archive, out: of that call.
        key: see `block_key`.
        blocks: the number of their first row, and their ids; see `blocks_of`.
    """
    parts = _Parts(out, key)
    for start, ids in blocks:
        if not parts.load(start):
            parts.save(start, *score_rows(_made(make), ids, archive))


def blocks_of(ids: Sequence[str]) -> list[tuple[int, list[str]]]:
    """Return the blocks of a table: the number of the first row of each, and its ids."""
    return [(start, list(ids[start : start + BLOCK_ROWS])) for start in range(0, len(ids), BLOCK_ROWS)]


def block_key(spec: ModelSpec, ids: Sequence[str], metadata: Mapping[str, str], resume: str) -> str:
    """Return what the answered blocks of a table are kept under; "" where `resume` is "" and none are."""
    depends = [spec.model_dump_json(), resume, *sorted(metadata.values()), *ids]
    return hashlib.sha256("\0".join(depends).encode()).hexdigest()[:16] if resume else ""


def _made(make: functools.partial[Predictor]) -> Predictor:
    """Return the predictor of this process; what crossed processes is equal to what did so before by its text alone."""
    text = f"{make.func.__qualname__} {make.args}"
    if text not in _PREDICTORS:
        _PREDICTORS.clear()
        _PREDICTORS[text] = make()
    return _PREDICTORS[text]


_PREDICTORS: dict[str, Predictor] = {}


class _Parts:
    """Answered blocks of a table that is not finished, in a hidden folder beside it; none are kept without a key."""

    def __init__(self, out: Path, key: str) -> None:
        self._folder = out.with_name(f".{out.name}.{key}.parts")
        self._is_on = bool(key)
        for other in out.parent.glob(f".{out.name}.*.parts"):
            if other != self._folder:
                shutil.rmtree(other)

    def load(self, start: int) -> tuple[dict[str, NDArray[np.float32]], list[str]] | None:
        path = self._folder / f"{start}.npz"
        if not path.is_file():
            return None
        with np.load(path) as found:
            return {name[1:]: found[name] for name in found.files if name != "status"}, found["status"].tolist()

    def save(self, start: int, scores: Mapping[str, NDArray[np.float32]], status: Sequence[str]) -> None:
        if self._is_on:
            named: dict[str, Any] = {f"_{name}": values for name, values in scores.items()}
            with replacing(self._folder / f"{start}.npz") as path:
                np.savez(path, status=np.array(status), **named)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def score_rows(
    predictor: Predictor,
    ids: Sequence[str],
    archive: Archive,
    workers: int | None = None,
    advance: Callable[[int], None] = lambda done: None,
    watch: Callable[[int, bytes], None] | None = None,
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Return scores per task (rows, classes), NaN where there are none, and the status of each row.

    `watch` is shown every row and image that is scored, from several threads.
    """
    scores = {task.name: np.full((len(ids), len(task.classes)), np.nan, np.float32) for task in predictor.spec.tasks}
    status = ["ok"] * len(ids)

    def answer(batch: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], Scores]:
        found = predictor.predict([data for _, data in batch])
        if watch:
            for row, data in batch:
                watch(row, data)
        return batch, found

    max_pixels = predictor.spec.image.max_pixels
    batches = _batches(ids, archive, max_pixels, status, advance)
    for batch, found in bounded_map(answer, batches, workers or predictor.workers):
        rows = np.array([row for row, _ in batch])
        for name, values in found.values.items():
            scores[name][rows[found.ok]] = values[found.ok]
        for place, ((row, data), ok) in enumerate(zip(batch, found.ok, strict=True)):
            if not ok:
                reason = found.reasons.get(place)
                status[row] = reason or explain_unreadable(data, max_pixels)
        advance(len(batch))
    return scores, status


def _measure(measures: NDArray[np.float32], max_pixels: int, row: int, data: bytes) -> None:
    measures[row] = measure(data, max_pixels)


def _batches(
    ids: Sequence[str], archive: Archive, max_pixels: int, status: list[str], advance: Callable[[int], None]
) -> Iterator[list[tuple[int, bytes]]]:
    """Yield (row, bytes) in archive order; a row without bytes for a decoder gets its status at once."""
    batch: list[tuple[int, bytes]] = []
    for row in archive.in_order(ids):
        data, reason = read_image(archive, ids[row])
        reason = reason or cost.refusal(data, max_pixels)
        if reason:
            status[row] = reason
            advance(1)
        else:
            batch.append((int(row), data))
        if len(batch) == BATCH_ROWS:
            yield batch
            batch = []
    if batch:
        yield batch
