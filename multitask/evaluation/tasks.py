"""Scores and labels to metrics per task, with trivial baselines, intervals and thresholds.

Multiclass: labels (rows,) float32 class numbers, scores (rows, classes) that sum to 1 per row. Multilabel: labels
(rows, tags) 0/1, scores (rows, tags) in 0..1. A missing label is NaN and leaves its row out of that task, or that tag.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.metrics import Floats, Labels, WeightedMetric
from multitask.spec import ModelSpec, Task


@dataclass(frozen=True)
class Metric:
    """A figure, its 95% bootstrap interval, and the same figure of a predictor that never looks at the image."""

    value: float
    low: float
    high: float
    baseline: float


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a model on some rows.

    Args:
        metrics: per task, by name.
        confusion: per multiclass task int64 (classes, classes); rows are true classes, columns predicted ones.
        rows: per task how many rows have a label.
    """

    metrics: dict[str, dict[str, Metric]]
    confusion: dict[str, NDArray[np.int64]]
    rows: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the evaluation ready for JSON; a figure that cannot be computed is None."""
        return {
            task: {
                "rows": self.rows[task],
                "metrics": {name: _finite(vars(metric)) for name, metric in metrics.items()},
                **({"confusion": self.confusion[task].tolist()} if task in self.confusion else {}),
            }
            for task, metrics in self.metrics.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evaluation:
        """Return what `as_dict` described."""

        def metric(values: Mapping[str, float | None]) -> Metric:
            return Metric(**{key: math.nan if value is None else value for key, value in values.items()})

        return cls(
            {task: {name: metric(values) for name, values in entry["metrics"].items()} for task, entry in data.items()},
            {task: np.array(entry["confusion"]) for task, entry in data.items() if "confusion" in entry},
            {task: entry["rows"] for task, entry in data.items()},
        )

    def table(self) -> list[list[str]]:
        """Return (task, metric, value, interval, baseline) as text, for print."""
        return [
            [task, name, f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}", f"{metric.baseline:.3f}"]
            for task, metrics in self.metrics.items()
            for name, metric in metrics.items()
        ]


def evaluate(
    spec: ModelSpec,
    labels: Mapping[str, Labels],
    scores: Mapping[str, Labels],
    train_labels: Mapping[str, Labels],
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> Evaluation:
    """Evaluate every task; arguments as for `evaluate_task`, by task name."""
    metrics, confusion, rows = {}, {}, {}
    for task in spec.tasks:
        given = (labels[task.name], scores[task.name])
        metrics[task.name] = evaluate_task(task, *given, train_labels[task.name], seed, groups)
        if task.kind == "multiclass":
            confusion[task.name] = confusion_matrix(task, *given)
        rows[task.name] = int((~np.isnan(labels[task.name])).reshape(len(labels[task.name]), -1).any(axis=1).sum())
    return Evaluation(metrics, confusion, rows)


def evaluate_task(
    task: Task,
    labels: Labels,
    scores: Labels,
    train_labels: Labels,
    seed: int = 0,
    groups: NDArray[np.int64] | None = None,
) -> dict[str, Metric]:
    """Evaluate one task.

    Baselines: for multiclass the most frequent classes of the training rows; for tags the most frequent combination
    (exact match), "always present" (precision, recall and F1; "never present" has an F1 of 0), and a random order
    (average precision, which is then the tag's share).

    Args:
        task: with its thresholds.
        labels, scores: as on top of this file.
        train_labels: labels of the training rows, for the baselines.
        seed: of the bootstrap.
        groups: (rows,) groups to resample instead of rows, where rows of one group are alike.
    """
    pairs = task_metrics(task, labels, scores, train_labels)
    ones = np.ones((1, len(labels)))
    values = {name: float(metric(ones)[0]) for name, (metric, _) in pairs.items()}
    resampled: dict[str, list[Floats]] = {name: [] for name in pairs}
    for weights in merit.resamples(len(labels), seed, groups):
        for name, (metric, _) in pairs.items():
            resampled[name].append(metric(weights))
    found = {}
    for name, (_, baseline) in pairs.items():
        drawn = np.concatenate(resampled[name])
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (math.nan, math.nan)
        found[name] = Metric(values[name], float(low), float(high), baseline)
    return found


def task_metrics(
    task: Task, labels: Labels, scores: Labels, train_labels: Labels
) -> dict[str, tuple[WeightedMetric, float]]:
    """Return every figure of a task by name, as a function of row weights, and its baseline; see `evaluate_task`."""
    if task.kind == "multiclass":
        return _multiclass_metrics(task, labels, scores, train_labels)
    return _multilabel_metrics(task, labels, scores, train_labels)


def choose_thresholds(labels: Labels, scores: Labels) -> tuple[float, ...]:
    """Return per tag the threshold with the highest F1 on these rows; 0.5 where the tag is in none or in all of them.

    A threshold lies midway between two neighbouring scores and has four decimals where that keeps them apart, so that
    it survives JSON and small differences of arithmetic.
    """
    return tuple(_best_threshold(labels[:, tag], scores[:, tag]) for tag in range(labels.shape[1]))


def validation_score(spec: ModelSpec, labels: Mapping[str, Labels], scores: Mapping[str, Labels]) -> dict[str, float]:
    """Return the figures that choose the best epoch; "score" is the monitor, and higher is better.

    `<task>_accuracy` and `<task>_balanced_accuracy` of multiclass tasks, `<task>_average_precision` (mean over tags)
    of multilabel ones; `score` is the mean of balanced accuracies and average precisions over the tasks.
    """
    found: dict[str, float] = {}
    members = []
    for task in spec.tasks:
        values, given = labels[task.name], scores[task.name]
        ones = np.ones((1, len(values)))
        if task.kind == "multiclass":
            pairs, main = _multiclass_metrics(task, values, given, values), "balanced_accuracy"
        else:
            pairs, main = _multilabel_metrics(task, values, given, values), "mean_average_precision"
        for name in ("accuracy", main):
            found[f"{task.name}_{name.removeprefix('mean_')}"] = float(pairs[name][0](ones)[0])
        members.append(found[f"{task.name}_{main.removeprefix('mean_')}"])
    score = merit.nanmean(members)
    return {**found, "score": score if math.isfinite(score) else 0.0}


def confusion_matrix(task: Task, labels: Labels, scores: Labels) -> NDArray[np.int64]:
    """Count rows by true class (rows) and best-scored class (columns)."""
    known = ~np.isnan(labels)
    matrix = np.zeros((len(task.classes), len(task.classes)), np.int64)
    np.add.at(matrix, (labels[known].astype(int), scores[known].argmax(axis=1)), 1)
    return matrix


def _multiclass_metrics(
    task: Task, labels: Labels, scores: Labels, train_labels: Labels
) -> dict[str, tuple[WeightedMetric, float]]:
    known = ~np.isnan(labels)
    true = np.where(known, labels, -1).astype(int)
    best = scores.argmax(axis=1)
    frequent = np.argsort(-np.bincount(train_labels[~np.isnan(train_labels)].astype(int), minlength=len(task.classes)))
    constant = np.full(len(labels), frequent[0])
    ones = np.ones((1, len(labels)))

    def with_baseline(make: Callable[[Any], WeightedMetric]) -> tuple[WeightedMetric, float]:
        return make(best), float(make(constant)(ones)[0])

    found = {"accuracy": with_baseline(lambda answer: merit.share(answer == true, known))}
    if task.top_k > 1:
        ranks = np.argsort(-scores, axis=1, kind="stable")[:, : task.top_k]
        hit = (ranks == true[:, None]).any(axis=1)
        baseline = merit.share(np.isin(true, frequent[: task.top_k]), known)
        found[f"top_{task.top_k}_accuracy"] = (merit.share(hit, known), float(baseline(ones)[0]))
    classes = len(task.classes)
    found["balanced_accuracy"] = with_baseline(
        lambda answer: merit.class_mean(merit.recall, answer, true, known, classes)
    )
    found["macro_f1"] = with_baseline(lambda answer: merit.class_mean(merit.f1, answer, true, known, classes))
    return found


def _multilabel_metrics(
    task: Task, labels: Labels, scores: Labels, train_labels: Labels
) -> dict[str, tuple[WeightedMetric, float]]:
    answers = scores >= np.asarray(task.settled_thresholds(), np.float32)
    known = ~np.isnan(labels)
    complete = np.asarray(known.all(axis=1))
    train_complete = train_labels[~np.isnan(train_labels).any(axis=1)]
    combinations, counts = np.unique(train_complete, axis=0, return_counts=True)
    ones = np.ones((1, len(labels)))
    usual = combinations[counts.argmax()] if len(counts) else np.zeros(len(task.classes))
    per_tag: dict[str, tuple[WeightedMetric, float]] = {}
    parts: dict[str, list[WeightedMetric]] = {"f1": [], "average_precision": []}
    bases: dict[str, list[float]] = {"f1": [], "average_precision": []}
    for tag, name in enumerate(task.classes):
        for kind, metric, baseline in _tag_metrics(labels[:, tag], scores[:, tag], answers[:, tag]):
            per_tag[f"{name}_{kind}"] = (metric, baseline)
            if kind in parts:
                parts[kind].append(metric)
                bases[kind].append(baseline)
    right: NDArray[np.bool_] = ((labels == 1) == answers) & known
    matches: NDArray[np.bool_] = labels == usual
    most = np.nanmean(np.where(known, matches, np.nan)) if known.any() else math.nan
    return {
        "exact_match": (
            merit.share(np.all(right, axis=1), complete),
            float(merit.share(np.all(matches, axis=1), complete)(ones)[0]),
        ),
        "accuracy": (merit.mean([merit.share(*pair) for pair in zip(right.T, known.T, strict=True)]), float(most)),
        "macro_f1": (merit.mean(parts["f1"]), merit.nanmean(bases["f1"])),
        "mean_average_precision": (merit.mean(parts["average_precision"]), merit.nanmean(bases["average_precision"])),
        **per_tag,
    }


def _tag_metrics(labels: Labels, scores: Labels, answers: NDArray[np.bool_]) -> list[tuple[str, WeightedMetric, float]]:
    known = ~np.isnan(labels)
    true = (labels == 1) & known
    ones = np.ones((1, len(labels)))
    found: list[tuple[str, WeightedMetric, float]] = []
    for name, figure in (("precision", merit.precision), ("recall", merit.recall), ("f1", merit.f1)):
        metric = merit.binary(figure, answers & known, true)
        found.append((name, metric, float(merit.binary(figure, known, true)(ones)[0])))
    share = float(true.sum() / known.sum()) if known.any() else math.nan
    return [*found, ("average_precision", merit.average_precision(labels, scores), share)]


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


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
