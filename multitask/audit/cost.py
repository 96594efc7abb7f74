"""What it costs to decode an image file, read from its structure before any decoder sees it.

The number of pixels in the header does not bound the work: a GIF holds many frames and all of them are decoded, and a
JPEG may send its picture over and over in a thousand scans. So the work is pixels times frames times scans. One walk
over the structure finds it, linear in the bytes, decoding nothing.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

# A progressive JPEG comes in about ten scans, which count as one decoding; so many more count as another.
SCANS_PER_DECODING = 16
# A decoder takes up to so much memory per pixel: for a PNG with transparency, or a JPEG in scans.
BYTES_PER_PIXEL = 11
# Parts of a file that are walked over; files that people make have a part per 255 bytes at least.
MOST_PARTS = 500_000

# A marker of JPEG, other than what lies in the entropy-coded data: stuffed zeros, restarts and fill bytes.
_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _START_OF_IMAGE, _END_OF_IMAGE = 0xDA, 0xD8, 0xD9


@dataclass(frozen=True)
class Cost:
    """What a decoder will have to do.

    Args:
        kind: format as Pillow names it; "" for none that preprocessing knows.
        width, height: in pixels, as the header says.
        pixels: to be decoded, in all frames and scans; of the size of one picture if there is one frame in few scans.
        parts: "frames" or "scans" where these make the work larger than the picture, with their number.
        is_animated_webp: such a file is refused by the decoder.
        has_alpha: is decoded to four channels.
    """

    kind: str = ""
    width: int = 0
    height: int = 0
    pixels: int = 0
    parts: str = ""
    is_animated_webp: bool = False
    has_alpha: bool = False


def measure(data: bytes) -> Cost:
    """Return the cost of an image file; one without a kind for what is no image, or cut before its size."""
    for magic, reader in _READERS:
        if data.startswith(magic):
            try:
                return reader(data)
            except (struct.error, IndexError):
                return Cost()
    return Cost()


def refusal(data: bytes, max_pixels: int) -> str:
    """Say why an image file must not be given to a decoder; "" if it may, which does not mean that it can be read."""
    cost = measure(data)
    if cost.pixels > max_pixels:
        what = f"{cost.width}x{cost.height}" + (f" in {cost.parts}" if cost.parts else "")
        return f"too large: {what} is more than {max_pixels / 1e6:g} Mpx"
    if cost.is_animated_webp:
        return "animated WebP is not supported; convert it to JPEG or PNG"
    return ""


def _jpeg(data: bytes) -> Cost:
    """Walk the segments; entropy-coded data lies behind each start of scan and ends at the next marker."""
    position, scans, width, height = 2, 0, 0, 0
    for _ in range(MOST_PARTS):
        marker = _MARKER.search(data, position)
        if not marker or marker[1][0] == _END_OF_IMAGE:
            break
        kind, position = marker[1][0], marker.end()
        if kind in (_START_OF_IMAGE, 0x01):
            continue
        if kind in _START_OF_FRAME and not width:
            height, width = struct.unpack_from(">HH", data, position + 3)
        scans += kind == _START_OF_SCAN
        if len(data) < position + 2:
            break
        position += max(int.from_bytes(data[position : position + 2], "big"), 2)
    else:
        scans = MOST_PARTS
    if not width:
        return Cost()
    decodings = max(1, -(-scans // SCANS_PER_DECODING))
    parts = f"{scans} scans" if decodings > 1 else ""
    return Cost("JPEG", width, height, width * height * decodings, parts)


def _png(data: bytes) -> Cost:
    """Read IHDR; further frames of an animated PNG are decoded neither by libpng nor by a look at the first."""
    width, height = struct.unpack_from(">II", data, 16)
    return Cost("PNG", width, height, width * height, has_alpha=data[25] in (4, 6) or b"tRNS" in data[:4096])


def _gif(data: bytes) -> Cost:
    """Walk the blocks; decoders unpack every frame, whatever its size, before they hand out the first."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position, frames, pixels, parts = 13 + _colours(flags), 0, 0, 0
    while position < len(data) and parts < MOST_PARTS:
        kind = data[position]
        if kind == 0x2C and position + 10 <= len(data):
            frame_width, frame_height, flags = struct.unpack_from("<HHB", data, position + 5)
            frames, pixels = frames + 1, pixels + max(frame_width * frame_height, width * height)
            position += 11 + _colours(flags)
        elif kind == 0x21:
            position += 2
        else:
            break
        while position < len(data) and parts < MOST_PARTS:
            size, parts = data[position], parts + 1
            position += 1 + size
            if not size:
                break
    if parts == MOST_PARTS:
        return Cost("GIF", width, height, 1 << 62, f"{MOST_PARTS} and more blocks")
    return Cost("GIF", width, height, max(pixels, width * height), f"{frames} frames" if frames > 1 else "")


def _colours(flags: int) -> int:
    """Return the bytes of the colour table that the flags announce."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0


def _bmp(data: bytes) -> Cost:
    if int.from_bytes(data[14:18], "little") == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height = (abs(side) for side in struct.unpack_from("<ii", data, 18))
    return Cost("BMP", width, height, width * height)


def _webp(data: bytes) -> Cost:
    """Read one of the three headers, https://developers.google.com/speed/webp/docs/riff_container."""
    kind = data[8:16]
    if kind == b"WEBPVP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    elif kind == b"WEBPVP8L":
        [packed] = struct.unpack_from("<I", data, 21)
        width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    elif kind == b"WEBPVP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    else:
        return Cost()
    is_animated = kind == b"WEBPVP8X" and bool(data[20] & 0x02)
    return Cost("WEBP", width, height, width * height, is_animated_webp=is_animated)


_READERS: tuple[tuple[bytes, Callable[[bytes], Cost]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF8", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
)
