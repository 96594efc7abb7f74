"""Around each epoch: learning rate and seeds before; validation, checkpoints and the line after."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.config import Config
from multitask.errors import RunError
from multitask.evaluation.tasks import validation_score
from multitask.network.losses import TaskLoss, known_shares
from multitask.network.weights import all_layers
from multitask.progress import Progress
from multitask.runs import RunFolder
from multitask.spec import ModelSpec
from multitask.storage import replacing
from multitask.training.checkpoints import History, save_checkpoint
from multitask.training.dataset import Labels
from multitask.training.preparation import Prepared
from multitask.training.results import score_rows
from multitask.training.schedule import Plan, plan_next_epoch


def seed_dropout(model: Any, seed: int, epoch: int) -> None:
    """Make what the layers draw in an epoch, also those of the backbone, a function of the seed and its number."""
    for index, layer in enumerate(all_layers(model)):
        if hasattr(layer, "seed_generator"):
            drawn = np.random.SeedSequence([seed, epoch, index]).generate_state(2)
            layer.seed_generator.state.assign(drawn)


def task_losses(
    prepared: Prepared, rows: NDArray[np.int64], constants: Mapping[str, NDArray[np.float32]]
) -> dict[str, TaskLoss]:
    """Return the loss of each task on these rows."""
    labels = prepared.labels(rows)
    return {
        task.name: TaskLoss(task.kind, constants[task.name], known_shares(labels[task.name]))
        for task in prepared.spec.tasks
    }


def validation_figures(
    spec: ModelSpec, losses: Mapping[str, TaskLoss], labels: Labels, logits: Labels, scores: Labels
) -> dict[str, float]:
    """Return losses and scores of the validation rows; an undefined score is replaced by minus the loss."""
    found = {
        f"{task.name}_loss": float(np.mean(losses[task.name].call(labels[task.name], logits[task.name])))
        for task in spec.tasks
    }
    found["loss"] = sum(found[f"{task.name}_loss"] * task.loss_weight for task in spec.tasks)
    found |= validation_score(spec, labels, scores)
    if not math.isfinite(found["score"]):
        found["score"] = -found["loss"]
    return found


class EpochKeeper(keras.callbacks.Callback):
    """Around each epoch: learning rate and dropout seeds before; validation, checkpoints and the line after."""

    def __init__(
        self,
        prepared: Prepared,
        config: Config,
        constants: Mapping[str, NDArray[np.float32]],
        history: History,
        folder: RunFolder,
        progress: Progress,
    ) -> None:
        super().__init__()
        self.prepared, self.config = prepared, config
        self.history, self.folder, self.progress = history, folder, progress
        self.rows = prepared.rows("validation")
        self.labels = prepared.labels(self.rows)
        self.losses = task_losses(prepared, self.rows, constants)

    def plan(self) -> Plan:
        """Return the plan after the epochs so far."""
        scores = [row["val_score"] for row in self.history]
        return plan_next_epoch(scores, self.config.fit.learning_rate, self.config.fit.epochs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Make the epoch a function of the seed and its number."""
        self.model.optimizer.learning_rate = self.plan().learning_rate
        seed_dropout(self.model, self.config.fit.seed, epoch)
        self.started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Validate, write the checkpoints, decide whether to go on."""
        row = {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        if not math.isfinite(row["loss"]):
            raise RunError(
                f"the loss is {row['loss']} in epoch {epoch + 1}",
                where=str(self.folder.directory),
                fix="Lower the learning rate (--learning-rate), or use --precision float32.",
            )
        row |= {f"val_{name}": value for name, value in self._validate().items()}
        row["learning_rate"] = self.plan().learning_rate
        row["seconds"] = round(time.monotonic() - self.started, 3)
        self.history.append(row)
        plan = self.plan()
        if plan.best_epoch == epoch:
            save_checkpoint(self.folder.best_checkpoint, self.model, None, self.history)
        save_checkpoint(self.folder.last_checkpoint, self.model, self.model.optimizer, self.history)
        with replacing(self.folder / "history.csv") as path:
            pd.DataFrame(self.history).to_csv(path, index=False)
        best = " *" if plan.best_epoch == epoch else ""
        self.progress.say(
            f"epoch {epoch + 1}/{self.config.fit.epochs}  loss {row['loss']:.4f}  val_loss {row['val_loss']:.4f}  "
            f"val_score {row['val_score']:.4f}{best}  {row['seconds']:.1f} s"
        )
        self.model.stop_training = plan.stop

    def _validate(self) -> dict[str, float]:
        """Return losses and scores on the validation split; say so once where the score is undefined."""
        logits, scores = score_rows(self.prepared, self.rows)
        found = validation_figures(self.prepared.spec, self.losses, self.labels, logits, scores)
        if found["score"] == -found["loss"] and not self.history:
            self.progress.say(
                "the validation score is undefined, since the validation rows lack the labels it needs: "
                "minus the validation loss stands for it and chooses the best epoch"
            )
        return found
