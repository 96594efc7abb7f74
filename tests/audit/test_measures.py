"""measures: numbers that tell what was done to a picture, and nothing of how it was saved."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from multitask.audit.measures import MEASURES, measure
from multitask.demo.probe import probe_images
from tests.conftest import photo

PIXELS = 64_000_000


def picture(size: tuple[int, int] = (400, 530)) -> Image.Image:
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise).filter(ImageFilter.GaussianBlur(0.6))


def measured(image: Image.Image, kind: str = "PNG", **options: object) -> dict[str, float]:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return dict(zip(MEASURES, measure(stream.getvalue(), PIXELS).tolist(), strict=True))


def test_a_picture_is_measured_as_it_is() -> None:
    found = measured(Image.new("RGB", (300, 200), (255, 0, 51)))
    assert (found["image_width"], found["image_height"]) == (300, 200)
    assert (found["image_red"], found["image_green"], found["image_blue"]) == pytest.approx((1, 0, 0.2))
    assert found["image_brightness"] == pytest.approx(0.299 + 0.114 / 5, abs=1e-3)
    assert found["image_contrast"] == found["image_sharpness"] == found["image_detail"] == 0


def test_darker_blurred_and_enlarged_pictures_differ_and_saved_ones_do_not() -> None:
    image = picture()
    before = measured(image)
    dark = measured(ImageEnhance.Brightness(image).enhance(0.6))
    assert dark["image_brightness"] == pytest.approx(0.6 * before["image_brightness"], abs=0.01)
    assert measured(image.filter(ImageFilter.GaussianBlur(3)))["image_sharpness"] < before["image_sharpness"] - 0.5
    half = image.resize((200, 265)).resize(image.size)
    assert measured(half)["image_detail"] < before["image_detail"] - 0.1
    saved = measured(image, "JPEG", quality=95)
    assert saved == pytest.approx(before, abs=0.05)


def test_a_large_picture_is_measured_at_a_smaller_size_whatever_its_format() -> None:
    image = picture((1600, 2120))
    png, jpeg = measured(image), measured(image, "JPEG", quality=95)
    assert png["image_width"] == jpeg["image_width"] == 1600
    assert png["image_sharpness"] == pytest.approx(jpeg["image_sharpness"], abs=0.3)


def test_what_cannot_be_read_has_no_measures() -> None:
    for data in (b"", b"no picture", photo()[:60]):
        assert np.isnan(measure(data, PIXELS)).all()
    assert np.isnan(measure(photo(), 10)).all()
    for name, data in probe_images().items():
        assert np.isfinite(measure(data, PIXELS)).all() or "broken" in name or "cut" in name or not data, name
