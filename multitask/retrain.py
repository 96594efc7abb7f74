"""Train anew with new labels, publish if it is no worse: `python -m multitask.retrain NEW.parquet [--images A ...]`.

New labels are merged into those of the published run by id, old rows stay in their split, the recipe is the same. The
gate asks that the new model is not worse than the published one on all test rows, on the old, and on the new ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import tyro

from multitask import cli
from multitask.config import Config
from multitask.errors import RunError, command
from multitask.progress import Lines
from multitask.runs import RUNS, Run, open_run
from multitask.serving.model_folder import MODELS, NAME, ModelFolder
from multitask.settings import in_table

# Column of merged tables in which rows of the base keep their split, and new rows have none yet.
SPLIT = "split_of_base"


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    new: tyro.conf.Positional[str]
    """Table of new labels: parquet, CSV or Arrow; columns as in the old one, and not all of them."""
    images: tuple[str, ...] = ()
    """Where the images of new rows lie, beside those of the old."""
    run: str | None = None
    """Run whose recipe and rows are taken; by default that of the published version."""
    name: str | None = None
    """Name of the new run; by default the time."""
    replace_tasks: bool = False
    """Let new classes among the labels change what is published."""
    models: Path = MODELS
    """Folder of models that servers watch."""
    model: str = NAME
    """Name of the model."""
    on: cli.On = None


def main(argv: Sequence[str] | None = None) -> int:
    """Merge, train, send through the gate; print what changed, the gate, and the next commands."""
    arguments = cli.parse(Arguments, "multitask.retrain", __doc__, argv)
    folder, progress = ModelFolder(arguments.models / arguments.model), Lines()
    base = open_run(arguments.run or _published(folder))
    name = arguments.name or f"retrained-{datetime.now():%Y-%m-%d-%H%M%S}"
    config = _merged(base, arguments, name, progress)
    cli.load_tensorflow()
    from multitask.publishing.gate import publish_run
    from multitask.training import fitting, folds

    with cli.workers(arguments.on, progress) as workers:
        if (base.folder / folds.FOLDS).is_file():
            count = base.folder.read_json(folds.FOLDS)["folds"]
            run = folds.fit_folds(config, count, name, progress, workers=workers)
        else:
            run = fitting.fit(config, name, progress, workers=workers)
    print(f"report: {run.folder / 'report.html'}")
    periods = _test_rows(base, run)
    version, checks = publish_run(run, folder, None, progress, replace_tasks=arguments.replace_tasks, periods=periods)
    if "mlflow" in config.fit.trackers:
        from multitask.integrations import mlflow

        mlflow.promote(run)
    cli.print_table("Gate", ["check", "required", "found", ""], [check.row() for check in checks])
    print(f"published: {folder.path(version)}")
    cli.print_next(
        command("compare", run.folder.name, base.folder.name),
        command("publish", "--rollback", "--models", arguments.models, "--name", arguments.model),
    )
    return 0


def _published(folder: ModelFolder) -> str:
    """Return the run of the newest version.

    Raises:
        RunError: nothing is published, or not from a run.
    """
    newest = max(folder.versions(), default=None)
    events = [event for event in folder.ledger() if event["event"] == "publish" and event.get("version") == newest]
    if not events or "run" not in events[-1]:
        raise RunError(
            "there is no published run to go on from", where=str(folder.directory), fix="Name one: --run RUN."
        )
    return str(events[-1]["run"])


def _merged(base: Run, arguments: Arguments, name: str, progress: Lines) -> Config:
    """Write the merged table; return the recipe of the base on it."""
    from multitask.data.frames import read_frame
    from multitask.data.tables import merge_labels
    from multitask.storage import replacing

    data = base.config.data
    old = read_frame(data.labels, data.query)
    place = RUNS.parent / "tables" / f"{name}.parquet"
    if data.id_column not in old:
        raise RunError(
            "rows without an id of their own cannot be told from new ones",
            where=data.labels,
            expected=f"a column {data.id_column}",
        )
    old = old.assign(**{SPLIT: _kept_split(base, old[data.id_column].astype(str))})
    new = read_frame(arguments.new).drop(columns=SPLIT, errors="ignore")
    merged, counts = merge_labels(old, new, data.id_column, base.config.label_columns())
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    progress.say(f"labels: {len(merged):,} rows; of the new ids {told}")
    with replacing(place) as path:
        merged.to_parquet(path, index=False)
    # What is named twice would hold every image twice.
    images = tuple(dict.fromkeys((*data.archives, *in_table(arguments.images, arguments.new))))
    changed = {"labels": str(place), "query": "", "images": images, "split_column": SPLIT, "time_column": ""}
    return base.config.model_copy(update={"data": data.model_copy(update=changed)})


def _kept_split(base: Run, ids: Sequence[str]) -> list[str | None]:
    """Return the part of every old row; rows that the base could not use train, if they can be used now."""
    import pandas as pd

    parts = pd.read_parquet(base.folder / "splits.parquet", columns=["id", "split"])
    known = dict(zip(parts["id"], parts["split"], strict=True))
    return [known.get(row, "train") for row in ids]


def _test_rows(base: Run, run: Run) -> dict[str, set[str]]:
    """Return the ids of old and new test rows."""
    import pandas as pd

    old, now = (pd.read_parquet(found.folder / "splits.parquet", columns=["id", "split"]) for found in (base, run))
    tested = set(now.loc[now["split"] == "test", "id"])
    return {"old rows": tested & set(old["id"]), "new rows": tested - set(old["id"])}


if __name__ == "__main__":
    cli.run_door(main)
