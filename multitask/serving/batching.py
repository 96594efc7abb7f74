"""Dynamic batching: requests that arrive while the model is busy go through it together.

What a request will cost is known before it is queued: its rows, the shapes of its inputs, the pixels of its images.

Nothing waits for company: an idle worker takes what is there. Two workers let one batch be decoded while the other is
in the network. A batch that fails is run again request by request, so that a wrong one takes no other down.

Turns are fair: clients take them one after the other, and so do the requests of one client, a part of a request each
time. A large request, or a client with many, delays the others by the batch that is under way, not by all it has sent.
"""

from __future__ import annotations

import functools
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.audit import cost
from multitask.errors import ServerUnavailable
from multitask.parallel import Memory
from multitask.serving import wire
from multitask.serving.replies import WireError
from multitask.serving.signatures import Signature

Arrays = Mapping[str, NDArray[Any]]

# Pixels that are decoded in one batch.
BATCH_PIXELS = 64_000_000
# Memory for all slow work of a server together: decoding, reading and writing of large requests.
WORK_BYTES = BATCH_PIXELS * cost.BYTES_PER_PIXEL
# All images of a request together, as many as fit into a batch at their largest.
REQUEST_PIXELS = 32 * BATCH_PIXELS


@dataclass(frozen=True)
class Prepared:
    """A predict request that may be queued.

    Args:
        inputs: by name; an image that must not be decoded is replaced by no bytes, which are not readable.
        row: is it in row form?
        works: pixels to decode per row; empty where nothing is decoded.
        refused: why, by row, an image must not be decoded.
    """

    inputs: dict[str, NDArray[Any]]
    row: bool
    works: Sequence[int]
    refused: Mapping[int, str]


def prepare(call: wire.Call, signature: Signature, max_pixels: int) -> Prepared:
    """Read the inputs of a call and bound what they will cost.

    Raises:
        WireError: they do not fit the signature, or cost too much.
    """
    inputs, row = wire.read_inputs(call, signature)
    wrong = [
        f"{name} has shape {list(array.shape)}" for name, array in inputs.items() if not signature.takes(name, array)
    ]
    if wrong or len({array.shape[:1] for array in inputs.values()}) > 1:
        raise WireError(f"input {'; '.join(wrong) or 'rows differ in number'}; the metadata say what is expected")
    works: list[int] = []
    refused: dict[int, str] = {}
    if "image_bytes" in inputs and inputs["image_bytes"].ndim == 1:
        inputs["image_bytes"], works, refused = screen(inputs["image_bytes"], max_pixels)
    return Prepared(inputs, row, works, refused)


def screen(images: NDArray[Any], max_pixels: int) -> tuple[NDArray[Any], list[int], dict[int, str]]:
    """Look at the structure of image files, object array (rows,); return what may be decoded, works and refusals."""
    kept, works, refused = images.copy(), [0] * len(images), {}
    for row, data in enumerate(images):
        reason = cost.refusal(data, max_pixels)
        if reason:
            refused[row], kept[row] = reason, b""
        else:
            works[row] = cost.measure(data).pixels
    if sum(works) > REQUEST_PIXELS:
        raise WireError(f"the images of a request hold more than {REQUEST_PIXELS / 1e6:g} Mpx; send fewer", "TOO_LARGE")
    return kept, works, refused


@dataclass(frozen=True, eq=False)
class _Job:
    signature: str
    inputs: dict[str, NDArray[Any]]
    rows: int
    work: int
    done: Future[dict[str, NDArray[Any]]] = field(default_factory=Future)

    @functools.cached_property
    def kind(self) -> object:
        """What jobs of one batch have in common."""
        return self.signature, [(array.dtype, array.ndim, array.shape[1:]) for array in self.inputs.values()]

    def let_go(self, done: Future[Any]) -> None:
        """Hold nothing of what was given up, though it stays in the queue until its turn."""
        if done.cancelled():
            self.inputs.clear()


# The requests of one client that wait, each as the parts that are left of it; the front has its turn next.
_Requests = deque[deque[_Job]]


class Batcher:
    """Runs jobs in batches.

    Args:
        run: calls the model: signature name and inputs to outputs, each with the rows as first dimension.
        memory: that batches take what they need to be decoded from.
        max_rows: of a batch.
        max_work: of a batch; a single row of more runs alone.
        max_waiting_rows: of the queue. A client that has less than an eighth of it waiting may fill it once more.
        workers: batches under way at once.
        watch: told the number of rows of every batch.
    """

    def __init__(
        self,
        run: Callable[[str, Arrays], dict[str, NDArray[Any]]],
        *,
        memory: Memory | None = None,
        max_rows: int = 32,
        max_work: int = BATCH_PIXELS,
        max_waiting_rows: int = 256,
        workers: int = 2,
        watch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._run, self._watch = run, watch
        self._max_rows, self._max_work, self._max_waiting_rows = max_rows, max_work, max_waiting_rows
        self._clients: OrderedDict[str, _Requests] = OrderedDict()
        self._waiting: dict[str, int] = {}
        self._memory = memory or Memory(WORK_BYTES)
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._keep_working, daemon=True) for _ in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, signature: str, inputs: Arrays, works: Sequence[int] = (), client: str = ""
    ) -> list[Future[dict[str, NDArray[Any]]]]:
        """Queue a request; returns a future per part, since a request larger than a batch is cut.

        Args:
            signature: to call.
            inputs: with the rows as first dimension.
            works: pixels to decode, per row; none if nothing is decoded.
            client: whose request it is.

        Raises:
            ServerUnavailable: the queue is full.
        """
        jobs = deque(self._parts(signature, dict(inputs), works))
        for job in jobs:
            job.done.add_done_callback(job.let_go)
        answers, rows = [job.done for job in jobs], sum(job.rows for job in jobs)
        with self._changed:
            waiting, own = sum(self._waiting.values()), self._waiting.get(client, 0)
            room = self._max_waiting_rows * (2 if own + rows <= self._max_waiting_rows // 8 else 1)
            # An empty queue takes a request of any size, else a large one could never be answered.
            if self._closed or (waiting and waiting + rows > room):
                raise ServerUnavailable("The batch scheduling queue to which this task was submitted is full")
            self._clients.setdefault(client, deque()).append(jobs)
            self._waiting[client] = own + rows
            self._changed.notify_all()
        return answers

    def close(self) -> None:
        """Answer what is queued, then stop."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _parts(self, signature: str, inputs: dict[str, NDArray[Any]], works: Sequence[int]) -> list[_Job]:
        """Cut a request into jobs of at most as many rows, and as much work, as a batch may have."""
        first = next(iter(inputs.values()))
        rows = len(first) if first.ndim else 1
        if rows < 2 or not all(array.ndim and len(array) == rows for array in inputs.values()):
            return [_Job(signature, inputs, rows, sum(works))]
        cuts, work = [0], 0
        for row in range(rows):
            own = works[row] if works else 0
            if row - cuts[-1] == self._max_rows or (row > cuts[-1] and work + own > self._max_work):
                cuts.append(row)
                work = 0
            work += own
        return [
            _Job(signature, {name: array[at:end] for name, array in inputs.items()}, end - at, sum(works[at:end]))
            for at, end in zip(cuts, [*cuts[1:], rows], strict=True)
        ]

    def _keep_working(self) -> None:
        while batch := self._take():
            try:
                with self._memory.of(sum(job.work for job in batch) * cost.BYTES_PER_PIXEL):
                    self._answer(batch)
            except BaseException as error:
                for job in batch:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _take(self) -> list[_Job]:
        """Wait for jobs; take the next one and those of its kind that fit beside it. Nothing after the end."""
        with self._changed:
            while True:
                batch = self._next_of_a_kind()
                if batch:
                    return batch
                if self._closed and not self._clients:
                    return []
                self._changed.wait()

    def _next_of_a_kind(self) -> list[_Job]:
        """Let every client put in the front of its requests in turn, round after round, while something fits."""
        batch: list[_Job] = []
        rows, work, gained = 0, 0, True
        while gained and rows < self._max_rows:
            gained = False
            for client in list(self._clients):
                job = self._front(client)
                if job is None:
                    continue
                fits = rows + job.rows <= self._max_rows and work + job.work <= self._max_work
                if not batch or (fits and job.inputs and self._merge(batch[0], job)):
                    self._remove_front(client)
                    if job.done.set_running_or_notify_cancel():
                        batch.append(job)
                        rows, work = rows + job.rows, work + job.work
                    gained = True
        return batch

    @staticmethod
    def _merge(first: _Job, other: _Job) -> bool:
        return other.kind == first.kind and all(array.ndim for array in first.inputs.values())

    def _front(self, client: str) -> _Job | None:
        """Return the job whose turn it is, without those that were given up."""
        while client in self._clients:
            job = self._clients[client][0][0]
            if not job.done.cancelled():
                return job
            self._remove_front(client)
        return None

    def _remove_front(self, client: str) -> None:
        """Take a job out; its request goes behind the others of the client, the client behind the other clients."""
        requests = self._clients[client]
        jobs = requests.popleft()
        self._waiting[client] -= jobs.popleft().rows
        if jobs:
            requests.append(jobs)
        if requests:
            self._clients.move_to_end(client)
        else:
            del self._clients[client], self._waiting[client]

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
