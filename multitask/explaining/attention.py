"""What the network looked at: Grad-CAM, R. R. Selvaraju et al. 2017, https://arxiv.org/abs/1610.02391."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.network.model import Network
from multitask.network.weights import set_weights

# A map of fewer cells a side says nothing of where.
FEWEST_CELLS = 3


# A network cut at its last map: pixels to the map, and the map to logits by task.
_Path = tuple[Callable[[Any], Any], Callable[[Any], Any]]


def attention(network: Network, images: NDArray[np.uint8], task: str, answers: NDArray[np.int64]) -> Any:
    """Return where the pictures speak for an answer.

    The last feature map is weighted by the mean gradient of the answer's logit in each of its channels; of an ensemble
    summed over its members. A place counts by what it says more than the average place of its picture: the paper takes
    what is above 0, but the heads see features as distances from their mean, which moves every place alike.

    Args:
        network: in float32.
        images: uint8 (batch, height, width, 3).
        task: name of a task.
        answers: (batch,) number of a class, tag or number of the task.

    Returns:
        float32 (batch, rows, columns) of 0..1, 1 where most speaks for it, all 0 where nothing does; None where the
        network has no map of 3 x 3 cells at least.
    """
    paths = [_cut(network, member) for member in network.members]
    found: Any = 0.0
    for path in paths:
        if path is None:
            return None
        front, back = path
        maps = front(images)
        with tf.GradientTape() as tape:
            tape.watch(maps)
            chosen = tf.gather(back(maps)[task], answers, axis=1, batch_dims=1)
        weights = tf.reduce_mean(tape.gradient(chosen, maps), axis=(1, 2), keepdims=True)
        found += tf.reduce_sum(weights * maps, axis=-1).numpy()
    found = np.maximum(found - found.mean(axis=(1, 2), keepdims=True), 0.0)
    most = found.max(axis=(1, 2), keepdims=True)
    return np.divide(found, most, out=np.zeros_like(found), where=most > 0)


def _cut(network: Network, member: Any) -> _Path | None:
    """Cut at the last map: in the rest of the backbone on the trainable side, else on the frozen side."""
    frozen, rest = (_alone(model) for model in (network.frozen, member.get_layer("rest")))
    name = _last_map(rest)
    if name is not None:
        front, back = _parts(rest, name)
        head = keras.Model(member.get_layer("head_input").output, member.output)
        return _chain(frozen, front), _chain(back, head)
    name = _last_map(frozen)
    if name is None:
        return None
    front, back = _parts(frozen, name)
    return _chain(front), _chain(back, member)


def _alone(model: Any) -> Any:
    """Return a copy: layers that several models share have outputs in each of them."""
    copy = keras.models.clone_model(model)
    set_weights(copy, model.get_weights())
    return copy


def _parts(model: Any, name: str) -> tuple[Any, Any]:
    middle = model.get_layer(name).output
    return keras.Model(model.input, middle), keras.Model(middle, model.output)


def _chain(*models: Any) -> Callable[[Any], Any]:
    def call(values: Any) -> Any:
        for model in models:
            values = model(values, training=False)
        return values

    return call


def _last_map(model: Any) -> str | None:
    """Return the last layer through which everything flows and that gives a map of enough cells."""
    for layer in reversed(model.layers):
        shape: tuple[int, ...] = tuple(getattr(layer.output, "shape", ()))
        is_map = len(shape) == 4 and min(shape[1:3]) >= FEWEST_CELLS and shape[-1] > 3
        if is_map and not isinstance(layer, keras.layers.InputLayer) and _all_flows_through(model, layer):
            return layer.name
    return None


def _all_flows_through(model: Any, layer: Any) -> bool:
    try:
        keras.Model(layer.output, model.output)
    except ValueError:
        return False
    return True
