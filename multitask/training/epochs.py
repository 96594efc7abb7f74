"""Around each epoch: learning rate and seeds before; validation, checkpoints and the line after."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.config import Config
from multitask.errors import RunError
from multitask.evaluation.tasks import validation_score
from multitask.features.dataset import Labels
from multitask.features.preparation import Prepared
from multitask.network.losses import TaskLoss, known_shares
from multitask.network.weights import all_layers
from multitask.progress import Progress
from multitask.runs import RunFolder
from multitask.spec import ModelSpec, Task
from multitask.storage import replacing
from multitask.training.checkpoints import History, save_checkpoint
from multitask.training.schedule import Plan, plan_next_epoch
from multitask.training.scoring import score_rows

# Of the focal loss, the value its authors found best.
FOCAL_GAMMA = 2.0
_LEAST_LOSS = 1e-6


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
        task.name: TaskLoss(
            task.kind,
            constants[task.name],
            known_shares(labels[task.name]),
            gamma=FOCAL_GAMMA * (task.loss == "focal"),
            smoothing=task.label_smoothing,
        )
        for task in prepared.spec.tasks
    }


def balanced(tasks: Sequence[Task], history: History, balance: str) -> dict[str, float]:
    """Return what the loss of each task is multiplied by in the next epoch, beside its own weight.

    "learned" is the weighting by uncertainty of A. Kendall et al. 2018, https://arxiv.org/abs/1705.07115, whose learned
    variance is at its optimum the loss itself: each task is divided by its loss of the epoch before. A function of the
    history, so a resume repeats it; the weights are scaled to a mean of 1, which leaves the learning rate its meaning.
    """
    if balance == "fixed" or not history:
        return {task.name: 1.0 for task in tasks}
    weights = np.array([1 / max(history[-1][f"{task.name}_loss"], _LEAST_LOSS) for task in tasks])
    return dict(zip([task.name for task in tasks], (weights / weights.mean()).tolist(), strict=True))


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
    """Around each epoch: learning rate and dropout seeds before; validation, checkpoints and the line after.

    Args:
        prepared, config, history, folder, progress: of the training; the history grows.
        losses: of the training rows, by task.
        constants: see `heads.Head.constants`.
    """

    def __init__(
        self,
        prepared: Prepared,
        config: Config,
        losses: Mapping[str, TaskLoss],
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
        self.training_losses, self.losses = losses, task_losses(prepared, self.rows, constants)

    def plan(self) -> Plan:
        """Return the plan after the epochs so far."""
        scores = [row["val_score"] for row in self.history]
        return plan_next_epoch(scores, self.config.fit)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Make the epoch a function of the seed and its number."""
        self.model.optimizer.learning_rate = self.plan().learning_rate
        seed_dropout(self.prepared.network.trainable, self.config.fit.seed, epoch)
        self.scales = balanced(self.prepared.spec.tasks, self.history, self.config.fit.task_balance)
        for name, loss in self.training_losses.items():
            loss.scale.assign(self.scales[name])
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
        row |= self._parts_of(row)
        row |= {f"val_{name}": value for name, value in self._validate().items()}
        row["learning_rate"] = self.plan().learning_rate
        row["seconds"] = round(time.monotonic() - self.started, 3)
        self.history.append(row)
        if logs is not None:
            # What callbacks after this one see.
            logs.update(row)
        plan = self.plan()
        if plan.best_epoch == epoch:
            save_checkpoint(self.folder.best_checkpoint, self.prepared.network.trainable, None, self.history)
        save_checkpoint(
            self.folder.last_checkpoint, self.prepared.network.trainable, self.model.optimizer, self.history
        )
        with replacing(self.folder / "history.csv") as path:
            pd.DataFrame(self.history).to_csv(path, index=False)
        best = " *" if plan.best_epoch == epoch else ""
        self.progress.say(
            f"epoch {epoch + 1}/{self.config.fit.epochs}  loss {row['loss']:.4f}  val_loss {row['val_loss']:.4f}  "
            f"val_score {row['val_score']:.4f}{best}  {row['seconds']:.1f} s"
        )
        self.model.stop_training = plan.stop

    def _parts_of(self, row: Mapping[str, float]) -> dict[str, float]:
        """Return the loss of each task before it was scaled, and its share of the whole loss."""
        tasks = self.prepared.spec.tasks
        # Keras does not name the loss of a single task.
        scaled = {task.name: row.get(f"{task.name}_loss", row["loss"] / (task.loss_weight or 1.0)) for task in tasks}
        whole = sum(scaled[task.name] * task.loss_weight for task in tasks)
        found = {f"{name}_loss": loss / self.scales[name] for name, loss in scaled.items()}
        shares = {f"{task.name}_share": scaled[task.name] * task.loss_weight for task in tasks}
        return found | {name: part / max(whole, _LEAST_LOSS) for name, part in shares.items()}

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
