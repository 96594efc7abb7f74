"""Multiclass tasks: one of several classes. Labels (rows,) class numbers, scores (rows, classes) that sum to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.calibration import (
    Answers,
    Calibration,
    calibrate_classes,
    calibration_error,
    plot_reliability,
)
from multitask.evaluation.curves import Curve, plot_curves
from multitask.evaluation.metrics import Figures, Floats, Labels
from multitask.evaluation.words import Words
from multitask.spec import Task
from multitask.style import FAINT, INK, SERIES, STYLE

# A matrix of more classes cannot be read; the pairs that are confused most are drawn instead.
MATRIX_CLASSES, CONFUSED_PAIRS = 30, 25

Integers = NDArray[np.int64]


class Multiclass:
    """See `kinds.Evaluator`. The baseline always answers with the most frequent classes of the training rows."""

    main = "balanced_accuracy"
    watched = ("accuracy", "balanced_accuracy")

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> list[Figures]:
        """Return accuracy and top-k accuracy; balanced accuracy and macro F1; calibration error."""
        classes, known = len(task.classes), ~np.isnan(labels)
        true = np.where(known, labels, -1).astype(np.int64)
        frequent = np.argsort(-np.bincount(train_labels[~np.isnan(train_labels)].astype(int), minlength=classes))
        best, constant = scores.argmax(axis=1), np.full(len(labels), frequent[0])
        return [
            _accuracies(task, true, scores, best, frequent),
            _means_over_classes(true, best, constant, classes),
            calibration_error(_answers(labels, scores)),
        ]

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task; the best class needs no threshold."""
        return task

    def calibrate(self, task: Task, labels: Labels, logits: Labels) -> Calibration:
        """Return the temperature."""
        return calibrate_classes(labels, logits)

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

    def details(self, task: Task, labels: Labels, scores: Labels, values: Mapping[str, float]) -> pd.DataFrame:
        """Return precision, recall and F1 of every class."""
        true = np.where(np.isnan(labels), -1, labels).astype(np.int64)
        found = merit.class_counts(scores.argmax(axis=1), true, len(task.classes))(np.ones((1, len(labels))))
        figures = {name: of(*found)[0] for name, of in merit.OF_COUNTS.items()}
        return pd.DataFrame({"label": task.classes, "rows": found[2][0].astype(int), **figures})

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw the confusion, and curves of every class against the rest."""
        known = ~np.isnan(labels)
        curves = [
            Curve(name, labels[known] == number, scores[known, number], None)
            for number, name in enumerate(task.classes)
        ]
        return {
            "confusion": plot_confusion(task, self.confusion(task, labels, scores)),
            "reliability": plot_reliability(task.name, _answers(labels, scores)),
            **plot_curves(task.name, curves),
        }

    def misses(self, task: Task, labels: Labels, scores: Labels) -> Floats:
        """Return the score of the best class where it is a wrong one."""
        wrong = ~np.isnan(labels) & (scores.argmax(axis=1) != labels)
        return np.where(wrong, scores.max(axis=1), 0.0).astype(np.float64)

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Name the best class and its score."""
        best = int(scores.argmax())
        said = f"{task.classes[best]} {scores[best]:.0%}"
        if math.isnan(float(label)):
            return Words(said)
        return Words(said, task.classes[int(label)], best == int(label))


def _answers(labels: Labels, scores: Labels) -> Answers:
    """Return the best class of every row."""
    sure, right = scores.max(axis=1).astype(np.float64), scores.argmax(axis=1) == labels
    return Answers(sure[:, None], right[:, None], ~np.isnan(labels)[:, None])


def _accuracies(task: Task, true: Integers, scores: Labels, best: Integers, frequent: Integers) -> Figures:
    names, right, usual = ["accuracy"], [best == true], [frequent[0] == true]
    if task.top_k > 1:
        ranks = np.argpartition(-scores, task.top_k - 1, axis=1)[:, : task.top_k]
        names.append(f"top_{task.top_k}_accuracy")
        right.append((ranks == true[:, None]).any(axis=1))
        usual.append(np.isin(true, frequent[: task.top_k]))
    known = np.repeat((true >= 0)[:, None], len(names), axis=1)
    shares, trivial = (merit.weighted_shares(np.stack(hits, axis=1), known) for hits in (right, usual))
    baselines = trivial(np.ones((1, len(true))))[0]
    return Figures(
        lambda weights: dict(zip(names, shares(weights).T, strict=True)),
        dict(zip(names, map(float, baselines), strict=True)),
        shares=dict.fromkeys(names, int(known[:, 0].sum())),
        effort=4,
    )


def _means_over_classes(true: Integers, best: Integers, constant: Integers, classes: int) -> Figures:
    """Compute recall and F1 of every class, and their means over the classes that occur."""

    def of(answers: Integers) -> Callable[[Floats], dict[str, Floats]]:
        counts = merit.class_counts(answers, true, classes)

        def compute(weights: Floats) -> dict[str, Floats]:
            found = counts(weights)
            return {
                "balanced_accuracy": merit.mean_over(merit.recall(*found)),
                "macro_f1": merit.mean_over(merit.f1(*found)),
            }

        return compute

    baselines = {name: float(values[0]) for name, values in of(constant)(np.ones((1, len(true)))).items()}
    return Figures(of(best), baselines, effort=20)


def plot_confusion(task: Task, confusion: NDArray[np.int64]) -> Figure:
    """Draw counts by true and predicted class, the colour is the share of the true class; of many the worst pairs."""
    if len(task.classes) > MATRIX_CLASSES:
        return _plot_confused_pairs(task, confusion)
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


def _plot_confused_pairs(task: Task, confusion: NDArray[np.int64]) -> Figure:
    """Draw which classes are taken for which others, most rows first."""
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    worst = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED_PAIRS]
    pairs = [divmod(int(place), len(task.classes)) for place in worst if wrong.flat[place]]
    with rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.2 + 0.27 * max(len(pairs), 3)), layout="constrained")
        axes = figure.subplots()
        names = [f"{_short(task.classes[true])} taken for {_short(task.classes[given])}" for true, given in pairs]
        counts = [int(wrong[pair]) for pair in pairs]
        bars = axes.barh(range(len(pairs)), counts, color=SERIES[0], height=0.7)
        shares = [count / confusion[true].sum() for count, (true, _) in zip(counts, pairs, strict=True)]
        notes = [f"{count} ({share:.0%})" for count, share in zip(counts, shares, strict=True)]
        axes.bar_label(bars, notes, padding=4, color=FAINT)
        axes.set_yticks(range(len(pairs)), names)
        axes.invert_yaxis()
        axes.margins(x=0.14)
        axes.grid(visible=False, axis="y")
        right = f"{np.trace(confusion):,} of {confusion.sum():,} right"
        title = f"{task.name}: {right}; the most confused of {len(task.classes)} classes"
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"
