"""The backbone below the heads: an architecture of keras.applications with its own input scaling in front."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from multitask.backbones import BACKBONES
from multitask.errors import ConfigError, install, nearest
from multitask.network.small import SMALL
from multitask.spec import ImageSpec, ModelSpec

# Scale and offset of each channel, in the order in which the network takes them. The means and deviations are those of
# ImageNet as keras.applications.imagenet_utils.preprocess_input has them.
_SCALINGS: Mapping[str, tuple[Any, Any]] = {
    "caffe": (1.0, (-103.939, -116.779, -123.68)),
    "tf": (1 / 127.5, -1.0),
    "torch": (
        (1 / (255 * 0.229), 1 / (255 * 0.224), 1 / (255 * 0.225)),
        (-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225),
    ),
    "unit": (1 / 255, 0.0),
    "none": (1.0, 0.0),
}

# What this package decides for every backbone alike.
_DECIDED = {
    "include_top",
    "include_preprocessing",
    "weights",
    "input_tensor",
    "input_shape",
    "pooling",
    "classes",
    "classifier_activation",
    "name",
}


def build_backbone(spec: ModelSpec) -> Any:
    """Build the backbone: uint8 (batch, height, width, 3) to its last feature map or vector, its own scaling inside.

    Raises:
        ConfigError: the backbone takes no such options, or no images of this size.
    """
    image = keras.Input(image_shape(spec.image), dtype="uint8", name="image")
    if spec.architecture:
        return _of_file(image, spec)
    pixels = _scaled(image, BACKBONES[spec.backbone][1])
    if spec.backbone in SMALL:
        construct_options(spec.backbone, spec.backbone_options)
        return keras.Model(image, SMALL[spec.backbone](pixels), name=spec.backbone)
    base = construct(spec.backbone, spec.backbone_options, weights=None, input_tensor=pixels)
    return keras.Model(image, base.output, name=spec.backbone)


def open_architecture(spec: ModelSpec) -> Any:
    """Return the model that the architecture of a file describes, without its weights; nothing of it can run code.

    Raises:
        ConfigError: it is not to be built here, or does not go from one image to one map or vector.
    """
    described = json.loads(spec.architecture)["model"]
    where = f"model.backbone {spec.backbone}"
    if "keras_hub" in str(described.get("module")) and not importlib.util.find_spec("keras_hub"):
        raise ConfigError(
            "is of KerasHub, which is not installed", where=where, fix=f"{install('keras-hub>=0.32,<0.33')}."
        )
    try:
        model = keras.saving.deserialize_keras_object(described, safe_mode=True)
        inputs, outputs = model.inputs, model.outputs
    except Exception as error:
        raise ConfigError(
            f"cannot be built ({str(error).strip().splitlines()[0]})",
            where=where,
            fix="Save a functional or built sequential keras.Model, of Keras' own layers, without Lambda.",
        ) from None
    ranks = [len(tensor.shape) for tensor in (*inputs, *outputs)]
    if len(ranks) != 2 or ranks[0] != 4 or ranks[1] not in (2, 3, 4) or inputs[0].shape[-1] != 3:
        raise ConfigError(
            "does not fit below the heads",
            where=where,
            expected="one input (batch, height, width, 3) and one output (batch, ..., features)",
            received=f"inputs {[x.shape for x in inputs]} and outputs {[x.shape for x in outputs]}",
        )
    return model


def _of_file(image: Any, spec: ModelSpec) -> Any:
    """Build the backbone of a file, in the arithmetic that layers are built in now."""
    model = open_architecture(spec)
    expected = model.inputs[0].shape[1:3]
    for size, needed in zip(image.shape[1:3], expected, strict=True):
        if needed not in (None, size):
            raise ConfigError(
                f"{spec.backbone} takes other images",
                where="model.image_size",
                expected=str(list(expected)),
                received=str(list(image.shape[1:3])),
            )
    pixels = _scaled(image, json.loads(spec.architecture)["scaling"])

    def anew(layer: Any) -> Any:
        settings = layer.get_config()
        settings.pop("dtype", None)
        return type(layer).from_config(settings)

    def call(layer: Any, *arguments: Any, **more: Any) -> Any:
        scaled = keras.tree.map_structure(lambda value: pixels if value is image else value, arguments)
        return layer(*scaled, **more)

    plain = keras.Model(model.inputs, model.outputs)
    try:
        found = keras.models.clone_model(plain, input_tensors=[image], clone_function=anew, call_function=call)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"cannot be built for these images ({str(error).strip().splitlines()[0]})",
            where=f"model.backbone {spec.backbone}",
        ) from None
    return keras.Model(image, found.outputs[0], name=spec.backbone)


def construct(name: str, options: Mapping[str, Any], **arguments: Any) -> Any:
    """Call the constructor of keras.applications without its top.

    Raises:
        ConfigError: it takes no such options, or no images of this size.
    """
    constructor = getattr(keras.applications, BACKBONES[name][0])
    construct_options(name, options)
    try:
        return constructor(include_top=False, **options, **arguments)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{name} cannot be built so: {str(error).strip().splitlines()[0]}",
            where="model.image_size" + (", model.backbone_options" if options else ""),
        ) from None


def construct_options(name: str, options: Mapping[str, Any]) -> list[str]:
    """Return the options that the constructor of a backbone takes; refuse others."""
    constructor = getattr(keras.applications, BACKBONES[name][0], None)
    known = [key for key in inspect.signature(constructor).parameters if key not in _DECIDED] if constructor else []
    for key in options:
        if key not in known:
            raise ConfigError(
                f'{name} has no option "{key}"',
                where="model.backbone_options",
                expected=", ".join(known) or "none",
                fix=nearest(key, known) if known else "Leave it out.",
            )
    return known


def image_shape(image: ImageSpec) -> tuple[int, int, int]:
    """Return (height, width, 3)."""
    return (image.height, image.width, 3)


def _scaled(image: Any, mode: str | Sequence[Any]) -> Any:
    """Scale RGB 0..255 to what a backbone was trained on, in float32; modes as in `backbones`, or scale and offset.

    Made of layers and operations of Keras, so that a saved model needs nothing else to be opened.
    """
    if mode == "caffe":
        image = keras.ops.flip(image, axis=-1)
    scale, offset = _SCALINGS[mode] if isinstance(mode, str) else tuple(mode)
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="scaling")(image)
