"""Work in threads: in order, without running ahead of whoever takes the results; within an amount of memory."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Work that takes less memory is not counted: there are only a few threads for it.
SMALL_BYTES = 8 << 20


def bounded_map(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Map in threads, in order, never taking more items than there are workers to wait for."""
    with ThreadPoolExecutor(workers) as pool:
        pending: deque[Any] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


class Memory:
    """Bytes that work may take at once; whoever wants more than is left waits, first come, first served.

    Args:
        limit: of all; work that wants more than that is done alone.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextlib.contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Take some bytes while the block runs."""
        if not count:
            yield
            return
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            while self._waiting[0] is not ticket or (self._taken and self._taken + count > self._limit):
                self._changed.wait()
            self._waiting.popleft()
            self._taken += count
            self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._taken -= count
                self._changed.notify_all()


class Desk:
    """Some threads for small work, and one for large, so that the event loop only passes on.

    Work waits for its turn on the event loop: what is given up there is gone, with all that it holds.

    Args:
        memory: that large work is taken from.
        threads: for small work.
    """

    def __init__(self, memory: Memory, threads: int = 2) -> None:
        self._memory = memory
        self._small, self._large = _Lane("desk", threads), _Lane("desk-large", 1)

    async def __call__(self, work: Callable[..., Result], *arguments: Any, takes: int = 0) -> Result:
        """Do some work in a thread; what is cancelled before its turn is not done.

        Args:
            work: to call.
            arguments: of it.
            takes: bytes of memory, about.
        """
        if takes <= SMALL_BYTES:
            return await self._small.run(functools.partial(work, *arguments))
        return await self._large.run(functools.partial(self._in_memory, takes, work, *arguments))

    def _in_memory(self, takes: int, work: Callable[..., Result], *arguments: Any) -> Result:
        with self._memory.of(takes):
            return work(*arguments)


class _Lane:
    """Some threads, and who waits for one."""

    def __init__(self, name: str, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, name)
        self._turns = asyncio.Semaphore(threads)

    async def run(self, work: Callable[[], Result]) -> Result:
        await self._turns.acquire()
        running = asyncio.get_running_loop().run_in_executor(self._pool, work)
        # A thread that was begun goes on to its end, and is free only then, whoever gave up meanwhile.
        running.add_done_callback(self._free)
        return await asyncio.shield(running)

    def _free(self, running: asyncio.Future[Any]) -> None:
        self._turns.release()
        if not running.cancelled():
            running.exception()
