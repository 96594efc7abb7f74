"""The weights of a backbone: ImageNet's as Keras downloads them, those of a file, or random ones."""

from __future__ import annotations

import math
import re
import socket
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from multitask.backbones import BACKBONES
from multitask.errors import ConfigError
from multitask.network.backbone import construct, image_shape, open_architecture
from multitask.spec import ImageSpec, ModelSpec

# Random weights are the same in every run, so that their features can be reused whatever the seed of the training.
RANDOM_WEIGHTS_SEED = 20_260

_DOWNLOAD_TIMEOUT_S = 30.0

# Standard deviations of ImageNet's pixels in 0..1, per channel.
_IMAGENET_DEVIATIONS = np.array([0.229, 0.224, 0.225])


class ImagenetUnreachable(ConfigError):
    """The ImageNet weights are neither in Keras' cache nor to be downloaded."""


def load_backbone_weights(backbone: Any, spec: ModelSpec) -> None:
    """Fill a backbone from ImageNet, from a file, or He-initialised.

    Raises:
        ConfigError: the weights do not fit, or there are none.
    """
    if spec.weights == "random":
        _initialise(backbone)
        return
    if spec.architecture and spec.weights != "random":
        _copy_own_weights(backbone, spec)
        return
    if spec.weights == "imagenet":
        copy_weights(imagenet_weights(spec.backbone, spec.image, spec.backbone_options), backbone, "imagenet")
    else:
        _load_file(backbone, Path(spec.weights))
    _complete_scaling(backbone)


def imagenet_weights(
    name: str,
    image: ImageSpec = ImageSpec(),  # noqa: B008
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Return a backbone of Keras with its ImageNet weights, which Keras downloads once to its own cache.

    Raises:
        ConfigError: this backbone has none, or none with these options.
        ImagenetUnreachable: neither in the cache nor, within half a minute, to be downloaded.
    """
    if not BACKBONES[name][0]:
        raise ConfigError(f"{name} has no ImageNet weights", where="model.weights", fix='Use weights = "random".')
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_DOWNLOAD_TIMEOUT_S)
    try:
        return construct(name, options or {}, weights="imagenet", input_shape=image_shape(image))
    except ConfigError:
        raise
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


def set_weights(model: Any, values: Sequence[NDArray[Any]]) -> None:
    """Fill a model or layer with the weights of one like it.

    Keras' own `set_weights` leaves a Normalization layer with the mean and variance that it had before.
    """
    model.set_weights(values)
    for layer in all_layers(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def all_layers(model: Any) -> Iterator[Any]:
    """Yield the layers of a model and of the models nested in it; of a layer itself."""
    if isinstance(model, keras.Model):
        for layer in model.layers:
            yield from all_layers(layer)
    else:
        yield model


def _initialise(backbone: Any) -> None:
    """Draw every kernel anew by He et al. 2015, https://arxiv.org/abs/1502.01852: activations keep their scale.

    A depthwise kernel (height, width, channels, multiplier) mixes no channels: its fan-in is height * width.
    """
    for number, layer in enumerate(all_layers(backbone)):
        is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        kernels = {
            "kernel": is_depthwise,
            "depthwise_kernel": True,
            "pointwise_kernel": False,
        }
        for name, alone in kernels.items():
            kernel = getattr(layer, name, None)
            if kernel is not None:
                initializer = keras.initializers.HeNormal(seed=RANDOM_WEIGHTS_SEED + number)
                height, width, *channels = kernel.shape if alone else (0, 0)
                shape = (height, width, 1, math.prod(channels)) if alone else kernel.shape
                kernel.assign(np.reshape(initializer(shape, "float32"), kernel.shape))


def _copy_own_weights(backbone: Any, spec: ModelSpec) -> None:
    """Fill a backbone that came from a file with the weights in that file."""
    model, location = open_architecture(spec), Path(spec.weights)
    file = location / "model.weights.h5" if location.is_dir() else location
    try:
        model.load_weights(file)
    except Exception as error:
        raise ConfigError(
            f"has no weights of {spec.backbone} ({str(error).strip().splitlines()[0]})", where=f"model.weights {file}"
        ) from None
    copy_weights(model, backbone, str(file))


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
                fix="Check that the file was saved from this backbone without its top, and with the same "
                "model.backbone_options.",
            ) from None
        return
    copy_weights(source, backbone, str(path))


def copy_weights(source: Any, backbone: Any, origin: str) -> None:
    """Copy weights layer by layer; every layer of the target must find its own in the source.

    Raises:
        ConfigError: one does not; `origin` says of what source.
    """
    found = dict(_named_layers(source))
    for name, layer in _named_layers(backbone):
        values = found[name].get_weights() if name in found else []
        if [value.shape for value in values] != [tuple(weight.shape) for weight in layer.weights]:
            raise ConfigError(
                f'layer "{layer.name}" does not fit',
                where=f"model.weights {origin}",
                expected=f"shapes {[tuple(weight.shape) for weight in layer.weights]}",
                received=f"shapes {[value.shape for value in values]}" if values else "no such layer",
                fix=f"Use weights of {backbone.name} with the same model.backbone_options, or --weights random.",
            )
        set_weights(layer, values)


def _named_layers(model: Any) -> Iterator[tuple[tuple[str, int], Any]]:
    """Yield the layers that have weights, each with a name that is the same in every model of this architecture.

    Keras numbers the layers that were given no name through all models of a process (conv2d_94): those count anew
    here, in the order of the model, per class.
    """
    count: Counter[str] = Counter()
    for layer in all_layers(model):
        if not layer.weights:
            continue
        stem = re.sub(r"_\d+$", "", layer.name)
        if stem.replace("_", "") == type(layer).__name__.lower():
            yield (stem, count[stem]), layer
            count[stem] += 1
        else:
            yield (layer.name, -1), layer


def _complete_scaling(backbone: Any) -> None:
    """Divide once more by the square root of ImageNet's deviations, as EfficientNetB0 to B7 were trained.

    Keras adds that step only where it loads the weights itself, https://github.com/tensorflow/tensorflow/issues/49930.
    Here it becomes part of the variance of the Normalization layer, which is ImageNet's only where the step is missing.
    """
    for layer in all_layers(backbone):
        if isinstance(layer, keras.layers.Normalization) and layer.weights:
            mean, variance, count = layer.get_weights()
            if np.allclose(variance, _IMAGENET_DEVIATIONS**2, rtol=1e-2):
                set_weights(layer, [mean, variance * _IMAGENET_DEVIATIONS, count])
