"""Look at a data set before training: `python -m multitask.explore [--config FILE] [--labels F --images A ...]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from multitask import cli
from multitask.config import Config
from multitask.progress import Lines
from multitask.workers import Workers

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    config: Path | None = None
    """TOML file with settings; flags override it."""
    label_errors: bool = False
    """Rank labels that are probably wrong as well; sends every image through the frozen network once."""
    augment: bool = False
    """Show what the [[augment]] tables of the configuration do to some photos, and nothing else."""
    out: Path | None = None
    """Folder for report, audit.json and quarantine.parquet; by default model_training/audits/TABLE."""
    on: cli.On = None
    settings: cli.Settings = Config()  # noqa: RUF009


def main(argv: Sequence[str] | None = None) -> int:
    """Look, print what stands out and where the report is."""
    arguments = cli.parse_with_config(Arguments, "multitask.explore", __doc__, argv)
    from multitask.audit.rows import audit_cache
    from multitask.data.locations import Location
    from multitask.exploration.survey import survey

    config = arguments.settings
    out = arguments.out or audit_cache(config.data) / Location.of_table(config.data.labels).stem
    if arguments.augment:
        return _print_contact_sheet(config, out)
    with cli.workers(arguments.on, Lines()) as workers:
        found = survey(config, out, Lines(), workers)
        errors = _label_errors(config, out, workers) if arguments.label_errors else None
    rows = [
        [name, task["kind"], f"{task['rows_with_label']:,}", baseline.replace("_", " "), f"{value:.3f}"]
        for name, task in found.facts["tasks"].items()
        for baseline, value in task["baselines"].items()
    ]
    cli.print_table("Reached without looking", ["task", "kind", "rows with label", "baseline", "value"], rows)
    print("What to do about it")
    for line in found.facts["advice"]:
        print(f"  {line}")
    print(f"report: {out / 'report.html'}")
    if errors is not None:
        _print_label_errors(errors, out)
    return 0


def _print_contact_sheet(config: Config, out: Path) -> int:
    cli.load_tensorflow()
    from multitask.exploration.contact_sheet import write_contact_sheet

    print(f"what augmentation does: {write_contact_sheet(config, out)}")
    return 0


def _label_errors(config: Config, out: Path, workers: Workers) -> pd.DataFrame:
    cli.load_tensorflow()
    from multitask.exploration.relabelling import write_label_errors

    return write_label_errors(config, out, Lines(), workers)


def _print_label_errors(found: pd.DataFrame, out: Path) -> None:
    from multitask.exploration.label_errors import WEAK

    groups = found.groupby(["task", "label"], sort=False)[["suspicious", "agreement"]]
    counts = groups.agg({"suspicious": "sum", "agreement": "first"})
    rows = [[task, label, f"{count:,}", f"{share:.0%}"] for (task, label), count, share in counts.itertuples()]
    cli.print_table("Labels that are probably wrong", ["task", "label", "rows", "the judge agrees with"], rows)
    if (counts["agreement"] < WEAK).any():
        print(f"A judge that agrees with less than {WEAK:.0%} suspects its own mistakes; better weights help.")
    print(f"for labellers: {out / 'label_errors.csv'}\npictures: {out / 'label_errors.html'}")


if __name__ == "__main__":
    cli.run_door(main)
