"""What the network does differently for each kind of task: activation, loss, what the loss needs of the labels.

Labels are (batch,) class numbers or (batch, answers); logits (batch, answers), what the last Dense layer gives. A
missing label is NaN and has a loss of 0 without gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from multitask.errors import TableError
from multitask.spec import Kind, Task

# A tag rarer than this would otherwise drown the others; beyond it thresholds do better than weights.
MAX_WEIGHT = 20.0

Constants = NDArray[np.float32]
Weights = list[NDArray[np.float32]]
Tensor = Any


class Head(Protocol):
    """The head of one kind of task."""

    activation: str
    """What turns logits into scores, in a word."""
    figure: str
    """Name of the figure that is shown while training."""

    def output(self, task: Task, dtype: str) -> Any:
        """Return the layer from logits to scores, which bears the task's name."""

    def constants(self, task: Task, labels: NDArray[np.float32], balance: str) -> Constants:
        """Return what loss and output need of the labels of the training rows."""

    def settle(self, task: Task, layer: Any, constants: Constants) -> Task:
        """Set the output layer; return the task with what is known of its labels now."""

    def describe(self, task: Task, constants: Constants) -> str:
        """Say the constants in a line; nothing where they change nothing."""

    def losses(self, labels: Tensor, logits: Tensor, constants: Tensor, gamma: float, smoothing: float) -> Tensor:
        """Return the loss of each answer, float32 of the shape of the labels; see `TaskLoss` for the last two."""

    def figures(self, labels: Tensor, logits: Tensor, constants: Tensor) -> Tensor:
        """Return the figure of each answer, of the shape of the labels."""

    def rebased(self, weights: Weights, own: Constants, common: Constants) -> Weights:
        """Return kernel and bias that mean the same where the labels have other constants."""

    def mean(self, logits: Tensor) -> Tensor:
        """Return the logits whose scores are the mean of the members' scores; logits are (batch, answers, members)."""


class _Weighted:
    """Multiclass and multilabel: the constants are a weight per class or tag, float32 (classes,)."""

    def settle(self, task: Task, layer: Any, constants: Constants) -> Task:
        return task

    def rebased(self, weights: Weights, own: Constants, common: Constants) -> Weights:
        return weights

    def describe(self, task: Task, constants: Constants) -> str:
        if (constants == 1).all():
            return ""
        named = zip(task.classes, constants, strict=True)
        return f"weights of {task.name}: " + ", ".join(f"{name} {weight:.2f}" for name, weight in named)


class _Multiclass(_Weighted):
    activation, figure = "softmax", "accuracy"

    def output(self, task: Task, dtype: str) -> Any:
        return keras.layers.Activation("softmax", dtype=dtype, name=task.name)

    def constants(self, task: Task, labels: NDArray[np.float32], balance: str) -> Constants:
        """Return rows / (classes * rows of the class), "balanced" in scikit-learn's words."""
        counts = np.bincount(labels[~np.isnan(labels)].astype(int), minlength=len(task.classes))
        return _bounded(counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1)), balance)

    def losses(self, labels: Tensor, logits: Tensor, constants: Tensor, gamma: float, smoothing: float) -> Tensor:
        labels = ops.reshape(labels, (-1,))
        known = ops.logical_not(ops.isnan(labels))
        numbers = ops.cast(ops.where(known, labels, 0.0), "int32")
        losses = ops.sparse_categorical_crossentropy(numbers, logits, from_logits=True)
        unsure = 1.0 - ops.exp(-losses)
        if smoothing:
            losses = (1.0 - smoothing) * losses - smoothing * ops.mean(ops.log_softmax(logits), axis=-1)
        if gamma:
            losses = losses * unsure**gamma
        return ops.where(known, losses * ops.take(constants, numbers), 0.0)

    def mean(self, logits: Tensor) -> Tensor:
        return ops.logsumexp(ops.log_softmax(logits, axis=1), axis=-1)

    def figures(self, labels: Tensor, logits: Tensor, constants: Tensor) -> Tensor:
        best = ops.cast(ops.argmax(logits, axis=-1), "float32")
        return ops.cast(best == ops.reshape(labels, (-1,)), "float32")


class _Multilabel(_Weighted):
    activation, figure = "sigmoid", "accuracy"

    def output(self, task: Task, dtype: str) -> Any:
        return keras.layers.Activation("sigmoid", dtype=dtype, name=task.name)

    def constants(self, task: Task, labels: NDArray[np.float32], balance: str) -> Constants:
        """Return negative rows / positive rows of each tag, which weighs its positive rows."""
        positive, known = np.nansum(labels, axis=0), np.sum(~np.isnan(labels), axis=0)
        absent = [name for name, count in zip(task.classes, positive, strict=True) if count == 0]
        if absent:
            raise TableError(
                "no training row has this tag",
                where=f'task "{task.name}", {", ".join(absent)}',
                fix="Add rows that have it or take the column out of the task.",
            )
        return _bounded((known - positive) / positive, balance)

    def losses(self, labels: Tensor, logits: Tensor, constants: Tensor, gamma: float, smoothing: float) -> Tensor:
        known = ops.logical_not(ops.isnan(labels))
        labels = ops.where(known, labels, 0.0)
        smoothed = labels * (1.0 - smoothing) + smoothing / 2
        # log(1 + exp(-x)) for present tags and log(1 + exp(x)) for absent ones.
        losses = constants * smoothed * ops.softplus(-logits) + (1.0 - smoothed) * ops.softplus(logits)
        if gamma:
            losses = losses * ops.sigmoid(ops.where(labels > 0.5, -logits, logits)) ** gamma
        return ops.where(known, losses, 0.0)

    def mean(self, logits: Tensor) -> Tensor:
        return ops.logsumexp(-ops.softplus(-logits), axis=-1) - ops.logsumexp(-ops.softplus(logits), axis=-1)

    def figures(self, labels: Tensor, logits: Tensor, constants: Tensor) -> Tensor:
        return ops.cast(ops.cast(logits > 0, "float32") == labels, "float32")


class _Regression:
    """The constants are means and standard deviations of the numbers, float32 (2, numbers).

    Logits are numbers in standard deviations from the mean; the output layer turns them into the unit of the labels.
    """

    activation, figure = "linear", "error"

    def output(self, task: Task, dtype: str) -> Any:
        # A frozen BatchNormalization of mean 0 and variance 1 is x * scale + offset, and keeps both as weights.
        return keras.layers.BatchNormalization(epsilon=1e-12, trainable=False, dtype=dtype, name=task.name)

    def constants(self, task: Task, labels: NDArray[np.float32], balance: str) -> Constants:
        numbers = labels.astype(np.float64)
        unknown = [name for name, column in zip(task.classes, numbers.T, strict=True) if np.isnan(column).all()]
        if unknown:
            raise TableError(
                "no training row has this number",
                where=f'task "{task.name}", {", ".join(unknown)}',
                fix="Add rows that have it or take the column out of the task.",
            )
        spreads = np.nanstd(numbers, axis=0)
        return np.stack([np.nanmean(numbers, axis=0), np.where(spreads > 0, spreads, 1.0)]).astype(np.float32)

    def settle(self, task: Task, layer: Any, constants: Constants) -> Task:
        means, spreads = constants
        layer.gamma.assign(spreads)
        layer.beta.assign(means)
        return task.model_copy(update={"means": tuple(map(float, means)), "spreads": tuple(map(float, spreads))})

    def describe(self, task: Task, constants: Constants) -> str:
        named = zip(task.classes, *constants, strict=True)
        return f"{task.name}: " + ", ".join(f"{name} {mean:.4g} ± {spread:.3g}" for name, mean, spread in named)

    def losses(self, labels: Tensor, logits: Tensor, constants: Tensor, gamma: float, smoothing: float) -> Tensor:
        """Return Huber's loss, https://doi.org/10.1214/aoms/1177703732, which turns linear one deviation away."""
        known = ops.logical_not(ops.isnan(labels))
        errors = ops.abs(ops.where(known, self._standardised(labels, constants) - logits, 0.0))
        return ops.where(errors <= 1.0, 0.5 * ops.square(errors), errors - 0.5)

    def rebased(self, weights: Weights, own: Constants, common: Constants) -> Weights:
        kernel, bias = weights
        factor = own[1] / common[1]
        return [kernel * factor, bias * factor + (own[0] - common[0]) / common[1]]

    def mean(self, logits: Tensor) -> Tensor:
        return ops.mean(logits, axis=-1)

    def figures(self, labels: Tensor, logits: Tensor, constants: Tensor) -> Tensor:
        return ops.abs(self._standardised(labels, constants) - logits)

    @staticmethod
    def _standardised(labels: Tensor, constants: Tensor) -> Tensor:
        return (labels - constants[0]) / constants[1]


def _bounded(weights: NDArray[np.float64], balance: str) -> Constants:
    if balance != "weights":
        weights = np.ones_like(weights)
    return np.clip(weights, 1 / MAX_WEIGHT, MAX_WEIGHT).astype(np.float32)


HEADS: Mapping[Kind, Head] = {"multiclass": _Multiclass(), "multilabel": _Multilabel(), "regression": _Regression()}
