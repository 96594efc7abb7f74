"""heads and losses: cross-entropy of scikit-learn, Huber's loss of Keras, weighted, and blind to missing labels."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import scipy.special
import sklearn.metrics as sk
import tensorflow as tf
from sklearn.utils.class_weight import compute_class_weight

from multitask.errors import TableError
from multitask.network.heads import HEADS
from multitask.network.losses import TaskFigure, TaskLoss, known_shares
from multitask.spec import Task

pytestmark = pytest.mark.tensor

CATEGORY = Task(name="category", kind="multiclass", columns=("c",), classes=("a", "b", "c"))
TAGS = Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"))
SIZE = Task(name="size", kind="regression", columns=("width", "price"), classes=("width", "price"))
NAN = np.nan


def constants(task: Task, labels: np.ndarray, balance: str = "weights") -> np.ndarray:
    return HEADS[task.kind].constants(task, labels, balance)


def logits(rows: int, columns: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (rows, columns)).astype(np.float32)


def test_class_weights_are_the_balanced_ones_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, NAN], np.float32)
    known = labels[:-1].astype(int)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=known)
    np.testing.assert_allclose(constants(CATEGORY, labels, "weights"), expected, rtol=1e-6)
    assert constants(CATEGORY, labels, "none").tolist() == [1, 1, 1]


def test_tag_weights_are_negatives_over_positives() -> None:
    labels = np.array([[1, 0], [0, NAN], [0, 1], [0, 1]], np.float32)
    np.testing.assert_allclose(constants(TAGS, labels, "weights"), [3, 0.5])


def test_a_tag_that_no_training_row_has_is_refused_by_name() -> None:
    with pytest.raises(TableError, match=r"tags.*y: no training row has this tag"):
        constants(TAGS, np.array([[1, 0], [0, NAN]], np.float32), "none")


def test_multiclass_loss_is_weighted_cross_entropy() -> None:
    values, labels = logits(20, 3), np.arange(20, dtype=np.float32) % 3
    weights = np.array([1.0, 2.0, 0.5])
    losses = np.asarray(TaskLoss("multiclass", weights).call(labels, values))
    expected = sk.log_loss(labels, scipy.special.softmax(values, axis=1), sample_weight=weights[labels.astype(int)])
    assert losses.sum() / weights[labels.astype(int)].sum() == pytest.approx(expected, rel=1e-5)


def test_multilabel_loss_is_that_of_tensorflow() -> None:
    values = logits(20, 2)
    labels = (logits(20, 2) > 0).astype(np.float32)[::-1]
    weights = np.array([3.0, 0.5], np.float32)
    expected = tf.reduce_mean(tf.nn.weighted_cross_entropy_with_logits(labels, values, weights), axis=1)
    np.testing.assert_allclose(TaskLoss("multilabel", weights).call(labels, values), expected, rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_loss_and_label_smoothing_of_classes_are_those_of_keras(gamma: float, smoothing: float) -> None:
    values, labels = logits(20, 3), np.arange(20, dtype=np.float32) % 3
    found = TaskLoss("multiclass", np.ones(3), gamma=gamma, smoothing=smoothing).call(labels, values)
    one_hot = np.eye(3, dtype=np.float32)[labels.astype(int)]
    expected = keras.losses.categorical_crossentropy(one_hot, values, from_logits=True, label_smoothing=smoothing)
    # Keras' own focal loss smooths the probability of the label as well; the paper takes that of the label.
    right = scipy.special.softmax(values, axis=1)[np.arange(20), labels.astype(int)]
    np.testing.assert_allclose(found, expected * (1 - right) ** gamma, rtol=1e-4)


@pytest.mark.parametrize(("gamma", "smoothing"), [(0.0, 0.1), (2.0, 0.0)])
def test_focal_loss_and_label_smoothing_of_tags_are_those_of_keras(gamma: float, smoothing: float) -> None:
    values, labels = logits(20, 2), (logits(20, 2) > 0).astype(np.float32)[::-1]
    found = TaskLoss("multilabel", np.ones(2), gamma=gamma, smoothing=smoothing).call(labels, values)
    theirs = keras.losses.binary_focal_crossentropy if gamma else keras.losses.binary_crossentropy
    settings = {"gamma": gamma} if gamma else {"label_smoothing": smoothing}
    np.testing.assert_allclose(found, theirs(labels, values, from_logits=True, **settings), rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "missing"), [("multiclass", [NAN]), ("multilabel", [NAN, NAN]), ("regression", [NAN, NAN])]
)
def test_a_missing_label_has_no_loss_and_no_gradient(kind: str, missing: list[float]) -> None:
    width = 3 if kind == "multiclass" else 2
    values = tf.Variable(logits(2, width))
    labels = np.array([missing, [1.0] * len(missing)], np.float32)
    with tf.GradientTape() as tape:
        losses = TaskLoss(kind, np.ones((2, width) if kind == "regression" else width)).call(labels, values)
        total = tf.reduce_sum(losses)
    assert float(losses[0]) == 0
    assert float(losses[1]) > 0
    gradient = tape.gradient(total, values).numpy()
    assert (gradient[0] == 0).all()
    assert np.isfinite(gradient).all()


def test_one_missing_tag_leaves_the_gradient_of_the_other() -> None:
    values = tf.Variable(logits(1, 2))
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(TaskLoss("multilabel", np.ones(2)).call(np.array([[NAN, 1]], np.float32), values))
    gradient = tape.gradient(loss, values).numpy()[0]
    assert gradient[0] == 0
    assert gradient[1] < 0


@pytest.mark.parametrize("kind", ["multiclass", "multilabel", "regression"])
def test_a_task_weighs_the_same_whatever_is_missing(kind: str) -> None:
    """The mean over all rows is that over the known labels: 30 % of the rows of one answer, all of another."""
    values = logits(100, 2)
    labels = (logits(100, 2)[::-1] > 0).astype(np.float32)
    labels = labels[:, 0] if kind == "multiclass" else labels
    answers = labels.reshape(100, -1).copy()
    answers[30:, 0] = NAN
    scale = np.array([[0.5, 0.5], [0.5, 0.5]]) if kind == "regression" else np.ones(2)
    given = answers.reshape(labels.shape)
    found = np.mean(TaskLoss(kind, scale, known_shares(given)).call(given, values))
    whole = np.asarray(HEADS[kind].losses(labels, values, np.float32(scale), 0.0, 0.0)).reshape(100, -1)
    expected = np.mean([whole[:30, 0].mean(), *whole[:, 1:].mean(axis=0)])
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_share_of_no_label_at_all_gives_a_loss_of_nothing() -> None:
    labels = np.full((4, 2), NAN, np.float32)
    assert (
        np.asarray(TaskLoss("multilabel", np.ones(2), known_shares(labels)).call(labels, logits(4, 2))).tolist()
        == [0] * 4
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_give_finite_losses(sign: int) -> None:
    values = np.full((1, 2), sign * 1e4, np.float32)
    assert np.isfinite(TaskLoss("multilabel", np.ones(2)).call(np.array([[0.0, 1.0]], np.float32), values)).all()


def test_accuracy_counts_known_labels_only() -> None:
    metric = TaskFigure("multiclass", np.ones(3))
    metric.update_state(np.array([0, 1, NAN], np.float32), np.eye(3, dtype=np.float32))
    metric.update_state(np.array([2, NAN, NAN], np.float32), np.eye(3, dtype=np.float32))
    assert float(metric.result()) == pytest.approx(2 / 3)
    tags = TaskFigure("multilabel", np.ones(2))
    tags.update_state(np.array([[1, NAN], [0, 1]], np.float32), np.array([[1, 1], [1, 1]], np.float32))
    assert float(tags.result()) == pytest.approx(2 / 3)


def test_losses_and_metrics_survive_their_configuration() -> None:
    loss = TaskLoss("multilabel", [2.0, 3.0], [0.5, 1.0])
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert (again.kind, again.constants, again.shares) == (loss.kind, loss.constants, loss.shares)
    metric = keras.metrics.deserialize(keras.metrics.serialize(TaskFigure("multiclass", np.ones(3))))
    assert metric.kind == "multiclass"


def test_the_constants_of_numbers_are_their_mean_and_spread() -> None:
    labels = np.array([[1, 100], [3, NAN], [5, 300]], np.float32)
    np.testing.assert_allclose(constants(SIZE, labels), [[3, 200], [np.std([1, 3, 5]), 100]], rtol=1e-6)
    np.testing.assert_allclose(constants(SIZE, np.ones((3, 2), np.float32)), [[1, 1], [1, 1]])


def test_a_number_that_no_training_row_has_is_refused_by_name() -> None:
    with pytest.raises(TableError, match=r"size.*price: no training row has this number"):
        constants(SIZE, np.array([[1, NAN], [2, NAN]], np.float32))


def test_regression_loss_is_that_of_keras_on_standardised_numbers() -> None:
    values, labels = logits(20, 2), 5 + 40 * logits(20, 2)[::-1]
    scale = constants(SIZE, labels)
    expected = keras.losses.huber((labels - scale[0]) / scale[1], values)
    np.testing.assert_allclose(TaskLoss("regression", scale).call(labels, values), expected, rtol=1e-5)


def test_the_output_of_a_number_is_in_its_unit_whatever_its_size() -> None:
    layer = HEADS["regression"].output(SIZE, "float32")
    layer.build((None, 2))
    scale = np.array([[3, 2e6], [0.5, 1e5]], np.float32)
    settled = HEADS["regression"].settle(SIZE, layer, scale)
    np.testing.assert_allclose(layer(np.array([[2.0, -1.0]], np.float32)), [[4.0, 1.9e6]], rtol=1e-6)
    assert settled.units() == (0.5, 1e5)
