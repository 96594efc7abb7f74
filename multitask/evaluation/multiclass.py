"""Multiclass tasks: one of several classes. Labels (rows,) class numbers, scores (rows, classes) that sum to 1."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.curves import Curve, plot_precision_recall, plot_roc
from multitask.evaluation.metrics import Labels, Merit, WeightedMetric
from multitask.evaluation.words import Words
from multitask.spec import Task
from multitask.style import INK, STYLE


class Multiclass:
    """See `kinds.Evaluator`. The baseline always answers with the most frequent classes of the training rows."""

    main = "balanced_accuracy"
    watched = ("accuracy", "balanced_accuracy")

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Merit]:
        """Return accuracy, top-k accuracy, balanced accuracy and macro F1."""
        known = ~np.isnan(labels)
        true = np.where(known, labels, -1).astype(int)
        classes = len(task.classes)
        frequent = np.argsort(-np.bincount(train_labels[~np.isnan(train_labels)].astype(int), minlength=classes))

        def against(make: Callable[[Any], WeightedMetric], answer: Any, constant: Any) -> Merit:
            return Merit(make(answer), merit.plain(make(constant), len(labels)))

        def accuracy(answer: NDArray[Any]) -> WeightedMetric:
            return merit.share((answer.reshape(len(labels), -1) == true[:, None]).any(axis=1), known)

        best, constant = scores.argmax(axis=1), np.full(len(labels), frequent[0])
        found = {"accuracy": against(accuracy, best, constant)}
        if task.top_k > 1:
            ranks = np.argsort(-scores, axis=1, kind="stable")[:, : task.top_k]
            usual = np.tile(frequent[: task.top_k], (len(labels), 1))
            found[f"top_{task.top_k}_accuracy"] = against(accuracy, ranks, usual)
        for name, figure in (("balanced_accuracy", merit.recall), ("macro_f1", merit.f1)):
            over_classes = functools.partial(merit.class_mean, figure, true=true, known=known, classes=classes)
            found[name] = against(over_classes, best, constant)
        return found

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task; the best class needs no threshold."""
        return task

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> NDArray[np.int64]:
        """Count rows by true class (rows) and best-scored class (columns)."""
        known = ~np.isnan(labels)
        matrix = np.zeros((len(task.classes), len(task.classes)), np.int64)
        np.add.at(matrix, (labels[known].astype(int), scores[known].argmax(axis=1)), 1)
        return matrix

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by class."""
        counts = np.bincount(labels[~np.isnan(labels)].astype(int), minlength=len(task.classes))
        return dict(zip(task.classes, counts.tolist(), strict=True))

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw the confusion, and curves of every class against the rest."""
        known = ~np.isnan(labels)
        curves = [
            Curve(name, labels[known] == number, scores[known, number], None)
            for number, name in enumerate(task.classes)
        ]
        return {
            "confusion": plot_confusion(task, self.confusion(task, labels, scores)),
            "precision_recall": plot_precision_recall(task.name, curves),
            "roc": plot_roc(task.name, curves),
        }

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Name the best class and its score."""
        best = int(scores.argmax())
        said = f"{task.classes[best]} {scores[best]:.0%}"
        if math.isnan(float(label)):
            return Words(said)
        return Words(said, task.classes[int(label)], best == int(label))


def plot_confusion(task: Task, confusion: NDArray[np.int64]) -> Figure:
    """Draw counts by true and predicted class; the colour is the share of the true class."""
    with rc_context(STYLE):
        count = len(task.classes)
        side = max(4.4, 0.62 * count + 2.2)
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(confusion):
            colour = "white" if share[row, column] > 0.55 else INK if number else "#b8c1ca"
            size = 10 if count <= 12 else 6.5
            axes.text(column, row, f"{number}", ha="center", va="center", color=colour, fontsize=size)
        axes.set_xticks(range(count), task.classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), task.classes)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(f"{task.name}: {np.trace(confusion)} of {confusion.sum()} right")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure
