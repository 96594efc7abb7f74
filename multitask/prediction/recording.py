"""What a server answers, appended to a prediction log beside the answering, which never waits for it.

One thread measures the pictures in at most a quarter of its time. What comes faster is logged without measures, and
what comes faster than it can be written is not logged; both are counted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.audit import cost
from multitask.audit.inspection import EXPLAINED_PIXELS
from multitask.audit.measures import MEASURES, measure
from multitask.prediction.log import PART_ROWS, PART_SECONDS, PredictionLog, image_id
from multitask.spec import ModelSpec

# Of answers that wait to be logged: bytes of their pictures and scores, and rows.
WAITING_BYTES, WAITING_ROWS = 32 << 20, 20_000
# The thread rests so many times as long as it has measured.
_REST = 3


@dataclass(frozen=True)
class Answered:
    """Answers of a model to one request.

    Args:
        spec, model: which model, as name and version.
        images: object (rows,) image files; None where there are none, or too many wait.
        outputs: of the model, with the rows as first dimension.
        refused: why, by row, an image was not decoded.
        latency_ms: from request to answer.
    """

    spec: ModelSpec
    model: str
    images: NDArray[Any] | None
    outputs: Mapping[str, NDArray[Any]]
    refused: Mapping[int, str]
    latency_ms: float

    @property
    def rows(self) -> int:
        """How many images were answered."""
        return len(self.outputs["image_ok"])

    @property
    def size(self) -> int:
        """Bytes of pictures and scores."""
        pictures = 0 if self.images is None else sum(map(len, self.images))
        return pictures + sum(values.nbytes for values in self.outputs.values())


class Recorder:
    """Takes answers from any thread without delay, and writes them to a log.

    Args:
        log: where to.
        count: told ("unmeasured" or "dropped", rows).
    """

    def __init__(self, log: PredictionLog, count: Callable[[str, int], None] = lambda what, rows: None) -> None:
        self._log, self._count = log, count
        self._waiting: deque[Answered] = deque()
        self._rows = self._bytes = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep_writing, daemon=True)
        self._thread.start()

    def take(self, answered: Answered) -> None:
        """Queue answers; without their pictures where too many wait, not at all where far too many do."""
        with self._changed:
            is_large = self._bytes + answered.size > WAITING_BYTES
            answered = replace(answered, images=None) if is_large else answered
            if self._rows + answered.rows > WAITING_ROWS or self._bytes + answered.size > WAITING_BYTES:
                self._count("dropped", answered.rows)
                return
            if is_large:
                self._count("unmeasured", answered.rows)
            self._waiting.append(answered)
            self._rows, self._bytes = self._rows + answered.rows, self._bytes + answered.size
            self._changed.notify()

    def close(self) -> None:
        """Write what waits, without measuring any more."""
        self._closed.set()
        with self._changed:
            self._changed.notify()
        self._thread.join()
        self._flush()
        if self._log.waiting:
            self._count("dropped", self._log.waiting)

    def _keep_writing(self) -> None:
        while self._waiting or not self._closed.is_set():
            with self._changed:
                if not self._waiting and not self._closed.is_set():
                    self._changed.wait(PART_SECONDS)
                answered = self._waiting.popleft() if self._waiting else None
            if answered is not None:
                self._write_or_count(answered)
                with self._changed:
                    self._rows, self._bytes = self._rows - answered.rows, self._bytes - answered.size
            if self._log.is_due:
                self._flush()

    def _flush(self) -> None:
        # A disk that is full may have room again later; what waits is bounded meanwhile.
        with contextlib.suppress(OSError):
            self._log.flush()

    def _write_or_count(self, answered: Answered) -> None:
        try:
            is_kept = self._log.waiting < 2 * PART_ROWS
            if is_kept:
                self._write(answered)
        except Exception:
            # Such as a model whose answers have the names of our columns: answering goes on.
            is_kept = False
        if not is_kept:
            self._count("dropped", answered.rows)

    def _write(self, answered: Answered) -> None:
        rows, ok = answered.rows, answered.outputs["image_ok"]
        measures = np.full((rows, len(MEASURES)), np.nan, np.float32)
        ids = [""] * rows
        for row, data in enumerate(answered.images if answered.images is not None else ()):
            # The same picture has the same id, whoever sends it.
            ids[row] = image_id(data)
            if ok[row]:
                self._measure(data, answered.spec.image.max_pixels, measures[row])
        status = ["ok" if ok[row] else answered.refused.get(row, "cannot be read") for row in range(rows)]
        scores = {task.name: answered.outputs[task.name] for task in answered.spec.tasks}
        self._log.add(answered.spec, answered.model, ids, scores, status, measures, answered.latency_ms)

    def _measure(self, data: bytes, max_pixels: int, into: NDArray[np.float32]) -> None:
        if self._closed.is_set() or cost.measure(data).pixels > EXPLAINED_PIXELS:
            self._count("unmeasured", 1)
            return
        started = time.monotonic()
        into[:] = measure(data, max_pixels)
        self._closed.wait(_REST * (time.monotonic() - started))
