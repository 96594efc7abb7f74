"""preprocessing and image_header: every format, orientation and defect, against Pillow."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from multitask.network.image_header import Header
from multitask.network.preprocessing import preprocess, preprocess_batch
from multitask.spec import ImageSpec

pytestmark = pytest.mark.tensor


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decode(data: bytes, height: int, width: int, **options: object) -> np.ndarray:
    return preprocess(tf.constant(data), ImageSpec(height=height, width=width, **options)).numpy()


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "LA", "RGBA", "I;16"])
def test_png_of_every_mode_becomes_rgb(mode: str) -> None:
    if mode == "I;16":
        grey = (np.arange(32 * 48, dtype=np.uint16).reshape(32, 48) * 40).astype(np.uint16)
        data, expected = encode(Image.fromarray(grey), "PNG"), np.repeat((grey >> 8)[..., None], 3, axis=2)
    else:
        image = picture().convert(mode)
        data = encode(image, "PNG")
        rgba = image.convert("RGBA")
        expected = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    np.testing.assert_allclose(decode(data, 32, 48).astype(int), expected.astype(int), atol=1)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["P", "L"])
def test_png_of_few_bits_keeps_its_colours(mode: str, bits: int) -> None:
    if mode == "P":
        image = picture().quantize(2**bits)
        data, expected = encode(image, "PNG", bits=bits), image.convert("RGB")
    else:
        step = 255 // (2**bits - 1)
        image = picture().convert("L").point(lambda value: value // step * step)
        rows = np.packbits(
            np.unpackbits((np.asarray(image) // step)[..., None], axis=2)[..., -bits:].reshape(32, -1), 1
        )
        data, expected = _grey_png(rows, 48, bits), image.convert("RGB")
    np.testing.assert_array_equal(decode(data, 32, 48), np.asarray(expected))


def test_a_palette_of_few_colours_may_be_transparent() -> None:
    image = Image.new("P", (8, 8))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((0, 0), 1)
    pixels = decode(encode(image, "PNG", bits=1, transparency=0), 8, 8)
    assert pixels[0, 0].tolist() == [0, 0, 200]
    assert pixels[5, 5].tolist() == [255, 255, 255]


def _grey_png(rows: np.ndarray, width: int, bits: int) -> bytes:
    """Write a grey PNG of few bits, which Pillow reads but does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", width, len(rows), bits, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


def test_transparent_png_is_blended_onto_white() -> None:
    image = Image.new("RGBA", (8, 8), (200, 0, 0, 0))
    image.putpixel((0, 0), (200, 0, 0, 255))
    pixels = decode(encode(image, "PNG"), 8, 8)
    assert pixels[0, 0].tolist() == [200, 0, 0]
    assert pixels[5, 5].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("BMP", {}),
        ("GIF", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 90}),
        ("JPEG", {"progressive": True}),
    ],
)
def test_formats_decode_to_what_pillow_sees(kind: str, options: dict[str, object]) -> None:
    data = encode(picture(), kind, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), int)
    np.testing.assert_allclose(decode(data, 32, 48).astype(int), expected, atol=2)


def test_cmyk_jpeg_decodes_to_rgb_like_its_original() -> None:
    original = picture()
    pixels = decode(encode(original.convert("CMYK"), "JPEG", quality=95), 32, 48).astype(int)
    assert np.abs(pixels - np.asarray(original, int)).mean() < 12


def test_animated_gif_gives_its_first_frame() -> None:
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encode(first, "GIF", save_all=True, append_images=[second])
    assert decode(data, 8, 8)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("with_jfif", [False, True])
def test_exif_orientation_is_applied_as_pillow_applies_it(orientation: int, with_jfif: bool) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    exif[0x0112] = orientation
    data = encode(picture(), "JPEG", quality=95, exif=exif)
    if with_jfif:  # a camera's JFIF segment in front of the EXIF one
        data = data[:2] + b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + data[2:]
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"), int)
    np.testing.assert_allclose(decode(data, *expected.shape[:2]).astype(int), expected, atol=2)


def test_big_endian_exif_is_understood() -> None:
    tiff = b"MM\x00*" + struct.pack(">IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    segment = b"Exif\x00\x00" + tiff
    plain = encode(picture(), "JPEG", quality=95)
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    upright = decode(plain, 32, 48)
    np.testing.assert_allclose(decode(data, 48, 32).astype(int), np.rot90(upright, -1).astype(int), atol=1)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_malformed_exif_never_breaks_a_good_picture(garbage: bytes, is_little: bool) -> None:
    segment = b"Exif\x00\x00" + (b"II*\x00\x08\x00\x00\x00" if is_little else b"MM\x00*\x00\x00\x00\x08") + garbage
    plain = encode(picture(), "JPEG", quality=95)
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + plain[2:]
    assert decode(data, 32, 32).shape == (32, 32, 3)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_flagged_never_fatal(data: bytes) -> None:
    good = encode(picture(), "PNG")
    images, ok = preprocess_batch(tf.constant([good, data, good]), ImageSpec(height=8, width=8))
    assert ok.numpy().tolist() == [True, False, True]
    np.testing.assert_array_equal(images[0], images[2])
    assert not images[1].numpy().any()


def test_truncated_and_empty_files_leave_their_neighbours_untouched() -> None:
    good = encode(picture(seed=1), "JPEG")
    spec = ImageSpec(height=16, width=16)
    images, ok = preprocess_batch(tf.constant([b"", good, good[: len(good) // 2], b"no image", good]), spec)
    assert ok.numpy().tolist() == [False, True, False, False, True]
    np.testing.assert_array_equal(images[1], preprocess(tf.constant(good), spec))


def test_an_empty_batch_and_a_batch_of_bad_images_work() -> None:
    spec = ImageSpec(height=4, width=6)
    images, ok = preprocess_batch(tf.constant([], tf.string), spec)
    assert images.shape == (0, 4, 6, 3)
    assert ok.shape == (0,)
    assert not preprocess_batch(tf.constant([b"x", b"y"]), spec)[1].numpy().any()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_the_size_in_the_header_is_that_of_the_image(kind: str) -> None:
    for width, height in ((48, 32), (301, 17), (5, 640)):
        for options in ({}, {"lossless": True}) if kind == "WEBP" else ({},):
            header = Header(tf.constant(encode(picture(width, height), kind, **options)))
            assert [int(size) for size in header.size()] == [height, width]


def test_size_of_webp_with_alpha_and_metadata_is_read_from_its_extended_header() -> None:
    data = encode(picture(70, 50).convert("RGBA"), "WEBP", exif=Image.Exif().tobytes() + b"x", quality=50)
    assert b"VP8X" in data[:20]
    assert [int(size) for size in Header(tf.constant(data)).size()] == [50, 70]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP"])
def test_more_pixels_than_the_limit_are_refused_before_decoding(kind: str) -> None:
    data = encode(picture(40, 30), kind)
    assert decode(data, 8, 8, max_pixels=1200).shape == (8, 8, 3)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode(data, 8, 8, max_pixels=1199)


def test_a_bomb_is_refused_from_its_header_alone() -> None:
    bomb = encode(Image.new("L", (8, 8)), "PNG")
    bomb = bomb[:16] + struct.pack(">II", 60_000, 60_000) + bomb[24:]
    images, ok = preprocess_batch(tf.constant([bomb]), ImageSpec(height=8, width=8))
    assert not ok.numpy()[0]
    assert images.shape == (1, 8, 8, 3)


def test_pad_keeps_the_whole_picture_and_crop_fills_the_frame() -> None:
    data = encode(Image.new("RGB", (40, 20), (250, 250, 250)), "PNG")
    padded = decode(data, 32, 32, resize="pad")
    assert padded[16, 16].tolist() == [250, 250, 250]
    assert padded[0, 16].tolist() == padded[31, 16].tolist() == [0, 0, 0]
    assert (padded.sum(axis=(1, 2)) > 0).sum() == 16
    assert decode(data, 32, 32, resize="crop").min() == 250


def test_a_large_jpeg_is_reduced_to_what_a_careful_resize_gives() -> None:
    image = picture(1600, 1200, seed=3)
    pixels = decode(encode(image, "JPEG", quality=95), 120, 160).astype(int)
    expected = np.asarray(image.resize((160, 120), Image.Resampling.BOX), int)
    assert np.abs(pixels - expected).mean() < 2
