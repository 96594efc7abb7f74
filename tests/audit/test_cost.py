"""What an image will cost is known before it is decoded, of every format, and in linear time."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from multitask.audit.cost import measure, refusal
from multitask.audit.inspection import explain_unreadable, look_at, open_picture
from multitask.demo.probe import probe_images
from tests import hostile

LIMIT = 64_000_000


def encode(kind: str, size: tuple[int, int] = (70, 50), mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.effect_noise(size, 60).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"exif": b"Exif\0\0" + b"\xff\xda\xff\xc0" * 40}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)
def test_an_ordinary_picture_costs_its_pixels(kind: str, options: dict) -> None:
    mode = "P" if kind == "GIF" else "RGB"
    found = measure(encode(kind, mode=mode, **options))
    assert (found.kind, found.width, found.height, found.pixels, found.parts) == (kind, 70, 50, 3500, "")


def test_the_probe_images_have_the_size_that_pillow_sees() -> None:
    for name, data in probe_images().items():
        if not name.startswith("broken"):
            with Image.open(io.BytesIO(data)) as image:
                found = measure(data)
                assert (found.width, found.height) == image.size, name
                assert not refusal(data, LIMIT), name


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (hostile.gif(5000, 60), "5000x5000 in 60 frames"),
        (hostile.gif(3000, 8, canvas=1), "1x1 in 8 frames"),
        (hostile.png(9000, "L"), "9000x9000 is more than 64 Mpx"),
        (hostile.jpeg_in_scans(1200, 1000), "1200x1200 in 10"),
        (b"GIF89a\x01\x00\x01\x00\x00\x00\x00" + b"!\xfe" + b"\x01x" * 600_000, "blocks"),
    ],
    ids=["frames", "frames larger than the canvas", "pixels", "scans", "blocks"],
)
def test_what_is_small_to_send_and_large_to_decode_is_refused_at_every_door(data: bytes, words: str) -> None:
    started = time.process_time()
    assert words in refusal(data, LIMIT)
    assert words in look_at(data, LIMIT).reason
    assert words in explain_unreadable(data, LIMIT)
    assert open_picture(data, 100, LIMIT) is None
    assert time.process_time() - started < 5


def test_animations_of_an_ordinary_size_are_read() -> None:
    data = hostile.gif(300, 40)
    assert measure(data).pixels == 300 * 300 * 40
    assert not refusal(data, LIMIT)
    assert look_at(data, LIMIT).reason == ""


def test_a_damaged_picture_of_many_pixels_is_not_decoded_to_say_so() -> None:
    data = hostile.png(7000, "L")
    assert explain_unreadable(data[: len(data) // 2], LIMIT) == "damaged PNG"


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(sorted(probe_images().values())),
    st.integers(0, 3000),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
)
def test_no_bytes_are_too_strange_to_be_measured(data: bytes, end: int, changes: list[tuple[int, int]]) -> None:
    changed = bytearray(data[:end])
    for at, byte in changes:
        if at < len(changed):
            changed[at] = byte
    assert measure(bytes(changed)).pixels >= 0


@pytest.mark.parametrize("start", [b"\xff\xd8\xff", b"GIF89a" + bytes(7), b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b""])
@pytest.mark.parametrize("unit", [b"\xff", b"\xff\xd8", b"\xff\xda\x00\x02", b"\x2c", b"\x00", b"\x01!"])
def test_the_walk_is_short_whatever_it_walks_over(start: bytes, unit: bytes) -> None:
    data = start + unit * (8_000_000 // len(unit))
    started = time.process_time()
    measure(data)
    assert time.process_time() - started < 5


def test_the_graph_blends_transparency_as_floats_would() -> None:
    import tensorflow as tf

    from multitask.network.preprocessing import preprocess
    from multitask.spec import ImageSpec

    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    found = preprocess(tf.constant(stream.getvalue()), ImageSpec(height=64, width=64)).numpy()
    alpha = pixels[..., 3:] / 255
    assert np.array_equal(found, np.round(pixels[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8))
