"""What a picture looks like in a few numbers, which are compared between those of the training and those of today."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multitask.audit.inspection import decode, laplacian_variance

# Columns of `measure`, in its order; their names are those of prediction logs and profiles.
MEASURES = (
    "image_width",
    "image_height",
    "image_brightness",
    "image_contrast",
    "image_sharpness",
    "image_detail",
    "image_red",
    "image_green",
    "image_blue",
)
# Finer than the audit looks: what was made small and enlarged again differs in its finest structure alone.
LEAST_PIXELS = 512
_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114


def measure(data: bytes, max_pixels: int) -> NDArray[np.float32]:
    """Measure an image file at 512 to 1,023 pixels of its longer side, or at its own if that is less.

    Returns:
        float32 (9,), see MEASURES; NaN throughout for what cannot be read. Width and height: as stored, in pixels.
        Brightness: mean luma, 0 to 1. Contrast: its standard deviation, 0 to 0.5. Sharpness: decimal logarithm of the
        variance of the Laplacian of luma 0..255, https://doi.org/10.1109/ICPR.2000.903548. Detail: how much of it
        is in the finest structure: it less that of the picture at half the size. Red, green, blue: means,
        0 to 1.
    """
    decoded = decode(data, LEAST_PIXELS, max_pixels)
    if decoded is None:
        return np.full(len(MEASURES), np.nan, np.float32)
    picture, (width, height) = decoded
    red, green, blue = np.asarray(picture).reshape(-1, 3).mean(axis=0) / 255
    grey = picture.convert("L")
    luma = np.asarray(grey, np.int16)
    sharpness, half = _sharpness(luma), _sharpness(np.asarray(grey.reduce(2), np.int16))
    brightness = _RED * red + _GREEN * green + _BLUE * blue
    found = (width, height, brightness, luma.std() / 255, sharpness, sharpness - half, red, green, blue)
    return np.array(found, np.float32)


def _sharpness(luma: NDArray[np.int16]) -> float:
    return float(np.log10(1 + laplacian_variance(luma)))
