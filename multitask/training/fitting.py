"""Train: fit the trainable side on stored features, keep best and last state, go on exactly after a kill."""

from __future__ import annotations

import contextlib
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.config import Config, load_config
from multitask.errors import ArchiveError, ConfigError, RunError, TableError
from multitask.features.dataset import distributed, training_batches
from multitask.features.preparation import Prepared, prepare
from multitask.features.standardisation import standardise
from multitask.integrations.trackers import open_trackers
from multitask.network import hardware
from multitask.network.heads import HEADS
from multitask.network.losses import TaskFigure
from multitask.progress import Progress, Quiet
from multitask.runs import RUNS, Run, RunFolder, find_run, open_run, point_latest, start_run
from multitask.settings import FitConfig
from multitask.spec import ModelSpec
from multitask.storage import replacing
from multitask.training.checkpoints import History, load_checkpoint
from multitask.training.epochs import EpochKeeper, task_losses
from multitask.training.results import write_results
from multitask.training.scoring import calibrate, score_split

# Longest gradient of SGD, whose steps are as long as gradients are, unlike Adam's: the first would throw a network
# off. https://arxiv.org/abs/1211.5063
_CLIP = 1.0
# Of AdamW, where none is named.
_ADAMW_DECAY = 1e-4

# Marks a run that is made of trained ones, and names them.
MADE_OF = "made_of.json"


def fit(config: Config, name: str | None = None, progress: Progress = Quiet(), root: Path = RUNS) -> Run:  # noqa: B008
    """Train a new run.

    Args:
        config: all settings.
        name: of the run; by default the time.
        progress: where to report.
        root: folder of all runs.
    """
    folder = start_run(config, name, root)
    progress.say(f"run: {folder.directory}")
    with leaving_no_stub(folder):
        return _fit(config, folder, progress)


@contextlib.contextmanager
def leaving_no_stub(folder: RunFolder) -> Iterator[None]:
    """Delete a new run that fails before its first epoch; what is wrong then lies outside it."""
    try:
        yield
    except (ConfigError, TableError, ArchiveError):
        if not any(folder.directory.rglob(folder.last_checkpoint.name)):
            shutil.rmtree(folder.directory)
        raise


def resume(name: str, progress: Progress = Quiet(), root: Path = RUNS) -> Run:  # noqa: B008
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
    return _fit(load_config(folder.config_file), folder, progress)


def give_more_epochs(folder: RunFolder, count: int) -> None:
    """Let a run, finished or not, train for so many epochs more when it is resumed.

    Patience grows with all epochs; a run that stopped early goes on while that lasts. Until there are new results it
    counts as not finished.

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
    longer = config.fit.model_copy(update={"epochs": config.fit.epochs + count})
    with replacing(folder.config_file) as path:
        config.model_copy(update={"fit": longer}).save(path)


def _fit(config: Config, folder: RunFolder, progress: Progress) -> Run:
    started = time.monotonic()
    trackers = open_trackers(config.fit.trackers, config, folder, progress)
    keras.utils.set_random_seed(config.fit.seed)
    prepared = prepare(config, progress)
    with prepared.store, prepared.archive:
        same_data_as_before(folder, prepared)
        constants = label_constants(prepared, config.fit.balance, progress)
        history = train(prepared, config, constants, folder, progress, trackers.epoch)
        held = calibrate(prepared, score_split(prepared, "validation"), progress)
        spec = write_results(prepared, config, constants, history, folder, progress, started, held)
    point_latest(folder)
    run = Run(folder, config, spec)
    trackers.finish(run)
    return run


def train(
    prepared: Prepared,
    config: Config,
    constants: Mapping[str, NDArray[np.float32]],
    folder: RunFolder,
    progress: Progress,
    follow: Callable[[Mapping[str, float]], None] = lambda row: None,
) -> History:
    """Fit the trainable side and leave it with the weights of the best epoch; return one dict per epoch.

    1. rows of the training split, sampled down if so configured; 2. standardisation from them; 3. the last checkpoint
    replaces all of that if there is one; 4. epochs, each a function of the state before it, the seed and its number.
    """
    model, fit = prepared.network.trainable, config.fit
    rows = prepared.rows("train")
    if fit.balance == "downsample":
        rows = downsample(prepared.spec, prepared.labels(rows), rows, fit.seed)
    strategy = hardware.strategy()
    with strategy.scope():
        standardise(model, prepared, rows, fit.seed)
        for task in prepared.spec.tasks:
            HEADS[task.kind].settle(task, prepared.network.whole.get_layer(task.name), constants[task.name])
        losses = task_losses(prepared, rows, constants)
        model.compile(
            optimizer=make_optimizer(prepared.precision, fit),
            loss=losses,
            loss_weights={task.name: task.loss_weight for task in prepared.spec.tasks},
            metrics={task.name: [TaskFigure(task.kind, constants[task.name])] for task in prepared.spec.tasks},
        )
        history: History = []
        if folder.last_checkpoint.is_file():
            history = load_checkpoint(folder.last_checkpoint, model, model.optimizer)
            progress.say(f"going on after epoch {len(history)}")
    progress.say(f"training: {len(rows):,} rows, validation: {len(prepared.rows('validation')):,} rows")
    keeper = EpochKeeper(prepared, config, losses, constants, history, folder, progress)
    if not keeper.plan().stop and len(history) < fit.epochs:
        shape, dtype, parts = tuple(model.input.shape[1:]), model.input.dtype, strategy.num_replicas_in_sync
        batches = training_batches(
            prepared.gather_views(rows),
            shape,
            dtype,
            prepared.labels(rows),
            fit.batch_size,
            fit.seed,
            len(history),
            parts,
            operations=prepared.operations if prepared.views == 1 else (),
            views=prepared.views,
        )
        model.fit(
            distributed(batches, strategy),
            steps_per_epoch=math.ceil(len(rows) / fit.batch_size),
            initial_epoch=len(history),
            epochs=fit.epochs,
            shuffle=False,  # the batches are shuffled already
            verbose=0,
            callbacks=[keeper, keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: follow(history[epoch]))],
        )
    load_checkpoint(folder.best_checkpoint, model, None)
    return history


def downsample(
    spec: ModelSpec, labels: Mapping[str, NDArray[np.float32]], rows: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Keep as many rows of each class of the first task with classes as its rarest has; all unlabelled rows stay."""
    task = next((task for task in spec.tasks if task.has_class_numbers), None)
    if task is None:
        return rows
    classes = np.nan_to_num(labels[task.name], nan=-1).astype(int)
    counts = np.bincount(classes[classes >= 0])
    keep = counts[counts > 0].min()
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    rank = pd.Series(classes[shuffled]).groupby(classes[shuffled]).cumcount().to_numpy()
    return rows[np.sort(shuffled[(rank < keep) | (classes[shuffled] < 0)])]


def make_optimizer(precision: str, fit: FitConfig) -> Any:
    """Return the optimizer; in float16, whose least number is 6e-8, with a loss scaled so that gradients do not vanish.

    https://arxiv.org/abs/1710.03740, section 3.2. Weight decay is decoupled, https://arxiv.org/abs/1711.05101, and
    leaves biases and normalisation alone.
    """
    decay = fit.weight_decay if fit.weight_decay is not None else _ADAMW_DECAY * (fit.optimizer == "adamw")
    settings: dict[str, Any] = {"learning_rate": fit.learning_rate, "weight_decay": decay or None}
    if fit.optimizer == "sgd":
        nesterov = fit.momentum > 0
        optimizer = keras.optimizers.SGD(**settings, momentum=fit.momentum, nesterov=nesterov, global_clipnorm=_CLIP)
    else:
        optimizer = keras.optimizers.Adam(**settings)
    if decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return keras.optimizers.LossScaleOptimizer(optimizer) if precision == "float16" else optimizer


def same_data_as_before(folder: RunFolder, prepared: Prepared) -> None:
    """Note the data of a new run; refuse to go on with a run on other data."""
    now = {"data": prepared.data_hash(), "features": prepared.store.directory.name}
    if not (folder / "data.json").is_file():
        folder.write_json("data.json", now)
    elif folder.read_json("data.json") != now:
        raise RunError(
            "labels, images, backbone weights or precision are not those this run began with",
            where=str(folder.directory),
            fix="Start a new run.",
        )


def label_constants(prepared: Prepared, balance: str, progress: Progress) -> dict[str, NDArray[np.float32]]:
    """Return what the losses need of the training labels, per task."""
    labels = prepared.labels(prepared.rows("train"))
    found = {}
    for task in prepared.spec.tasks:
        head = HEADS[task.kind]
        found[task.name] = head.constants(task, labels[task.name], balance)
        line = head.describe(task, found[task.name])
        if line:
            progress.say(line)
    return found
