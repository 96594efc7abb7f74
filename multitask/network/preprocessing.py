"""Image bytes to pixels: the only definition, for training, prediction and the served graph.

`image_bytes: string ()` becomes `uint8 (height, width, 3)`, RGB, 0..255. TensorFlow ops only and no Python control flow
on tensors, so that the same function is mapped over tf.data and traced into the SavedModel.

JPEG, PNG, GIF (first frame), BMP and WebP are read. EXIF orientation of JPEG is applied; transparency of PNG is blended
onto white; an image of more than `ImageSpec.max_pixels` is refused from its header, before it is decoded.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from multitask.network.image_header import JPEG, PNG, Header
from multitask.spec import ImageSpec

# Raised whenever pixels change for the same bytes, so that stored features are computed anew.
VERSION = 2

Tensor = Any


@tf.autograph.experimental.do_not_convert
def preprocess(image_bytes: Tensor, image: ImageSpec) -> Tensor:
    """Decode, turn upright and resize one image.

    Args:
        image_bytes: string (), a whole image file.
        image: size, way of resizing and pixel limit.

    Returns:
        uint8 (height, width, 3), RGB, 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are no image that can be read, or hold too many pixels.
    """
    header = Header(image_bytes)
    height, width = header.size()
    # The size of a format that is not known here is 0: what TensorFlow can read beyond ours has no limit of pixels.
    is_right = (height * width > 0) & (height * width <= image.max_pixels)
    fits = tf.debugging.Assert(is_right, [height, width], name="max_pixels")
    with tf.control_dependencies([fits] if fits is not None else []):
        pixels = _decode(tf.identity(image_bytes), header, height, width, image)
    return _resize(_upright(pixels, header.orientation()), image)


def preprocess_batch(image_bytes: Tensor, image: ImageSpec) -> tuple[Tensor, Tensor]:
    """Preprocess many images side by side; an unreadable one leaves the others untouched.

    No op catches another op's error, but tf.data's `ignore_errors` does, in C++ and inside a SavedModel as well.

    Args:
        image_bytes: string (batch,).
        image: as for `preprocess`.

    Returns:
        uint8 (batch, height, width, 3) with zeros for an unreadable image, and bool (batch,): was it readable.
    """
    shape = (image.height, image.width, 3)
    count = tf.size(image_bytes, out_type=tf.int64)
    rows = tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
    rows = rows.map(
        lambda row, data: (row, preprocess(data, image)), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    ).ignore_errors()
    # A sentinel keeps the batch from being empty, which get_single_element would refuse.
    sentinel = tf.data.Dataset.from_tensors((count, tf.zeros(shape, tf.uint8)))
    read, pixels = rows.concatenate(sentinel).batch(count + 1).get_single_element()
    read, pixels = tf.ensure_shape(read, [None]), tf.ensure_shape(pixels, [None, *shape])
    images = tf.scatter_nd(read[:, None], pixels, tf.stack([count + 1, *shape]))
    ok = tf.scatter_nd(read[:, None], tf.ones_like(read, tf.bool), [count + 1])
    return tf.ensure_shape(images[:-1], [None, *shape]), ok[:-1]


def _decode(image_bytes: Tensor, header: Header, height: Tensor, width: Tensor, image: ImageSpec) -> Tensor:
    """Decode to uint8 (rows, columns, 3); a JPEG is read at 1/2, 1/4 or 1/8 where that is still large enough.

    libjpeg averages while it scales down, so this costs no detail that the resize would have kept, and a photo of
    12 megapixels is read several times faster.
    """
    room = tf.minimum(tf.minimum(height, width) // max(image.height, image.width), 8)
    halvings = tf.reduce_sum(tf.cast(room >= tf.constant([2, 4, 8], tf.int64), tf.int32))
    way = tf.where(header.format == JPEG, halvings, tf.where(header.format == PNG, 4, 5))

    def jpeg(ratio: int) -> Tensor:
        return tf.io.decode_jpeg(image_bytes, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def png() -> Tensor:
        pixels = tf.io.decode_png(image_bytes, channels=4)
        alpha = pixels[..., 3:]
        # Of a picture of 1, 2 or 4 bits without transparency the decoder calls 1, 3 or 15 opaque.
        opaque = tf.bitwise.left_shift(tf.ones([], tf.int64), tf.minimum(header.front[24], 8)) - 1
        alpha = tf.where(tf.reduce_all(alpha == tf.cast(opaque, tf.uint8)), tf.constant(255, tf.uint8), alpha)
        # 255 - (255 - colour) * alpha / 255, rounded: the floats' pixels, in 16 bits a third of their memory.
        darkness = tf.cast(255 - pixels[..., :3], tf.uint16) * tf.cast(alpha, tf.uint16)
        return 255 - tf.cast((darkness + 127) // 255, tf.uint8)

    def other() -> Tensor:
        return tf.io.decode_image(image_bytes, channels=3, expand_animations=False)

    return tf.switch_case(way, [lambda: jpeg(1), lambda: jpeg(2), lambda: jpeg(4), lambda: jpeg(8), png, other])


def _upright(pixels: Tensor, orientation: Tensor) -> Tensor:
    """Undo an EXIF orientation: transpose for 5 to 8, then mirror columns and rows."""

    def is_one_of(*codes: int) -> Tensor:
        return tf.reduce_any(orientation == tf.constant(codes, tf.int64))

    def turn() -> Tensor:
        turned = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels)
        turned = tf.cond(is_one_of(2, 3, 6, 7), lambda: tf.reverse(turned, [1]), lambda: turned)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: tf.reverse(turned, [0]), lambda: turned)

    return tf.cond(orientation > 1, turn, lambda: pixels)


def _resize(pixels: Tensor, image: ImageSpec) -> Tensor:
    """Resize uint8 (rows, columns, 3) to the spec's size, bilinear.

    Below a third of the source pixels bilinear would skip some of them, so there the slower smoothed kernel is used;
    photos seldom come here with that many, since JPEGs are reduced while they are decoded.
    """
    target = tf.constant([image.height, image.width])
    source = tf.shape(pixels)[:2]
    if image.resize == "crop":
        scale = tf.reduce_max(target / source)
        kept = tf.minimum(tf.cast(tf.math.ceil(tf.cast(target, tf.float64) / scale), tf.int32), source)
        corner = (source - kept) // 2
        pixels = tf.slice(pixels, [corner[0], corner[1], 0], [kept[0], kept[1], 3])
        source = kept
    inner = target
    if image.resize == "pad":
        scale = tf.reduce_min(target / source)
        inner = tf.clip_by_value(tf.cast(tf.round(tf.cast(source, tf.float64) * scale), tf.int32), 1, target)
    resized = tf.cond(
        tf.reduce_any(source >= 3 * inner),
        lambda: tf.image.resize(pixels, inner, antialias=True),
        lambda: tf.image.resize(pixels, inner),
    )
    resized = tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)
    if image.resize == "pad":
        before = (target - inner) // 2
        margins = tf.stack([before, target - inner - before], axis=1)
        resized = tf.pad(resized, tf.concat([margins, [[0, 0]]], axis=0))
    return tf.ensure_shape(resized, [image.height, image.width, 3])
