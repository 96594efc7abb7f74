"""The backbone below the heads: an architecture of keras.applications with its own input scaling in front."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import keras

from multitask.backbones import BACKBONES
from multitask.errors import ConfigError, nearest
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
    pixels = _scaled(image, BACKBONES[spec.backbone][1])
    if spec.backbone in SMALL:
        construct_options(spec.backbone, spec.backbone_options)
        return keras.Model(image, SMALL[spec.backbone](pixels), name=spec.backbone)
    base = construct(spec.backbone, spec.backbone_options, weights=None, input_tensor=pixels)
    return keras.Model(image, base.output, name=spec.backbone)


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


def _scaled(image: Any, mode: str) -> Any:
    """Scale RGB 0..255 to what a backbone was trained on, in float32; modes as in `backbones.BACKBONES`.

    Made of layers and operations of Keras, so that a saved model needs nothing else to be opened.
    """
    if mode == "caffe":
        image = keras.ops.flip(image, axis=-1)
    scale, offset = _SCALINGS[mode]
    return keras.layers.Rescaling(scale, offset, dtype="float32", name="scaling")(image)
