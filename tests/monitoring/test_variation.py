"""variation: rows come in groups, and limits allow for how far groups differ, also those larger than the profile's."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multitask.monitoring.drift import compare, moved
from multitask.monitoring.signals import Signals
from multitask.monitoring.variation import Groups, group_limits

SMALL = np.repeat([1, 2, 5, 10], [30, 15, 8, 4])
LARGE = np.array([120, 90])


def grouped(seed: int, sizes: NDArray[np.int64], shift: float = 0.0) -> tuple[Signals, NDArray[np.int64]]:
    """Draw photos of senders: half of what differs is between senders."""
    random = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    values = random.normal(shift, 1, len(sizes))[numbers] + random.normal(0, 1, len(numbers))
    return Signals({"brightness": values}), numbers


def alarms(groups_of: object, shift: float, tries: int = 40) -> int:
    reference, numbers = grouped(0, SMALL)
    groups = groups_of(numbers) if callable(groups_of) else None
    windows = (grouped(seed, np.concatenate([SMALL, LARGE]), shift)[0] for seed in range(1, tries + 1))
    return sum(bool(moved(compare(reference, window, groups=groups))) for window in windows)


def test_large_groups_that_only_trained_are_allowed_for() -> None:
    independent, of_itself = alarms(None, 0), alarms(Groups.of, 0)
    of_all = alarms(lambda numbers: Groups(numbers, np.concatenate([SMALL, SMALL, LARGE])), 0)
    assert of_all <= 1
    assert of_all < of_itself < independent


def test_a_change_larger_than_between_groups_raises_an_alarm() -> None:
    assert alarms(lambda numbers: Groups(numbers, np.concatenate([SMALL, SMALL, LARGE])), 3) == 40


def test_limits_are_never_below_those_of_independent_rows() -> None:
    reference, _ = grouped(0, SMALL)
    for numbers in (np.arange(reference.rows), np.zeros(reference.rows, np.int64)):
        assert group_limits(reference, Groups.of(numbers), 200, {"brightness": 0.25})["brightness"] >= 0.25
