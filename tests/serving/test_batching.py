"""Dynamic batching: what arrives together runs together, and nobody gets another's answer."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.audit.cost import BYTES_PER_PIXEL
from multitask.errors import ServerUnavailable
from multitask.parallel import Memory
from multitask.serving.batching import Batcher
from tests.conftest import Tally


def double(signature: str, inputs: dict) -> dict:
    if (inputs["x"] < 0).any():
        raise ValueError("negative")
    return {"y": inputs["x"] * 2}


def rows(*values: int) -> dict:
    return {"x": np.array(values)}


def result(parts: list) -> list[int]:
    return np.concatenate([part.result(5)["y"] for part in parts]).tolist()


class Gate:
    """A model that waits until it is let through, and remembers the size of every batch."""

    def batcher(self, **limits: int) -> tuple[Batcher, list]:
        """Return a batcher with one worker, which is busy with a first request."""
        batcher = Batcher(self.run, workers=1, **limits)
        first = batcher.submit("s", rows(0))
        assert self.busy.wait(5)
        return batcher, first

    def __init__(self) -> None:
        self.open, self.busy, self.sizes = threading.Event(), threading.Event(), []

    def run(self, signature: str, inputs: dict) -> dict:
        self.sizes.append(len(inputs["x"]))
        self.busy.set()
        assert self.open.wait(10)
        return double(signature, inputs)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_everybody_gets_their_own_answer(sizes: list[int]) -> None:
    batcher = Batcher(double, max_rows=8, max_waiting_rows=10_000)
    try:
        requests = [rows(*range(100 * number, 100 * number + size)) for number, size in enumerate(sizes)]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda inputs: result(batcher.submit("s", inputs)), requests))
        assert found == [(inputs["x"] * 2).tolist() for inputs in requests]
    finally:
        batcher.close()


def test_what_arrives_while_the_model_is_busy_goes_through_together() -> None:
    gate = Gate()
    batcher, first = gate.batcher(max_rows=4)
    others = [batcher.submit("s", rows(number)) for number in range(1, 7)]
    gate.open.set()
    assert [result(parts) for parts in (first, *others)] == [[2 * number] for number in range(7)]
    assert gate.sizes == [1, 4, 2]
    batcher.close()


def test_a_wrong_request_takes_no_other_down() -> None:
    gate = Gate()
    batcher, _ = gate.batcher()
    good, bad, other = (batcher.submit("s", rows(value)) for value in (1, -1, 2))
    gate.open.set()
    assert (result(good), result(other)) == ([2], [4])
    with pytest.raises(ValueError, match="negative"):
        bad[0].result(5)
    batcher.close()


def test_other_signatures_shapes_and_ranks_are_not_mixed() -> None:
    gate = Gate()
    batcher, _ = gate.batcher()
    others = [
        batcher.submit("t", rows(1)),
        batcher.submit("s", {"x": np.array([[1, 2]])}),
        batcher.submit("s", rows(3)),
    ]
    gate.open.set()
    for parts in others:
        parts[0].result(5)
    assert gate.sizes == [1, 1, 1, 1]
    batcher.close()


def test_a_request_larger_than_a_batch_is_cut_and_put_together() -> None:
    batcher = Batcher(double, max_rows=4)
    assert result(batcher.submit("s", rows(*range(11)))) == [2 * number for number in range(11)]
    batcher.close()


def test_a_full_queue_refuses_and_recovers() -> None:
    gate = Gate()
    batcher, first = gate.batcher(max_rows=2, max_waiting_rows=3)
    taken = [first, batcher.submit("s", rows(1, 2)), batcher.submit("s", rows(3))]
    with pytest.raises(ServerUnavailable, match="full"):
        batcher.submit("s", rows(4))
    gate.open.set()
    assert [result(parts) for parts in taken] == [[0], [2, 4], [6]]
    assert result(batcher.submit("s", rows(4))) == [8]
    batcher.close()


def test_a_request_that_was_given_up_is_not_run() -> None:
    gate = Gate()
    batcher, first = gate.batcher(max_rows=1)
    [given_up] = batcher.submit("s", rows(1))
    last = batcher.submit("s", rows(2))
    assert given_up.cancel()
    gate.open.set()
    assert (result(first), result(last)) == ([0], [4])
    assert gate.sizes == [1, 1]
    batcher.close()


def test_closing_answers_what_is_queued() -> None:
    def slow(signature: str, inputs: dict) -> dict:
        time.sleep(0.02)
        return double(signature, inputs)

    batcher = Batcher(slow, max_rows=1)
    parts = [batcher.submit("s", rows(number)) for number in range(10)]
    batcher.close()
    assert [result(part) for part in parts] == [[2 * number] for number in range(10)]
    with pytest.raises(ServerUnavailable):
        batcher.submit("s", rows(1))


def test_a_large_request_and_a_busy_client_leave_others_their_turn() -> None:
    """Behind forty batches of one client another's row waits for one; so does the client's own second request."""
    gate = Gate()
    order: list[int] = []
    run = gate.run
    gate.run = lambda signature, inputs: (order.append(int(inputs["x"][0])), run(signature, inputs))[1]
    batcher = Batcher(gate.run, workers=1, max_rows=4, max_waiting_rows=10_000)
    first = batcher.submit("s", rows(0))
    assert gate.busy.wait(5)
    large = batcher.submit("s", rows(*range(1000, 1160)), client="busy")
    second = batcher.submit("t", rows(7), client="busy")
    other = batcher.submit("u", rows(8), client="other")
    gate.open.set()
    assert [result(part) for part in (first, second, other)] == [[0], [14], [16]]
    assert result(large) == [2 * number for number in range(1000, 1160)]
    assert order.index(8) <= 2
    assert order.index(7) <= 3
    batcher.close()


def test_a_client_with_little_in_the_queue_finds_room_where_a_busy_one_does_not() -> None:
    gate = Gate()
    batcher, _ = gate.batcher(max_waiting_rows=16)
    taken = [batcher.submit("s", rows(number), client="busy") for number in range(16)]
    with pytest.raises(ServerUnavailable):
        batcher.submit("s", rows(1), client="busy")
    taken.append(batcher.submit("s", rows(99), client="other"))
    gate.open.set()
    assert [result(parts) for parts in taken][-1] == [198]
    batcher.close()


def test_no_more_is_decoded_at_once_than_memory_is_meant_for() -> None:
    tally = Tally()

    def run(signature: str, inputs: dict) -> dict:
        with tally.of(int(inputs["x"].sum())):
            return {"y": inputs["x"]}

    memory = Memory(10 * BYTES_PER_PIXEL)
    batcher = Batcher(run, memory=memory, max_work=10, workers=3)
    works = [3, 4, 9, 1, 1, 10, 2, 25, 5, 5, 5]
    parts = [batcher.submit("s", rows(*works), works) for _ in range(5)]
    assert [result(part) for part in parts] == [works] * 5
    assert tally.most == 25, "a row of more than all is meant for runs, and alone"
    batcher.close()


def test_what_is_given_up_while_it_waits_holds_nothing() -> None:
    gate = Gate()
    batcher, first = gate.batcher()
    waiting = rows(*range(50))
    held = weakref.ref(waiting["x"])
    parts = batcher.submit("s", waiting)
    del waiting
    assert held() is not None
    for part in parts:
        part.cancel()
    gc.collect()
    assert held() is None
    gate.open.set()
    assert result(first) == [0]
    batcher.close()


def test_queueing_takes_time_linear_in_the_rows() -> None:
    batcher = Batcher(lambda signature, inputs: {"y": inputs["x"]}, max_rows=1, max_waiting_rows=10)
    started = time.process_time()
    assert len(result(batcher.submit("s", rows(*range(20_000))))) == 20_000
    assert time.process_time() - started < 20
    batcher.close()
