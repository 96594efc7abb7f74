"""Has the world moved? `python -m multitask.monitor PREDICTIONS... [--reference RUN] [--images A ...]`.

PREDICTIONS are tables that `predict` wrote, or folders of logs (`predict --log`, `serve --log`). Exit code 7: alarm.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from multitask import cli
from multitask.errors import ConfigError
from multitask.progress import Lines

if TYPE_CHECKING:
    from multitask.monitoring.novelty import See
    from multitask.monitoring.verdict import Verdict
    from multitask.runs import Run

ALARM = 7
MOST_DAYS = 36_500
_SHOWN = 12


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    predictions: tyro.conf.Positional[tuple[str, ...]]
    """Tables of predictions, or folders of logs; together they are the window."""
    reference: str = "latest"
    """Run whose validation and test images the window is held against; that which made the predictions."""
    images: tuple[str, ...] = ()
    """Zip or tar archives or folders with the images of the window, which are then measured, shown, and looked at by
    the network of the run; a log knows the measures already."""
    labels: str | None = None
    """Table with labels of the window's rows, as far as they have come in, in the columns the run was trained on."""
    days: int | None = None
    """Of a log, the last so many days, today included; by default all of it."""
    out: Path = Path("monitor")
    """Folder for monitor.json, monitor.html and monitor.prom."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print what moved; return 7 if anything did."""
    arguments = cli.parse(Arguments, "multitask.monitor", __doc__, argv)
    if not arguments.predictions:
        raise ConfigError("name a table of predictions, or a log", where="command line")
    if arguments.days is not None and not 1 <= arguments.days <= MOST_DAYS:
        expected = f"1 to {MOST_DAYS:,}"
        raise ConfigError("wrong value", where="--days", expected=expected, received=str(arguments.days))
    from multitask.data.archives import open_archive
    from multitask.monitoring.figures import known_figures
    from multitask.monitoring.novelty import MOST_WINDOW, drawn_rows, is_seen, look
    from multitask.monitoring.page import write_page
    from multitask.monitoring.profile import open_profile
    from multitask.monitoring.verdict import judge, write_verdict
    from multitask.monitoring.window import read_window
    from multitask.runs import open_run

    run, progress = open_run(arguments.reference), Lines()
    see = _sight(run)
    profile = open_profile(run, progress, see)
    with contextlib.ExitStack() as stack:
        archive = stack.enter_context(open_archive(*arguments.images)) if arguments.images else None
        window = read_window(run.spec, arguments.predictions, archive, arguments.days, progress)
        if archive is not None and is_seen(profile.frame):
            rows = drawn_rows(window.frame, MOST_WINDOW)
            window = replace(window, frame=look(window.frame, rows, archive, see, progress))
        known = known_figures(run, window, arguments.labels) if arguments.labels else []
        verdict = judge(run.folder.name, run.spec, profile, window, known)
        write_verdict(verdict, arguments.out)
        write_page(arguments.out / "monitor.html", run.spec, verdict, archive)
    _print(verdict)
    print(f"report: {arguments.out / 'monitor.html'}")
    return ALARM if verdict.alarm else 0


def _sight(run: Run) -> See:
    """Return what tells what the network of a run sees in images; TensorFlow loads when it is first asked."""

    @functools.cache
    def loaded() -> See:
        from multitask.prediction.trained import sight_of

        return sight_of(run)

    return lambda ids, archive: loaded()(ids, archive)


def _print(verdict: Verdict) -> None:
    window = verdict.window
    rows = [
        [
            shift.name,
            "moved" if shift.moved else "",
            f"{shift.effect:.2f}",
            f"{shift.limit:.2f} {shift.unit}",
            f"{shift.p_value:.2g}",
        ]
        for shift in verdict.shifts[: max(_SHOWN, len(verdict.moved))]
    ]
    title = f"{window.rows:,} predictions against {len(verdict.profile.frame):,} images of run {verdict.run}"
    cli.print_table(title, ["property", "", "effect", "limit", "p-value"], rows)
    for name, estimate in verdict.estimates.items():
        print(
            f"{name}: {estimate.expected:.1%} of the answers are right by the model's own sureness "
            f"({estimate.reference:.1%} of the reference were); unsure of {estimate.unsure:.1%} (10%)"
        )
    for known in verdict.known:
        (value, low, high), before = known.value, known.reference
        print(
            f"{known.task}: {known.name} {value:.3f} ({low:.3f} to {high:.3f}) by the labels, "
            f"{before[0]:.3f} ({before[1]:.3f} to {before[2]:.3f}) on the test split"
        )
    for note in verdict.notes:
        print(note)
    print(f"ALARM: {', '.join(verdict.moved)}" if verdict.alarm else "no alarm")


if __name__ == "__main__":
    cli.run_door(main)
