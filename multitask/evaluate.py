"""Evaluate a model on a labelled table: `python -m multitask.evaluate LABELS.parquet [--images A ...] [--run RUN]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from multitask import cli
from multitask.progress import Lines


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    table: tyro.conf.Positional[str]
    """Table with ids and labels, in the columns the run was trained on: parquet, CSV or Arrow, a folder per class, or
    ADDRESS::QUERY of a database."""
    images: tuple[str, ...] = ()
    """Zip or tar archives, folders, or a column: TABLE::ID_COLUMN::IMAGE_COLUMN, where `labels` is this table; by
    default those the run was trained on."""
    run: str = "latest"
    """Run to evaluate."""
    out: Path | None = None
    """Folder for metrics, plots and report; by default evaluations/TABLE in the run's folder."""


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the figures."""
    arguments = cli.parse(Arguments, "multitask.evaluate", __doc__, argv)
    from multitask.data.archives import open_archive
    from multitask.data.locations import Location
    from multitask.data.sources import images_of
    from multitask.runs import open_run

    run = open_run(arguments.run)
    table = Location.of_table(arguments.table)
    out = arguments.out or run.folder / "evaluations" / table.stem
    with open_archive(*images_of(arguments.table, arguments.images, run.config.data)) as archive:
        cli.load_tensorflow()
        from multitask.evaluation.assessment import evaluate_run, seen_line
        from multitask.prediction.trained import KerasPredictor

        found = evaluate_run(run, KerasPredictor.of_run(run), arguments.table, archive, out, Lines())
    new, seen = found.rows
    if found.new is not None:
        cli.print_metrics(f"Run {run.folder.name} on {new:,} new rows of {table}", found.new, run.spec)
    if found.seen is not None:
        title = f"Run {run.folder.name} on {seen:,} rows that took part in its training"
        cli.print_metrics(title, found.seen, run.spec)
        print(seen_line(found))
    print(f"report: {out / 'report.html'}")
    return 0


if __name__ == "__main__":
    cli.run_door(main)
