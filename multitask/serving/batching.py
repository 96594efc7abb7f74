"""Dynamic batching: requests that arrive while the model is busy go through it together.

Nothing waits for company: an idle worker takes what is there. Two workers let one batch be decoded while the other is
in the network. A batch that fails is run again request by request, so that a wrong one takes no other down.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.errors import ServerUnavailable

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, eq=False)
class _Job:
    signature: str
    inputs: Arrays
    rows: int
    done: Future[dict[str, NDArray[Any]]] = field(default_factory=Future)

    @property
    def kind(self) -> object:
        """What jobs of one batch have in common."""
        return self.signature, [(array.dtype, array.ndim, array.shape[1:]) for array in self.inputs.values()]


class Batcher:
    """Runs jobs in batches.

    Args:
        run: calls the model: signature name and inputs to outputs, each with the rows as first dimension.
        max_rows: of a batch.
        max_waiting_rows: of the queue; more are refused.
        workers: batches under way at once.
        watch: told the number of rows of every batch.
    """

    def __init__(
        self,
        run: Callable[[str, Arrays], dict[str, NDArray[Any]]],
        *,
        max_rows: int = 32,
        max_waiting_rows: int = 256,
        workers: int = 2,
        watch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._run, self._watch = run, watch
        self._max_rows, self._max_waiting_rows = max_rows, max_waiting_rows
        self._jobs: deque[_Job] = deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, signature: str, inputs: Arrays) -> list[Future[dict[str, NDArray[Any]]]]:
        """Queue a request; returns a future per part, since a request larger than a batch is cut.

        Raises:
            ServerUnavailable: the queue is full.
        """
        first = next(iter(inputs.values()))
        rows = len(first) if first.ndim else 1
        step = self._max_rows if all(array.ndim and len(array) == rows for array in inputs.values()) else max(rows, 1)
        jobs = [
            _Job(
                signature,
                {name: array[at : at + step] if array.ndim else array for name, array in inputs.items()},
                size,
            )
            for at, size in ((at, min(step, rows - at)) for at in range(0, max(rows, 1), step))
        ]
        with self._changed:
            # An empty queue takes a request of any size, else a large one could never be answered.
            if self._closed or (self._waiting_rows and self._waiting_rows + rows > self._max_waiting_rows):
                raise ServerUnavailable("The batch scheduling queue to which this task was submitted is full")
            self._jobs.extend(jobs)
            self._waiting_rows += rows
            self._changed.notify_all()
        return [job.done for job in jobs]

    def close(self) -> None:
        """Answer what is queued, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            try:
                self._answer(batch)
            except BaseException as error:
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _take(self) -> list[_Job]:
        """Wait for jobs; take the first one and all of its kind that fit beside it. Nothing after the end."""
        with self._changed:
            while True:
                while not self._jobs and not self._closed:
                    self._changed.wait()
                if not self._jobs:
                    return []
                batch = [job for job in self._next_of_a_kind() if job.done.set_running_or_notify_cancel()]
                if batch:
                    return batch

    def _next_of_a_kind(self) -> list[_Job]:
        batch = [self._jobs.popleft()]
        rows, kind = batch[0].rows, batch[0].kind
        is_mergeable = all(array.ndim for array in batch[0].inputs.values())
        for job in list(self._jobs) if is_mergeable else ():
            if job.kind == kind and rows + job.rows <= self._max_rows:
                self._jobs.remove(job)
                batch.append(job)
                rows += job.rows
        self._waiting_rows -= rows
        return batch

    def _answer(self, batch: list[_Job]) -> None:
        self._watch(sum(job.rows for job in batch))
        if len(batch) == 1:
            batch[0].done.set_result(self._run(batch[0].signature, batch[0].inputs))
            return
        inputs = {name: np.concatenate([job.inputs[name] for job in batch]) for name in batch[0].inputs}
        try:
            outputs = self._run(batch[0].signature, inputs)
        except Exception:
            for job in batch:
                try:
                    job.done.set_result(self._run(job.signature, job.inputs))
                except Exception as error:
                    job.done.set_exception(error)
            return
        at = 0
        for job in batch:
            job.done.set_result({name: array[at : at + job.rows] for name, array in outputs.items()})
            at += job.rows
