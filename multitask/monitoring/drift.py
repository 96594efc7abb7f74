"""Has it moved? Two samples compared, property by property: is it chance, and is it large enough to matter.

A property has moved when both say so: a p-value below 0.01 after Holm's correction over all properties
(https://www.jstor.org/stable/4615733), and an effect of at least its limit. With many rows anything is significant,
with few anything may look large. Where the rows of the reference belong to groups, such as the photos of one sender,
the limits allow for how far groups differ, see `variation`; else rows are taken as independent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray

from multitask.evaluation.metrics import holm
from multitask.monitoring.signals import Floats, Signals
from multitask.monitoring.variation import Groups, group_limits, spread

SIGNIFICANCE = 0.01
# Of numbers: Wasserstein's distance in standard deviations of the reference. Of decisions: total variation, which is
# the share of rows that would have to be answered otherwise. Of refused images the difference of their shares.
NUMBER_LIMIT, DECISION_LIMIT, REFUSED_LIMIT = 0.25, 0.1, 0.05
REFUSED = "refused images"
BINS = 24
# Below, chi-square's p-values are wrong; answers that are rarer are taken together. Cochran 1954.
_LEAST_EXPECTED = 5
# A share of nothing would make the population stability index infinite.
_LEAST_SHARE = 1e-4


@dataclass(frozen=True)
class Bars:
    """Shares of the reference and of the window per bin or answer; `names` say which: edges' lower ends, or answers."""

    names: Sequence[str]
    reference: Floats
    window: Floats


@dataclass(frozen=True)
class Shift:
    """How one property differs between reference and window.

    Args:
        name: of the property.
        unit: of the effect, in words.
        effect, limit: how far it has moved, and from where on that matters.
        psi: population stability index, over tenths of the reference or over answers.
        p_value: after Holm's correction.
        reference, window: what is told of each: the mean of numbers, or the share of the answer that differs most.
        answer: that answer; "" for numbers.
        bars: to be drawn.
    """

    name: str
    unit: str
    effect: float
    limit: float
    psi: float
    p_value: float
    reference: float
    window: float
    answer: str
    bars: Bars

    @property
    def moved(self) -> bool:
        """Is it significant and large?"""
        return self.p_value < SIGNIFICANCE and self.effect >= self.limit


def compare(
    reference: Signals,
    window: Signals,
    refused: tuple[tuple[int, int], tuple[int, int]] | None = None,
    groups: Groups | None = None,
    also: Sequence[Shift] = (),
) -> list[Shift]:
    """Compare two samples; those that moved first, then by effect in terms of its limit.

    Args:
        reference, window: what is watched; properties that one of them lacks are left out.
        refused: images that could not be answered and all images, of the reference and of the window.
        groups: of the reference; None where its rows are independent.
        also: shifts with p-values of their own, of one test each.
    """
    found = []
    for name, values in reference.numbers.items():
        pair = _finite(values), _finite(window.numbers.get(name, np.empty(0)))
        if all(map(len, pair)):
            found.append(shift_of_numbers(name, *pair))
    for name, answers in reference.decisions.items():
        other = window.decisions.get(name, np.empty(0, object))
        if len(answers) and len(other):
            found.append(_decisions(name, answers, other))
    if groups is not None and found:
        limits = group_limits(reference, groups, window.rows, {shift.name: shift.limit for shift in found})
        found = [replace(shift, limit=limits[shift.name]) for shift in found]
    if refused is not None and all(count for _, count in refused):
        parts = [np.repeat(np.array(["yes", "no"], object), (no, count - no)) for no, count in refused]
        shift = replace(_decisions(REFUSED, *parts), limit=REFUSED_LIMIT, unit="share of images", answer="yes")
        before, now = (no / count for no, count in refused)
        found.append(replace(shift, reference=before, window=now))
    found += also
    adjusted = holm(np.array([shift.p_value for shift in found])).tolist()
    found = [replace(shift, p_value=value) for shift, value in zip(found, adjusted, strict=True)]
    return sorted(found, key=lambda shift: (not shift.moved, -shift.effect / shift.limit))


def shift_of_numbers(name: str, reference: Floats, window: Floats) -> Shift:
    """Compare numbers as if rows were independent and no other property were compared."""
    cuts = np.unique(np.quantile(reference, np.linspace(0, 1, 11)[1:-1]))
    tenths = [np.bincount(np.searchsorted(cuts, part), minlength=len(cuts) + 1) for part in (reference, window)]
    return Shift(
        name=name,
        unit="spreads of the reference",
        effect=float(scipy.stats.wasserstein_distance(reference, window) / spread(reference)),
        limit=NUMBER_LIMIT,
        psi=_psi(*tenths),
        p_value=float(scipy.stats.ks_2samp(reference, window, method="asymp").pvalue),
        reference=float(reference.mean()),
        window=float(window.mean()),
        answer="",
        bars=_bars(reference, window),
    )


def _decisions(name: str, reference: NDArray[np.object_], window: NDArray[np.object_]) -> Shift:
    counted = pd.DataFrame([pd.Series(part).value_counts() for part in (reference, window)]).fillna(0)
    answers, counts = counted.columns.to_numpy(str), counted.to_numpy(np.int64)
    shares = counts / counts.sum(axis=1, keepdims=True)
    differences = np.abs(shares[1] - shares[0])
    most = int(np.argmax(np.where(answers == "no", -1, differences)))
    return Shift(
        name=name,
        unit="share of answers",
        effect=float(differences.sum() / 2),
        limit=DECISION_LIMIT,
        psi=_psi(*counts),
        p_value=_independent(counts),
        reference=float(shares[0, most]),
        window=float(shares[1, most]),
        answer=str(answers[most]),
        bars=Bars(answers.tolist(), *shares),
    )


def _independent(counts: NDArray[np.int64]) -> float:
    """Return the p-value that both rows (2, answers) come from one distribution."""
    expected = counts.sum(axis=0) * counts.sum(axis=1).min() / counts.sum()
    rare = expected < _LEAST_EXPECTED
    if counts.shape[1] == 2:
        return float(scipy.stats.fisher_exact(counts)[1])
    merged = np.column_stack([counts[:, ~rare], counts[:, rare].sum(axis=1)])
    merged = merged[:, merged.sum(axis=0) > 0]
    return float(scipy.stats.chi2_contingency(merged).pvalue) if merged.shape[1] > 1 else 1.0


def _psi(reference: NDArray[np.int64], window: NDArray[np.int64]) -> float:
    """Return the population stability index of counts (bins,); 0.25 is commonly called large.

    https://scholarworks.wmich.edu/dissertations/3208
    """
    one, other = (np.maximum(counts / counts.sum(), _LEAST_SHARE) for counts in (reference, window))
    return float(((other - one) * np.log(other / one)).sum())


def _bars(reference: Floats, window: Floats) -> Bars:
    """Count in bins over what both hold, but for a hundredth at either end, which goes into the outer bins."""
    low = min(np.quantile(part, 0.005) for part in (reference, window))
    high = max(np.quantile(part, 0.995) for part in (reference, window))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    parts = [np.histogram(np.clip(part, low, high), edges)[0] / len(part) for part in (reference, window)]
    return Bars([f"{edge:.4g}" for edge in edges], *parts)


def _finite(values: Floats) -> Floats:
    return values[np.isfinite(values)]


def moved(shifts: Sequence[Shift]) -> list[str]:
    """Return the names of the properties that moved."""
    return [shift.name for shift in shifts if shift.moved]


def as_facts(shift: Shift) -> Mapping[str, object]:
    """Return a shift ready for JSON."""
    names = ("name", "effect", "unit", "limit", "psi", "p_value", "answer", "reference", "window")
    return {"moved": shift.moved, **{name: getattr(shift, name) for name in names}}
