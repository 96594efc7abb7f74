"""Pictures changed at random: each operation does what it says, from draws that are given, in training alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from pydantic import ValidationError

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.exploration.contact_sheet import write_contact_sheet
from multitask.features.augmentation import augment, draw_count
from multitask.features.dataset import training_batches
from multitask.progress import Quiet
from multitask.settings import AUGMENTATIONS, AugmentConfig
from multitask.training.fitting import fit, resume

pytestmark = pytest.mark.tensor

SLOW = pytest.mark.slow
ALL = tuple(AugmentConfig(op=op) for op in AUGMENTATIONS)


def pictures(count: int = 6, height: int = 20, width: int = 30) -> np.ndarray:
    """Smooth colourful pictures, so that moving a pixel by a fraction changes little."""
    coarse = np.random.default_rng(0).integers(0, 256, (count, 4, 5, 3)).astype(np.float32)
    return np.asarray(tf.image.resize(coarse, (height, width), "bicubic")).clip(0, 255).astype(np.uint8)


def changed(op: str, draws: list[float], strength: float | None = None, images: np.ndarray | None = None) -> np.ndarray:
    """Change pictures by one operation that is always on, with these draws for each of them."""
    images = pictures() if images is None else images
    operation = AugmentConfig(op=op, probability=1.0, strength=strength)
    numbers = np.tile(np.float32([0.0, *draws, 0.5, 0.5, 0.5][:4]), (len(images), 1))
    return np.asarray(augment(images, [operation], numbers))


def test_flips_are_those_of_numpy() -> None:
    np.testing.assert_array_equal(changed("flip_horizontal", []), pictures()[:, :, ::-1])
    np.testing.assert_array_equal(changed("flip_vertical", []), pictures()[:, ::-1])


@pytest.mark.parametrize("op", ["rotate", "shift", "zoom", "brightness", "contrast", "colour"])
def test_the_middle_of_a_range_changes_nothing(op: str) -> None:
    difference = np.abs(changed(op, [0.5, 0.5, 0.5]).astype(int) - pictures())
    assert difference.max() <= 1


def test_a_half_turn_is_both_flips() -> None:
    difference = np.abs(changed("rotate", [1.0], 180.0).astype(int) - pictures()[:, ::-1, ::-1])
    assert difference.mean() < 1


def test_a_quarter_turn_of_a_square_is_that_of_numpy() -> None:
    square = pictures(height=24, width=24)
    turned = changed("rotate", [1.0], 90.0, square)
    best = min(np.abs(turned.astype(int) - np.rot90(square, times, (1, 2))).mean() for times in (1, 3))
    assert best < 1


def test_a_shift_moves_by_its_share_of_the_sides() -> None:
    moved = changed("shift", [1.0, 1.0], 0.1)
    np.testing.assert_array_equal(moved[:, :-2, :-3], pictures()[:, 2:, 3:])


def test_a_crop_enlarges_a_part_of_the_picture() -> None:
    cut = changed("crop", [0.0, 0.0, 0.0], 0.75)
    corner = np.asarray(tf.image.resize(pictures()[:, :10, :15], (20, 30)))
    assert np.abs(cut[:, 2:-2, 2:-2] - corner[:, 2:-2, 2:-2]).mean() < 6


def test_light_contrast_and_colour_go_where_they_should() -> None:
    images = pictures()
    assert changed("brightness", [1.0], 0.2).mean() > images.mean() + 20
    assert changed("brightness", [0.0], 1.0).max() == 0
    assert changed("contrast", [0.0], 1.0).std(axis=(1, 2)).max() <= 1, "no contrast is one grey"
    grey = changed("colour", [0.0], 1.0)
    assert np.ptp(grey, axis=-1).max() <= 1, "no saturation is grey"


def test_posterizing_leaves_as_many_levels_as_bits_remain() -> None:
    assert set(np.unique(changed("posterize", [1.0], 7))) <= {0, 128}


def test_blur_smooths_and_keeps_the_mean() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (3, 20, 30, 3)).astype(np.uint8)
    smooth = changed("blur", [1.0], 2.0, noise)
    assert smooth.std() < 0.3 * noise.std()
    assert smooth.mean() == pytest.approx(noise.mean(), abs=2)


def test_erasing_covers_its_share_with_the_mean_colour() -> None:
    images = pictures(height=40, width=40)
    covered = (changed("erase", [1.0, 0.3, 0.6], 0.25, images) != images).any(axis=-1)
    assert covered.mean(axis=(1, 2)) == pytest.approx(0.25, abs=0.02)


def test_as_many_pictures_change_as_the_probability_says_each_by_its_own_amount() -> None:
    images = np.repeat(pictures(1), 400, axis=0)
    operation = AugmentConfig(op="brightness", probability=0.3, strength=0.5)
    found = np.asarray(
        augment(images, [operation], tf.random.stateless_uniform([400, draw_count([operation])], [1, 2]))
    )
    is_changed = (found != images).any(axis=(1, 2, 3))
    assert is_changed.mean() == pytest.approx(0.3, abs=0.07)
    assert len(np.unique(found[is_changed].mean(axis=(1, 2, 3)).round(1))) > 50


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"op": "rotat"}, "rotate"),
        ({"op": "rotate", "strength": 200}, "at most 180"),
        ({"op": "flip_vertical", "strength": 1}, "no strength"),
    ],
)
def test_wrong_operations_are_explained(settings: dict, expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        AugmentConfig(**settings)


def batches(first_epoch: int, count: int, parts: int = 1, views: int = 1, operations: tuple = ALL) -> list[np.ndarray]:
    images = pictures(10, 16, 16)

    def gather(rows: np.ndarray) -> np.ndarray:
        # Of several views each pixel is the number of the view.
        numbers = np.broadcast_to(rows[:, None, None, None], (len(rows), 16, 16, 3)).astype(np.uint8)
        return images[rows] if views == 1 else numbers

    labels = {"x": np.arange(10, dtype=np.float32)}
    found = training_batches(
        gather, images.shape[1:], np.uint8, labels, 4, 7, first_epoch, parts, operations=operations, views=views
    )
    return [np.asarray(batch[0]) for batch in found.take(count)]


@pytest.mark.parametrize("parts", [1, 2])
def test_a_resumed_training_sees_the_pictures_that_an_uninterrupted_one_sees(parts: int) -> None:
    straight = batches(0, 9 * parts, parts)
    for first, second in zip(straight[6 * parts :], batches(2, 3 * parts, parts), strict=True):
        np.testing.assert_array_equal(first, second)
    assert any((first != second).any() for first, second in zip(straight[:3], straight[3:6], strict=True))


def test_every_batch_takes_one_view_of_each_row_and_all_views_have_their_turn() -> None:
    seen = np.concatenate([batch[:, 0, 0, 0] for batch in batches(0, 60, views=3, operations=())])
    assert set(seen) == set(range(30))
    rows = seen.reshape(-1, 10) // 3
    assert all(sorted(epoch) == list(range(10)) for epoch in rows)


class _Interrupting(Quiet):
    def say(self, text: str) -> None:
        if text.startswith("epoch 2/"):
            raise KeyboardInterrupt


def weights(run: object) -> list[np.ndarray]:
    return keras.saving.load_model(run.folder / "model.keras").get_weights()


@pytest.mark.parametrize("freeze", ["none", pytest.param("all", marks=SLOW), pytest.param("block2_pool", marks=SLOW)])
def test_a_resume_with_augmentation_equals_the_uninterrupted_training(
    make_config: Callable[..., Config], tmp_path: Path, freeze: str
) -> None:
    config = make_config(freeze=freeze, augment=ALL, views=3, features=str(tmp_path / "features"))
    straight = fit(config, "straight", root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(config, "broken", _Interrupting(), tmp_path)
    for first, second in zip(weights(resume("broken", root=tmp_path)), weights(straight), strict=True):
        np.testing.assert_array_equal(first, second)


class _Said(Quiet):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_views_are_computed_once_for_training_rows_and_their_cost_is_said(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(augment=ALL, views=3, features=str(tmp_path / "features"), epochs=1)
    first, second = _Said(), _Said()
    run = fit(config, "first", first, tmp_path)
    splits = pd.read_parquet(run.folder / "splits.parquet")
    trained = splits[splits["split"] == "train"]["sha256"].nunique()
    [line] = [line for line in first.lines if line.startswith("augmentation:")]
    assert f"2 more views of {trained} images: {2 * trained} to compute, about" in line
    fit(config, "second", second, tmp_path)
    assert not [line for line in second.lines if line.startswith("augmentation:")]


def test_scores_and_model_know_nothing_of_it(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a step of training, a run with augmentation is the run without."""
    monkeypatch.setattr(keras.Model, "fit", lambda model, *_, callbacks, **__: _one_epoch(model, callbacks[0]))
    runs = [
        fit(make_config(freeze="none", epochs=1, augment=operations), name, root=tmp_path)
        for name, operations in (("plain", ()), ("augmented", ALL))
    ]
    scores = [pd.read_parquet(run.folder / "scores.parquet") for run in runs]
    pd.testing.assert_frame_equal(*scores)
    layers = [[layer.name for layer in keras.saving.load_model(run.folder / "model.keras").layers] for run in runs]
    assert layers[0] == layers[1]


def _one_epoch(model: keras.Model, keeper: keras.callbacks.Callback) -> None:
    keeper.set_model(model)
    keeper.on_epoch_begin(0)
    keeper.on_epoch_end(0, {"loss": 1.0})


def test_a_contact_sheet_shows_it_and_an_empty_configuration_says_what_to_write(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    path = write_contact_sheet(make_config(augment=ALL[:3]), tmp_path)
    assert np.ptp(keras.utils.img_to_array(keras.utils.load_img(path))) > 100
    with pytest.raises(ConfigError, match=r"\[\[augment\]\]"):
        write_contact_sheet(make_config(), tmp_path)
