"""Train: fit the trainable side on stored features, keep best and last state, go on exactly after a kill."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.config import Config, load_config
from multitask.errors import ArchiveError, ConfigError, RunError, TableError
from multitask.features.dataset import distributed, training_batches
from multitask.features.preparation import Prepared
from multitask.features.standardisation import standardise
from multitask.integrations.trackers import open_trackers
from multitask.network import hardware
from multitask.network.heads import HEADS
from multitask.network.losses import TaskFigure, TaskLoss
from multitask.network.weights import copy_weights
from multitask.progress import Progress, Quiet
from multitask.runs import RUNS, Run, RunFolder, find_run, open_run, point_latest, start_run
from multitask.settings import FitConfig
from multitask.storage import replacing
from multitask.training.balance import label_constants, training_rows
from multitask.training.checkpoints import History, load_checkpoint
from multitask.training.epochs import EpochKeeper, task_losses
from multitask.training.optimizer import make_optimizer
from multitask.training.results import write_results
from multitask.training.scoring import calibrate, score_split
from multitask.training.stages import Stage, best_score, prepared_stages
from multitask.workers import Nobody, Workers

# Marks a run that is made of trained ones, and names them.
MADE_OF = "made_of.json"

Constants = Mapping[str, NDArray[np.float32]]
Callbacks = Sequence[keras.callbacks.Callback]


def fit(
    config: Config,
    name: str | None = None,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    callbacks: Callbacks = (),
    workers: Workers = Nobody(),  # noqa: B008
) -> Run:
    """Train a new run.

    Args:
        config: all settings.
        name: of the run; by default the time.
        progress: where to report.
        root: folder of all runs.
        callbacks: of Keras, called after ours: the logs of an epoch hold the row of history.csv, `val_score` in it.
            `model` is the trainable side; who sets `stop_training` ends the stage.
        workers: who may look at images and compute features beforehand.
    """
    folder = start_run(config, name, root)
    progress.say(f"run: {folder.directory}")
    with leaving_no_stub(folder):
        return _fit(config, folder, progress, callbacks, workers)


@contextlib.contextmanager
def leaving_no_stub(folder: RunFolder) -> Iterator[None]:
    """Delete a new run that fails before its first epoch; what is wrong then lies outside it."""
    try:
        yield
    except (ConfigError, TableError, ArchiveError):
        if not any(folder.directory.rglob(folder.last_checkpoint.name)):
            shutil.rmtree(folder.directory)
        raise


def resume(
    name: str,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    callbacks: Callbacks = (),
    workers: Workers = Nobody(),  # noqa: B008
) -> Run:
    """Go on with an interrupted run; the result is that of a run that was never interrupted."""
    folder = find_run(name, root)
    if (folder / "metrics.json").is_file():
        progress.say(f"run: {folder.directory} is finished already")
        return open_run(str(folder.directory), root)
    if (folder / MADE_OF).is_file():
        raise RunError(
            "this run was being made of others",
            where=str(folder.directory),
            fix="Delete it and make it again; that takes no training.",
        )
    progress.say(f"run: going on with {folder.directory}")
    return _fit(load_config(folder.config_file), folder, progress, callbacks, workers)


def give_more_epochs(folder: RunFolder, count: int) -> None:
    """Let a run, finished or not, train for so many epochs more when it is resumed.

    They go to its last stage. Patience grows with all epochs; a run that stopped early goes on while that lasts. Until
    there are new results it counts as not finished.

    Raises:
        ConfigError: the count is none, or the schedule has an end.
        RunError: the run has no training of its own.
    """
    config = load_config(folder.config_file)
    if count < 1:
        raise ConfigError("expected at least 1", where="--more-epochs", received=str(count))
    if config.fit.schedule == "cosine":
        raise ConfigError("a cosine has ended with its last epoch", where="fit.schedule", fix="Start a new run.")
    if (folder / MADE_OF).is_file():
        raise RunError("this run is made of others and was not trained", where=str(folder.directory))
    (folder / "metrics.json").unlink(missing_ok=True)
    section = "fine_tune" if config.fine_tune.freeze else "fit"
    stage = getattr(config, section)
    longer = stage.model_copy(update={"epochs": stage.epochs + count})
    with replacing(folder.config_file) as path:
        config.model_copy(update={section: longer}).save(path)


def _fit(config: Config, folder: RunFolder, progress: Progress, callbacks: Callbacks, workers: Workers) -> Run:
    started = time.monotonic()
    trackers = open_trackers(config.fit.trackers, config, folder, progress)
    keras.utils.set_random_seed(config.fit.seed)
    with prepared_stages(config, progress, workers) as stages:
        same_data_as_before(folder, stages[0].prepared)
        constants = label_constants(stages[0].prepared, config.fit.balance, progress)
        prepared, history = train_stages(stages, constants, folder, progress, trackers.epoch, callbacks)
        held = calibrate(prepared, score_split(prepared, "validation"), progress)
        spec = write_results(prepared, config, constants, history, folder, progress, started, held)
    point_latest(folder)
    run = Run(folder, config, spec)
    trackers.finish(run)
    return run


def train_stages(
    stages: Sequence[Stage],
    constants: Constants,
    folder: RunFolder,
    progress: Progress,
    follow: Callable[[Mapping[str, float]], None] = lambda row: None,
    callbacks: Callbacks = (),
) -> tuple[Prepared, History]:
    """Train stage after stage, each from where the one before ended; return the last, and the epochs of all.

    A stage that does not get better than the one before leaves its network as that was.
    """
    history = train(stages[0], constants, folder, progress, follow, callbacks)
    for number, stage in enumerate(stages[1:], start=2):
        before, part = stages[number - 2].prepared.network.whole, folder.part(f"stage-{number}")
        progress.say(f"stage {number}: frozen is {stage.prepared.spec.freeze}, the rest goes on to learn")

        def follow_on(row: Mapping[str, float], earlier: History = history, number: int = number) -> None:
            follow(_joined(earlier, [dict(row)], number)[-1])

        found = train(stage, constants, part, progress, follow_on, callbacks, before)
        if best_score(found) <= best_score(history):
            progress.say(f"stage {number} got no better: its network stays that of the stage before")
            copy_weights(before, stage.prepared.network.whole, "the stage before")
        history = _joined(history, found, number)
        with replacing(folder / "history.csv") as path:
            pd.DataFrame(history).to_csv(path, index=False)
    return stages[-1].prepared, history


def _joined(history: History, found: History, stage: int) -> History:
    """Return the epochs of a stage after those before it, counted on."""
    count = len(history)
    return [
        *({"stage": 1, **row} for row in history),
        *({**row, "stage": stage, "epoch": count + row["epoch"]} for row in found),
    ]


def train(
    stage: Stage,
    constants: Constants,
    folder: RunFolder,
    progress: Progress,
    follow: Callable[[Mapping[str, float]], None] = lambda row: None,
    callbacks: Callbacks = (),
    before: Any = None,
) -> History:
    """Fit the trainable side and leave it with the weights of the best epoch; return one dict per epoch.

    1. rows of the training split, sampled down if so configured; 2. standardisation from them, or all weights of the
    network `before`; 3. the last checkpoint replaces all of that if there is one; 4. epochs, each a function of the
    state before it, the seed and its number.
    """
    prepared, config = stage.prepared, stage.config
    model, fit = prepared.model, config.fit
    rows = training_rows(prepared, fit)
    history: History = []
    with hardware.strategy().scope():
        losses = _compiled(prepared, fit, constants, rows, before)
        if folder.last_checkpoint.is_file():
            history = load_checkpoint(folder.last_checkpoint, prepared.network.trainable, model.optimizer)
            progress.say(f"going on after epoch {len(history)}")
    progress.say(f"training: {len(rows):,} rows, validation: {len(prepared.rows('validation')):,} rows")
    keeper = EpochKeeper(prepared, config, losses, constants, history, folder, progress)
    if not keeper.plan().stop and len(history) < fit.epochs:
        model.fit(
            _batches(prepared, fit, rows, len(history)),
            steps_per_epoch=math.ceil(len(rows) / fit.batch_size),
            initial_epoch=len(history),
            epochs=fit.epochs,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
            callbacks=[
                keeper,
                keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: follow(history[epoch])),
                *callbacks,
            ],
        )
    load_checkpoint(folder.best_checkpoint, prepared.network.trainable, None)
    return history


def _compiled(
    prepared: Prepared, fit: FitConfig, constants: Constants, rows: NDArray[np.int64], before: Any
) -> dict[str, TaskLoss]:
    """Give the trainable side the weights it begins with, optimizer and losses; return the losses."""
    network, tasks = prepared.network, prepared.spec.tasks
    if before is None:
        standardise(prepared, rows, fit.seed)
    else:
        copy_weights(before, network.whole, "the stage before")
    for task in tasks:
        HEADS[task.kind].settle(task, network.whole.get_layer(task.name), constants[task.name])
    losses = task_losses(prepared, rows, constants)
    prepared.model.compile(
        optimizer=make_optimizer(prepared.precision, fit),
        loss=losses,
        loss_weights={task.name: task.loss_weight for task in tasks},
        metrics={task.name: [TaskFigure(task.kind, constants[task.name])] for task in tasks},
    )
    return losses


def _batches(prepared: Prepared, fit: FitConfig, rows: NDArray[np.int64], first_epoch: int) -> Any:
    """Return the endless batches of a training, for all devices."""
    strategy, model = hardware.strategy(), prepared.model
    batches = training_batches(
        prepared.gather_views(rows),
        tuple(model.input.shape[1:]),
        model.input.dtype,
        prepared.labels(rows),
        fit.batch_size,
        fit.seed,
        first_epoch,
        strategy.num_replicas_in_sync,
        operations=prepared.operations if prepared.views == 1 else (),
        views=prepared.views,
        places=prepared.places(rows),
    )
    return distributed(batches, strategy)


def same_data_as_before(folder: RunFolder, prepared: Prepared) -> None:
    """Note the data of a new run; refuse to go on with a run on other data."""
    now = {"data": prepared.data_hash(), "features": prepared.store.name}
    if not (folder / "data.json").is_file():
        folder.write_json("data.json", now)
    elif folder.read_json("data.json") != now:
        raise RunError(
            "labels, images, backbone weights or precision are not those this run began with",
            where=str(folder.directory),
            fix="Start a new run.",
        )
