"""TensorBoard: scalars per epoch; at the end the graph, the plots (confusion matrices) and precision-recall curves.

Look at all runs: `tensorboard --logdir model_training/runs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray
from tensorboard.plugins.pr_curve.summary import raw_data_pb

from multitask.config import Config
from multitask.evaluation.assessment import split_labels
from multitask.integrations.trackers import figures_of
from multitask.network.model import load_network
from multitask.runs import Run, RunFolder
from multitask.spec import Task

# Of thresholds on a curve.
_POINTS = 201


class _TensorBoard:
    def __init__(self, folder: RunFolder) -> None:
        self._writer = tf.summary.create_file_writer(str(folder / "tensorboard"))

    def epoch(self, row: Mapping[str, float]) -> None:
        with self._writer.as_default(step=int(row["epoch"])):
            for name, value in row.items():
                # What shares a first part stands side by side there: the loss of training and of validation.
                part = "validation" if name.startswith("val_") else "train"
                tf.summary.scalar(f"{name.removeprefix('val_')}/{part}", value)
        self._writer.flush()

    def finish(self, run: Run) -> None:
        with self._writer.as_default(step=0):
            for name, value in figures_of(run).items():
                tf.summary.scalar(f"test/{name}", value)
            for path in sorted((run.folder / "plots").glob("*.png")):
                tf.summary.image(path.stem, tf.io.decode_png(path.read_bytes(), channels=3)[None])
            scores, labels = pd.read_parquet(run.folder / "scores.parquet"), split_labels(run, "test")
            scores = scores[scores["split"] == "test"]
            for task in run.spec.tasks:
                _write_curves(task, labels[task.name], scores)
            tf.summary.graph(_graph(run))
        self._writer.close()


def open_tracker(config: Config, folder: RunFolder) -> _TensorBoard:
    """Open the log in the run's own folder."""
    return _TensorBoard(folder)


def _write_curves(task: Task, labels: NDArray[np.float32], scores: pd.DataFrame) -> None:
    """Write a precision-recall curve for each class or tag."""
    if task.spreads:
        return
    known = ~np.isnan(labels)
    truths = labels[:, None] == np.arange(len(task.classes)) if task.has_class_numbers else labels > 0.5
    known = np.broadcast_to(known.reshape(len(labels), -1), truths.shape)
    for at, (name, column) in enumerate(zip(task.classes, task.score_columns, strict=True)):
        rows = known[:, at]
        curve = _curve(f"{task.name}/{name}", truths[rows, at], scores[column].to_numpy()[rows])
        tf.summary.experimental.write_raw_pb(curve.SerializeToString(), step=0)


def _curve(name: str, truth: NDArray[np.bool_], scores: NDArray[np.float32]) -> Any:
    thresholds = np.linspace(0, 1, _POINTS)
    present, absent = np.sort(scores[truth]), np.sort(scores[~truth])
    hits = len(present) - np.searchsorted(present, thresholds)
    alarms = len(absent) - np.searchsorted(absent, thresholds)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(hits + alarms > 0, hits / (hits + alarms), 1.0)
        recall = np.where(len(present) > 0, hits / max(len(present), 1), 0.0)
    misses, others = len(present) - hits, len(absent) - alarms
    return raw_data_pb(
        name=name,
        true_positive_counts=hits,
        false_positive_counts=alarms,
        true_negative_counts=others,
        false_negative_counts=misses,
        precision=precision,
        recall=recall,
        num_thresholds=_POINTS,
    )


def _graph(run: Run) -> Any:
    """Return the graph of the whole network."""
    network = load_network(run.folder / "model.keras", run.spec)
    image = run.spec.image
    images = tf.TensorSpec([None, image.height, image.width, 3], tf.uint8)
    return tf.function(lambda batch: network.whole(batch, training=False)).get_concrete_function(images).graph
