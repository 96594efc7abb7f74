"""The network of a spec: a backbone cut at its freeze boundary, and one head per task.

    image uint8 (batch, height, width, 3)
      -> frozen:    scaling, the backbone up to the boundary      -> features (batch, ...)      computed once per image
      -> trainable: the rest of the backbone, pooling, one Dense per task -> {task: logits (batch, classes) float32}
      -> scores: softmax, sigmoid, or the unit of a number         -> {task: scores (batch, classes) float32}
      -> whole = frozen, then trainable, then scores

An ensemble has several trainable sides on one frozen side; what they give is their mean.

With `freeze = "all"` the boundary lies behind the pooling, with `"none"` in front of the scaling: the same code, cut
elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from multitask.errors import ConfigError, nearest
from multitask.network.backbone import build_backbone, image_shape
from multitask.network.heads import HEADS
from multitask.network.weights import all_layers, load_backbone_weights
from multitask.spec import ModelSpec

# Of the statistics of BatchNormalization in a network that is trained from scratch.
MOMENTUM = 0.9


@dataclass(frozen=True)
class Network:
    """The two sides of one network, what turns their logits into scores, and the whole; they share their weights.

    Args:
        members: of the trainable side; itself, but for an ensemble.
    """

    spec: ModelSpec
    frozen: Any
    trainable: Any
    members: tuple[Any, ...]
    scores: Any
    whole: Any

    def frozen_digest(self) -> str:
        """Return a digest of the frozen weights, for the key of stored features."""
        digest = hashlib.sha256()
        for value in self.frozen.get_weights():
            digest.update(str(value.shape).encode())
            digest.update(np.ascontiguousarray(value).data)
        return digest.hexdigest()


def build_network(
    spec: ModelSpec, precision: str = "float32", *, initialise: bool = True, heads: str = "float32"
) -> Network:
    """Build the network of a spec.

    Args:
        spec: what to build.
        precision: float32, bfloat16 or float16: arithmetic of the backbone; its weights stay float32.
        initialise: False leaves the backbone's weights to be filled in by the caller.
        heads: float32 or float64: arithmetic, weights and scores of the heads.

    Raises:
        ConfigError: the boundary or the weights do not fit the backbone.
    """
    with _precision(precision):
        backbone = build_backbone(spec)
        if initialise:
            load_backbone_weights(backbone, spec)
        frozen, rest = _cut(backbone, spec)
        rests = [rest, *(keras.models.clone_model(rest) for _ in range(spec.members - 1))]
    for rest in rests:
        _freeze_batch_statistics(rest, spec)
    frozen.trainable = False
    members = tuple(_with_heads(rest, spec, heads) for rest in rests)
    trainable = members[0] if spec.members == 1 else _mean_of(members, spec)
    image = keras.Input(image_shape(spec.image), dtype="uint8", name="image")
    outputs = {task.name: HEADS[task.kind].output(task, heads) for task in spec.tasks}
    logits = [keras.Input((len(task.classes),), dtype=heads, name=f"{task.name}_logits") for task in spec.tasks]
    scored = {task.name: outputs[task.name](given) for task, given in zip(spec.tasks, logits, strict=True)}
    scores = keras.Model(logits, scored, name="scores")
    found = {name: outputs[name](value) for name, value in trainable(frozen(image)).items()}
    return Network(spec, frozen, trainable, members, scores, keras.Model(image, found, name="multitask"))


def load_network(path: Path, spec: ModelSpec, precision: str = "float32", *, heads: str = "float32") -> Network:
    """Build the network of a spec and fill it with the weights of a `model.keras` that was saved from one like it."""
    network = build_network(spec, precision, initialise=False, heads=heads)
    network.whole.load_weights(path)
    return network


def boundaries(backbone: Any) -> list[str]:
    """Return the names of the layers through which everything flows, where a backbone can be cut."""
    return [layer.name for layer in backbone.layers[1:-1] if _rest_after(backbone, layer.name) is not None]


@contextlib.contextmanager
def _precision(precision: str) -> Iterator[None]:
    """Build layers that compute in this precision and keep float32 weights."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float32" if precision == "float32" else f"mixed_{precision}")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _cut(backbone: Any, spec: ModelSpec) -> tuple[Any, Any]:
    """Return the frozen model (image to features) and the model after it (features to the heads' input)."""
    pooled = _pool(backbone.output, spec)
    if spec.freeze == "all":
        features = keras.Input(pooled.shape[1:], dtype=pooled.dtype, name="features")
        return keras.Model(backbone.input, pooled, name="frozen"), keras.Model(features, features, name="rest")
    if spec.freeze == "none":
        image = keras.Input(image_shape(spec.image), dtype="uint8", name="image")
        return keras.Model(image, image, name="frozen"), keras.Model(backbone.input, pooled, name="rest")
    names = [layer.name for layer in backbone.layers]
    rest = _rest_after(keras.Model(backbone.input, pooled), spec.freeze) if spec.freeze in names else None
    if rest is None:
        problem = "is not a layer through which everything flows" if spec.freeze in names else "is not a layer of it"
        valid = boundaries(backbone)
        raise ConfigError(
            f'"{spec.freeze}" {problem} ({spec.backbone})',
            where="model.freeze",
            fix=f"{nearest(spec.freeze, ['all', 'none', *valid])} Valid: all, none, {', '.join(valid)}.",
        )
    return keras.Model(backbone.input, backbone.get_layer(spec.freeze).output, name="frozen"), rest


def _rest_after(model: Any, name: str) -> Any:
    """Return the part of a model behind a layer, or None when something flows around that layer."""
    try:
        return keras.Model(model.get_layer(name).output, model.output, name="rest")
    except ValueError:
        return None


def _pool(features: Any, spec: ModelSpec) -> Any:
    """Turn the last feature map (batch, rows, columns, channels) into (batch, features); a vector is one already.

    What is neither is taken as a row of tokens (batch, tokens, channels).
    """
    if len(features.shape) == 2:
        return keras.layers.Activation("linear", name="pooling")(features)
    is_map = len(features.shape) == 4
    layers = {
        "flatten": keras.layers.Flatten,
        "avg": keras.layers.GlobalAveragePooling2D if is_map else keras.layers.GlobalAveragePooling1D,
        "max": keras.layers.GlobalMaxPooling2D if is_map else keras.layers.GlobalMaxPooling1D,
    }
    return layers[spec.pooling](name="pooling")(features)


def _mean_of(members: Sequence[Any], spec: ModelSpec) -> Any:
    """Return a model from features to the logits of the mean scores."""
    features = keras.Input(members[0].input.shape[1:], dtype=members[0].input.dtype, name="features")
    for number, member in enumerate(members, start=1):
        member.name = f"member{number}"
    found = [member(features) for member in members]
    means = {
        task.name: HEADS[task.kind].mean(keras.ops.stack([logits[task.name] for logits in found], axis=-1))
        for task in spec.tasks
    }
    return keras.Model(features, means, name="trainable")


def _freeze_batch_statistics(rest: Any, spec: ModelSpec) -> None:
    """Keep BatchNormalization in inference mode unless the network is trained from scratch.

    Statistics learned on millions of images are better than those of a small batch while fine-tuning,
    https://keras.io/guides/transfer_learning/. From scratch they must follow weights that move within a few hundred
    steps: the momentum of keras.applications (up to 0.999) is meant for a hundred thousand.
    """
    for layer in all_layers(rest):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = spec.from_scratch
            layer.momentum = min(layer.momentum, MOMENTUM)


def _with_heads(rest: Any, spec: ModelSpec, dtype: str) -> Any:
    """Return the trainable model: features to {task: logits}, with standardisation in front of the heads."""
    features = keras.Input(rest.input.shape[1:], dtype=rest.input.dtype, name="features")
    vector = keras.layers.Activation("linear", dtype=dtype, name="head_input")(rest(features))
    # A frozen BatchNormalization without scale and offset is (x - mean) / sqrt(variance): plain standardisation. A
    # usual epsilon would turn the features of a network whose scale is small into constants.
    vector = keras.layers.BatchNormalization(
        center=False, scale=False, epsilon=1e-30, trainable=False, dtype=dtype, name="standardise"
    )(vector)
    vector = keras.layers.Dropout(spec.dropout, dtype=dtype, name="dropout")(vector)
    logits = {
        task.name: keras.layers.Dense(len(task.classes), dtype=dtype, name=f"{task.name}_logits")(vector)
        for task in spec.tasks
    }
    return keras.Model(features, logits, name="trainable")
