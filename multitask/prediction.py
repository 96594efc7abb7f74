"""Predict a table: rows and images in, `predictions.parquet` out; the same for every predictor."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from multitask.archives import Archive
from multitask.audit import explain_unreadable, read_image
from multitask.predictor import Predictor, Scores
from multitask.progress import Progress, Quiet
from multitask.tables import PredictionWriter

BATCH_ROWS = 32
# Rows are answered in archive order within a block and written in table order: reading stays sequential, also through
# a compressed tar, and no more than a block of scores is held.
BLOCK_ROWS = 4096

Item = TypeVar("Item")
Result = TypeVar("Result")


def predict_table(
    predictor: Predictor,
    ids: Sequence[str],
    archive: Archive,
    out: Path,
    *,
    id_column: str = "uuid",
    metadata: Mapping[str, str] | None = None,
    workers: int = 2,
    progress: Progress = Quiet(),  # noqa: B008
) -> Counter[str]:
    """Write one prediction row per id, in order; a row that cannot be predicted carries its reason as status.

    Args:
        predictor: answers for image files.
        ids: of the test table, repeated ids included.
        archive: where the image files are.
        out: the parquet file to write.
        id_column: name of the id column.
        metadata: for the parquet file, e.g. run and model version.
        workers: batches in work at once; two let one be decoded while the other is in the network.
        progress: where to report.

    Returns:
        How many rows have which status.
    """
    statuses: Counter[str] = Counter()
    with (
        PredictionWriter(out, predictor.spec, id_column, metadata or {}) as writer,
        progress.track("predicting", len(ids)) as advance,
    ):
        for start in range(0, len(ids), BLOCK_ROWS):
            block = list(ids[start : start + BLOCK_ROWS])
            scores, status = score_rows(predictor, block, archive, workers, advance)
            writer.write(block, scores, status)
            statuses.update(status)
    return statuses


def score_rows(
    predictor: Predictor,
    ids: Sequence[str],
    archive: Archive,
    workers: int = 2,
    advance: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, NDArray[np.float32]], list[str]]:
    """Return scores per task (rows, classes), NaN where there are none, and the status of each row."""
    scores = {task.name: np.full((len(ids), len(task.classes)), np.nan, np.float32) for task in predictor.spec.tasks}
    status = ["ok"] * len(ids)

    def answer(batch: list[tuple[int, bytes]]) -> tuple[list[tuple[int, bytes]], Scores]:
        return batch, predictor.predict([data for _, data in batch])

    for batch, found in _bounded_map(answer, _batches(ids, archive, status, advance), workers):
        rows = np.array([row for row, _ in batch])
        for name, values in found.values.items():
            scores[name][rows[found.ok]] = values[found.ok]
        for place, ((row, data), ok) in enumerate(zip(batch, found.ok, strict=True)):
            if not ok:
                reason = found.reasons.get(place)
                status[row] = reason or explain_unreadable(data, predictor.spec.image.max_pixels)
        advance(len(batch))
    return scores, status


def _batches(
    ids: Sequence[str], archive: Archive, status: list[str], advance: Callable[[int], None]
) -> Iterator[list[tuple[int, bytes]]]:
    """Yield (row, bytes) in archive order; a row without readable bytes gets its status at once."""
    batch: list[tuple[int, bytes]] = []
    for row in archive.in_order(ids):
        data, reason = read_image(archive, ids[row])
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


def _bounded_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map in threads, in order, never taking more items than there are workers to wait for."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Any] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
