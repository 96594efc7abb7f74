"""What is watched: numbers and decisions of each image, by name; one rule per kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.measures import MEASURES
from multitask.prediction.decisions import decide
from multitask.spec import Kind, ModelSpec, Task

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Signals:
    """What is watched of some images, each (rows,).

    Args:
        numbers: by name.
        decisions: names of answers, by name.
    """

    numbers: Mapping[str, Floats] = field(default_factory=dict)
    decisions: Mapping[str, NDArray[np.object_]] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """How many images there are."""
        return max(map(len, [*self.numbers.values(), *self.decisions.values()]), default=0)


@dataclass(frozen=True)
class Watch:
    """How one kind of task is watched; scores are (rows, answers), labels (rows,) or (rows, answers).

    Args:
        signals: (task, scores) to what is watched.
        sureness: (task, scores) to the probability, as the model sees it, that each row is answered rightly: (rows,).
            NaN where the kind knows none.
        right: (task, scores, labels) to the share of each row's answers that is right: (rows,); NaN without a label.
    """

    signals: Callable[[Task, Floats], Signals]
    sureness: Callable[[Task, Floats], Floats]
    right: Callable[[Task, Floats, Floats], Floats]


def scores_of(task: Task, frame: pd.DataFrame) -> Floats:
    """Return the scores of a task, float64 (rows, answers), from a table with score columns."""
    return frame[list(task.score_columns)].to_numpy(np.float64)


def signals_of(spec: ModelSpec, frame: pd.DataFrame) -> Signals:
    """Return all that is watched of the rows of a profile or a window; measures only where the table has them."""
    numbers = {name: frame[name].to_numpy(np.float64) for name in MEASURES if name in frame}
    decisions: dict[str, NDArray[np.object_]] = {}
    for task in spec.tasks:
        found = WATCHES[task.kind].signals(task, scores_of(task, frame))
        numbers |= found.numbers
        decisions |= found.decisions
    return Signals(numbers, decisions)


def sureness_of(task: Task, frame: pd.DataFrame) -> Floats:
    """Return how sure the model is of each row's answers to a task; see `Watch`."""
    return WATCHES[task.kind].sureness(task, scores_of(task, frame))


def _of_classes(task: Task, scores: Floats) -> Signals:
    answers = np.array(task.classes, object)[scores.argmax(axis=1)]
    return Signals({f"{task.name}: top score": scores.max(axis=1)}, {f"{task.name}: answer": answers})


def _of_tags(task: Task, scores: Floats) -> Signals:
    words = np.array(["no", "yes"], object)[decide(task, scores.astype(np.float32))]
    return Signals(
        {f"{task.name}: score of {name}": column for name, column in zip(task.classes, scores.T, strict=True)},
        {f"{task.name}: {name}": column for name, column in zip(task.classes, words.T, strict=True)},
    )


def _of_numbers(task: Task, scores: Floats) -> Signals:
    return Signals({f"{task.name}: {name}": column for name, column in zip(task.classes, scores.T, strict=True)})


def _sure_of_tags(task: Task, scores: Floats) -> Floats:
    present = decide(task, scores.astype(np.float32)) == 1
    return np.where(present, scores, 1 - scores).mean(axis=1)


def _right_class(task: Task, scores: Floats, labels: Floats) -> Floats:
    return np.where(np.isnan(labels), np.nan, scores.argmax(axis=1) == labels)


def _right_tags(task: Task, scores: Floats, labels: Floats) -> Floats:
    known = ~np.isnan(labels)
    right = (decide(task, scores.astype(np.float32)) == labels) & known
    return np.where(known.any(axis=1), right.sum(axis=1) / np.maximum(known.sum(axis=1), 1), np.nan)


def _unknown(task: Task, scores: Floats, labels: Floats | None = None) -> Floats:
    return np.full(len(scores), np.nan)


WATCHES: dict[Kind, Watch] = {
    "multiclass": Watch(_of_classes, lambda task, scores: scores.max(axis=1), _right_class),
    "multilabel": Watch(_of_tags, _sure_of_tags, _right_tags),
    "regression": Watch(_of_numbers, _unknown, _unknown),
}
