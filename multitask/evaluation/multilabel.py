"""Multilabel tasks: each tag is there or not. Labels (rows, tags) 0 and 1, scores (rows, tags) in 0..1."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.calibration import Answers, Calibration, calibrate_tags, calibration_error, plot_reliability
from multitask.evaluation.curves import Curve, plot_curves
from multitask.evaluation.metrics import Figures, Floats, Labels
from multitask.evaluation.thresholds import choose_thresholds
from multitask.evaluation.words import Words
from multitask.spec import Task


class Multilabel:
    """See `kinds.Evaluator`.

    Baselines: the most frequent combination of tags (exact match), "always present" (precision, recall and F1; "never
    present" has an F1 of 0), and a random order (average precision, which is then the tag's share).
    """

    main = "mean_average_precision"
    watched = ("accuracy", "mean_average_precision")

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> list[Figures]:
        """Return exact match; accuracy, macro F1 and mean average precision over the tags; calibration; each tag's."""
        return [
            _decisions(task, labels, scores, _usual_combination(train_labels)),
            _rankings(task, labels, scores),
            calibration_error(_answers(labels, scores)),
        ]

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task with a threshold per tag: the configured one, else by its rule on these rows."""
        if task.threshold is not None:
            return task
        return task.model_copy(update={"thresholds": choose_thresholds(labels, scores, task.threshold_by)})

    def calibrate(self, task: Task, labels: Labels, logits: Labels) -> Calibration:
        """Return the temperature, and an offset per tag."""
        return calibrate_tags(labels, logits)

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> None:
        """Return nothing: tags are not confused with each other."""

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by tag."""
        return dict(zip(task.classes, (labels == 1).sum(axis=0).tolist(), strict=True))

    def details(self, task: Task, labels: Labels, scores: Labels, values: Mapping[str, float]) -> pd.DataFrame:
        """Return precision, recall, F1, average precision and threshold of every tag."""
        figures = (*merit.OF_COUNTS, "average_precision")
        columns = {figure: [values[f"{name}_{figure}"] for name in task.classes] for figure in figures}
        rows = list(self.counts(task, labels).values())
        return pd.DataFrame(
            {"label": task.classes, "rows": rows, **columns, "threshold": list(task.settled_thresholds())}
        )

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw the curves of every tag, with its threshold."""
        curves = []
        for tag, (name, threshold) in enumerate(zip(task.classes, task.settled_thresholds(), strict=True)):
            known = ~np.isnan(labels[:, tag])
            curves.append(Curve(name, labels[known, tag] == 1, scores[known, tag], threshold))
        return {
            "reliability": plot_reliability(task.name, _answers(labels, scores)),
            **plot_curves(task.name, curves),
        }

    def misses(self, task: Task, labels: Labels, scores: Labels) -> Floats:
        """Return the largest distance of a score to its threshold, of those on the wrong side."""
        thresholds = np.asarray(task.settled_thresholds(), np.float32)
        wrong = ~np.isnan(labels) & ((scores >= thresholds) != (labels == 1))
        return np.where(wrong, np.abs(scores - thresholds), 0.0).max(axis=1).astype(np.float64)

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Name the tags that are present."""
        chosen = scores >= np.asarray(task.settled_thresholds(), np.float32)
        said = _names(task, chosen) or f"no {task.name}"
        known = ~np.isnan(label)
        if not known.any():
            return Words(said)
        right = bool((chosen[known] == (label[known] == 1)).all())
        return Words(said, _names(task, label == 1) or "none", right)


def _names(task: Task, there: NDArray[np.bool_]) -> str:
    return ", ".join(name for name, is_there in zip(task.classes, there, strict=True) if is_there)


def _answers(labels: Labels, scores: Labels) -> Answers:
    """Return that each tag is there, as surely as its score says."""
    return Answers(scores.astype(np.float64), labels == 1, ~np.isnan(labels))


def _usual_combination(train_labels: Labels) -> Labels:
    complete = train_labels[~np.isnan(train_labels).any(axis=1)]
    combinations, counts = np.unique(complete, axis=0, return_counts=True)
    return combinations[counts.argmax()] if len(counts) else np.zeros(train_labels.shape[1], np.float32)


def _decisions(task: Task, labels: Labels, scores: Labels, usual: Labels) -> Figures:
    """Compute what follows from the tags that were decided on: every tag at once, as products with the weights."""
    known, true = ~np.isnan(labels), labels == 1
    complete = np.asarray(known.all(axis=1)).reshape(-1, 1)

    def of(answers: NDArray[np.bool_]) -> Callable[[Floats], dict[str, Floats]]:
        right = (true == answers) & known
        accuracy = merit.weighted_shares(right, known)
        exact = merit.weighted_shares(right.all(axis=1)[:, None], complete)
        counts = [(answers & true & known).astype(float), (answers & known).astype(float), (true & known).astype(float)]

        def compute(weights: Floats) -> dict[str, Floats]:
            found = [weights @ count for count in counts]
            f1 = merit.f1(*found)
            values = {"precision": merit.precision(*found), "recall": merit.recall(*found), "f1": f1}
            return {
                "exact_match": exact(weights)[:, 0],
                "accuracy": merit.mean_over(accuracy(weights)),
                "macro_f1": merit.mean_over(f1),
                **{
                    f"{name}_{figure}": columns[:, tag]
                    for tag, name in enumerate(task.classes)
                    for figure, columns in values.items()
                },
            }

        return compute

    ones = np.ones((1, len(labels)))
    # The most frequent combination for exact match and accuracy, "always present" for each tag.
    constant = of(np.repeat(usual[None] == 1, len(labels), axis=0))(ones)
    baselines = of(np.ones_like(known))(ones) | {name: constant[name] for name in ("exact_match", "accuracy")}
    shares = {"exact_match": int(complete.sum()), "accuracy": int(known.any(axis=1).sum())}
    for name, there in zip(task.classes, (true & known).sum(axis=0), strict=True):
        shares[f"{name}_recall"] = int(there)
    compute = of(scores >= np.asarray(task.settled_thresholds(), np.float32))
    values = {name: float(found[0]) for name, found in baselines.items()}
    answers = {f"{name}_{figure}": name for name in task.classes for figure in ("precision", "recall", "f1")}
    return Figures(compute, values, shares=shares, answers=answers, effort=5 * len(task.classes))


def _rankings(task: Task, labels: Labels, scores: Labels) -> Figures:
    metrics = [merit.average_precision(labels[:, tag], scores[:, tag]) for tag in range(len(task.classes))]

    def compute(weights: Floats) -> dict[str, Floats]:
        found = np.stack([metric(weights) for metric in metrics], axis=1)
        names = [f"{name}_average_precision" for name in task.classes]
        return {"mean_average_precision": merit.mean_over(found), **dict(zip(names, found.T, strict=True))}

    known = ~np.isnan(labels)
    shares = merit.divide((labels == 1).sum(axis=0).astype(float), known.sum(axis=0).astype(float))
    baselines = {f"{name}_average_precision": float(share) for name, share in zip(task.classes, shares, strict=True)}
    # A random order has an average precision of the share of the tag.
    answers = {f"{name}_average_precision": name for name in task.classes}
    baselines["mean_average_precision"] = merit.nanmean(baselines.values())
    return Figures(compute, baselines, answers=answers, effort=40 * len(metrics))
