"""All runs in one table, best first, with what differs in their settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from multitask.errors import ConfigError, RunError, command, nearest
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.tasks import Evaluation
from multitask.runs import Run, RunFolder, open_run

# What a table says of a run beside its figures.
FACTS = ("finished", "epochs", "seconds", "rows", "size_mb")


@dataclass(frozen=True)
class Standings:
    """Runs, best first.

    Args:
        runs: finished ones.
        figures: a row per run, in that order: run, val_score, one column per figure of a whole task on the test split
            (with `.low` and `.high`, its 95% interval), and `FACTS`.
        settings: a row per run: run, and those settings that are not the same in all of them.
        mains: the main figures of all tasks, as columns of `figures`.
        by: the figure that decides.
        unfinished: names of runs that have no figures yet.
    """

    runs: tuple[Run, ...]
    figures: pd.DataFrame
    settings: pd.DataFrame
    mains: tuple[str, ...]
    by: str
    unfinished: tuple[str, ...]


def standings(folders: Iterable[RunFolder], by: str = "val_score") -> Standings:
    """Put runs in order.

    Args:
        folders: of the runs.
        by: `val_score`, the score of the rows that chose epoch and thresholds, or a figure on the test split such as
            `category.accuracy`. Who chooses by the test split has no untouched figure left.

    Raises:
        RunError: no run is finished.
        ConfigError: no run has this figure.
    """
    folders = list(folders)
    finished = [folder for folder in folders if (folder / "metrics.json").is_file()]
    unfinished = [folder for folder in folders if folder not in finished]
    if not finished:
        received = f"unfinished: {', '.join(folder.name for folder in unfinished)}" if unfinished else "none"
        raise RunError("no run is finished", received=received, fix=f"Train one: {command('train')}")
    runs = [open_run(str(folder.directory)) for folder in finished]
    evaluations = [Evaluation.from_dict(run.folder.read_json("metrics.json")) for run in runs]
    frame = pd.DataFrame([_row(run, found) for run, found in zip(runs, evaluations, strict=True)])
    known = [name for name in frame if not name.endswith((".low", ".high")) and name not in ("run", "finished")]
    if by not in known:
        raise ConfigError(f'no figure "{by}"', where="--by", fix=nearest(by, known))
    is_error = any(_is_error(found, by) for found in evaluations)
    order = frame[by].sort_values(ascending=is_error, na_position="last", kind="stable").index
    mains = {f"{task.name}.{EVALUATORS[task.kind].main}": None for run in runs for task in run.spec.tasks}
    return Standings(
        tuple(runs[at] for at in order),
        frame.loc[order].reset_index(drop=True),
        _differing([runs[at] for at in order]),
        tuple(mains),
        by,
        tuple(folder.name for folder in unfinished),
    )


def _row(run: Run, found: Evaluation) -> dict[str, Any]:
    manifest = run.folder.read_json("manifest.json")
    row: dict[str, Any] = {"run": run.folder.name, "val_score": manifest["best_val_score"]}
    for task, metrics in found.metrics.items():
        for name, metric in metrics.items():
            if not metric.answer:
                row |= {f"{task}.{name}": metric.value, f"{task}.{name}.low": metric.low}
                row[f"{task}.{name}.high"] = metric.high
    written = (run.folder / "metrics.json").stat().st_mtime
    size = (run.folder / "model.keras").stat().st_size / 1e6
    facts = (datetime.fromtimestamp(written), *(manifest[name] for name in FACTS[1:4]), size)
    return {**row, **dict(zip(FACTS, facts, strict=True))}


def _is_error(found: Evaluation, by: str) -> bool:
    task, _, name = by.partition(".")
    metric = found.metrics.get(task, {}).get(name)
    return by in FACTS or (metric is not None and not metric.higher_is_better)


def _differing(runs: Sequence[Run]) -> pd.DataFrame:
    """Return the settings of trainings that differ, as they are written on a command line."""
    all_settings = [dict(_flat(run.config.public())) for run in runs]
    names = list({name: None for settings in all_settings for name in settings})
    names = [name for name in names if not name.startswith(("search.", "gate."))]
    differing = [name for name in names if len({repr(settings.get(name)) for settings in all_settings}) > 1]
    rows = [{name: _told(settings.get(name)) for name in differing} for settings in all_settings]
    return pd.DataFrame(rows, columns=differing).assign(run=[run.folder.name for run in runs])[["run", *differing]]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _told(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, list):
        return ", ".join(_told(part) for part in value)
    if isinstance(value, Mapping):
        return " ".join(_told(part) for part in value.values())
    return f"{value:g}" if isinstance(value, float) else str(value)
