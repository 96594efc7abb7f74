"""What scores decide, one rule per kind of task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.spec import Task

Scores = NDArray[np.float32]


@dataclass(frozen=True)
class Decision:
    """How one kind of task is decided; scores are (rows, classes).

    Args:
        decide: (task, scores) to int64 (rows, decision columns).
        names: (task, decisions) to class names, object (rows, name columns).
        outputs: (task, scores) to what the served graph must answer beside the scores, by output name.
        counts: (task, scores) to how many rows got which answer.
    """

    decide: Callable[[Task, Scores], NDArray[np.int64]]
    names: Callable[[Task, NDArray[np.int64]], NDArray[np.object_]]
    outputs: Callable[[Task, Scores], dict[str, NDArray[Any]]]
    counts: Callable[[Task, Scores], Mapping[str, int]]


def decide(task: Task, scores: Scores) -> NDArray[np.int64]:
    """Return int64 (rows, decision columns): positions of the best classes, 0 or 1 per tag, nothing for numbers."""
    return DECISIONS[task.kind].decide(task, scores)


def differences(task: Task, expected: Scores, found: Scores) -> NDArray[np.float64]:
    """Return how far scores (rows, classes) lie from others: of probabilities the plain difference.

    Numbers are compared in standard deviations of the training labels, far from their mean in relation to that
    distance, since arithmetic of few digits errs in proportion; and by a fourth, the steepest that a sigmoid gets, so
    that one tolerance fits both.
    """
    if not task.spreads:
        return np.abs(expected.astype(np.float64) - found)
    one, other = ((values.astype(np.float64) - task.means) / task.spreads for values in (expected, found))
    return np.abs(one - other) / np.maximum(np.abs(one), 1.0) / 4


def _best_classes(task: Task, scores: Scores) -> NDArray[np.int64]:
    """Return the `top_k` best classes, best first; of equal scores the class that comes first wins."""
    return np.argsort(-scores, axis=1, kind="stable")[:, : task.top_k].astype(np.int64)


def _present_tags(task: Task, scores: Scores) -> NDArray[np.int64]:
    """Return 0 or 1 per tag; it is present from its threshold on."""
    return (scores >= np.asarray(task.settled_thresholds(), np.float32)).astype(np.int64)


def _nothing(task: Task, values: NDArray[Any]) -> NDArray[Any]:
    return np.empty((len(values), 0), np.int64)


def _class_names(task: Task, chosen: NDArray[np.int64]) -> NDArray[np.object_]:
    return np.array(task.classes, object)[chosen]


def _top_outputs(task: Task, scores: Scores) -> dict[str, NDArray[Any]]:
    chosen = _best_classes(task, scores)
    names = np.array([name.encode() for name in task.classes], object)[chosen]
    return dict(zip(task.answer_outputs, (names, np.take_along_axis(scores, chosen, axis=1)), strict=True))


def _count_best(task: Task, scores: Scores) -> dict[str, int]:
    counts = np.bincount(scores.argmax(axis=1), minlength=len(task.classes))
    return dict(zip(task.classes, counts.tolist(), strict=True))


def _count_present(task: Task, scores: Scores) -> dict[str, int]:
    return dict(zip(task.classes, _present_tags(task, scores).sum(axis=0).tolist(), strict=True))


DECISIONS = {
    "multiclass": Decision(_best_classes, _class_names, _top_outputs, _count_best),
    "multilabel": Decision(
        _present_tags,
        _nothing,
        lambda task, scores: {task.answer_outputs[0]: _present_tags(task, scores)},
        _count_present,
    ),
    "regression": Decision(_nothing, _nothing, lambda task, scores: {}, lambda task, scores: {}),
}
