"""Two models on the same rows, and whether one is worse beyond chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.metrics import Labels
from multitask.spec import Task


@dataclass(frozen=True)
class Difference:
    """A figure of the candidate, the same of the published model, and the 95% interval of their difference."""

    figure: str
    candidate: float
    published: float
    low: float
    high: float

    @property
    def is_worse(self) -> bool:
        """Is the candidate worse in at least 97.5% of the resamples?"""
        return self.high < 0


def compare_task(
    tasks: tuple[Task, Task],
    labels: Labels,
    scores: tuple[Labels, Labels],
    train_labels: Labels,
    groups: NDArray[np.int64] | None = None,
    seed: int = 0,
) -> Difference:
    """Compare two models by the main figure of a task, on the same resamples of the same rows.

    One figure decides; of many, one would be worse by chance.

    Args:
        tasks: the task as the candidate and as the published model know it; thresholds may differ.
        labels, train_labels, groups: as for `tasks.evaluate_task`.
        scores: of the candidate and of the published model.
        seed: of the bootstrap.
    """
    figure = EVALUATORS[tasks[0].kind].main
    new, old = (
        next(
            group
            for group in EVALUATORS[task.kind].figures(task, labels, values, train_labels)
            if figure in group.baselines
        )
        for task, values in zip(tasks, scores, strict=True)
    )
    rows = len(labels)
    count = merit.resamples_of(2 * new.effort, rows)
    drawn = np.concatenate(
        [
            new.compute(weights)[figure] - old.compute(weights)[figure]
            for weights in merit.resamples(rows, seed, groups, count)
        ]
    )
    low, high = merit.interval(drawn, np.nan, 0)
    return Difference(figure, new.values(rows)[figure], old.values(rows)[figure], low, high)


def comparable(candidate: Mapping[str, Task], published: Mapping[str, Task]) -> list[str]:
    """Return the names of tasks that both models answer with the same classes."""
    return [
        name
        for name, task in candidate.items()
        if name in published and (published[name].kind, published[name].classes) == (task.kind, task.classes)
    ]
