"""Cross-validation: every row is scored by a network that did not train on it, and the networks together are the model.

The rows of the test split test every fold; the others are divided into folds. Each fold in turn chooses the best epoch
of the network that the other folds train, and is scored by it, so that out-of-fold scores are a little too good, by
what the best of some epochs gains by luck.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.config import Config, load_config
from multitask.errors import ConfigError
from multitask.evaluation.plots import plot_folds
from multitask.features.preparation import Prepared
from multitask.integrations.trackers import open_trackers
from multitask.network import hardware
from multitask.network.heads import HEADS
from multitask.network.model import build_network
from multitask.network.weights import set_weights
from multitask.progress import Progress, Quiet
from multitask.runs import RUNS, Run, RunFolder, find_run, open_run, point_latest, start_run
from multitask.storage import replacing
from multitask.training import fitting
from multitask.training.balance import label_constants
from multitask.training.checkpoints import History
from multitask.training.fitting import Callbacks, Constants
from multitask.training.results import write_results
from multitask.training.scoring import Arrays, Held, calibrate, score_frame, score_split
from multitask.training.stages import Stage, of_fold, prepared_stages
from multitask.workers import Nobody, Workers

# Marks a run of folds, and says how many.
FOLDS = "folds.json"


@dataclasses.dataclass(frozen=True)
class Member:
    """What the training of one fold gave: its history, what its labels decided, and its network's rows and scores."""

    prepared: Prepared
    constants: Constants
    history: History
    held: Held


def fit_folds(
    config: Config,
    count: int,
    name: str | None = None,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    callbacks: Callbacks = (),
    workers: Workers = Nobody(),  # noqa: B008
) -> Run:
    """Train a network per fold and put them together to one model.

    Args:
        config: all settings; the share of validation rows is that of a fold.
        count: of folds, 2 at least.
        name: of the run; by default the time.
        progress: where to report.
        root: folder of all runs.
        callbacks: of Keras, called in every fold that is trained here; see `fitting.fit`.
        workers: who may prepare and train folds beforehand.

    Raises:
        ConfigError: there are fewer than 2 folds, or rows are divided by time.
    """
    _check(config, count)
    folder = start_run(config, name, root)
    folder.write_json(FOLDS, {"folds": count})
    progress.say(f"run: {folder.directory}")
    with fitting.leaving_no_stub(folder):
        return _fit_folds(config, count, folder, progress, callbacks, workers)


def _check(config: Config, count: int) -> None:
    """Refuse so many folds, or any of rows that are divided by time."""
    if count < 2:
        raise ConfigError("too few folds", where="--folds", expected="2 or more", received=str(count))
    if config.data.time_column:
        raise ConfigError(
            "folds take rows from any time to judge any other",
            where="data.time_column",
            fix="Leave time_column out, or train without --folds.",
        )


def fold_numbers(prepared: Prepared, config: Config, count: int) -> NDArray[np.int64]:
    """Return the fold of each row that was prepared for folds, from 0; -1 of those that test."""
    rows, found = prepared.rows("train"), np.full(len(prepared.table), -1)
    found[rows] = splits.folds(
        prepared.labels(rows),
        prepared.spec.tasks,
        prepared.groups[rows],
        prepared.digests[rows],
        count,
        config.data.split_seed,
    )
    return found


def resume(
    name: str,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    more_epochs: int | None = None,
    callbacks: Callbacks = (),
    workers: Workers = Nobody(),  # noqa: B008
) -> Run:
    """Go on with an interrupted run, of folds or not; the result is that of a run that was never interrupted.

    With `more_epochs` also a finished one goes on, see `fitting.give_more_epochs`.
    """
    folder = find_run(name, root)
    if more_epochs is not None:
        fitting.give_more_epochs(folder, more_epochs)
    if not (folder / FOLDS).is_file():
        return fitting.resume(name, progress, root, callbacks, workers)
    if (folder / "metrics.json").is_file():
        progress.say(f"run: {folder.directory} is finished already")
        return open_run(str(folder.directory), root)
    progress.say(f"run: going on with {folder.directory}")
    count = folder.read_json(FOLDS)["folds"]
    return _fit_folds(load_config(folder.config_file), count, folder, progress, callbacks, workers)


def summary(run: Run) -> pd.DataFrame:
    """Return figure, mean, deviation, least and most over the folds, each in its best epoch."""
    history = pd.read_parquet(run.folder / "folds.parquet")
    best = history.loc[history.groupby("fold")["val_score"].idxmax()]
    figures = [name for name in best if name.startswith("val_") and not name.endswith("loss")]
    columns = {"mean": best[figures].mean(), "deviation": best[figures].std(), "least": best[figures].min()}
    frame = pd.DataFrame({**columns, "most": best[figures].max()})
    return frame.rename_axis("figure").reset_index()


def _fit_folds(
    config: Config, count: int, folder: RunFolder, progress: Progress, callbacks: Callbacks, workers: Workers
) -> Run:
    started = time.monotonic()
    trackers = open_trackers(config.fit.trackers, config, folder, progress)
    with prepared_stages(config, progress, workers, for_folds=True) as stages:
        prepared = stages[0].prepared
        fitting.same_data_as_before(folder, prepared)
        numbers = fold_numbers(prepared, config, count)
        workers.share(partial(_fill_folds, config, count, folder), range(count), "training folds", 1)
        members = []
        for number in range(count):
            parts = np.where(numbers == number, "validation", prepared.parts)
            progress.say(f"fold {number + 1} of {count}")
            members.append(_fit_fold(stages, parts, number, folder, progress, callbacks))
        whole, constants = _together(stages[-1].prepared, members, config)
        held = calibrate(whole, _out_of_fold(members), progress)
        history = pd.concat([pd.DataFrame(member.history).assign(fold=at) for at, member in enumerate(members, 1)])
        with replacing(folder / "folds.parquet") as path:
            history.to_parquet(path, index=False)
        with replacing(folder / "out_of_fold.parquet") as path:
            score_frame(whole, whole.spec, held, {"fold": numbers[held.rows] + 1}).to_parquet(path, index=False)
        mean = _mean(history)
        for row in mean:
            trackers.epoch(row)
        spec = write_results(
            whole,
            config,
            constants,
            mean,
            folder,
            progress,
            started,
            held,
            {"folds": plot_folds(history)},
        )
    point_latest(folder)
    run = Run(folder, config, spec)
    trackers.finish(run)
    return run


def _fill_folds(config: Config, count: int, folder: RunFolder, numbers: list[int]) -> None:
    """Train folds in another process than that which puts them together."""
    with prepared_stages(config, Quiet(), Nobody(), for_folds=True) as stages:
        of_row = fold_numbers(stages[0].prepared, config, count)
        for number in numbers:
            parts = np.where(of_row == number, "validation", stages[0].prepared.parts)
            _fit_fold(stages, parts, number, folder, Quiet(), ())


def _fit_fold(
    stages: Sequence[Stage],
    parts: NDArray[np.object_],
    number: int,
    folder: RunFolder,
    progress: Progress,
    callbacks: Callbacks,
) -> Member:
    """Train the network of one fold, go on with it, or read what it was."""
    config = stages[0].config
    part = folder.part(f"fold-{number + 1}")
    with replacing(part.config_file) as path:
        config.save(path)
    own = of_fold(stages, parts)
    constants = label_constants(own[0].prepared, config.fit.balance, Quiet())
    # A fold that is finished plans no further epoch, so this only reads its best one.
    prepared, history = fitting.train_stages(own, constants, part, progress, callbacks=callbacks)
    return Member(prepared, constants, history, score_split(prepared, "validation"))


def _together(prepared: Prepared, members: Sequence[Member], config: Config) -> tuple[Prepared, Constants]:
    """Return what was prepared with the ensemble of the members as its network."""
    constants = label_constants(prepared, config.fit.balance, Quiet())
    spec = prepared.spec.model_copy(update={"members": len(members)})
    with hardware.strategy().scope():
        network = build_network(spec, prepared.precision, initialise=False)
    set_weights(network.frozen, prepared.network.frozen.get_weights())
    for target, member in zip(network.members, members, strict=True):
        set_weights(target, member.prepared.network.trainable.get_weights())
        for task in spec.tasks:
            layer = target.get_layer(f"{task.name}_logits")
            own, common = member.constants[task.name], constants[task.name]
            layer.set_weights(HEADS[task.kind].rebased(layer.get_weights(), own, common))
    return dataclasses.replace(prepared, spec=spec, network=network), constants


def _out_of_fold(members: Sequence[Member]) -> Held:
    """Return every row that does not test with what the network gives that did not train on it."""
    rows = np.concatenate([member.held.rows for member in members])
    order = np.argsort(rows)

    def together(parts: Sequence[Arrays]) -> Arrays:
        return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}

    held = [member.held for member in members]
    return Held(rows[order], together([part.logits for part in held]), together([part.scores for part in held]))


def _mean(history: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the mean over the folds of every epoch, as a history."""
    frame = history.drop(columns="fold").groupby("epoch").mean().reset_index()
    return frame.to_dict("records")
