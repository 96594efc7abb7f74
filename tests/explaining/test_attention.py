"""Grad-CAM: a network that decides by one corner is seen to look there; wherever it is cut; an untrained one is not."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from multitask.config import Config
from multitask.explaining.attention import attention
from multitask.network.model import build_network
from multitask.network.weights import copy_weights

pytestmark = pytest.mark.tensor

CLASSES = {"category": ("green", "red"), "tags": ("polka dot", "floral", "checker")}
SIZE = 64


def _pictures(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Noise with a green or a red patch somewhere: pictures, classes, and corners of the patches."""
    rng = np.random.default_rng(seed)
    images = rng.integers(90, 160, (count, SIZE, SIZE, 3)).astype(np.uint8)
    classes, corners = rng.integers(0, 2, count), rng.integers(0, SIZE - 20, (count, 2))
    for image, is_red, (y, x) in zip(images, classes, corners, strict=True):
        image[y : y + 20, x : x + 20] = (230, 20, 20) if is_red else (20, 230, 20)
    return images, classes, corners


def _network(members: int = 1, **model: Any) -> Any:
    settings = {"backbone": "small_cnn", "weights": "random", "image_size": (SIZE, SIZE), "pooling": "avg", **model}
    spec = Config(model=settings).model_spec(CLASSES).model_copy(update={"members": members})
    return build_network(spec)


def _train(network: Any) -> None:
    images, classes, _ = _pictures(256)
    features = network.frozen.predict(images, verbose=0)
    for member in network.members:
        layer = member.get_layer("standardise")
        inputs = keras.Model(member.input, member.get_layer("head_input").output).predict(features, verbose=0)
        layer.set_weights([inputs.mean(axis=0), inputs.var(axis=0) + 1e-3])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        head = keras.Model(member.input, member.output["category"])
        head.compile(keras.optimizers.Adam(1e-3), loss)
        head.fit(features, classes, epochs=6, batch_size=32, verbose=0)


def _hits(network: Any) -> float:
    """Return in how many pictures the place that counts most lies in the patch (the pointing game)."""
    images, classes, corners = _pictures(40, seed=1)
    maps = attention(network, images, "category", classes)
    assert maps.min() >= 0
    assert maps.max() == 1
    hits = 0
    for found, (y, x) in zip(maps, corners, strict=True):
        row, column = np.unravel_index(found.argmax(), found.shape)
        cell = SIZE / found.shape[0]
        hits += y - cell < row * cell < y + 20 and x - cell < column * cell < x + 20
    return hits / len(images)


@pytest.mark.parametrize(("freeze", "members"), [("none", 1), ("block2_pool", 2)])
def test_the_place_that_decides_is_found_wherever_the_network_is_cut(freeze: str, members: int) -> None:
    network = _network(members, freeze=freeze)
    before = _hits(network)
    _train(network)
    assert _hits(network) >= 0.8 > before


def test_the_map_of_a_frozen_side_is_found_too() -> None:
    trained, network = _network(freeze="none"), _network(freeze="all")
    _train(trained)
    copy_weights(trained.whole, network.whole, "the trained one")
    assert _hits(network) >= 0.8


def test_the_wrong_answer_is_not_spoken_for_by_the_patch() -> None:
    network = _network(freeze="none")
    _train(network)
    images, classes, _ = _pictures(20, seed=2)
    right, wrong = (attention(network, images, "category", answers) for answers in (classes, 1 - classes))
    assert np.mean([np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(right, wrong, strict=True)]) < 0


def test_networks_that_end_in_a_vector_have_their_last_map_and_tiny_ones_none() -> None:
    images = np.zeros((2, SIZE, SIZE, 3), np.uint8)
    answers = np.zeros(2, np.int64)
    assert attention(_network(backbone="lenet"), images, "tags", answers).shape[0] == 2
    small = _network(image_size=(2, 2))
    assert attention(small, images[:, :2, :2], "tags", answers) is None
