"""Evaluate a model on a labelled table: `python -m multitask.evaluate LABELS.parquet [--images A ...] [--run RUN]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from multitask import cli
from multitask.progress import Lines

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from multitask.data.tables import Table
    from multitask.evaluation.assessment import Arrays


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
        from multitask.explaining.reasons import explain_answers
        from multitask.network.model import load_network
        from multitask.prediction.trained import KerasPredictor

        def explain(table: Table, scores: Arrays, groups: NDArray[np.int64]) -> tuple[pd.DataFrame, dict[str, Figure]]:
            network = load_network(run.folder / "model.keras", run.spec)
            columns = table.extra.drop(columns=[*run.config.label_columns()], errors="ignore").reset_index(drop=True)
            return explain_answers(run.spec, network, archive, list(table.ids), table.labels, scores, columns, groups)

        found = evaluate_run(run, KerasPredictor.of_run(run), arguments.table, archive, out, Lines(), explain)
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
