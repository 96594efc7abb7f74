"""Trainings of one network one after the other: compiled once, begun anew from the same weights for every trial.

A trial differs from a training of `training.fitting` in what it leaves behind, and in how it gets there: learning rate,
dropout and the tasks' weights are variables of the compiled epoch, so that no trial waits for TensorFlow to trace and
optimise it. What it computes is the same: order of the rows, initial weights, seeds and schedule are a training's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from multitask.config import Config
from multitask.features.dataset import inference_batches, training_batches
from multitask.features.preparation import Prepared, prepare
from multitask.features.standardisation import standardise
from multitask.network.heads import HEADS
from multitask.network.weights import set_weights
from multitask.progress import Progress, Quiet
from multitask.settings import FitConfig
from multitask.spec import ModelSpec
from multitask.training.balance import label_constants, training_rows
from multitask.training.checkpoints import History
from multitask.training.epochs import balanced, seed_dropout, task_losses, validation_figures
from multitask.training.folds import fold_numbers
from multitask.training.optimizer import make_optimizer
from multitask.training.schedule import plan_next_epoch
from multitask.training.scoring import SCORING_BATCH
from multitask.training.stages import Stage, of_fold

# Called with the number of an epoch, from 0, and its figures; False ends the trial.
OnEpoch = Callable[[int, dict[str, float]], bool]

# Settings of [fit] that the network, its features or its compiled epoch depend on.
_COMPILED = {"seed", "precision", "balance", "views", "optimizer", "momentum", "weight_decay"}


class Trainers:
    """The trainers of a search, one for every network in it; a context manager."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._trainers: dict[str, list[Trainer]] = {}

    def __enter__(self) -> Trainers:
        return self

    def __exit__(self, *_: object) -> None:
        for trainers in self._trainers.values():
            trainers[0].prepared.store.close()
            trainers[0].prepared.archive.close()

    def trainer(self, config: Config) -> Trainer:
        """Return the trainer for a configuration; made at the first call, which computes what features are missing."""
        return self.of_folds(config, 0)[0]

    def of_folds(self, config: Config, count: int) -> list[Trainer]:
        """Return a trainer per fold for a configuration, each with a network of its own; of 0 folds the one trainer."""
        common = common_settings(config)
        key = f"{count} {common.model_dump_json()}"
        if key not in self._trainers:
            keras.utils.set_random_seed(config.fit.seed)
            prepared = prepare(common, self._progress, for_folds=count > 0)
            self._trainers[key] = [Trainer(part, common) for part in self._parts(prepared, common, count)]
        return self._trainers[key]

    def _parts(self, prepared: Prepared, config: Config, count: int) -> list[Prepared]:
        if not count:
            return [prepared]
        numbers, first = fold_numbers(prepared, config, count), [Stage(config, prepared)]
        divided = [np.where(numbers == number, "validation", prepared.parts) for number in range(count)]
        return [of_fold(first, parts)[0].prepared for parts in divided]


def on_one_device(number: int) -> None:
    """Let this process, one of several or alone, see one of the GPUs; before TensorFlow is set up."""
    gpus = tf.config.list_physical_devices("GPU")
    if len(gpus) > 1:
        tf.config.set_visible_devices([gpus[number % len(gpus)]], "GPU")


def common_settings(config: Config) -> Config:
    """Return a configuration without what a trainer can change between trials."""
    tasks = {name: task.model_copy(update={"loss_weight": 1.0}) for name, task in config.tasks.items()}
    # A network without any dropout draws other initial weights.
    model = config.model.model_copy(update={"dropout": 0.5 if config.model.dropout else 0.0})
    fit = FitConfig(**config.fit.model_dump(include=_COMPILED))
    return Config(data=config.data, tasks=tasks, model=model, augment=config.augment, fit=fit)


class Trainer:
    """One network on the stored features of one split.

    Args:
        prepared: as new; its trainable side is used up.
        config: of which `fit.seed` and `fit.balance` count here.
    """

    def __init__(self, prepared: Prepared, config: Config) -> None:
        self.prepared = prepared
        self._model, fit = prepared.model, config.fit
        self._rows = training_rows(prepared, fit)
        constants = label_constants(prepared, fit.balance, Quiet())
        standardise(prepared, self._rows, fit.seed)
        for task in prepared.spec.tasks:
            HEADS[task.kind].settle(task, prepared.network.whole.get_layer(task.name), constants[task.name])
        self._losses = task_losses(prepared, self._rows, constants)
        self._optimizer = make_optimizer(prepared.precision, fit)
        self._optimizer.build(self._model.trainable_variables)
        self._begin_with = self._model.get_weights(), [np.asarray(value) for value in self._optimizer.variables]
        self._dropout = tf.Variable(0.0)
        self._weights = {task.name: tf.Variable(1.0) for task in prepared.spec.tasks}
        self._front = prepared.until("standardise")
        self._epoch = tf.function(self._steps, reduce_retracing=True)
        self._forward = tf.function(lambda batch: self._model(batch, training=False), reduce_retracing=True)
        validation = prepared.rows("validation")
        self._labels = prepared.labels(validation)
        self._validation_losses = task_losses(prepared, validation, constants)
        self._validation = inference_batches(prepared.gather(validation), *self._input, len(validation), SCORING_BATCH)

    def train(self, config: Config, on_epoch: OnEpoch = lambda epoch, figures: True) -> History:
        """Train from the beginning; return one dict per epoch: epoch, loss, learning rate and validation figures.

        A loss that is no number is the last epoch.
        """
        fit = config.fit
        history: History = []
        spec, batches = self._begin(config)
        steps = tf.constant(math.ceil(len(self._rows) / fit.batch_size))
        for epoch in range(fit.epochs):
            plan = plan_next_epoch([row["val_score"] for row in history], fit)
            if plan.stop:
                break
            self._optimizer.learning_rate = plan.learning_rate
            seed_dropout(self.prepared.network.trainable, fit.seed, epoch)
            scales = balanced(spec.tasks, history, fit.task_balance)
            for name, loss in self._losses.items():
                loss.scale.assign(scales[name])
            losses = dict(zip(self._losses, self._epoch(batches, steps).numpy().tolist(), strict=True))
            row = {"epoch": epoch + 1, "learning_rate": plan.learning_rate}
            row["loss"] = sum(losses[task.name] * task.loss_weight for task in spec.tasks)
            row |= {f"{name}_loss": loss / scales[name] for name, loss in losses.items()}
            history.append(row)
            if not math.isfinite(row["loss"]):
                break
            row |= self._validate(spec)
            if not on_epoch(epoch, row):
                break
        return history

    def try_rates(self, config: Config, rates: Sequence[float]) -> Iterator[float]:
        """Train from the beginning, a step at each learning rate in turn; yield the losses before the steps."""
        spec, batches = self._begin(config)
        seed_dropout(self.prepared.network.trainable, config.fit.seed, 0)
        for loss in self._losses.values():
            loss.scale.assign(1.0)
        for rate in rates:
            self._optimizer.learning_rate = rate
            losses = self._epoch(batches, tf.constant(1)).numpy().tolist()
            yield sum(loss * task.loss_weight for task, loss in zip(spec.tasks, losses, strict=True))

    def _begin(self, config: Config) -> tuple[ModelSpec, Any]:
        """Go back to the weights of the beginning, with the settings of a trial; return its spec and batches."""
        fit = config.fit
        spec = config.model_spec({task.name: task.classes for task in self.prepared.spec.tasks})
        weights, state = self._begin_with
        set_weights(self._model, weights)
        for variable, value in zip(self._optimizer.variables, state, strict=True):
            variable.assign(value)
        self._dropout.assign(config.model.dropout)
        for task in spec.tasks:
            self._weights[task.name].assign(task.loss_weight)
        batches = training_batches(
            self.prepared.gather_views(self._rows),
            *self._input,
            self.prepared.labels(self._rows),
            fit.batch_size,
            fit.seed,
            0,
            operations=self.prepared.operations if self.prepared.views == 1 else (),
            views=self.prepared.views,
            places=self.prepared.places(self._rows),
        )
        return spec, iter(batches)

    @property
    def _input(self) -> tuple[tuple[int, ...], str]:
        return tuple(self._model.input.shape[1:]), self._model.input.dtype

    def _validate(self, spec: Any) -> dict[str, float]:
        """Return losses and scores of the validation rows, by their names in a history."""
        found = [self._forward(batch) for batch in self._validation]
        logits = {task.name: np.concatenate([part[task.name] for part in found]) for task in spec.tasks}
        scores = self.prepared.network.scores([logits[task.name] for task in spec.tasks])
        scores = {name: np.asarray(values) for name, values in scores.items()}
        figures = validation_figures(spec, self._validation_losses, self._labels, logits, scores)
        return {f"val_{name}": value for name, value in figures.items()}

    def _steps(self, batches: Any, steps: Any) -> Any:
        """Train on so many batches; return the mean loss of their rows, (tasks,)."""
        total, rows = tf.zeros(len(self._losses)), tf.zeros(())
        for _ in tf.range(steps):
            features, labels = next(batches)
            count = tf.cast(tf.shape(features)[0], tf.float32)
            total, rows = total + count * self._step(features, labels), rows + count
        return total / rows

    def _step(self, features: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            logits = self._logits(features)
            losses = {name: loss(labels[name], logits[name]) for name, loss in self._losses.items()}
            loss = tf.add_n([self._weights[name] * losses[name] for name in losses])
            scaled = self._optimizer.scale_loss(loss)
        variables = self._model.trainable_variables
        self._optimizer.apply(tape.gradient(scaled, variables), variables)
        return tf.stack(list(losses.values()))

    def _logits(self, features: Any) -> dict[str, Any]:
        """Return the logits as the model gives them in training, at the dropout of this trial."""
        trainable = self.prepared.network.trainable
        vector, layer = self._front(features, training=True), trainable.get_layer("dropout")
        if layer.rate:
            # As Keras makes its seeds of a generator's state.
            seed = tf.cast(tf.math.floormod(layer.seed_generator.next(), tf.int32.max - 1), tf.int32)
            vector = tf.nn.experimental.stateless_dropout(vector, rate=self._dropout, seed=seed)
        return {name: trainable.get_layer(f"{name}_logits")(vector) for name in self._weights}
