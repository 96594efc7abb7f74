"""Scores that mean what they say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit, softmax
from sklearn.calibration import calibration_curve

from multitask.evaluation.calibration import BINS, Answers, calibrate_classes, calibrate_tags, calibration_error
from multitask.evaluation.metrics import wilson


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_the_temperature_of_classes_that_were_drawn_by_their_scores_is_found(temperature: float) -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=(6000, 4)) * 2
    labels = np.array([random.choice(4, p=row) for row in softmax(true, axis=1)], np.float32)
    labels[::7] = np.nan
    found = calibrate_classes(labels, (true * temperature + 5).astype(np.float32))
    assert found.temperature == pytest.approx(temperature, rel=0.06)
    assert set(found.offsets) == {0.0}


def test_temperature_and_offsets_of_tags_that_were_drawn_by_their_scores_are_found() -> None:
    random = np.random.default_rng(0)
    true = random.normal(size=(20000, 3)) * 2 - (0, 1, 2)
    labels = (random.random(true.shape) < expit(true)).astype(np.float32)
    labels[::5, 1] = np.nan
    # What a weight of 8 does to a rare tag, on top of a network that is too sure.
    found = calibrate_tags(labels, ((true + np.log((1, 1, 8))) * 2.5).astype(np.float32))
    assert found.temperature == pytest.approx(2.5, rel=0.06)
    np.testing.assert_allclose(found.offsets, (0, 0, -np.log(8)), atol=0.12)


def test_few_rows_that_are_all_right_do_not_ask_for_boundless_scores() -> None:
    logits = np.tile(np.array([[4.0, 0.0, -1.0]], np.float32), (8, 1))
    found = calibrate_classes(np.zeros(8, np.float32), logits)
    sure = softmax(logits / found.temperature, axis=1)[0, 0]
    assert sure == pytest.approx(9 / 10, abs=0.02), "(rows + 1) / (rows + 2)"
    tags = calibrate_tags(np.array([[1], [1], [0], [0]], np.float32), np.array([[9], [8], [-9], [-8]], np.float32))
    assert 0.6 < expit(9 / tags.temperature + tags.offsets[0]) < 0.9


def test_many_classes_do_not_make_it_unsure() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 500, 1500)
    logits = random.normal(size=(1500, 500))
    logits[np.arange(1500), labels] += 3
    # Of normal logits of deviation 1 that are raised by 3, the true ones are three times as large.
    found = calibrate_classes(labels.astype(np.float32), logits.astype(np.float32))
    assert found.temperature == pytest.approx(1 / 3, rel=0.05)


def test_without_labels_or_with_one_sort_of_them_nothing_is_moved() -> None:
    logits = np.ones((5, 2), np.float32)
    assert calibrate_classes(np.full(5, np.nan, np.float32), logits).temperature == 1.0
    one_sort = calibrate_tags(np.array([[1, 0]] * 5, np.float32), logits)
    assert (one_sort.temperature, one_sort.offsets) == (1.0, (0.0, 0.0))


def test_the_calibration_error_is_the_mean_gap_of_bins_of_equally_many_answers() -> None:
    random = np.random.default_rng(1)
    sure = random.random((3000, 1))
    right = random.random((3000, 1)) < sure**2
    answers = Answers(sure, right, np.ones_like(right))
    figures = calibration_error(answers)
    shares, means = calibration_curve(right[:, 0], sure[:, 0], n_bins=BINS, strategy="quantile")
    assert figures.values(3000)["calibration_error"] == pytest.approx(np.abs(shares - means).mean(), abs=1e-3)
    honest = Answers(sure, random.random((3000, 1)) < sure, np.ones_like(right))
    assert calibration_error(honest).values(3000)["calibration_error"] < 0.04


def test_unknown_answers_have_no_part_in_the_calibration_error() -> None:
    sure, right = np.array([[0.9, 0.2], [0.8, 0.7]]), np.array([[True, False], [True, True]])
    known = np.array([[True, False], [True, False]])
    found = calibration_error(Answers(sure, right, known)).values(2)
    assert found["calibration_error"] == pytest.approx(0.15)
    nothing = Answers(sure, right, np.zeros_like(known))
    assert np.isnan(calibration_error(nothing).values(2)["calibration_error"])


def test_wilson_interval_of_few() -> None:
    low, high = wilson(0.0, 10)
    assert (low, round(high, 3)) == (0.0, 0.278)
    assert wilson(np.array([0.5]), np.array([10]))[0] == pytest.approx(0.2366, abs=1e-3)
