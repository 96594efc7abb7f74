"""Image files that are small to send and large to decode, for whoever has to refuse them."""

from __future__ import annotations

import io
import re
import struct
import zlib

from PIL import Image


def _encode(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gif(side: int, frames: int, canvas: int | None = None) -> bytes:
    """Return a GIF of blank frames; the canvas may be smaller than they are."""
    one = _encode(Image.new("P", (side, side)), "GIF")
    start = one.index(b"\x2c", 13)
    frame = one[start:-1]
    size = struct.pack("<HH", canvas or side, canvas or side)
    return one[:6] + size + one[10:start] + frame * frames + b"\x3b"


def jpeg_in_scans(side: int, scans: int) -> bytes:
    """Return a progressive JPEG whose last scan comes again and again."""
    data = _encode(Image.new("RGB", (side, side), (200, 90, 30)), "JPEG", progressive=True)
    last = [found.start() for found in re.finditer(b"\xff\xda", data)][-1]
    return data[:-2] + data[last:-2] * (scans - 10) + b"\xff\xd9"


def png(side: int, mode: str = "RGBA") -> bytes:
    """Return a blank PNG without ever holding its pixels."""
    channels = {"RGBA": 4, "RGB": 3, "L": 1}[mode]
    colour = {"RGBA": 6, "RGB": 2, "L": 0}[mode]
    packer = zlib.compressobj(9)
    row = bytes(1 + channels * side)
    data = b"".join([packer.compress(row) for _ in range(side)]) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
