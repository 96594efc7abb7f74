"""Put runs side by side, best first: `python -m multitask.compare [RUN ...] [--by FIGURE] [--out compare.html]`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from multitask import cli
from multitask.errors import command
from multitask.runs import find_run, run_folders


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    runs: tyro.conf.Positional[tuple[str, ...]] = ()
    """Runs by name or path; by default all."""
    by: str = "val_score"
    """What decides: the validation score, or a figure on the test split such as category.accuracy."""
    out: Path = Path("compare.html")
    """Page to write; the table of all figures and settings goes beside it as parquet."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, print the table, write the page."""
    arguments = cli.parse(Arguments, "multitask.compare", __doc__, argv)
    from multitask.comparing.differences import compare_with_first
    from multitask.comparing.page import write_page
    from multitask.comparing.standings import standings
    from multitask.storage import replacing

    found = standings([find_run(name) for name in arguments.runs] or run_folders(), arguments.by)
    comparisons = compare_with_first(found.runs)
    write_page(arguments.out, found, comparisons)
    table = arguments.out.with_suffix(".parquet")
    with replacing(table) as path:
        found.figures.merge(found.settings, on="run").to_parquet(path, index=False)
    verdicts = ["", *(comparison.verdict for comparison in comparisons)]
    rows = [
        [row["run"], f"{row['val_score']:.3f}", *(_figure(row[name]) for name in found.mains), verdict]
        for row, verdict in zip(found.figures.to_dict("records"), verdicts, strict=True)
    ]
    columns = ["run", "val_score", *found.mains, "against the best"]
    cli.print_table(f"{len(rows)} runs, best first by {found.by}", columns, rows)
    if found.unfinished:
        print(f"not finished, left out: {', '.join(found.unfinished)}; train --resume goes on with one")
    print(f"page: {arguments.out}\ntable: {table}")
    cli.print_next(command("publish", "--run", found.runs[0].folder.name))
    return 0


def _figure(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"


if __name__ == "__main__":
    cli.run_door(main)
