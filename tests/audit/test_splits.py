"""splits: no group on two sides, labels spread by the fractions, the same seed the same split."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.audit.splits import assign, content_keys, deviations, folds, group_rows, indicators, split_rows
from multitask.errors import TableError
from multitask.spec import Task

CATEGORY = Task(name="category", kind="multiclass", columns=("c",), classes=("a", "b", "c"))
TAGS = Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"))


def random_labels(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    category = random.choice(3, rows, p=(0.6, 0.3, 0.1)).astype(np.float32)
    tags = (random.random((rows, 2)) < (0.3, 0.05)).astype(np.float32)
    category[random.random(rows) < 0.05] = np.nan
    tags[random.random((rows, 2)) < 0.05] = np.nan
    return {"category": category, "tags": tags}


def test_rows_that_share_any_value_are_one_group() -> None:
    first = ["a", "a", "b", "c", None, None]
    second = [None, 1, 2, 2, 3, None]
    assert group_rows(first, second).tolist() == [0, 0, 1, 1, 2, 3]


def test_a_chain_of_shared_values_is_one_group() -> None:
    assert group_rows(["a", "a", "b", "b"], [1, 2, 2, 3]).tolist() == [0, 0, 0, 0]


def test_indicators_have_a_column_per_class_and_tag_and_nothing_for_missing_labels() -> None:
    labels = {"category": np.array([2, np.nan], np.float32), "tags": np.array([[1, np.nan], [0, 1]], np.float32)}
    expected = [[False, False, True, True, False], [False, False, False, False, True]]
    assert indicators(labels, [CATEGORY, TAGS]).tolist() == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(3, 300), st.integers(1, 100), st.integers(0, 1000))
def test_groups_never_straddle_and_every_part_gets_rows(rows: int, group_count: int, seed: int) -> None:
    groups = group_rows(np.random.default_rng(seed).integers(0, group_count, rows))
    labels = random_labels(rows, seed)
    if groups.max() < 2:
        with pytest.raises(TableError, match="cannot be divided"):
            split_rows(labels, [CATEGORY, TAGS], groups, groups, 0.2, 0.2, seed)
        return
    parts = split_rows(labels, [CATEGORY, TAGS], groups, groups, 0.2, 0.2, seed)
    assert set(parts) == {"train", "validation", "test"}
    for group in np.unique(groups):
        assert len(set(parts[groups == group])) == 1


def test_the_seed_decides_the_split() -> None:
    labels, groups = random_labels(500), np.arange(500)
    first, again, other = (split_rows(labels, [CATEGORY, TAGS], groups, groups, 0.15, 0.15, seed) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_shares_of_rows_and_labels_follow_the_fractions() -> None:
    labels, groups = random_labels(3000), np.arange(3000)
    parts = split_rows(labels, [CATEGORY, TAGS], groups, groups, 0.2, 0.1, 0)
    assert abs((parts == "validation").mean() - 0.2) < 0.005
    assert abs((parts == "test").mean() - 0.1) < 0.005
    assert max(deviations(indicators(labels, [CATEGORY, TAGS]), parts).values()) < 0.01


def test_folds_are_of_one_size_and_label_share() -> None:
    labels, groups = random_labels(1000), np.arange(1000)
    numbers = folds(labels, [CATEGORY, TAGS], groups, groups, 5, 0)
    assert np.bincount(numbers).max() - np.bincount(numbers).min() <= 5
    assert max(deviations(indicators(labels, [CATEGORY, TAGS]), numbers).values()) < 0.02


def test_deviations_are_differences_of_label_shares() -> None:
    flags = np.array([[True], [True], [False], [False]])
    assert deviations(flags, np.array(["p", "p", "p", "q"])) == pytest.approx({"p": 1 / 6, "q": 0.5})


def test_a_hundred_thousand_rows_in_thirty_thousand_groups_are_split_evenly() -> None:
    random = np.random.default_rng(0)
    shares = np.geomspace(0.0005, 0.4, 60)
    flags = random.random((100_000, 60)) < shares
    groups = group_rows(random.integers(0, 30_000, 100_000))
    started = time.monotonic()
    parts = assign(flags, groups, (0.7, 0.15, 0.15), content_keys(np.arange(100_000)), 0)
    print(f"split 100,000 rows with 60 labels and {groups.max() + 1:,} groups in {time.monotonic() - started:.1f} s")
    first = np.full(groups.max() + 1, -1)
    first[groups] = parts
    assert (first[groups] == parts).all()
    common = flags[:, flags.sum(axis=0) >= 1000]
    assert max(deviations(common, parts).values()) < 0.01


@pytest.mark.parametrize("appended", [1, 50])
def test_rows_that_come_later_move_almost_nobody(appended: int) -> None:
    labels, pictures = random_labels(2000 + appended), np.arange(2000 + appended)
    before = {name: values[:2000] for name, values in labels.items()}
    first = split_rows(before, [CATEGORY, TAGS], pictures[:2000], pictures[:2000], 0.15, 0.15, 0)
    second = split_rows(labels, [CATEGORY, TAGS], pictures, pictures, 0.15, 0.15, 0)
    assert (first != second[:2000]).mean() < 0.02
    assert max(deviations(indicators(labels, [CATEGORY, TAGS]), second).values()) < 0.01


def test_a_picture_that_joins_a_group_moves_that_group_at_most() -> None:
    labels, groups = random_labels(2001), np.append(np.arange(2000), 7)
    before = {name: values[:2000] for name, values in labels.items()}
    first = split_rows(before, [CATEGORY, TAGS], groups[:2000], np.arange(2000), 0.15, 0.15, 0)
    second = split_rows(labels, [CATEGORY, TAGS], groups, np.arange(2001), 0.15, 0.15, 0)
    assert (first != second[:2000]).mean() < 0.02


def test_the_order_of_rows_does_not_matter() -> None:
    labels, pictures = random_labels(1000), np.arange(1000)
    order = np.random.default_rng(0).permutation(1000)
    first = split_rows(labels, [CATEGORY, TAGS], pictures, pictures, 0.15, 0.15, 0)
    shuffled = {name: values[order] for name, values in labels.items()}
    assert (split_rows(shuffled, [CATEGORY, TAGS], pictures, order, 0.15, 0.15, 0) == first[order]).all()


def test_rare_labels_and_many_of_them_reach_every_part() -> None:
    random = np.random.default_rng(0)
    flags = random.random((3000, 60)) < np.geomspace(0.005, 0.4, 60)
    parts = assign(flags, np.arange(3000), (0.7, 0.15, 0.15), content_keys(np.arange(3000)), 0)
    assert np.bincount(parts).tolist() == pytest.approx([2100, 450, 450], abs=15)
    counts = np.stack([flags[parts == part].sum(axis=0) for part in range(3)])
    assert (counts > 0).all()
    assert max(deviations(flags, parts).values()) < 0.025


def test_two_hundred_thousand_rows_without_groups_are_split_in_a_moment() -> None:
    random = np.random.default_rng(0)
    flags = random.random((200_000, 60)) < np.geomspace(0.0005, 0.4, 60)
    keys = content_keys(np.arange(200_000))
    started = time.process_time()
    parts = assign(flags, np.arange(200_000), (0.7, 0.15, 0.15), keys, 0)
    # Half a second; a step in Python per group took sixteen.
    assert time.process_time() - started < 6
    assert max(deviations(flags, parts).values()) < 0.005
