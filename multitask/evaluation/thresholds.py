"""Where a score becomes a yes: a threshold per tag, by a rule, on rows that did not train.

f1                  the highest F1
precision >= 0.9    as many as can be found while so many of the answers are right
recall >= 0.95      as few wrong answers as there can be while so many are found
cost 5:1            the least cost, where a tag that is missed costs 5 and one that is not there costs 1
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from multitask.evaluation.metrics import Floats, Labels, divide


@dataclass(frozen=True)
class _Cuts:
    """What each possible threshold would give, the highest first; float64 (cuts,).

    Args:
        hits, wrong: answers that are right, and those that are not.
        there: how many rows bear the tag.
    """

    hits: Floats
    wrong: Floats
    there: float

    @property
    def precision(self) -> Floats:
        """Share of the answers that are right."""
        return divide(self.hits, self.hits + self.wrong)

    @property
    def recall(self) -> Floats:
        """Share of what is there that is found."""
        return self.hits / self.there


def choose_thresholds(labels: Labels, scores: Labels, rule: str = "f1") -> tuple[float, ...]:
    """Return a threshold per tag; 0.5 where the tag is in none or in all of the rows.

    Where no threshold is precise enough, it is the most precise one. A threshold lies midway between two neighbouring
    scores and has four decimals where that keeps them apart, so that it survives JSON and small differences of
    arithmetic.

    Args:
        labels: (rows, tags) 0 and 1, NaN where there is none.
        scores: (rows, tags) in 0..1.
        rule: as on top of this file; `spec` has checked it.
    """
    return tuple(_threshold(labels[:, tag], scores[:, tag], rule) for tag in range(labels.shape[1]))


def _threshold(labels: Labels, scores: Labels, rule: str) -> float:
    known = ~np.isnan(labels)
    labels, scores = labels[known], scores[known].astype(np.float64)
    if not 0 < labels.sum() < len(labels):
        return 0.5
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order], dtype=np.float64)
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    cuts = _Cuts(hits[ends], ends + 1 - hits[ends], float(labels.sum()))
    name, *rest = rule.split(maxsplit=1)
    last = ends[_RULES[name](cuts, rest[0] if rest else "")]
    return _between(float(ranked[last]), float(ranked[last + 1]) if last + 1 < len(ranked) else 0.0)


def _between(upper: float, lower: float) -> float:
    middle = (upper + lower) / 2
    for decimals in range(4, 17):
        rounded = float(np.float32(round(middle, decimals)))
        if lower < rounded <= upper and 0 < rounded < 1:
            return rounded
    return upper


def _by_f1(cuts: _Cuts, _: str) -> int:
    return int((2 * cuts.hits / (cuts.hits + cuts.wrong + cuts.there)).argmax())


def _by_precision(cuts: _Cuts, floor: str) -> int:
    enough = np.flatnonzero(cuts.precision >= _number(floor))
    return int(enough[cuts.hits[enough].argmax()]) if len(enough) else int(cuts.precision.argmax())


def _by_recall(cuts: _Cuts, floor: str) -> int:
    return int(np.flatnonzero(cuts.recall >= _number(floor))[0])


def _by_cost(cuts: _Cuts, prices: str) -> int:
    missed, wrong = map(float, prices.split(":"))
    return int((missed * (cuts.there - cuts.hits) + wrong * cuts.wrong).argmin())


def _number(floor: str) -> float:
    # A share of few rows is rarely the number itself: 0.95 of 20 is 19 of them.
    return float(floor.removeprefix(">=")) - 1e-9


_RULES: dict[str, Callable[[_Cuts, str], int]] = {
    "f1": _by_f1,
    "precision": _by_precision,
    "recall": _by_recall,
    "cost": _by_cost,
}
