"""Losses and accuracies of the tasks: computed from logits, weighted for rare classes, blind to missing labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from multitask.errors import TableError
from multitask.spec import Task

# A tag rarer than this would otherwise drown the others; beyond it thresholds do better than weights.
MAX_WEIGHT = 20.0


def class_weights(task: Task, labels: NDArray[np.float32], balance: str) -> NDArray[np.float32]:
    """Return the weight of each class, or of each tag's positive rows, from the labels of the training split.

    Multiclass: rows / (classes * rows of the class), "balanced" in scikit-learn's words. Multilabel: negative rows /
    positive rows of the tag. Weights stay between 1 / MAX_WEIGHT and MAX_WEIGHT.

    Args:
        task: the task.
        labels: (rows,) or (rows, tags) float32, NaN for missing.
        balance: weights, or anything else for weights of 1.

    Raises:
        TableError: a tag has no positive training row, so it cannot be learned.
    """
    if task.kind == "multilabel":
        positive, known = np.nansum(labels, axis=0), np.sum(~np.isnan(labels), axis=0)
        absent = [name for name, count in zip(task.classes, positive, strict=True) if count == 0]
        if absent:
            raise TableError(
                "no training row has this tag",
                where=f'task "{task.name}", {", ".join(absent)}',
                fix="Add rows that have it or take the column out of the task.",
            )
        weights = (known - positive) / positive
    else:
        counts = np.bincount(labels[~np.isnan(labels)].astype(int), minlength=len(task.classes))
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
    if balance != "weights":
        weights = np.ones(len(task.classes))
    return np.clip(weights, 1 / MAX_WEIGHT, MAX_WEIGHT).astype(np.float32)


@keras.saving.register_keras_serializable("multitask")
class TaskLoss(keras.losses.Loss):
    """Cross-entropy of one task from logits, one value per row.

    Args:
        kind: multiclass or multilabel.
        weights: per class, or per tag for its positive labels.

    Labels are (batch,) class numbers or (batch, tags) 0/1. A NaN counts as a loss of 0 without gradient; a multilabel
    row is the mean over all tags, so a missing tag lets the others count as much as they do elsewhere.
    """

    def __init__(self, kind: str, weights: Any, name: str = "task_loss", **arguments: Any) -> None:
        super().__init__(name=name, **arguments)
        self.kind, self.weights = kind, [float(weight) for weight in weights]

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, float32 (batch,)."""
        weights = ops.convert_to_tensor(self.weights, "float32")
        if self.kind == "multiclass":
            y_true = ops.reshape(y_true, (-1,))
        known = ops.logical_not(ops.isnan(y_true))
        labels = ops.where(known, y_true, 0.0)
        if self.kind == "multiclass":
            numbers = ops.cast(labels, "int32")
            losses = ops.sparse_categorical_crossentropy(numbers, y_pred, from_logits=True) * ops.take(weights, numbers)
            return ops.where(known, losses, 0.0)
        # log(1 + exp(-x)) for present tags and log(1 + exp(x)) for absent ones.
        losses = weights * labels * ops.softplus(-y_pred) + (1.0 - labels) * ops.softplus(y_pred)
        return ops.mean(ops.where(known, losses, 0.0), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "kind": self.kind, "weights": self.weights}


@keras.saving.register_keras_serializable("multitask")
class TaskAccuracy(keras.metrics.Mean):
    """Share of right answers among the known labels: best class, or tags decided at a score of 0.5."""

    def __init__(self, kind: str, name: str = "accuracy", **arguments: Any) -> None:
        super().__init__(name=name, **arguments)
        self.kind = kind

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take in labels and logits of a batch."""
        if self.kind == "multiclass":
            y_true = ops.reshape(y_true, (-1,))
            answers = ops.cast(ops.argmax(y_pred, axis=-1), "float32")
        else:
            answers = ops.cast(y_pred > 0, "float32")
        known = ops.cast(ops.logical_not(ops.isnan(y_true)), "float32")
        super().update_state(ops.cast(answers == y_true, "float32"), sample_weight=known)

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "kind": self.kind}
