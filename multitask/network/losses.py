"""Loss and running figure of a task for Keras' `compile`: computed from logits, blind to missing labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from multitask.network.heads import HEADS, MAX_WEIGHT
from multitask.spec import Kind


def known_shares(labels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the share of the rows that have a label, float32 (1,), or (answers,) for labels (rows, answers)."""
    return np.atleast_1d(np.mean(~np.isnan(labels), axis=0, dtype=np.float32))


@keras.saving.register_keras_serializable("multitask")
class TaskLoss(keras.losses.Loss):
    """Loss of one task from logits, one value per row.

    The losses of known labels are divided by the share of rows that have this label: over all rows of which the shares
    were taken, the mean is that over the known labels, so that a task weighs the same whatever is missing. Every known
    label weighs the same too, which it would not where each batch is divided by what happens to be known in it. A share
    below 1 / MAX_WEIGHT counts as that.

    Args:
        kind: of the task.
        constants: see `heads.Head.constants`.
        shares: see `known_shares`.
        gamma: of the focal loss, https://arxiv.org/abs/1708.02002, which multiplies the loss of an answer by
            (1 - probability of its label) ** gamma; 0 for cross-entropy.
        smoothing: share of each label that is spread over all answers, https://arxiv.org/abs/1512.00567, section 7.
    """

    def __init__(
        self,
        kind: Kind,
        constants: Any,
        shares: Any = (1.0,),
        *,
        gamma: float = 0.0,
        smoothing: float = 0.0,
        name: str = "task_loss",
        **arguments: Any,
    ) -> None:
        super().__init__(name=name, **arguments)
        self.kind, self.constants = kind, np.asarray(constants, np.float32).tolist()
        self.shares = np.asarray(shares, np.float32).tolist()
        self.gamma, self.smoothing = gamma, smoothing
        # What this task's loss is multiplied by; it may change from epoch to epoch.
        self.scale = keras.Variable(1.0, trainable=False, dtype="float32", name="scale")

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, float32 (batch,), the mean over its answers."""
        constants = ops.convert_to_tensor(self.constants, "float32")
        losses = HEADS[self.kind].losses(y_true, y_pred, constants, self.gamma, self.smoothing)
        answers = ops.reshape(losses, (ops.shape(losses)[0], -1))
        mean = ops.mean(answers / np.maximum(self.shares, 1 / MAX_WEIGHT).astype(np.float32), axis=-1)
        return mean * self.scale

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        own = {name: getattr(self, name) for name in ("kind", "constants", "shares", "gamma", "smoothing")}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("multitask")
class TaskFigure(keras.metrics.Mean):
    """Mean over the known labels: the share of right answers, or the error in standard deviations."""

    def __init__(self, kind: Kind, constants: Any, name: str = "", **arguments: Any) -> None:
        super().__init__(name=name or HEADS[kind].figure, **arguments)
        self.kind, self.constants = kind, np.asarray(constants, np.float32).tolist()

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        """Take in labels and logits of a batch."""
        constants = ops.convert_to_tensor(self.constants, "float32")
        figures = HEADS[self.kind].figures(y_true, y_pred, constants)
        known = ops.reshape(ops.logical_not(ops.isnan(y_true)), ops.shape(figures))
        super().update_state(ops.where(known, figures, 0.0), sample_weight=ops.cast(known, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "kind": self.kind, "constants": self.constants}
