"""Slow work, and the memory it takes together."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.parallel import SMALL_BYTES, Desk, Memory
from tests.conftest import Tally


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=30))
def test_no_more_than_the_limit_is_taken_at_once_and_everybody_has_a_turn(sizes: list[int]) -> None:
    memory, tally = Memory(10), Tally()

    def work(size: int) -> int:
        with memory.of(size), tally.of(size):
            return size

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, sizes)) == sizes
    assert tally.most <= max(10, *sizes), "what is larger than the limit is done alone"


def test_who_wants_much_is_not_overtaken_for_ever_by_who_wants_little() -> None:
    memory, order = Memory(10), list[str]()

    def take(name: str, size: int) -> None:
        with memory.of(size):
            order.append(name)

    with ThreadPoolExecutor(3) as pool, memory.of(5):
        waiting = [pool.submit(take, "much", 8)]
        time.sleep(0.05)
        waiting += [pool.submit(take, "little", 1) for _ in range(2)]
        time.sleep(0.05)
        assert not order
    assert [part.result() for part in waiting] == [None] * 3
    assert order[0] == "much"


def test_work_that_fails_gives_its_memory_back() -> None:
    memory = Memory(10)
    with pytest.raises(ZeroDivisionError), memory.of(10):
        raise ZeroDivisionError
    with memory.of(10):
        pass


def test_large_work_leaves_the_threads_for_small_work_free() -> None:
    async def ask() -> list[int]:
        desk = Desk(Memory(1), threads=1)
        gate = threading.Event()
        large = [asyncio.ensure_future(desk(gate.wait, 10, takes=SMALL_BYTES + 1)) for _ in range(3)]
        small = [await desk(int, digit) for digit in "123"]
        gate.set()
        assert all(await asyncio.gather(*large))
        return small

    assert asyncio.run(ask()) == [1, 2, 3]


def test_what_is_given_up_while_it_waits_holds_nothing() -> None:
    class Body:
        """Something large."""

    async def ask() -> list[bool]:
        desk, gate = Desk(Memory(1), threads=1), threading.Event()
        running = asyncio.ensure_future(desk(gate.wait, 10))
        await asyncio.sleep(0.05)
        bodies = [Body() for _ in range(5)]
        waiting = [asyncio.ensure_future(desk(id, body)) for body in bodies]
        await asyncio.sleep(0.05)
        held = [weakref.ref(body) for body in bodies]
        for part in waiting:
            part.cancel()
        await asyncio.wait(waiting)
        del bodies, waiting, part
        gc.collect()
        freed = [body() is None for body in held]
        gate.set()
        assert await running
        return freed

    assert asyncio.run(ask()) == [True] * 5


def test_work_that_is_given_up_while_it_is_done_keeps_its_thread_until_its_end() -> None:
    async def ask() -> list[int]:
        desk, gate, begun = Desk(Memory(1), threads=1), threading.Event(), list[int]()

        def work(number: int) -> None:
            begun.append(number)
            gate.wait(10)

        parts = [asyncio.ensure_future(desk(work, number)) for number in range(3)]
        await asyncio.sleep(0.05)
        parts[0].cancel()
        await asyncio.sleep(0.05)
        assert begun == [0]
        gate.set()
        await asyncio.gather(*parts, return_exceptions=True)
        return begun

    assert asyncio.run(ask()) == [0, 1, 2]
