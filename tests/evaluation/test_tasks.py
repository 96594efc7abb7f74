"""evaluation and metrics: the figures of scikit-learn, blind to missing labels, with honest baselines and intervals."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.metrics import average_precision
from multitask.evaluation.tasks import Evaluation, evaluate_task, evaluate_tasks, validation_score, weak_heads
from multitask.spec import ModelSpec, Task

CATEGORY = Task(name="category", kind="multiclass", columns=("c",), classes=("a", "b", "c", "d"), top_k=2)
TAGS = Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"), thresholds=(0.5, 0.4))
SIZE = Task(
    name="size", kind="regression", columns=("width", "price"), classes=("width", "price"), spreads=(1.0, 100.0)
)


def numbers(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.normal(0, 1, (rows, 2)) * (1, 100) + (5, 20_000)).astype(np.float32)
    return labels, (labels + random.normal(0, 0.5, (rows, 2)) * (1, 100)).astype(np.float32)


def multiclass(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, rows).astype(np.float32)
    scores = random.dirichlet(np.ones(4), rows).astype(np.float32)
    scores[np.arange(rows), labels.astype(int)] += 0.3
    return labels, scores / scores.sum(axis=1, keepdims=True)


def multilabel(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = (random.random((rows, 2)) < (0.3, 0.6)).astype(np.float32)
    # Rounded scores have ties, as a network's do now and then.
    return labels, np.round(np.clip(random.random((rows, 2)) * 0.7 + 0.3 * labels, 0, 1), 1).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 80), st.integers(0, 10_000))
def test_multiclass_figures_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    labels, scores = multiclass(rows, seed)
    best = scores.argmax(axis=1)
    found = {name: metric.value for name, metric in evaluate_task(CATEGORY, labels, scores, labels).items()}
    assert 0 <= found.pop("calibration_error") <= 1
    present = np.unique(labels)
    expected = {
        "accuracy": sk.accuracy_score(labels, best),
        "top_2_accuracy": sk.top_k_accuracy_score(labels, scores, k=2, labels=range(4)),
        "balanced_accuracy": np.mean([(best[labels == name] == name).mean() for name in present]),
        "macro_f1": sk.f1_score(labels, best, average="macro"),
    }
    assert found == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 80), st.integers(0, 10_000))
def test_multilabel_figures_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    labels, scores = multilabel(rows, seed)
    if (labels.sum(axis=0) == 0).any():
        return
    answers = scores >= np.float32(TAGS.thresholds)
    found = {name: metric.value for name, metric in evaluate_task(TAGS, labels, scores, labels).items()}
    assert 0 <= found.pop("calibration_error") <= 1
    expected = {
        "exact_match": sk.accuracy_score(labels, answers),
        "accuracy": (labels == answers).mean(),
        "macro_f1": sk.f1_score(labels, answers, average="macro", zero_division=0),
        "mean_average_precision": sk.average_precision_score(labels, scores, average="macro"),
    }
    for tag, name in enumerate(TAGS.classes):
        pair = (labels[:, tag], answers[:, tag])
        expected[f"{name}_precision"] = sk.precision_score(*pair, zero_division=0)
        expected[f"{name}_recall"] = sk.recall_score(*pair)
        expected[f"{name}_f1"] = sk.f1_score(*pair, zero_division=0)
        expected[f"{name}_average_precision"] = sk.average_precision_score(labels[:, tag], scores[:, tag])
    assert found == pytest.approx(expected)


def test_scores_of_missing_labels_have_no_influence() -> None:
    for task, (labels, scores) in ((CATEGORY, multiclass(200)), (TAGS, multilabel(200)), (SIZE, numbers(200))):
        labels, scores = labels.copy(), scores.copy()
        labels[::3] = np.nan
        other = scores.copy()
        other[::3] = 1 - scores[::3]
        assert evaluate_task(task, labels, scores, labels) == evaluate_task(task, labels, other, labels)


def test_one_missing_tag_leaves_the_other_in_the_figures() -> None:
    labels, scores = multilabel(300)
    whole = evaluate_task(TAGS, labels, scores, labels)
    labels = labels.copy()
    labels[:100, 0] = np.nan
    part = evaluate_task(TAGS, labels, scores, labels)
    assert part["y_f1"].value == whole["y_f1"].value
    assert part["x_f1"].value == pytest.approx(sk.f1_score(labels[100:, 0], scores[100:, 0] >= 0.5))


def test_baselines_never_look_at_the_image() -> None:
    labels, scores = multiclass(400)
    train = np.array([2, 2, 2, 1, 1, 0], np.float32)
    found = evaluate_task(CATEGORY, labels, scores, train)
    assert found["accuracy"].baseline == pytest.approx((labels == 2).mean())
    assert found["top_2_accuracy"].baseline == pytest.approx(np.isin(labels, (2, 1)).mean())
    assert found["balanced_accuracy"].baseline == pytest.approx(0.25)
    tags, given_scores = multilabel(400)
    found = evaluate_task(TAGS, tags, given_scores, np.array([[0, 1], [0, 1], [1, 1]], np.float32))
    assert found["exact_match"].baseline == pytest.approx((tags == (0, 1)).all(axis=1).mean())
    assert found["x_average_precision"].baseline == pytest.approx(tags[:, 0].mean())
    assert found["x_f1"].baseline == pytest.approx(sk.f1_score(tags[:, 0], np.ones(400)))


def test_intervals_hold_the_value_and_shrink_with_rows() -> None:
    widths = []
    for rows in (100, 1600):
        metric = evaluate_task(CATEGORY, *multiclass(rows), multiclass(rows)[0])["accuracy"]
        assert metric.low < metric.value < metric.high
        widths.append(metric.high - metric.low)
    assert widths[0] == pytest.approx(4 * widths[1], rel=0.25)


def test_the_interval_is_that_of_the_binomial_distribution() -> None:
    labels, scores = multiclass(500)
    metric = evaluate_task(CATEGORY, labels, scores, labels)["accuracy"]
    error = 1.96 * np.sqrt(metric.value * (1 - metric.value) / 500)
    assert (metric.high - metric.low) / 2 == pytest.approx(error, rel=0.15)


def test_rows_that_come_in_groups_widen_the_interval() -> None:
    labels, scores = multiclass(100)
    groups = np.repeat(np.arange(100), 9)
    repeated = (CATEGORY, np.repeat(labels, 9), np.repeat(scores, 9, axis=0), labels)
    alone = evaluate_task(*repeated)["accuracy"]
    together = evaluate_task(*repeated, groups=groups)["accuracy"]
    assert together.high - together.low == pytest.approx(3 * (alone.high - alone.low), rel=0.25)


def test_confusion_counts_true_rows_and_predicted_columns() -> None:
    labels, scores = multiclass(200)
    labels[:5] = np.nan
    expected = sk.confusion_matrix(labels[5:], scores[5:].argmax(axis=1), labels=range(4))
    np.testing.assert_array_equal(EVALUATORS[CATEGORY.kind].confusion(CATEGORY, labels, scores), expected)


def test_the_monitor_is_the_mean_of_balanced_accuracy_and_average_precision() -> None:
    spec = ModelSpec(tasks=(CATEGORY, TAGS))
    (labels, scores), (tags, tag_scores) = multiclass(300), multilabel(300)
    found = validation_score(spec, {"category": labels, "tags": tags}, {"category": scores, "tags": tag_scores})
    balanced = sk.balanced_accuracy_score(labels, scores.argmax(axis=1))
    precision = sk.average_precision_score(tags, tag_scores, average="macro")
    assert found["score"] == pytest.approx((balanced + precision) / 2)
    assert found["category_accuracy"] == pytest.approx(sk.accuracy_score(labels, scores.argmax(axis=1)))


def test_a_task_without_any_label_counts_for_nothing_and_writes_null() -> None:
    spec = ModelSpec(tasks=(CATEGORY, TAGS))
    labels, scores = multiclass(50)
    nothing, tag_scores = np.full((50, 2), np.nan, np.float32), multilabel(50)[1]
    given_labels, given_scores = {"category": labels, "tags": nothing}, {"category": scores, "tags": tag_scores}
    assert validation_score(spec, given_labels, given_scores)["score"] == pytest.approx(
        sk.balanced_accuracy_score(labels, scores.argmax(axis=1))
    )
    entry = evaluate_tasks(spec, given_labels, given_scores, given_labels).as_dict()["tags"]
    assert entry["rows"] == 0
    assert entry["metrics"]["x_f1"]["value"] is None


def test_an_evaluation_survives_its_json() -> None:
    spec = ModelSpec(tasks=(CATEGORY, TAGS))
    labels = {"category": multiclass(60)[0], "tags": multilabel(60)[0]}
    scores = {"category": multiclass(60)[1], "tags": multilabel(60)[1]}
    found = evaluate_tasks(spec, labels, scores, labels)
    again = Evaluation.from_dict(found.as_dict())
    assert again.as_dict() == found.as_dict()
    assert again.table() == found.table()


@settings(max_examples=25, deadline=None)
@given(st.integers(3, 80), st.integers(0, 10_000))
def test_regression_figures_are_those_of_scikit_learn(rows: int, seed: int) -> None:
    labels, scores = numbers(rows, seed)
    labels[0, 0] = np.nan
    found = {name: metric.value for name, metric in evaluate_task(SIZE, labels, scores, labels).items()}
    expected = {}
    for number, name in enumerate(SIZE.classes):
        known = ~np.isnan(labels[:, number])
        pair = (labels[known, number].astype(float), scores[known, number].astype(float))
        expected[f"{name}_mae"] = sk.mean_absolute_error(*pair)
        expected[f"{name}_rmse"] = sk.root_mean_squared_error(*pair)
        expected[f"{name}_r2"] = sk.r2_score(*pair)
    expected["r2"] = (expected["width_r2"] + expected["price_r2"]) / 2
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_baseline_of_a_number_is_the_mean_of_the_training_rows() -> None:
    labels, scores = numbers(300)
    train = np.full((4, 2), (4.0, 20_100.0), np.float32)
    found = evaluate_task(SIZE, labels, scores, train)
    assert found["width_rmse"].baseline == pytest.approx(sk.root_mean_squared_error(labels[:, 0], np.full(300, 4.0)))
    assert found["price_r2"].baseline < 0 < found["price_r2"].value
    assert [found[name].higher_is_better for name in ("width_mae", "width_rmse", "width_r2")] == [False, False, True]
    assert found["width_mae"].low < found["width_mae"].value < found["width_mae"].high < found["width_mae"].baseline


def test_a_hopeless_number_costs_the_monitor_at_most_one() -> None:
    spec = ModelSpec(tasks=(CATEGORY, SIZE))
    (labels, scores), (widths, given_widths) = multiclass(100), numbers(100)
    found = validation_score(spec, {"category": labels, "size": widths}, {"category": scores, "size": given_widths * 9})
    assert found["size_r2"] < -1
    assert found["score"] == pytest.approx((found["category_balanced_accuracy"] - 1) / 2)


def test_a_share_of_all_or_none_has_the_interval_of_wilson() -> None:
    labels = np.zeros(24, np.float32)
    scores = np.tile(np.array([0.7, 0.1, 0.1, 0.1], np.float32), (24, 1))
    right = evaluate_task(CATEGORY, labels, scores, labels)["accuracy"]
    wrong = evaluate_task(CATEGORY, labels + 1, scores, labels)["accuracy"]
    assert (right.value, right.high, wrong.value, wrong.low) == (1.0, 1.0, 0.0, 0.0)
    assert right.low == pytest.approx(0.862, abs=0.001)
    assert wrong.high == pytest.approx(0.138, abs=0.001)
    in_groups = evaluate_task(CATEGORY, labels, scores, labels, groups=np.repeat(np.arange(4), 6))["accuracy"]
    assert in_groups.low == pytest.approx(0.510, abs=0.001)


def test_a_head_that_does_not_beat_its_baseline_is_named() -> None:
    spec = ModelSpec(tasks=(CATEGORY, TAGS))
    (labels, scores), (tags, tag_scores) = multiclass(300), multilabel(300)
    guesses = np.random.default_rng(0).random((300, 2)).astype(np.float32)
    given = {"category": labels, "tags": tags}
    found = weak_heads(spec, evaluate_tasks(spec, given, {"category": scores, "tags": guesses}, given))
    assert [line.split(":")[0] for line in found] == ["tags"]
    assert "does not beat its baseline" in found[0]
    assert not weak_heads(spec, evaluate_tasks(spec, given, {"category": scores, "tags": tag_scores}, given))


def test_accuracy_that_was_traded_for_rare_classes_is_named() -> None:
    spec = ModelSpec(tasks=(CATEGORY,))
    labels = np.repeat([0, 1, 2, 3], (270, 10, 10, 10)).astype(np.float32)
    answers = labels.astype(int).copy()
    answers[:100] = np.arange(100) % 3 + 1
    scores = np.eye(4, dtype=np.float32)[answers]
    [line] = weak_heads(spec, evaluate_tasks(spec, {"category": labels}, {"category": scores}, {"category": labels}))
    assert "is bought with accuracy" in line


def test_many_tags_fill_a_file_and_not_the_screen() -> None:
    names = tuple(f"t{number}" for number in range(60))
    task = Task(name="many", kind="multilabel", columns=names, classes=names)
    random = np.random.default_rng(0)
    labels = (random.random((90, 60)) < 0.3).astype(np.float32)
    spec = ModelSpec(tasks=(task,))
    found = evaluate_tasks(spec, {"many": labels}, {"many": random.random((90, 60), np.float32)}, {"many": labels})
    assert len(found.table()) == 5
    assert len(found.metrics["many"]) == 5 + 4 * 60
    assert found.metrics["many"]["t7_f1"].answer == "t7"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 3)), min_size=2, max_size=30))
def test_weighted_average_precision_is_that_of_scikit_learn(rows: list[tuple[bool, int, int]]) -> None:
    labels, scores, weights = (np.array(column, np.float32) for column in zip(*rows, strict=True))
    if not (labels * weights).sum():
        return
    found = average_precision(labels, scores)(weights[None].astype(float))[0]
    assert found == pytest.approx(sk.average_precision_score(labels, scores, sample_weight=weights))


def test_misses_are_ranked_by_how_surely_they_are_wrong() -> None:
    labels = np.array([0, 1, 2, np.nan], np.float32)
    scores = np.array([[0.9, 0.1, 0, 0], [0.8, 0.1, 0.1, 0], [0, 0.6, 0.4, 0], [1, 0, 0, 0]], np.float32)
    np.testing.assert_allclose(EVALUATORS["multiclass"].misses(CATEGORY, labels, scores), [0, 0.8, 0.6, 0], rtol=1e-6)
    tags = np.zeros((2, len(TAGS.classes)), np.float32)
    tags[0, 0] = np.nan
    sure = tags + 1
    expected = [
        max(1 - threshold for threshold in TAGS.thresholds[1:]),
        max(1 - threshold for threshold in TAGS.thresholds),
    ]
    np.testing.assert_allclose(EVALUATORS["multilabel"].misses(TAGS, tags, sure), expected, rtol=1e-6)
