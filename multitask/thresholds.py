"""Choose other thresholds for a trained run, as a new run: `python -m multitask.thresholds --by "recall >= 0.95"`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from multitask import cli
from multitask.errors import command
from multitask.progress import Lines
from multitask.runs import Run, open_run
from multitask.spec import LAYOUTS


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    by: float | str
    """f1, or a floor as "precision >= 0.9" or "recall >= 0.95", or a price as "cost 5:1" where a tag that is missed
    costs five times one that is wrongly seen, on the rows that did not train; or the threshold itself."""
    run: str = "latest"
    """Run to take the network of."""
    tasks: tuple[str, ...] = ()
    """Whose thresholds; by default those of all multilabel tasks."""
    name: str | None = None
    """Name of the new run folder; by default the time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the run, print what became of every tag."""
    arguments = cli.parse(Arguments, "multitask.thresholds", __doc__, argv)
    old = open_run(arguments.run)
    cli.load_tensorflow()
    from multitask.training.revising import with_thresholds

    new = with_thresholds(old, arguments.by, arguments.tasks, arguments.name, Lines())
    cli.print_table(
        f"Thresholds of run {new.folder.name}, on its test split; in brackets those of {old.folder.name}",
        ["tag", "threshold", "precision", "recall"],
        _rows(new, old),
    )
    print(f"report: {new.folder / 'report.html'}")
    cli.print_next(command("export", "--run", new.folder.name), command("publish", "--run", new.folder.name))
    return 0


def _rows(new: Run, old: Run) -> list[list[str]]:
    """Return tag, threshold, precision and recall, each as it is and as it was."""
    now, before = ([*_values(run)] for run in (new, old))
    return [
        [tag, *(f"{value:.3f} ({was:.3f})" for value, was in zip(values, then, strict=True))]
        for (tag, *values), (_, *then) in zip(now, before, strict=True)
    ]


def _values(run: Run) -> Iterator[tuple[Any, ...]]:
    figures = run.folder.read_json("metrics.json")
    for task in run.spec.tasks:
        if "threshold" in LAYOUTS[task.kind].settings:
            metrics = figures[task.name]["metrics"]
            for tag, threshold in zip(task.classes, task.settled_thresholds(), strict=True):
                precision, recall = (metrics[f"{tag}_{figure}"]["value"] for figure in ("precision", "recall"))
                yield tag, threshold, *(math.nan if value is None else value for value in (precision, recall))


if __name__ == "__main__":
    cli.run_door(main)
