"""Loss and running figure of a task for Keras' `compile`: computed from logits, blind to missing labels."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from multitask.network.heads import HEADS
from multitask.spec import Kind


@keras.saving.register_keras_serializable("multitask")
class TaskLoss(keras.losses.Loss):
    """Loss of one task from logits, one value per row.

    Args:
        kind: of the task.
        constants: see `heads.Head.constants`.
    """

    def __init__(self, kind: Kind, constants: Any, name: str = "task_loss", **arguments: Any) -> None:
        super().__init__(name=name, **arguments)
        self.kind, self.constants = kind, np.asarray(constants, np.float32).tolist()

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row, float32 (batch,)."""
        return HEADS[self.kind].losses(y_true, y_pred, ops.convert_to_tensor(self.constants, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "kind": self.kind, "constants": self.constants}


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
