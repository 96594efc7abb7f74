"""Scores and labels to metrics per task, with trivial baselines and intervals.

Labels are float32 (rows,) or (rows, answers) and scores (rows, answers), see the room of each kind. A missing label is
NaN and leaves its row out of that task, or of that answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.metrics import Floats, Labels
from multitask.spec import ModelSpec, Task


@dataclass(frozen=True)
class Metric:
    """A figure, its 95% bootstrap interval, and the same figure of a predictor that never looks at the image."""

    value: float
    low: float
    high: float
    baseline: float
    higher_is_better: bool = True


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

        def metric(values: Mapping[str, Any]) -> Metric:
            known: dict[str, Any] = {key: math.nan if value is None else value for key, value in values.items()}
            return Metric(**known)

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


def evaluate_tasks(
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
        matrix = EVALUATORS[task.kind].confusion(task, *given)
        if matrix is not None:
            confusion[task.name] = matrix
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

    Args:
        task: with its thresholds.
        labels, scores: as on top of this file.
        train_labels: labels of the training rows, for the baselines.
        seed: of the bootstrap.
        groups: (rows,) groups to resample instead of rows, where rows of one group are alike.
    """
    figures = EVALUATORS[task.kind].figures(task, labels, scores, train_labels)
    resampled: dict[str, list[Floats]] = {name: [] for name in figures}
    for weights in merit.resamples(len(labels), seed, groups):
        for name, figure in figures.items():
            resampled[name].append(figure.metric(weights))
    found = {}
    for name, figure in figures.items():
        drawn = np.concatenate(resampled[name])
        drawn = drawn[np.isfinite(drawn)]
        low, high = np.quantile(drawn, (0.025, 0.975)) if len(drawn) else (math.nan, math.nan)
        value = merit.plain(figure.metric, len(labels))
        found[name] = Metric(value, float(low), float(high), figure.baseline, figure.higher_is_better)
    return found


def validation_score(spec: ModelSpec, labels: Mapping[str, Labels], scores: Mapping[str, Labels]) -> dict[str, float]:
    """Return the figures that choose the best epoch; "score" is the monitor, and higher is better.

    `<task>_<figure>` of what each kind watches (a mean over tags loses that prefix); `score` is the mean of the main
    figures of the tasks, none of which counts as less than -1, and NaN when the labels define none of them.
    """
    found: dict[str, float] = {}
    members = []
    for task in spec.tasks:
        values, given, kind = labels[task.name], scores[task.name], EVALUATORS[task.kind]
        figures = kind.figures(task, values, given, values)
        for name in kind.watched:
            found[f"{task.name}_{name.removeprefix('mean_')}"] = merit.plain(figures[name].metric, len(values))
        members.append(max(found[f"{task.name}_{kind.main.removeprefix('mean_')}"], -1.0))
    return {**found, "score": merit.nanmean(members)}


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: value if math.isfinite(value) else None for key, value in values.items()}
