"""Where a score becomes a yes."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from multitask.evaluation.thresholds import choose_thresholds
from multitask.spec import TaskConfig

Rows = list[tuple[bool, int]]
ANY = st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=30)
# Some rows bear the tag, some do not.
ROWS = ANY.filter(lambda rows: len({is_there for is_there, _ in rows}) == 2)


def arrays(rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    return np.array([[row[0]] for row in rows], np.float32), np.array([[row[1] / 20] for row in rows], np.float32)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_no_other_threshold_has_a_higher_f1(rows: Rows) -> None:
    labels, scores = arrays(rows)
    (threshold,) = choose_thresholds(labels, scores)
    chosen = sk.f1_score(labels, scores >= np.float32(threshold), zero_division=0)
    assert chosen == max(sk.f1_score(labels, scores >= limit, zero_division=0) for limit in np.unique(scores))


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["0.5", "0.9", "1"]))
def test_a_floor_of_recall_is_met_with_as_few_wrong_answers_as_can_be(rows: Rows, floor: str) -> None:
    labels, scores = arrays(rows)
    chosen = scores >= np.float32(choose_thresholds(labels, scores, f"recall >= {floor}")[0])
    assert sk.recall_score(labels, chosen) >= float(floor)
    for limit in np.unique(scores):
        if sk.recall_score(labels, scores >= limit) >= float(floor):
            assert (chosen & (labels == 0)).sum() <= ((scores >= limit) & (labels == 0)).sum()


@settings(max_examples=60, deadline=None)
@given(ROWS, st.sampled_from(["0.5", "0.9", "1"]))
def test_a_floor_of_precision_is_met_with_as_many_found_as_can_be(rows: Rows, floor: str) -> None:
    labels, scores = arrays(rows)
    chosen = scores >= np.float32(choose_thresholds(labels, scores, f"precision >= {floor}")[0])
    cuts = [scores >= limit for limit in np.unique(scores)]
    precise = [cut for cut in cuts if sk.precision_score(labels, cut) >= float(floor)]
    if precise:
        assert sk.precision_score(labels, chosen) >= float(floor)
        assert sk.recall_score(labels, chosen) == max(sk.recall_score(labels, cut) for cut in precise)
    else:
        assert sk.precision_score(labels, chosen) == max(sk.precision_score(labels, cut) for cut in cuts)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(1, 9))
def test_no_other_threshold_costs_less(rows: Rows, price: int) -> None:
    labels, scores = arrays(rows)

    def cost(chosen: np.ndarray) -> int:
        return price * int((labels > chosen).sum()) + int((chosen > labels).sum())

    chosen = scores >= np.float32(choose_thresholds(labels, scores, f"cost {price}:1")[0])
    assert cost(chosen) == min(cost(scores >= limit) for limit in np.unique(scores))


@given(ANY, st.sampled_from(["f1", "recall >= 0.9", "precision >= 0.9", "cost 2:1"]))
def test_a_tag_of_all_or_none_of_the_rows_is_decided_at_one_half(rows: Rows, rule: str) -> None:
    labels, scores = arrays(rows)
    assert choose_thresholds(labels * 0, scores, rule) == choose_thresholds(labels * 0 + 1, scores, rule) == (0.5,)


def test_a_score_at_a_threshold_that_was_read_from_json_is_decided_as_before() -> None:
    scores = np.nextafter(np.float32(0.7), [[0], [1]], dtype=np.float32)
    (threshold,) = choose_thresholds(np.array([[0], [1]], np.float32), scores)
    assert (scores >= np.float32(threshold)).tolist() == [[False], [True]]


@pytest.mark.parametrize("rule", ["precision >= 0", "recall > 0.9", "recall >= 1.2", "cost 0:1", "cost 5", "F1", "f1 "])
def test_what_is_no_rule_is_refused_with_those_there_are(rule: str) -> None:
    with pytest.raises(ValidationError, match="expected f1"):
        TaskConfig(kind="multilabel", columns=("a",), threshold_by=rule)


@pytest.mark.parametrize("rule", ["f1", "precision >= 0.95", "recall >= 1", "recall >= 0.5", "cost 10:1", "cost 1:20"])
def test_rules_are_taken_for_tags_only(rule: str) -> None:
    assert TaskConfig(kind="multilabel", columns=("a",), threshold_by=rule).threshold_by == rule
    if rule != "f1":
        with pytest.raises(ValidationError, match="threshold_by belongs to multilabel tasks"):
            TaskConfig(kind="multiclass", columns=("a",), threshold_by=rule)
