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
from multitask.evaluation.metrics import Labels
from multitask.spec import ModelSpec, Task

# More tags or numbers than this are a table of their own; their figures are still computed and written.
SHOWN_ANSWERS = 13
# A matrix of more classes is left out of JSON.
CONFUSION_CLASSES = 100


@dataclass(frozen=True)
class Metric:
    """A figure, its 95% bootstrap interval, and the same figure of a predictor that never looks at the image."""

    value: float
    low: float
    high: float
    baseline: float
    higher_is_better: bool = True
    answer: str = ""
    """The tag or number it is a figure of; "" for one of the whole task."""

    @property
    def baseline_text(self) -> str:
        """The baseline for people; nothing where there is none."""
        return "" if math.isnan(self.baseline) else f"{self.baseline:.3f}"


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
                **self._confusion(task),
            }
            for task, metrics in self.metrics.items()
        }

    def _confusion(self, task: str) -> dict[str, Any]:
        small = task in self.confusion and len(self.confusion[task]) <= CONFUSION_CLASSES
        return {"confusion": self.confusion[task].tolist()} if small else {}

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
        """Return (task, metric, value, interval, baseline) as text, for print; single answers where they are few."""
        return [
            [task, name, f"{metric.value:.3f}", f"{metric.low:.3f} to {metric.high:.3f}", metric.baseline_text]
            for task in self.metrics
            for name, metric in self.shown(task).items()
        ]

    def shown(self, task: str) -> dict[str, Metric]:
        """Return the figures of a task that people look at: all, or those of the whole task where answers are many."""
        metrics = self.metrics[task]
        is_few = len({metric.answer for metric in metrics.values()}) <= SHOWN_ANSWERS
        return {name: metric for name, metric in metrics.items() if is_few or not metric.answer}


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
    found = {}
    units = _units(labels, groups)
    for group in EVALUATORS[task.kind].figures(task, labels, scores, train_labels):
        count = merit.resamples_of(group.effort, len(labels))
        parts = [group.compute(weights) for weights in merit.resamples(len(labels), seed, groups, count)]
        for name, value in group.values(len(labels)).items():
            drawn = np.concatenate([part[name] for part in parts])
            low, high = merit.interval(drawn, value, units * group.shares.get(name, 0) / max(len(labels), 1))
            facts = (group.baselines[name], group.higher_is_better.get(name, True), group.answers.get(name, ""))
            found[name] = Metric(value, low, high, *facts)
    # Those of the whole task come first.
    return dict(sorted(found.items(), key=lambda entry: bool(entry[1].answer)))


def _units(labels: Labels, groups: NDArray[np.int64] | None) -> int:
    """Return how many independent units the rows are."""
    return len(labels) if groups is None else len(np.unique(groups))


def weak_heads(spec: ModelSpec, found: Evaluation) -> list[str]:
    """Return a line for every task whose main figure does not beat its baseline, or that pays for it in accuracy."""
    lines = []
    for task in spec.tasks:
        metrics, main = found.metrics[task.name], EVALUATORS[task.kind].main
        metric, accuracy = metrics[main], metrics.get("accuracy")
        shown = f"{task.name}: {main.replace('_', ' ')} {metric.value:.3f} ({metric.low:.3f} to {metric.high:.3f})"
        if not metric.low > metric.baseline:
            lines.append(f"{shown} does not beat its baseline {metric.baseline:.3f}, which never looks at the image")
        elif accuracy is not None and accuracy.value < accuracy.baseline:
            lines.append(
                f"{shown} is bought with accuracy: {accuracy.value:.3f}, below the {accuracy.baseline:.3f} of always "
                "answering the most frequent; fit.balance weighs rare answers, thresholds favour F1"
            )
    return lines


def validation_score(spec: ModelSpec, labels: Mapping[str, Labels], scores: Mapping[str, Labels]) -> dict[str, float]:
    """Return the figures that choose the best epoch; "score" is the monitor, and higher is better.

    `<task>_<figure>` of what each kind watches (a mean over tags loses that prefix); `score` is the mean of the main
    figures of the tasks, none of which counts as less than -1, and NaN when the labels define none of them.
    """
    found: dict[str, float] = {}
    members = []
    for task in spec.tasks:
        values, given, kind = labels[task.name], scores[task.name], EVALUATORS[task.kind]
        for group in kind.figures(task, values, given, values):
            for name, value in group.values(len(values)).items():
                if name in kind.watched:
                    found[f"{task.name}_{name.removeprefix('mean_')}"] = value
        members.append(max(found[f"{task.name}_{kind.main.removeprefix('mean_')}"], -1.0))
    return {**found, "score": merit.nanmean(members)}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in values.items()
    }
