"""Figures of merit as functions of row weights, so that a value and all its bootstrap resamples are one product.

A `WeightedMetric` maps weights float64 (resamples, rows) to (resamples,); weights of 1 give the plain value, a row of
multinomial weights that of a bootstrap resample. A figure that cannot be computed is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Labels = NDArray[np.float32]
WeightedMetric = Callable[[Floats], Floats]

NumberMetric = Callable[[Floats, Floats], WeightedMetric]


class Merit(NamedTuple):
    """A figure, its value for a predictor that never looks at the image, and which way is better."""

    metric: WeightedMetric
    baseline: float
    higher_is_better: bool = True


RESAMPLES = 1000
# Resamples are drawn in blocks of at most this many weights, which bounds memory however many rows there are.
_BLOCK_WEIGHTS = 4_000_000


def average_precision(labels: Labels, scores: Labels) -> WeightedMetric:
    """Return weights -> average precision of one tag: the sum of precision times gain in recall over all thresholds.

    Equal scores count as one threshold, as in scikit-learn.
    """
    known = np.flatnonzero(~np.isnan(labels))
    order = known[np.argsort(-scores[known], kind="stable")]
    ranked, positive = scores[order], labels[order] == 1
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if len(order) else np.array([], int)

    def metric(weights: Floats) -> Floats:
        taken = np.cumsum(weights[:, order], axis=1)[:, ends]
        hits = np.cumsum(weights[:, order] * positive, axis=1)[:, ends]
        if not len(order):
            return np.full(len(weights), np.nan)
        gains = np.diff(hits, axis=1, prepend=0.0)
        return divide((divide(hits, taken, 0.0) * gains).sum(axis=1), hits[:, -1])

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


def binary(
    figure: Callable[[Floats, Floats, Floats], Floats], answers: NDArray[np.bool_], true: NDArray[np.bool_]
) -> WeightedMetric:
    """Return weights -> a figure of hits, answers and truths of one class."""
    columns = np.stack([answers & true, answers, true], axis=1).astype(float)

    def metric(weights: Floats) -> Floats:
        hits, answered, there = (weights @ columns).T
        return figure(hits, answered, there)

    return metric


def class_mean(
    figure: Callable[[Floats, Floats, Floats], Floats],
    answers: NDArray[np.int64],
    true: NDArray[np.int64],
    known: NDArray[np.bool_],
    classes: int,
) -> WeightedMetric:
    """Return weights -> the mean of a figure over the classes that occur."""
    return mean([binary(figure, (answers == label) & known, (true == label) & known) for label in range(classes)])


def share(right: NDArray[np.bool_], known: NDArray[np.bool_]) -> WeightedMetric:
    """Return weights -> the share of rows that are right among those that are known."""
    columns = np.stack([right & known, known], axis=1).astype(float)

    def metric(weights: Floats) -> Floats:
        hits, total = (weights @ columns).T
        return divide(hits, total)

    return metric


def absolute_error(true: Floats, given: Floats) -> WeightedMetric:
    """Return weights -> the mean absolute error of numbers (rows,); a missing one is NaN."""
    return _weighted_mean(np.abs(given - true))


def root_mean_squared_error(true: Floats, given: Floats) -> WeightedMetric:
    """Return weights -> the root of the mean squared error of numbers (rows,)."""
    squares = _weighted_mean(np.square(given - true))
    return lambda weights: np.sqrt(squares(weights))


def r_squared(true: Floats, given: Floats) -> WeightedMetric:
    """Return weights -> the share of the variance of numbers (rows,) that is explained; NaN where there is none."""
    known = ~np.isnan(true)
    # About their mean, since squares of large numbers leave no digits for the difference.
    centred = np.where(known, true - (true[known].mean() if known.any() else 0.0), 0.0)
    columns = np.stack([known, centred, np.square(centred), np.where(known, np.square(given - true), 0.0)], axis=1)

    def metric(weights: Floats) -> Floats:
        count, total, squares, errors = (weights @ columns).T
        return 1.0 - divide(errors, squares - divide(np.square(total), count, 0.0))

    return metric


def _weighted_mean(values: Floats) -> WeightedMetric:
    known = ~np.isnan(values)
    columns = np.stack([np.where(known, values, 0.0), known], axis=1)

    def metric(weights: Floats) -> Floats:
        total, count = (weights @ columns).T
        return divide(total, count)

    return metric


def plain(metric: WeightedMetric, rows: int) -> float:
    """Return the value of a figure over rows that all count once."""
    return float(metric(np.ones((1, rows)))[0])


def mean(metrics: list[WeightedMetric]) -> WeightedMetric:
    """Return weights -> the mean of some metrics, leaving out those that cannot be computed."""

    def metric(weights: Floats) -> Floats:
        values = np.stack([part(weights) for part in metrics])
        known = np.isfinite(values)
        return divide(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0).astype(float))

    return metric


def divide(numerator: Floats, denominator: Floats, otherwise: float = math.nan) -> Floats:
    """Divide, with another value where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(numerator, otherwise), where=denominator > 0)


def nanmean(values: Iterable[float]) -> float:
    """Return the mean of those values that are numbers; NaN if none is."""
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else math.nan


def resamples(rows: int, seed: int, groups: NDArray[np.int64] | None) -> Iterator[Floats]:
    """Yield blocks of bootstrap weights (resamples, rows); rows of a group share a weight."""
    random = np.random.default_rng(seed)
    groups = np.arange(rows) if groups is None else np.unique(groups, return_inverse=True)[1]
    units = int(groups.max()) + 1
    block = max(1, min(RESAMPLES, _BLOCK_WEIGHTS // max(rows, 1)))
    for start in range(0, RESAMPLES, block):
        drawn = random.integers(0, units, (min(block, RESAMPLES - start), units))
        weights = np.stack([np.bincount(row, minlength=units) for row in drawn]).astype(float)
        yield weights[:, groups]
