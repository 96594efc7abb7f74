"""What an image file says of itself in its first bytes: format, size, EXIF orientation; read with TensorFlow ops."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any

# EXIF must lie in an APP1 segment at the front, and a segment is at most 64 KiB long.
HEADER_BYTES = 1 << 16

# Magic bytes at the start of a file, with gaps; the position in the list is the number of the format.
_FORMATS = (
    b"\xff\xd8\xff",
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    b"RIFF....WEBPVP8 ",
    b"RIFF....WEBPVP8L",
    b"RIFF....WEBPVP8X",
)
JPEG, PNG = 0, 1
_SEGMENT_BYTES, _DIRECTORY_BYTES = 10, 512 * 12


class Header:
    """The first bytes of an image file, read as numbers; bytes beyond the end are 0.

    Written with few and cheap ops, since this runs once per image: a step per format or per byte would cost more than
    decoding the image.
    """

    def __init__(self, image_bytes: Tensor) -> None:
        head = tf.strings.substr(image_bytes, 0, HEADER_BYTES)
        self.image_bytes = image_bytes
        self.bytes = tf.concat([tf.io.decode_raw(head, tf.uint8), tf.zeros([_DIRECTORY_BYTES + 16], tf.uint8)], axis=0)
        self.length = tf.cast(tf.strings.length(head), tf.int64)
        self.front = self.window(0, 32)
        magic = tf.constant([list(name.ljust(16, b".")) for name in _FORMATS], tf.int64)
        matches = tf.reduce_all((magic == ord(".")) | (magic == self.front[:16]), axis=1)
        self.format = tf.argmax(tf.concat([matches, [True]], axis=0))

    def window(self, position: Tensor | int, size: int) -> Tensor:
        """Return `size` bytes from a position on, int64."""
        start = tf.clip_by_value(tf.cast(position, tf.int64), 0, self.length)
        return tf.cast(tf.slice(self.bytes, start[None], [size]), tf.int64)

    def size(self) -> tuple[Tensor, Tensor]:
        """Return height and width in pixels as stored, int64; zeros for a format that is not known."""
        front = self.front

        def pair(height: Tensor, width: Tensor) -> Tensor:
            return tf.stack([height, width])

        def jpeg() -> Tensor:
            return tf.cast(tf.image.extract_jpeg_shape(self.image_bytes)[:2], tf.int64)

        def bmp() -> Tensor:
            # A BMP stored from the top down has a negative height, in two's complement.
            height = _little(front[22:26])
            return pair(tf.minimum(height, (1 << 32) - height), _little(front[18:22]))

        # The three kinds of WebP, https://developers.google.com/speed/webp/docs/riff_container
        def lossless() -> Tensor:
            packed = _little(front[21:25])
            return pair(packed // (1 << 14) % (1 << 14) + 1, packed % (1 << 14) + 1)

        readers = [
            jpeg,
            lambda: pair(_big(front[20:24]), _big(front[16:20])),
            lambda: pair(_little(front[8:10]), _little(front[6:8])),
            bmp,
            lambda: pair(_little(front[28:30]) % (1 << 14), _little(front[26:28]) % (1 << 14)),
            lossless,
            lambda: pair(_little(front[27:30]) + 1, _little(front[24:27]) + 1),
            lambda: tf.zeros([2], tf.int64),
        ]
        size = tf.switch_case(tf.cast(self.format, tf.int32), readers)
        return size[0], size[1]

    def orientation(self) -> Tensor:
        """Return the EXIF orientation of a JPEG, int64 in 1..8; 1 when there is none or it makes no sense."""
        upright = tf.ones([], tf.int64)
        return tf.cond(self.format == JPEG, lambda: self._orientation_of_jpeg(upright), lambda: upright)

    def _orientation_of_jpeg(self, upright: Tensor) -> Tensor:
        """Walk the application segments at the front of a JPEG; read the EXIF one if it is there."""

        def is_other_segment(position: Tensor, segment: Tensor) -> Tensor:
            is_application = (segment[0] == 0xFF) & (segment[1] >= 0xE0) & ((segment[1] <= 0xEF) | (segment[1] == 0xFE))
            return is_application & ~is_exif(segment)

        def is_exif(segment: Tensor) -> Tensor:
            return (segment[1] == 0xE1) & tf.reduce_all(segment[4:] == tf.constant(list(b"Exif\x00\x00"), tf.int64))

        def following(position: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
            position += 2 + tf.maximum(_big(segment[2:4]), 2)
            return position, self.window(position, _SEGMENT_BYTES)

        first = tf.constant(2, tf.int64)
        position, segment = tf.while_loop(
            is_other_segment, following, (first, self.window(first, _SEGMENT_BYTES)), parallel_iterations=1
        )
        return tf.cond(is_exif(segment), lambda: self._orientation_of_tiff(position + 10), lambda: upright)

    def _orientation_of_tiff(self, start: Tensor) -> Tensor:
        """Look tag 0x0112 up in the first image directory of a TIFF header."""
        header = self.window(start, 8)
        is_little = header[0] == ord("I")

        def number(values: Tensor) -> Tensor:
            return tf.where(is_little, _little(values), _big(values))

        directory = start + number(header[4:8])
        count = number(self.window(directory, 2))
        entries = tf.reshape(self.window(directory + 2, _DIRECTORY_BYTES), [-1, 12])[:count]
        is_long = number(entries[:, 2:4]) == 4
        values = tf.where(is_long, number(entries[:, 8:12]), number(entries[:, 8:10]))
        wanted = (number(entries[:, 0:2]) == 0x0112) & (values >= 1) & (values <= 8)
        return tf.concat([tf.boolean_mask(values, wanted), [1]], axis=0)[0]


def _little(values: Tensor) -> Tensor:
    """Read bytes (..., n) as little-endian numbers (...)."""
    return tf.reduce_sum(values * tf.constant([256**power for power in range(values.shape[-1])], tf.int64), axis=-1)


def _big(values: Tensor) -> Tensor:
    """Read bytes (..., n) as big-endian numbers (...)."""
    return _little(values[..., ::-1])
