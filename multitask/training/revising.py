"""A model made of trained ones, without training: with other thresholds, or the mean of several.

What comes out is a run like any other, with figures, report and model of its own.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from pydantic import ValidationError

from multitask.config import Config, config_error
from multitask.errors import ConfigError, RunError, TableError
from multitask.features.preparation import Prepared, prepare
from multitask.network import hardware
from multitask.network.model import Network, build_network, load_network
from multitask.network.weights import set_weights
from multitask.progress import Progress, Quiet
from multitask.runs import RUNS, Run, point_latest, start_run
from multitask.spec import LAYOUTS, TaskConfig
from multitask.storage import replacing
from multitask.training.balance import label_constants
from multitask.training.fitting import MADE_OF, leaving_no_stub, same_data_as_before
from multitask.training.results import write_results
from multitask.training.scoring import Held, calibrate, score_split

# What must be equal where trained sides shall stand on one frozen side.
_SHARED = ("image", "backbone", "backbone_options", "architecture", "weights", "freeze", "pooling")


def with_thresholds(
    run: Run,
    rule: str | float,
    tasks: Sequence[str] = (),
    name: str | None = None,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
) -> Run:
    """Make a run of the same network that decides by other thresholds.

    Args:
        run: a finished one.
        rule: how thresholds are chosen on the rows that did not train, see `evaluation.thresholds`; or the threshold.
        tasks: whose; by default all multilabel tasks.
        name: of the new run; by default the time.
        progress: where to report.
        root: folder of all runs.

    Raises:
        ConfigError: a task has no thresholds, or the rule is none.
        RunError: rows or images are not those of the run.
    """
    config = _with_rule(run.config, rule, tasks)

    def network(prepared: Prepared) -> Network:
        return load_network(run.folder / "model.keras", prepared.spec, prepared.precision)

    def held(prepared: Prepared) -> Held:
        return _kept_scores(run, prepared)

    return _revise([run], config, run.spec.members, network, held, name, progress, root)


def ensemble(
    runs: Sequence[Run],
    name: str | None = None,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
) -> Run:
    """Make a run whose scores are the mean of those of several, on one frozen side.

    Args:
        runs: finished ones of the same tasks, on the same rows and split; settings of training may differ.
        name: of the new run; by default the time.
        progress: where to report.
        root: folder of all runs.

    Raises:
        ConfigError: there are fewer than two runs.
        RunError: networks, tasks or splits differ.
    """
    if len(runs) < 2:
        raise ConfigError("too few runs", where="command line", expected="2 or more", received=str(len(runs)))
    _check_alike(runs)
    count = sum(run.spec.members for run in runs)

    def network(prepared: Prepared) -> Network:
        return _together(prepared, runs)

    def held(prepared: Prepared) -> Held:
        return calibrate(prepared, score_split(prepared, "validation"), progress)

    return _revise(runs, runs[0].config, count, network, held, name, progress, root)


def _revise(
    runs: Sequence[Run],
    config: Config,
    members: int,
    network: Callable[[Prepared], Network],
    held: Callable[[Prepared], Held],
    name: str | None,
    progress: Progress,
    root: Path,
) -> Run:
    """Build the network and write what a training leaves behind."""
    started = time.monotonic()
    folder = start_run(config, name, root)
    progress.say(f"run: {folder.directory}")
    folder.write_json(MADE_OF, {"runs": [str(run.folder.directory) for run in runs]})
    with leaving_no_stub(folder):
        prepared = prepare(config.last_stage(), progress, for_folds=_was_folded(runs[0]))
        with prepared.store, prepared.archive:
            _check_rows(runs[0], prepared)
            same_data_as_before(folder, prepared)
            spec = prepared.spec.model_copy(update={"members": members})
            prepared = dataclasses.replace(prepared, spec=spec)
            prepared = dataclasses.replace(prepared, network=network(prepared))
            history = pd.read_csv(runs[0].folder / "history.csv")
            with replacing(folder / "history.csv") as path:
                history.to_csv(path, index=False)
            constants = label_constants(prepared, config.fit.balance, Quiet())
            rows = history.to_dict("records")
            spec = write_results(prepared, config, constants, rows, folder, progress, started, held(prepared))
    point_latest(folder)
    return Run(folder, config, spec)


def _with_rule(config: Config, rule: str | float, names: Sequence[str]) -> Config:
    """Return the configuration with other thresholds."""
    able = [name for name, task in config.tasks.items() if "threshold" in LAYOUTS[task.kind].settings]
    wrong = [name for name in names if name not in able]
    if wrong or not able:
        raise ConfigError(
            "this task has no thresholds" if able else "no task has thresholds",
            where=wrong[0] if wrong else "tasks",
            expected=f"multilabel tasks, here: {', '.join(able) or 'none'}",
        )
    change = {"threshold": None, "threshold_by": rule} if isinstance(rule, str) else {"threshold": rule}
    changed = {}
    for name in names or able:
        try:
            changed[name] = TaskConfig.model_validate({**config.tasks[name].model_dump(), **change})
        except ValidationError as error:
            raise config_error(error, f"tasks.{name}") from None
    return config.model_copy(update={"tasks": {**config.tasks, **changed}})


def _was_folded(run: Run) -> bool:
    return "validation" not in set(pd.read_parquet(run.folder / "splits.parquet", columns=["split"])["split"])


def _check_rows(run: Run, prepared: Prepared) -> None:
    """Refuse rows, images or a split that are not those of the run: scores would be of other rows."""
    frame = pd.read_parquet(run.folder / "splits.parquet", columns=["id", "sha256", "split"])
    now = (prepared.table.ids, prepared.digests, prepared.parts)
    if any(list(frame[name]) != list(values) for name, values in zip(frame, now, strict=True)):
        raise TableError(
            "rows, images or splits are not those the run was trained on",
            where=run.config.data.labels,
            expected=f"those in {run.folder / 'splits.parquet'}",
            fix="Put the data back, or train anew.",
        )


def _kept_scores(run: Run, prepared: Prepared) -> Held:
    """Return the rows that did not train, with the scores that the run kept of them."""
    rows = prepared.rows("train" if _was_folded(run) else "validation")
    frame = pd.read_parquet(run.folder / "scores.parquet")
    frame = frame[frame["split"] == "validation"]
    scores = {task.name: frame[list(task.score_columns)].to_numpy(np.float32) for task in run.spec.tasks}
    return Held(rows, {}, scores)


def _check_alike(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot share a frozen side, a question or a split."""
    first = runs[0]
    split = pd.read_parquet(first.folder / "splits.parquet", columns=["id", "sha256", "split"])
    for run in runs:
        problem = ""
        if [(task.name, task.kind, task.classes) for task in run.spec.tasks] != [
            (task.name, task.kind, task.classes) for task in first.spec.tasks
        ]:
            problem = "has other tasks or classes"
        elif different := [name for name in _SHARED if getattr(run.spec, name) != getattr(first.spec, name)]:
            problem = f"has another {', '.join(different)}"
        elif _was_folded(run):
            problem = "is of folds, and has no rows left that none of its members trained on"
        elif not pd.read_parquet(run.folder / "splits.parquet", columns=list(split)).equals(split):
            problem = "was trained on other rows, or on another split"
        if problem:
            raise RunError(
                f"{run.folder.name} {problem}",
                where=str(run.folder.directory),
                expected=f"as in {first.folder.name}",
                fix="Put runs together that differ in fit, dropout or augment only.",
            )


def _together(prepared: Prepared, runs: Sequence[Run]) -> Network:
    """Return the trained sides of all runs on one frozen side."""
    with hardware.strategy().scope():
        network = build_network(prepared.spec, prepared.precision, initialise=False)
    set_weights(network.frozen, prepared.network.frozen.get_weights())
    trained = [
        member
        for run in runs
        for member in load_network(run.folder / "model.keras", run.spec, prepared.precision).members
    ]
    for target, member in zip(network.members, trained, strict=True):
        set_weights(target, member.get_weights())
    return network
