"""Look at one image file: can it be read, what is it, is it dark, flat or blurred, what does it resemble."""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from PIL import Image, ImageOps

from multitask.audit import cost

# What preprocessing can decode, as Pillow names it; MPO is a JPEG with further pictures behind it.
READABLE_FORMATS = ("JPEG", "MPO", "PNG", "GIF", "BMP", "WEBP")
# Measures are taken when the longer side is at least this and less than twice this, so that they compare between images
# of any size, and no pixel is computed that a halving would take away again.
LOOK_PIXELS = 192
THUMBNAIL = 12
# A file that cannot be read is looked at once more to say why, up to this many pixels.
EXPLAINED_PIXELS = 16_000_000
_EXIF_ORIENTATION = 0x0112
_LEVELS = np.arange(256)

# Pillow warns of every odd EXIF entry; whatever keeps a picture from being read becomes its reason instead.
warnings.filterwarnings("ignore", category=UserWarning, module="PIL")


@dataclass(frozen=True)
class Look:
    """What one look at an image file tells.

    Args:
        digest: SHA-256 of the file in hexadecimal; "" where there is no file.
        reason: why it cannot be read; "" where it can, and only then the rest means something.
        format: as Pillow names it.
        width, height: in pixels, as stored.
        orientation: of EXIF, 1 to 8.
        brightness: mean luma, 0 (black) to 1 (white).
        contrast: standard deviation of luma, 0 (blank) to 0.5.
        sharpness: variance of the Laplacian of luma 0..255; small where nothing has an edge.
        perceptual_hash: 64 bits of the coarse structure, from the cosine transform.
        thumbnail: uint8 RGB of 12 x 12 pixels, upright.
    """

    digest: str
    reason: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    orientation: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    sharpness: float = 0.0
    perceptual_hash: int = 0
    thumbnail: bytes = b""


def look_at(data: bytes, max_pixels: int) -> Look:
    """Look at an image file; whatever is wrong with it becomes the reason."""
    digest = hashlib.sha256(data).hexdigest()
    if not data:
        return Look(digest, "empty file")
    known = cost.measure(data)
    refused = cost.refusal(data, max_pixels)
    if refused:
        return Look(digest, refused, known.kind, known.width, known.height)
    try:
        with Image.open(io.BytesIO(data)) as image:
            kind, (width, height) = image.format or "", image.size
            reason = _refusal(image, kind, max_pixels)
            if reason:
                return Look(digest, reason, kind, width, height)
            orientation = image.getexif().get(_EXIF_ORIENTATION, 1) if kind in ("JPEG", "MPO") else 1
            # A JPEG is decoded at a half, a quarter or an eighth where that is enough; all of the file is still read.
            scale = LOOK_PIXELS / max(width, height)
            image.draft("RGB", (int(np.ceil(width * scale)), int(np.ceil(height * scale))))
            image.load()
            facts = _measure(ImageOps.exif_transpose(image) if orientation != 1 else image)
            return Look(digest, "", kind, width, height, int(orientation), **facts)
    except Exception as error:
        return Look(digest, _explain(error))


def explain_unreadable(data: bytes, max_pixels: int) -> str:
    """Say why preprocessing could not decode these bytes; of large ones the header alone is read again."""
    known = cost.measure(data)
    if EXPLAINED_PIXELS < known.pixels <= max_pixels:
        return cost.refusal(data, max_pixels) or f"damaged {known.kind}"
    found = look_at(data, max_pixels)
    return found.reason or f"damaged {found.format}"


def open_picture(data: bytes, longest: int, max_pixels: int) -> Image.Image | None:
    """Return an image file as a picture for people: RGB, upright, its longer side at most `longest` pixels.

    Returns:
        None for what cannot be read; nothing larger than `max_pixels` is decoded.
    """
    if cost.refusal(data, max_pixels):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            if _refusal(image, image.format or "", max_pixels):
                return None
            image.draft("RGB", (longest, longest))
            if image.mode in ("L", "RGB", "RGBA"):
                # Made small before anything is copied.
                image.thumbnail((longest, longest))
            ImageOps.exif_transpose(image, in_place=True)
            picture = _as_rgb(image)
        picture.thumbnail((longest, longest))
    except Exception:
        return None
    return picture


def decode(data: bytes, least: int, max_pixels: int) -> tuple[Image.Image, tuple[int, int]] | None:
    """Return an image file as RGB, upright, and its width and height as stored.

    Its longer side is brought to at least `least` pixels and less than twice that; a smaller picture stays as it is.

    Returns:
        None for what cannot be read; nothing larger than `max_pixels` is decoded.
    """
    if cost.refusal(data, max_pixels):
        return None
    try:
        with Image.open(io.BytesIO(data)) as image:
            size = image.size
            if _refusal(image, image.format or "", max_pixels):
                return None
            scale = least / max(size)
            image.draft("RGB", (int(np.ceil(size[0] * scale)), int(np.ceil(size[1] * scale))))
            image.load()
            colours = _as_rgb(ImageOps.exif_transpose(image))
            return colours.reduce(max(max(colours.size) // least, 1)), size
    except Exception:
        return None


def _refusal(image: Image.Image, kind: str, max_pixels: int) -> str:
    """Say what the header alone forbids."""
    width, height = image.size
    if width * height > max_pixels:
        return f"too large: {width}x{height} is more than {max_pixels / 1e6:g} Mpx"
    if kind not in READABLE_FORMATS:
        return f"{kind} is not supported; convert it to JPEG or PNG"
    return ""


def _explain(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"too large: {error}"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image"
    return f"damaged image: {error}"


def _measure(image: Image.Image) -> dict[str, Any]:
    """Measure a decoded picture, whatever its mode; transparency counts as white, as in preprocessing."""
    colours = _as_rgb(image)
    halvings = max(image.size) // LOOK_PIXELS
    if halvings > 1:
        colours = colours.reduce(halvings)
    grey = colours.convert("L")
    counts = np.array(grey.histogram())
    mean = counts @ _LEVELS / counts.sum()
    tiny = colours.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return {
        "brightness": float(mean / 255),
        "contrast": float(np.sqrt(counts @ (_LEVELS - mean) ** 2 / counts.sum()) / 255),
        "sharpness": laplacian_variance(np.asarray(grey, np.int16)),
        "perceptual_hash": perceptual_hash(grey),
        "thumbnail": tiny.tobytes(),
    }


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
        return flat
    if image.mode.startswith("I"):
        # Pillow would cut 16 bits at 255 instead of scaling them.
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    return image.convert("RGB") if image.mode != "RGB" else image


def laplacian_variance(luma: NDArray[np.int16]) -> float:
    """Return how sharp luma 0..255 (rows, columns) is, J. Pech-Pacheco 2000, doi.org/10.1109/ICPR.2000.903548."""
    if min(luma.shape) < 3:
        return 0.0
    inner = luma[1:-1, 1:-1]
    edges = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner
    return float(edges.var(dtype=np.float32))


def perceptual_hash(grey: Image.Image) -> int:
    """Return 64 bits: which of the lowest frequencies of a picture lie above their median.

    The pHash of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010, section 3.2.2,
    on a box-filtered 32 x 32 picture. Files of one picture differ in a few bits whatever their size and quality.
    """
    pixels: NDArray[np.float64] = np.asarray(grey.resize((32, 32), Image.Resampling.BOX), np.float64)
    low = scipy.fft.dctn(pixels, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")
