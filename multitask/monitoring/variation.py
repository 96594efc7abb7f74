"""How far windows differ that are drawn from one world: by chance, group by group.

The photos of one sender resemble each other, so a window of others has moved further than as many independent rows
would. Windows and references made of whole groups of the profile, drawn with replacement, show how far: the cluster
bootstrap, https://doi.org/10.1162/rest.90.3.414.

Few senders send much, and they may all have trained; so how large the groups are is drawn from all groups of the run,
and each is filled from a group of the profile of about that size, weighed up: a nearest-neighbour hot deck,
https://doi.org/10.1111/j.1751-5823.2010.00103.x.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from multitask.monitoring.signals import Floats, Signals

DRAWS = 300
# Of windows in which nothing has changed, at most so many may exceed any of the limits.
FALSE_ALARMS = 0.01
# Larger windows are drawn with so many rows: their limits are a little wide.
MOST_DRAWN = 2_000
# A group is filled from one of so many groups of the profile that are nearest to it in size.
DONORS = 10


@dataclass(frozen=True)
class Groups:
    """Which rows belong together.

    Args:
        numbers: (rows,) of the reference, the group of each.
        sizes: (groups,) how many rows the groups have that may come.
    """

    numbers: NDArray[np.int64]
    sizes: NDArray[np.int64]

    @classmethod
    def of(cls, numbers: NDArray[np.int64]) -> Groups:
        """Take the sizes that may come from the groups themselves."""
        return cls(numbers, np.unique(numbers, return_counts=True)[1])

    @property
    def count(self) -> int:
        """How many groups the reference has."""
        return len(np.unique(self.numbers))


class Lottery:
    """Draws groups by size, and fills each from one of the groups at hand that are nearest to it in size.

    Args:
        held: (groups,) how many rows the groups at hand have.
        sizes: how many rows the groups have that may come.
    """

    def __init__(self, held: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
        self._held = held
        self._sizes, self._codes = np.unique(sizes, return_inverse=True)
        donors = [_donors(held, size) for size in self._sizes.tolist()]
        self._starts, self._donors = np.cumsum([0, *map(len, donors)]), np.concatenate(donors)

    def draw(self, rows: int, random: np.random.Generator) -> Floats:
        """Return how often each row of the groups at hand is drawn for at least so many rows: (groups,)."""
        # As many draws as could be needed, were all of the least size.
        kinds = random.choice(self._codes, size=-(-rows // int(self._sizes[0])))
        kinds = kinds[: int(np.searchsorted(self._sizes[kinds].cumsum(), rows)) + 1]
        chosen = self._donors[random.integers(self._starts[kinds], self._starts[kinds + 1])]
        times = np.bincount(chosen, self._sizes[kinds] / self._held[chosen], len(self._held))
        return np.asarray(times, np.float64)


def group_limits(reference: Signals, groups: Groups, rows: int, limits: Mapping[str, float]) -> dict[str, float]:
    """Return from where on each property differs further than between groups, never below its own limit.

    Args:
        reference: what is watched of the profile.
        groups: of the profile.
        rows: of the window.
        limits: of each property, as if rows were independent.
    """
    weights = _draw(groups, min(rows, MOST_DRAWN))
    effects = {name: found for name, found in _effects(reference, *weights) if name in limits}
    # Each in terms of what is usual for it, so that one that varies much does not blind the others.
    usual = {name: max(limits[name], float(np.quantile(found, 0.9))) for name, found in effects.items()}
    if not effects:
        return dict(limits)
    worst = np.max([found / usual[name] for name, found in effects.items()], axis=0)
    factor = max(1.0, float(np.quantile(worst, 1 - FALSE_ALARMS)))
    return {name: factor * usual[name] if name in usual else limit for name, limit in limits.items()}


def spread(values: Floats) -> float:
    """Return by what differences of a property are divided."""
    # A property that never varied, such as the size of pictures from one machine, has moved when it does.
    return float(max(values.std(), 0.01 * abs(values.mean()), 1e-9))


def wasserstein(values: Floats, ours: Floats, theirs: Floats) -> Floats:
    """Return the distance between pairs of samples of the same values.

    Args:
        values: (rows,).
        ours, theirs: (pairs, rows) how often each pair's samples hold each value.
    """
    order = np.argsort(values)
    steps = np.diff(values[order])
    shares = (part[:, order].cumsum(axis=1)[:, :-1] / part.sum(axis=1, keepdims=True) for part in (ours, theirs))
    return np.abs(next(shares) - next(shares)) @ steps


def _draw(groups: Groups, rows: int) -> tuple[Floats, Floats]:
    """Draw windows of at least `rows` rows and references as large as the profile, in whole groups.

    Returns:
        Both (draws, rows of the profile) how often each row was drawn, which may be a fraction.
    """
    numbers = np.unique(groups.numbers, return_inverse=True)[1]
    lottery, random = Lottery(np.bincount(numbers), groups.sizes), np.random.default_rng(0)
    ours, theirs = (
        np.array([lottery.draw(enough, random)[numbers] for _ in range(DRAWS)]) for enough in (rows, len(numbers))
    )
    return ours, theirs


def _donors(held: NDArray[np.int64], size: int) -> NDArray[np.intp]:
    """Return the groups of the profile that may stand for one of a size: the nearest by ratio, and all as near."""
    gaps = np.abs(np.log(held / size))
    return np.flatnonzero(gaps <= np.sort(gaps)[:DONORS][-1])


def _effects(reference: Signals, ours: Floats, theirs: Floats) -> Iterator[tuple[str, Floats]]:
    """Yield each property and the effects of the draws (draws,), as `drift` measures them."""
    for name, values in reference.numbers.items():
        known = np.isfinite(values)
        if known.any():
            one, other = ours[:, known], theirs[:, known]
            drawn = (one.sum(axis=1) > 0) & (other.sum(axis=1) > 0)
            distances = np.zeros(len(ours))
            distances[drawn] = wasserstein(values[known], one[drawn], other[drawn])
            yield name, distances / spread(values[known])
    shares = [part / part.sum(axis=1, keepdims=True) for part in (ours, theirs)]
    difference = shares[0] - shares[1]
    for name, answers in reference.decisions.items():
        numbers = np.unique(answers.astype(str), return_inverse=True)[1]
        order = np.argsort(numbers, kind="stable")
        starts = np.searchsorted(numbers[order], np.arange(numbers.max() + 1))
        yield name, np.abs(np.add.reduceat(difference[:, order], starts, axis=1)).sum(axis=1) / 2
