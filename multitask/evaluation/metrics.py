"""Figures of merit as functions of row weights, so that a value and all its bootstrap resamples are one product.

A `Figures` maps weights float64 (resamples, rows) to (resamples,) by name; weights of 1 give the plain values, a row of
multinomial weights those of a bootstrap resample. A figure that cannot be computed is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Floats = NDArray[np.float64]
Labels = NDArray[np.float32]

RESAMPLES, FEWEST_RESAMPLES = 1000, 100
# What the resamples of one task may cost: weights times `Figures.effort`.
_BUDGET = 4e9
# Resamples are drawn in blocks of at most this many weights, which bounds memory however many rows there are.
_BLOCK_WEIGHTS = 4_000_000
# Of the normal distribution, for intervals of 95%.
_Z = 1.96


@dataclass(frozen=True)
class Figures:
    """Figures that are computed together.

    Args:
        compute: weights (resamples, rows) to (resamples,) by name.
        baselines: the value of each for a predictor that never looks at the image.
        higher_is_better: which way each is better, where it is not the higher the better.
        shares: of figures that are shares of rows: how many rows.
        answers: of figures of one answer (a tag, a number): which.
        effort: arithmetic per weight, in units of a multiplication.
    """

    compute: Callable[[Floats], dict[str, Floats]]
    baselines: Mapping[str, float]
    higher_is_better: Mapping[str, bool] = field(default_factory=dict)
    shares: Mapping[str, int] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    effort: int = 1

    def values(self, rows: int) -> dict[str, float]:
        """Return every figure of rows that all count once."""
        return {name: float(found[0]) for name, found in self.compute(np.ones((1, rows))).items()}


def resamples_of(effort: float, rows: int) -> int:
    """Return how many resamples are drawn: a thousand, fewer where they would take too long, a hundred at least."""
    return int(np.clip(_BUDGET / max(effort * rows, 1), FEWEST_RESAMPLES, RESAMPLES))


def resamples(rows: int, seed: int, groups: NDArray[np.int64] | None, count: int = RESAMPLES) -> Iterator[Floats]:
    """Yield blocks of bootstrap weights (resamples, rows); rows of a group share a weight."""
    random = np.random.default_rng(seed)
    groups = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(groups.max()) + 1
    block = max(1, min(count, _BLOCK_WEIGHTS // max(rows, 1)))
    for start in range(0, count, block):
        drawn = random.integers(0, units, (min(block, count - start), units))
        weights = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(float)
        yield weights[:, groups]


def interval(drawn: Floats, value: float, units: float) -> tuple[float, float]:
    """Return the 95% interval of a figure from its resamples.

    A share of 0 or 1 is the same in every resample; its interval is Wilson's, of so many independent units.
    """
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return math.nan, math.nan
    low, high = np.quantile(known, (0.025, 0.975))
    if low == high and value in (0.0, 1.0) and units > 0:
        low, high = wilson(value, units)
    return float(low), float(high)


def wilson(share: Any, units: Any) -> tuple[Any, Any]:
    """Return the 95% interval of a share of so many independent units; numbers or arrays.

    https://doi.org/10.1080/01621459.1927.10502953.
    """
    centre = share + _Z**2 / (2 * units)
    reach = _Z * np.sqrt(share * (1 - share) / units + _Z**2 / (4 * units**2))
    low, high = (np.clip((centre + side) / (1 + _Z**2 / units), 0.0, 1.0) for side in (-reach, reach))
    return low, high


def holm(p_values: Floats) -> Floats:
    """Return p-values that keep the chance of any false one below its level, whatever their dependence.

    https://www.jstor.org/stable/4615733.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def average_precision(labels: Labels, scores: Labels) -> Callable[[Floats], Floats]:
    """Return weights -> average precision of one tag: the sum of precision times gain in recall over all thresholds.

    Equal scores count as one threshold, as in scikit-learn.
    """
    known = np.flatnonzero(~np.isnan(labels))
    order = known[np.argsort(-scores[known], kind="stable")]
    ranked = scores[order]
    is_end = np.append(ranked[1:] != ranked[:-1], True) if len(order) else np.zeros(0, bool)
    positive = np.flatnonzero(labels[order] == 1)
    # For each positive row: where its threshold ends, and how many positive rows lie above that.
    ends = np.flatnonzero(is_end)[np.searchsorted(np.flatnonzero(is_end), positive)]
    last = np.searchsorted(positive, ends, side="right") - 1

    def metric(weights: Floats) -> Floats:
        if not len(positive):
            return np.full(len(weights), np.nan)
        ordered = weights.astype(np.float32)[:, order]
        gains = ordered[:, positive].astype(np.float64)
        taken = np.cumsum(ordered, axis=1, out=ordered)[:, ends]
        hits = np.cumsum(gains, axis=1)
        return divide((divide(hits[:, last], taken.astype(np.float64), 0.0) * gains).sum(axis=1), hits[:, -1])

    return metric


def precision(hits: Floats, answered: Floats, there: Floats) -> Floats:
    """Return the share of answers that are right; 0 where there are none."""
    return divide(hits, answered, 0.0)


def recall(hits: Floats, answered: Floats, there: Floats) -> Floats:
    """Return the share of what is there that was found."""
    return divide(hits, there)


def f1(hits: Floats, answered: Floats, there: Floats) -> Floats:
    """Return the harmonic mean of precision and recall."""
    return divide(2 * hits, answered + there)


OF_COUNTS = {"precision": precision, "recall": recall, "f1": f1}


def class_counts(
    answers: NDArray[np.int64], true: NDArray[np.int64], classes: int
) -> Callable[[Floats], tuple[Floats, Floats, Floats]]:
    """Return weights -> (hits, answered, there), each (resamples, classes); a true class of -1 is not known.

    A row bears one class, so the counts are products with a sparse matrix, whose cost does not grow with the classes.
    """
    known = np.flatnonzero(true >= 0)
    right = known[answers[known] == true[known]]

    def marks(rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Any:
        return sparse.csr_array((np.ones(len(rows)), (columns, rows)), shape=(classes, len(true)))

    matrices = marks(right, true[right]), marks(known, answers[known]), marks(known, true[known])
    hits, answered, there = matrices
    return lambda weights: ((hits @ weights.T).T, (answered @ weights.T).T, (there @ weights.T).T)


def weighted_shares(right: NDArray[np.bool_], known: NDArray[np.bool_]) -> Callable[[Floats], Floats]:
    """Return weights -> (resamples, columns): the share of rows that are right among those known, (rows, columns)."""
    hits, total = (right & known).astype(float), known.astype(float)
    return lambda weights: divide(weights @ hits, weights @ total)


def mean_over(values: Floats) -> Floats:
    """Return the mean of (resamples, answers) over the answers, leaving out those that cannot be computed."""
    known = np.isfinite(values)
    return divide(np.where(known, values, 0.0).sum(axis=1), known.sum(axis=1).astype(float))


def divide(numerator: Floats, denominator: Floats, otherwise: float = math.nan) -> Floats:
    """Divide, with another value where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator > 0)


def nanmean(values: Iterable[float]) -> float:
    """Return the mean of those values that are numbers; NaN if none is."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan
