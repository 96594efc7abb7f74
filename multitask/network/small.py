"""Our own small networks, for pictures of some ten to a hundred pixels and training from scratch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

Tensor = Any


def small_cnn(pixels: Tensor) -> Tensor:
    """Four convolution blocks."""
    for number, filters in enumerate((32, 64, 128, 128), start=1):
        pixels = _convolved(pixels, filters, 3, f"block{number}_conv")
        pixels = keras.layers.MaxPooling2D(2, padding="same", name=f"block{number}_pool")(pixels)
    return pixels


def lenet(pixels: Tensor) -> Tensor:
    """After LeNet-5, Y. LeCun et al. 1998, https://doi.org/10.1109/5.726791, wider and with today's units.

    Two convolutions of 5 x 5 and a dense layer, which gives a vector: 0.86 million weights for pictures of 28 pixels.
    """
    for number, filters in enumerate((32, 64), start=1):
        pixels = _convolved(pixels, filters, 5, f"block{number}_conv")
        pixels = keras.layers.MaxPooling2D(2, padding="same", name=f"block{number}_pool")(pixels)
    vector = keras.layers.Flatten(name="flatten")(pixels)
    vector = keras.layers.Dropout(0.25, name="block3_dropout")(vector)
    return keras.layers.Dense(256, activation="relu", name="block3_dense")(vector)


def inception_small(pixels: Tensor) -> Tensor:
    """A stem and four modules of parallel paths, each convolution normalised: 0.3 million weights.

    Paths as in C. Szegedy et al. 2015, https://arxiv.org/abs/1512.00567, figure 5: two of 3 x 3 for one of 5 x 5.
    """
    pixels = _normalised(pixels, 48, 3, "stem")
    for number, filters in enumerate((24, 32, 48, 64), start=1):
        pixels = _module(pixels, filters, f"module{number}")
        if number % 2:
            pixels = keras.layers.MaxPooling2D(2, padding="same", name=f"module{number}_down")(pixels)
    return pixels


def _module(pixels: Tensor, filters: int, name: str) -> Tensor:
    """Four paths side by side, filters of each: 1, 1.5, 1 and 0.5 times as many."""
    middle = _normalised(pixels, filters, 1, f"{name}_3_reduce")
    wide = _normalised(pixels, filters // 2, 1, f"{name}_5_reduce")
    wide = _normalised(wide, filters, 3, f"{name}_5_first")
    pooled = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(pixels)
    paths = [
        _normalised(pixels, filters, 1, f"{name}_1"),
        _normalised(middle, filters * 3 // 2, 3, f"{name}_3"),
        _normalised(wide, filters, 3, f"{name}_5"),
        _normalised(pooled, filters // 2, 1, f"{name}_pooled"),
    ]
    return keras.layers.Concatenate(name=name)(paths)


def _convolved(pixels: Tensor, filters: int, size: int, name: str) -> Tensor:
    return keras.layers.Conv2D(filters, size, padding="same", activation="relu", name=name)(pixels)


def _normalised(pixels: Tensor, filters: int, size: int, name: str) -> Tensor:
    pixels = keras.layers.Conv2D(filters, size, padding="same", use_bias=False, name=f"{name}_conv")(pixels)
    pixels = keras.layers.BatchNormalization(name=f"{name}_norm")(pixels)
    return keras.layers.Activation("relu", name=f"{name}_relu")(pixels)


SMALL: Mapping[str, Callable[[Tensor], Tensor]] = {
    "small_cnn": small_cnn,
    "lenet": lenet,
    "inception_small": inception_small,
}
