"""drift: what has moved is told from chance, and from what is too small to matter."""

from __future__ import annotations

import numpy as np
import pytest

from multitask.monitoring.drift import DECISION_LIMIT, REFUSED, compare, moved
from multitask.monitoring.signals import Signals


def sample(seed: int, rows: int, shift: float = 0.0, share: float = 0.5) -> Signals:
    random = np.random.default_rng(seed)
    numbers = {f"n{at}": random.normal(shift if at == 0 else 0, 1, rows) for at in range(8)}
    answers = np.where(random.random(rows) < share, "a", "b").astype(object)
    return Signals(numbers, {"answer": answers})


def test_samples_of_one_distribution_seldom_raise_an_alarm() -> None:
    alarms = sum(bool(moved(compare(sample(2 * seed, 400), sample(2 * seed + 1, 300)))) for seed in range(100))
    assert alarms <= 2


def test_what_moved_is_named_and_stands_first() -> None:
    shifts = compare(sample(0, 400), sample(1, 300, shift=-0.8, share=0.9))
    assert set(moved(shifts)) == {"n0", "answer"}
    assert {shift.name for shift in shifts[:2]} == {"n0", "answer"}
    number = next(shift for shift in shifts if shift.name == "n0")
    assert number.effect == pytest.approx(0.8, abs=0.15)
    assert number.psi > 0.25
    answer = next(shift for shift in shifts if shift.name == "answer")
    assert answer.effect == pytest.approx(0.4, abs=0.08)


def test_a_significant_change_that_is_small_is_none() -> None:
    shifts = compare(sample(0, 50_000), sample(1, 50_000, shift=0.1, share=0.55))
    assert {shift.name for shift in shifts if shift.p_value < 1e-6} == {"n0", "answer"}
    assert moved(shifts) == []


def test_a_large_change_of_few_rows_is_chance() -> None:
    shifts = compare(sample(0, 400), Signals({}, {"answer": np.array(["a", "a", "a"], object)}))
    assert shifts[0].effect > DECISION_LIMIT
    assert moved(shifts) == []


def test_a_property_that_never_varied_moves_when_it_does() -> None:
    same = Signals({"width": np.full(300, 224.0)})
    assert moved(compare(same, same)) == []
    assert moved(compare(same, Signals({"width": np.full(300, 512.0)}))) == ["width"]


def test_unseen_and_rare_answers_are_compared() -> None:
    many = np.array([f"c{row % 97}" for row in range(400)], object)
    assert moved(compare(Signals({}, {"x": many}), Signals({}, {"x": many[:300]}))) == []
    assert moved(compare(Signals({}, {"x": many}), Signals({}, {"x": np.full(100, "new", object)}))) == ["x"]


def test_refused_images_move_beyond_a_twentieth() -> None:
    base = sample(0, 400)
    assert moved(compare(base, base, ((4, 400), (12, 300)))) == []
    assert moved(compare(base, base, ((4, 400), (60, 300)))) == [REFUSED]
    only_refused = compare(base, Signals(), ((0, 400), (300, 300)))
    assert moved(only_refused) == [REFUSED]


def test_missing_numbers_are_left_out() -> None:
    window = Signals({"n0": np.full(50, np.nan), "n1": np.append(np.zeros(5), np.nan)})
    assert [shift.name for shift in compare(sample(0, 100), window)] == ["n1"]
