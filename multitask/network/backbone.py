"""The backbone below the heads: an architecture of keras.applications, its input scaling, and its weights."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from multitask.errors import ConfigError
from multitask.spec import BACKBONES, ImageSpec, ModelSpec

# Random weights are the same in every run, so that their features can be reused whatever the seed of the training.
RANDOM_WEIGHTS_SEED = 20_260

_DOWNLOAD_TIMEOUT_S = 30.0


class ImagenetUnreachable(ConfigError):
    """The ImageNet weights are neither in Keras' cache nor to be downloaded."""


def build_backbone(spec: ModelSpec) -> Any:
    """Build the backbone: uint8 (batch, height, width, 3) to its last feature map, its own scaling inside."""
    constructor, scaling = BACKBONES[spec.backbone]
    image = keras.Input(image_shape(spec.image), dtype="uint8", name="image")
    pixels = Scaling(scaling, dtype="float32", name="scaling")(image)
    if not constructor:
        return keras.Model(image, _small_cnn(pixels), name=spec.backbone)
    try:
        base = getattr(keras.applications, constructor)(include_top=False, weights=None, input_tensor=pixels)
    except ValueError as error:
        raise ConfigError(
            f"{spec.backbone} cannot take images of {spec.image.height}x{spec.image.width}: {error}",
            where="model.image_size",
        ) from None
    return keras.Model(image, base.output, name=spec.backbone)


def load_weights(backbone: Any, spec: ModelSpec) -> None:
    """Fill a backbone from ImageNet, from a file, or He-initialised."""
    if spec.weights == "random":
        _initialise(backbone)
    elif spec.weights == "imagenet":
        _copy_weights(imagenet_weights(spec.backbone, spec.image), backbone, "imagenet")
    else:
        _load_file(backbone, Path(spec.weights))


def image_shape(image: ImageSpec) -> tuple[int, int, int]:
    """Return (height, width, 3)."""
    return (image.height, image.width, 3)


@keras.saving.register_keras_serializable("multitask")
class Scaling(keras.layers.Layer):
    """Scale RGB 0..255 to what a backbone was trained on; modes as in `spec.BACKBONES`."""

    def __init__(self, mode: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.mode = mode

    def call(self, image: Any) -> Any:
        """Map (batch, height, width, 3) of any number type to float32 of the same shape."""
        pixels = keras.ops.cast(image, "float32")
        if self.mode in ("caffe", "tf"):
            return keras.applications.imagenet_utils.preprocess_input(pixels, mode=self.mode)
        return pixels / 255.0 if self.mode == "unit" else pixels

    def compute_output_shape(self, shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the same shape."""
        return shape

    def get_config(self) -> dict[str, Any]:
        """Return what `__init__` takes."""
        return {**super().get_config(), "mode": self.mode}


def _small_cnn(pixels: Any) -> Any:
    """Four convolution blocks for small pictures and training from scratch."""
    for number, filters in enumerate((32, 64, 128, 128), start=1):
        pixels = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"block{number}_conv")(pixels)
        pixels = keras.layers.MaxPooling2D(2, padding="same", name=f"block{number}_pool")(pixels)
    return pixels


def _initialise(backbone: Any) -> None:
    """Draw every kernel anew by He et al. 2015, https://arxiv.org/abs/1502.01852: activations keep their scale."""
    for number, layer in enumerate(backbone.layers):
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            initializer = keras.initializers.HeNormal(seed=RANDOM_WEIGHTS_SEED + number)
            kernel.assign(initializer(kernel.shape, "float32"))


def imagenet_weights(name: str, image: ImageSpec | None = None) -> Any:
    """Return a backbone with its ImageNet weights, which Keras downloads once to its own cache.

    Raises:
        ConfigError: this backbone has none.
        ImagenetUnreachable: neither in the cache nor, within half a minute, to be downloaded.
    """
    constructor, _ = BACKBONES[name]
    if not constructor:
        raise ConfigError(f"{name} has no ImageNet weights", where="model.weights", fix='Use weights = "random".')
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        shape = image_shape(image or ImageSpec())
        return getattr(keras.applications, constructor)(include_top=False, weights="imagenet", input_shape=shape)
    except Exception as error:
        cause = str(error).strip().splitlines()[-1]
        raise ImagenetUnreachable(
            f"the ImageNet weights of {name} could not be loaded ({cause})",
            where="model.weights",
            fix="Connect once to let Keras fill its cache (~/.keras/models, or $KERAS_HOME), "
            "or name a local .h5 or .keras file (--weights FILE), or train without them (--weights random).",
        ) from None
    finally:
        socket.setdefaulttimeout(before)


def _load_file(backbone: Any, path: Path) -> None:
    """Load a `.keras` or `.h5` model, or a file of weights alone."""
    if not path.is_file():
        raise ConfigError(
            "no such weights file", where=f"model.weights {path}", expected="imagenet, random, or a .h5 or .keras file"
        )
    try:
        source = keras.saving.load_model(path, compile=False)
    except Exception:
        try:
            backbone.load_weights(path)
        except Exception as error:
            raise ConfigError(
                f"holds neither a model nor weights of {backbone.name} ({str(error).splitlines()[0]})",
                where=f"model.weights {path}",
                fix="Check that the file was saved from this backbone without its top.",
            ) from None
        return
    _copy_weights(source, backbone, str(path))


def _copy_weights(source: Any, backbone: Any, origin: str) -> None:
    """Copy weights layer by layer, matched by name; every layer of the backbone must find its own."""
    found = {layer.name: layer for layer in all_layers(source)}
    for layer in all_layers(backbone):
        if not layer.weights:
            continue
        values = found[layer.name].get_weights() if layer.name in found else []
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            raise ConfigError(
                f'layer "{layer.name}" does not fit',
                where=f"model.weights {origin}",
                expected=f"shapes {[tuple(weight.shape) for weight in layer.weights]}",
                received=f"shapes {[value.shape for value in values]}" if values else "no such layer",
                fix=f"Use weights of {backbone.name}, or --weights random.",
            )
        layer.set_weights(values)


def all_layers(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models nested in it."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from all_layers(layer)
        else:
            yield layer
