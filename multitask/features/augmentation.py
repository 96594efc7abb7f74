"""Pictures changed at random while they train: many at once, each by its own amount, drawn from numbers that are given.

The layers of Keras change a picture at a time, far slower than a small network learns from it, and draw from a state
that a resumed training does not have. Here a batch and its draws give the changed batch, so that whoever names draws by
seed and number of the batch sees the same pictures again. What moves pixels moves them once, all together. Nothing of
this is part of a model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from multitask.settings import AugmentConfig

# Numbers that an operation draws for a picture: whether, and by how much.
DRAWS = 4

Tensor = Any


def draw_count(operations: Sequence[AugmentConfig]) -> int:
    """Return how many numbers a picture takes."""
    return DRAWS * len(operations)


def augment(images: Tensor, operations: Sequence[AugmentConfig], draws: Tensor) -> Tensor:
    """Change pictures.

    Args:
        images: uint8 (batch, height, width, 3).
        operations: in the order in which they are listed; what moves pixels comes first and is done at once.
        draws: float32 (batch, draw_count), uniform in 0..1.

    Returns:
        uint8 (batch, height, width, 3).
    """
    chosen = []
    for at, operation in enumerate(operations):
        own = draws[:, DRAWS * at : DRAWS * (at + 1)]
        chosen.append((operation, own[:, 0] < operation.probability, own[:, 1:]))
    pixels = tf.cast(images, tf.float32)
    if any(operation.op in _MOVES for operation in operations):
        pixels = _moved(pixels, [entry for entry in chosen if entry[0].op in _MOVES])
    for operation, is_on, numbers in chosen:
        if operation.op in _RECOLOURS:
            changed = _RECOLOURS[operation.op](pixels, operation.amount, numbers)
            pixels = tf.where(is_on[:, None, None, None], changed, pixels)
    return tf.cast(tf.clip_by_value(tf.round(pixels), 0.0, 255.0), tf.uint8)


def _between(numbers: Tensor, low: float, high: float) -> Tensor:
    return low + (high - low) * numbers


def _moved(pixels: Tensor, chosen: Sequence[tuple[AugmentConfig, Tensor, Tensor]]) -> Tensor:
    """Take every pixel from where the operations together say; beyond the border the picture is mirrored.

    A map is 2 x 3 numbers per picture, from a place in the result to its place in the source, both as shares of the
    picture with the origin in its middle.
    """
    height, width = tf.unstack(tf.cast(tf.shape(pixels)[1:3], tf.float32))
    nothing = tf.eye(3, batch_shape=tf.shape(pixels)[:1])
    whole = nothing
    for operation, is_on, numbers in chosen:
        move = _MOVES[operation.op](operation.amount, numbers, height / width)
        whole = whole @ tf.where(is_on[:, None, None], move, nothing)
    # From shares around the middle to pixels, whose centres are at 0, 1, ...
    middle = [[(width - 1) / 2], [(height - 1) / 2], [1.0]]
    to_pixels = tf.concat([tf.stack([[width, 0.0], [0.0, height], [0.0, 0.0]]), tf.stack(middle)], axis=1)
    whole = to_pixels @ whole @ tf.linalg.inv(to_pixels)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.reshape(whole, [-1, 9])[:, :8],
        output_shape=tf.shape(pixels)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _affine(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """Return maps (batch, 3, 3) of rows (a, b, x), (c, d, y), (0, 0, 1)."""
    zeros, ones = tf.zeros_like(a), tf.ones_like(a)
    return tf.stack([tf.stack(row, -1) for row in ((a, b, x), (c, d, y), (zeros, zeros, ones))], axis=1)


def _scaled(x: Tensor, y: Tensor) -> Tensor:
    zeros = tf.zeros_like(x)
    return _affine(x, zeros, zeros, zeros, y, zeros)


def _rotated(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    angle = _between(numbers[:, 0], -amount, amount) * math.pi / 180
    sine, cosine, zeros = tf.sin(angle), tf.cos(angle), tf.zeros_like(angle)
    # Shares of height and width are of different length.
    return _affine(cosine, -sine * aspect, zeros, sine / aspect, cosine, zeros)


def _shifted(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    x, y = (_between(numbers[:, at], -amount, amount) for at in (0, 1))
    zeros, ones = tf.zeros_like(x), tf.ones_like(x)
    return _affine(ones, zeros, x, zeros, ones, y)


def _zoomed(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    share = _between(numbers[:, 0], 1 - amount, 1 + amount)
    return _scaled(share, share)


def _cropped(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    """Cut out a part of the picture's own shape, at any place in it, and enlarge it."""
    side = tf.sqrt(_between(numbers[:, 0], 1 - amount, 1.0))
    x, y = ((1 - side) * (numbers[:, at] - 0.5) for at in (1, 2))
    zeros = tf.zeros_like(side)
    return _affine(side, zeros, x, zeros, side, y)


def _flipped_horizontally(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    ones = tf.ones_like(numbers[:, 0])
    return _scaled(-ones, ones)


def _flipped_vertically(amount: float, numbers: Tensor, aspect: Tensor) -> Tensor:
    ones = tf.ones_like(numbers[:, 0])
    return _scaled(ones, -ones)


def _per_picture(numbers: Tensor) -> Tensor:
    return numbers[:, None, None, None]


def _grey(pixels: Tensor) -> Tensor:
    return tf.reduce_sum(pixels * tf.constant([0.299, 0.587, 0.114]), axis=-1, keepdims=True)


def _brightened(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    return tf.clip_by_value(pixels + 255 * _per_picture(_between(numbers[:, 0], -amount, amount)), 0.0, 255.0)


def _contrasted(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    mean = tf.reduce_mean(_grey(pixels), axis=[1, 2], keepdims=True)
    return tf.clip_by_value(
        mean + (pixels - mean) * _per_picture(_between(numbers[:, 0], 1 - amount, 1 + amount)), 0, 255
    )


def _recoloured(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    """Change the saturation, and how warm the light is."""
    grey = _grey(pixels)
    pixels = grey + (pixels - grey) * _per_picture(_between(numbers[:, 0], 1 - amount, 1 + amount))
    warmth = _between(numbers[:, 1], -amount / 2, amount / 2)
    gains = tf.stack([1 + warmth, tf.ones_like(warmth), 1 - warmth], axis=-1)
    return tf.clip_by_value(pixels * gains[:, None, None, :], 0.0, 255.0)


def _posterized(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    step = 2.0 ** tf.math.ceil(_per_picture(numbers[:, 0]) * round(amount))
    return tf.floor(pixels / step) * step


def _blurred(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    """Blend with a Gaussian blur of the full width: in between this is nearly one of a smaller width."""
    reach = max(1, math.ceil(2 * amount))
    weights = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / amount))
    kernel = np.repeat((weights / weights.sum()).astype(np.float32)[:, None], 3, axis=1)
    smooth = tf.pad(pixels, [[0, 0], [reach, reach], [reach, reach], [0, 0]], "SYMMETRIC")
    for shape in ((-1, 1, 3, 1), (1, -1, 3, 1)):
        smooth = tf.nn.depthwise_conv2d(smooth, kernel.reshape(shape), [1, 1, 1, 1], "VALID")
    return pixels + (smooth - pixels) * _per_picture(tf.sqrt(numbers[:, 0]))


def _erased(pixels: Tensor, amount: float, numbers: Tensor) -> Tensor:
    """Cover a rectangle with the picture's mean colour, https://arxiv.org/abs/1708.04896."""
    side = tf.sqrt(amount * _between(numbers[:, 0], 0.3, 1.0))
    inside = tf.ones_like(pixels[:1, :, :, :1], tf.bool)
    for axis, number in ((1, numbers[:, 1]), (2, numbers[:, 2])):
        size = tf.shape(pixels)[axis]
        places = (tf.range(tf.cast(size, tf.float32)) + 0.5) / tf.cast(size, tf.float32)
        places = tf.reshape(places, [-1, 1, 1] if axis == 1 else [1, -1, 1])[None]
        begin = _per_picture((1 - side) * number)
        inside &= (places >= begin) & (places < begin + _per_picture(side))
    return tf.where(inside, tf.reduce_mean(pixels, axis=[1, 2], keepdims=True), pixels)


_MOVES: Mapping[str, Callable[[float, Tensor, Tensor], Tensor]] = {
    "rotate": _rotated,
    "shift": _shifted,
    "zoom": _zoomed,
    "crop": _cropped,
    "flip_horizontal": _flipped_horizontally,
    "flip_vertical": _flipped_vertically,
}
_RECOLOURS: Mapping[str, Callable[[Tensor, float, Tensor], Tensor]] = {
    "brightness": _brightened,
    "contrast": _contrasted,
    "colour": _recoloured,
    "posterize": _posterized,
    "blur": _blurred,
    "erase": _erased,
}
