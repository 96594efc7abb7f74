"""Images that a model must answer alike everywhere: every format, every EXIF orientation, awkward and broken ones."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

ORIENTATION = 0x0112


def probe_images(size: tuple[int, int] = (96, 72), seed: int = 0) -> dict[str, bytes]:
    """Draw image files by name, deterministic.

    Args:
        size: width and height in pixels.
        seed: of the picture.
    """
    picture = _picture(size, seed)
    found = {f"jpeg_orientation_{code}": _with_orientation(picture, code) for code in range(1, 9)}
    found |= {
        "jpeg_progressive": encode(picture, "JPEG", progressive=True),
        "jpeg_grey": encode(picture.convert("L"), "JPEG"),
        "jpeg_cmyk": encode(picture.convert("CMYK"), "JPEG"),
        "jpeg_large": encode(picture.resize((size[0] * 8, size[1] * 8)), "JPEG"),
        "png": encode(picture, "PNG"),
        "png_alpha": encode(_see_through(picture), "PNG"),
        "png_palette": encode(picture.quantize(200), "PNG"),
        **{f"png_palette_{bits}_bits": encode(picture.quantize(2**bits), "PNG", bits=bits) for bits in (1, 2, 4)},
        "png_grey": encode(picture.convert("L"), "PNG"),
        "png_16_bit": encode(Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257), "PNG"),
        "gif": encode(picture.quantize(32), "GIF"),
        "bmp": encode(picture, "BMP"),
        "webp": encode(picture, "WEBP", quality=90),
        "webp_lossless": encode(picture, "WEBP", lossless=True),
    }
    found |= {
        "broken_truncated": found["jpeg_orientation_1"][: len(found["jpeg_orientation_1"]) // 2],
        "broken_text": b"this is not an image",
        "broken_empty": b"",
    }
    return found


def encode(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as a file of that format."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def _picture(size: tuple[int, int], seed: int) -> Image.Image:
    """Draw something whose corners all differ, so that a turned or mirrored copy is another picture."""
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(rng.integers(60, 200, (5, 7, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    width, height = size
    draw.ellipse((width * 0.1, height * 0.1, width * 0.4, height * 0.5), fill=(220, 40, 50))
    draw.rectangle((width * 0.6, height * 0.55, width * 0.9, height * 0.95), fill=(30, 60, 200))
    return picture


def _with_orientation(picture: Image.Image, code: int) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = code
    return encode(picture, "JPEG", quality=92, exif=exif)


def _see_through(picture: Image.Image) -> Image.Image:
    copy = picture.convert("RGBA")
    copy.putalpha(Image.linear_gradient("L").resize(picture.size))
    return copy
