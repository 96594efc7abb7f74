"""The plan: what is kept or streamed, how it grows, and that it trains nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from multitask import train
from multitask.config import Config
from multitask.errors import ConfigError
from multitask.progress import Quiet, duration
from multitask.training.planning import Plan, make_plan

pytestmark = pytest.mark.tensor


def plan_of(config: Config, images: int | None = None, folds: int | None = None) -> Plan:
    return make_plan(config, images, folds, Quiet())


def names(plan: Plan) -> list[str]:
    return [step.name for step in plan.steps]


def test_the_images_of_the_table_are_planned_for_and_nothing_is_left(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(features=str(tmp_path / "features"), freeze="block2_pool")
    plan = plan_of(config)
    assert names(plan) == ["look at every image", "frozen side of small_cnn", "training", "validation"]
    assert [step.times for step in plan.steps] == [1, 1, 4, 4]
    assert all(step.seconds > 0 for step in plan.steps)
    assert plan.steps[1].disk == plan.images * 8 * 8 * 64 * (2 if "kept" in plan.notes[0] and _is_half() else 4)
    assert not list(tmp_path.iterdir())


def _is_half() -> bool:
    from multitask.network import hardware

    return hardware.fastest_precision() != "float32"


def test_what_does_not_fit_is_planned_as_a_stream_with_the_ways_out(make_config: Callable[..., Config]) -> None:
    plan = plan_of(make_config(pooling="flatten", freeze="all"), 100_000_000)
    assert names(plan) == ["look at every image", "decode every image", "training", "validation"]
    text = " ".join(plan.notes)
    assert "nothing is kept" in text
    assert "with data.features_gb = " in text
    assert 'with pooling = "avg" they take' in text


def test_time_and_disk_grow_with_the_images(make_config: Callable[..., Config]) -> None:
    plan = plan_of(make_config(freeze="block2_pool"), 1_000)
    tenfold = dataclasses.replace(plan.steps[1], images=10 * plan.steps[1].images)
    assert tenfold.total == pytest.approx(10 * plan.steps[1].total)
    assert plan.steps[1].images == 1_000
    assert plan.table()[-1][0] == "in all, at most"


@pytest.mark.slow
def test_both_stages_every_fold_and_every_view_are_counted(make_config: Callable[..., Config]) -> None:
    from multitask.settings import AugmentConfig

    stage = {"freeze": "block2_pool", "epochs": 2, "learning_rate": 1e-3}
    augment = (AugmentConfig(op="flip_horizontal"),)
    plan = plan_of(make_config(fine_tune=stage, augment=augment, validation=0.15, test=0.15), 1_000, 5)
    assert [name for name in names(plan) if name.startswith("stage 2")] == [
        "stage 2, frozen side of small_cnn",
        "stage 2, training",
        "stage 2, validation",
    ]
    frozen, training, validation = plan.steps[1:4]
    assert frozen.images == pytest.approx(1_000 * (1 + 3 * 0.7))
    assert (training.times, validation.times) == (20, 20)
    assert training.images == pytest.approx(850 * 4 / 5)
    assert validation.images == pytest.approx(850 / 5)


def test_the_door_prints_it_and_begins_no_run(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    make_config().save(tmp_path / "c.toml")
    monkeypatch.chdir(tmp_path)
    assert train.main(["--config", "c.toml", "--plan", "--plan-images", "1000000"]) == 0
    assert "Plan for 1,000,000 images" in capsys.readouterr().out
    assert not (tmp_path / "model_training").exists()


@pytest.mark.parametrize(
    ("flags", "words"), [(["--plan", "--plan-images", "0"], "at least 1"), (["--plan-images", "9"], "--plan")]
)
def test_a_plan_for_nothing_is_refused(
    make_config: Callable[..., Config], tmp_path: Path, flags: list[str], words: str
) -> None:
    make_config().save(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match=words):
        train.main(["--config", str(tmp_path / "c.toml"), *flags])


def test_a_table_without_any_image_cannot_be_planned(make_config: Callable[..., Config], tmp_path: Path) -> None:
    from tests.conftest import photo, write_zip

    images = write_zip(tmp_path / "other.zip", {"other.jpg": photo(0)})
    with pytest.raises(ConfigError, match="no image of the table"):
        plan_of(make_config(images=(str(images),)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3, "3 s"), (89, "89 s"), (720, "12 min"), (12_600, "3.5 h"), (86_400, "24 h"), (1e6, "12 days")],
)
def test_times_are_told_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
