"""What a person sees while long work runs: a live bar on a terminal, plain lines elsewhere, nothing in a library."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Protocol

from multitask.privacy import hide_secrets

# On a pipe or in a log file, a line this often is company enough.
LINE_SECONDS = 10.0

Advance = Callable[[int], None]


class Progress(Protocol):
    """Where long work reports to."""

    def say(self, text: str) -> None:
        """Report one finished step."""

    def track(self, title: str, total: int) -> contextlib.AbstractContextManager[Advance]:
        """Report work on `total` things; the block calls what it is given with how many it has just done."""


class Quiet:
    """Reports nothing; for notebooks, tests and programs."""

    def say(self, text: str) -> None:
        """Ignore the step."""

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Ignore the work."""
        yield lambda done: None


class Lines:
    """Reports on standard error: a bar with the time left on a terminal, else a line every ten seconds."""

    def say(self, text: str) -> None:
        """Print the step, without passwords."""
        print(hide_secrets(text), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def track(self, title: str, total: int) -> Iterator[Advance]:
        """Show how far the work is, how fast it goes and how long it will take."""
        with self._bar(title, total) if total and sys.stderr.isatty() else self._lines(title, total) as advance:
            yield advance

    @contextlib.contextmanager
    def _lines(self, title: str, total: int) -> Iterator[Advance]:
        done, started, said = 0, time.monotonic(), time.monotonic()

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            now = time.monotonic()
            if now - said >= LINE_SECONDS:
                said, rate = now, done / (now - started)
                self.say(f"  {title}: {done:,} of {total:,}, {rate:,.1f}/s, {(total - done) / rate:,.0f} s left")

        yield advance

    @contextlib.contextmanager
    def _bar(self, title: str, total: int) -> Iterator[Advance]:
        from rich import progress as rich
        from rich.console import Console

        columns = (
            rich.TextColumn("  {task.description}"),
            rich.BarColumn(),
            rich.MofNCompleteColumn(),
            rich.TimeRemainingColumn(),
        )
        with rich.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)


def duration(seconds: float) -> str:
    """Return a time as people say it: 45 s, 12 min, 3.5 h, 12 days."""
    for size, unit, least in ((86400, "days", 48 * 3600), (3600, "h", 5400), (60, "min", 90)):
        if seconds >= least:
            amount = seconds / size
            return f"{amount:,.0f} {unit}" if amount >= 10 or unit == "min" else f"{amount:.1f} {unit}"
    return f"{seconds:.0f} s"


@contextlib.contextmanager
def muted_stderr() -> Iterator[None]:
    """Turn the file descriptor of standard error away: TensorFlow's C++ side writes before any setting can stop it.

    Python errors still come through, since they are raised and not written.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
