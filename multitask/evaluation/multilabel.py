"""Multilabel tasks: each tag is there or not. Labels (rows, tags) 0 and 1, scores (rows, tags) in 0..1."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.curves import Curve, plot_precision_recall, plot_roc
from multitask.evaluation.metrics import Labels, Merit
from multitask.evaluation.words import Words
from multitask.spec import Task


class Multilabel:
    """See `kinds.Evaluator`.

    Baselines: the most frequent combination of tags (exact match), "always present" (precision, recall and F1; "never
    present" has an F1 of 0), and a random order (average precision, which is then the tag's share).
    """

    main = "mean_average_precision"
    watched = ("accuracy", "mean_average_precision")

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Merit]:
        """Return exact match, and accuracy, macro F1 and mean average precision over the tags; then those of each."""
        answers = scores >= np.asarray(task.settled_thresholds(), np.float32)
        known = ~np.isnan(labels)
        usual = _usual_combination(train_labels)
        right: NDArray[np.bool_] = ((labels == 1) == answers) & known
        matches: NDArray[np.bool_] = labels == usual
        complete = np.asarray(known.all(axis=1))
        per_tag = {
            f"{name}_{figure}": value
            for tag, name in enumerate(task.classes)
            for figure, value in _tag_figures(labels[:, tag], scores[:, tag], answers[:, tag]).items()
        }
        found = {
            "exact_match": Merit(
                merit.share(np.all(right, axis=1), complete),
                merit.plain(merit.share(np.all(matches, axis=1), complete), len(labels)),
            ),
            "accuracy": Merit(
                merit.mean([merit.share(*pair) for pair in zip(right.T, known.T, strict=True)]),
                float(np.nanmean(np.where(known, matches, np.nan))) if known.any() else math.nan,
            ),
        }
        for figure, name in (("f1", "macro_f1"), ("average_precision", "mean_average_precision")):
            parts = [per_tag[f"{tag}_{figure}"] for tag in task.classes]
            found[name] = Merit(
                merit.mean([part.metric for part in parts]), merit.nanmean(part.baseline for part in parts)
            )
        return found | per_tag

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task with a threshold per tag: the configured one, else the best on these rows."""
        if task.threshold is not None:
            return task
        return task.model_copy(update={"thresholds": choose_thresholds(labels, scores)})

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> None:
        """Return nothing: tags are not confused with each other."""

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by tag."""
        return dict(zip(task.classes, (labels == 1).sum(axis=0).tolist(), strict=True))

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw the curves of every tag, with its threshold."""
        curves = []
        for tag, (name, threshold) in enumerate(zip(task.classes, task.settled_thresholds(), strict=True)):
            known = ~np.isnan(labels[:, tag])
            curves.append(Curve(name, labels[known, tag] == 1, scores[known, tag], threshold))
        return {
            "precision_recall": plot_precision_recall(task.name, curves),
            "roc": plot_roc(task.name, curves),
        }

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Name the tags that are present."""
        chosen = scores >= np.asarray(task.settled_thresholds(), np.float32)
        said = _names(task, chosen) or f"no {task.name}"
        known = ~np.isnan(label)
        if not known.any():
            return Words(said)
        right = bool((chosen[known] == (label[known] == 1)).all())
        return Words(said, _names(task, label == 1) or "none", right)


def choose_thresholds(labels: Labels, scores: Labels) -> tuple[float, ...]:
    """Return per tag the threshold with the highest F1 on these rows; 0.5 where the tag is in none or in all of them.

    A threshold lies midway between two neighbouring scores and has four decimals where that keeps them apart, so that
    it survives JSON and small differences of arithmetic.
    """
    return tuple(_best_threshold(labels[:, tag], scores[:, tag]) for tag in range(labels.shape[1]))


def _names(task: Task, there: NDArray[np.bool_]) -> str:
    return ", ".join(name for name, is_there in zip(task.classes, there, strict=True) if is_there)


def _usual_combination(train_labels: Labels) -> Labels:
    complete = train_labels[~np.isnan(train_labels).any(axis=1)]
    combinations, counts = np.unique(complete, axis=0, return_counts=True)
    return combinations[counts.argmax()] if len(counts) else np.zeros(train_labels.shape[1], np.float32)


def _tag_figures(labels: Labels, scores: Labels, answers: NDArray[np.bool_]) -> dict[str, Merit]:
    known = ~np.isnan(labels)
    true = (labels == 1) & known
    found = {
        name: Merit(
            merit.binary(figure, answers & known, true), merit.plain(merit.binary(figure, known, true), len(labels))
        )
        for name, figure in (("precision", merit.precision), ("recall", merit.recall), ("f1", merit.f1))
    }
    share = float(true.sum() / known.sum()) if known.any() else math.nan
    return {**found, "average_precision": Merit(merit.average_precision(labels, scores), share)}


def _best_threshold(labels: Labels, scores: Labels) -> float:
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known].astype(np.float64)
    if not 0 < labels.sum() < len(labels):
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order])
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    f1 = 2 * hits[ends] / (ends + 1 + labels.sum())
    last = ends[f1.argmax()]
    upper = float(ranked[last])
    lower = float(ranked[last + 1]) if last + 1 < len(ranked) else 0.0
    middle = (upper + lower) / 2
    for decimals in range(4, 17):
        rounded = float(np.float32(round(middle, decimals)))
        if lower < rounded <= upper and 0 < rounded < 1:
            return rounded
    return upper
