"""Predict a table: `python -m multitask.predict TEST.parquet [--images A ...] [--run RUN] [--out FILE]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from multitask import cli
from multitask.progress import Lines


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    table: tyro.conf.Positional[Path]
    """Parquet file with the ids to predict."""
    images: tuple[str, ...] = ()
    """Zip or tar archives or folders; by default those the run was trained on."""
    run: str = "latest"
    """Run whose model predicts."""
    out: Path = Path("predictions.parquet")
    """File to write."""
    id_column: str | None = None
    """Column of the table that holds the image id; by default that of the run."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network."""


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print how many rows got which status."""
    arguments = cli.parse(Arguments, "multitask.predict", __doc__, argv)
    from multitask.archives import open_archive
    from multitask.runs import open_run
    from multitask.tables import read_table

    run = open_run(arguments.run)
    id_column = arguments.id_column or run.config.data.id_column
    table = read_table(arguments.table, id_column)
    progress = Lines()
    with open_archive(*(arguments.images or run.config.data.images)) as archive:
        cli.load_tensorflow()
        from multitask.inference import KerasPredictor
        from multitask.prediction import predict_table

        progress.say(f"predicting {len(table):,} rows with run {run.folder.name}")
        predictor = KerasPredictor.of_run(run, arguments.precision)
        metadata = {"multitask.run": run.folder.name}
        statuses = predict_table(
            predictor,
            list(table.ids),
            archive,
            arguments.out,
            id_column=id_column,
            metadata=metadata,
            progress=progress,
        )
    rows = [[status, f"{count:,}"] for status, count in statuses.most_common()]
    cli.print_table(f"{arguments.out}: {len(table):,} rows", ["status", "rows"], rows)
    return 0


if __name__ == "__main__":
    cli.run_door(main)
