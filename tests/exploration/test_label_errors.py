"""Labels that were turned round are found, and ranked in front of those that were not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multitask import explore
from multitask.config import Config, DataConfig, FitConfig, ModelConfig, TaskConfig
from multitask.demo.probe import encode
from multitask.exploration.label_errors import WEAK, find_label_errors
from multitask.exploration.relabelling import write_label_errors
from multitask.features.preparation import prepare
from multitask.progress import Quiet
from tests.conftest import write_table, write_zip

WRONG = [3, 17, 44, 61, 80]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Red and blue pictures, striped or not; five colours and five stripes are labelled wrong."""
    folder = tmp_path_factory.mktemp("wrong")
    rng = np.random.default_rng(0)
    # The first row of the table has no picture: rows are those of the table whatever is set aside.
    images, colours, stripes = {}, ["red"], [0]
    for number in range(120):
        is_blue, is_striped = number % 2, number % 3 == 0
        pixels = rng.normal((60, 60, 60), 20, (40, 40, 3))
        pixels[..., 2 if is_blue else 0] += 120
        if is_striped:
            pixels[::4] += 90
        images[f"p{number}.png"] = encode(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)), "PNG")
        colours.append(["red", "blue"][is_blue ^ (number in WRONG)])
        stripes.append(int(is_striped ^ (number + 1 in WRONG)))
    stripes[101] = None
    write_zip(folder / "a.zip", images)
    write_table(
        folder / "t.parquet", ["none", *(f"p{number}" for number in range(120))], colour=colours, striped=stripes
    )
    return Config(
        data=DataConfig(labels=str(folder / "t.parquet"), images=(str(folder / "a.zip"),), features=str(folder / "f")),
        tasks={
            "colour": TaskConfig(kind="multiclass", columns=("colour",)),
            "fabric": TaskConfig(kind="multilabel", columns=("striped",)),
        },
        model=ModelConfig(backbone="small_cnn", weights="random", image_size=(32, 32)),
        fit=FitConfig(),
    )


@pytest.fixture(scope="module")
def found(config: Config) -> pd.DataFrame:
    return find_label_errors(prepare(config, Quiet()))


def test_wrong_classes_come_first_with_the_right_suggestion(found: pd.DataFrame) -> None:
    worst = found[found["task"] == "colour"].head(len(WRONG))
    assert sorted(worst["row"]) == [number + 1 for number in WRONG]
    assert (worst["given"] != worst["suggested"]).all()
    assert worst["suspicious"].all()
    assert worst["quality"].is_monotonic_increasing


def test_wrong_tags_come_first_and_missing_ones_are_left_out(found: pd.DataFrame) -> None:
    tags = found[found["task"] == "fabric"]
    assert sorted(tags.head(len(WRONG))["row"]) == WRONG
    assert 101 not in set(tags["row"])
    assert len(tags) == 119


def test_few_right_labels_are_suspected(found: pd.DataFrame) -> None:
    assert found["suspicious"].sum() <= 2 * len(WRONG) + 6
    assert found["agreement"].min() > WEAK


def test_a_judge_that_knows_nothing_is_called_weak(config: Config, tmp_path: Path) -> None:
    frame = pd.read_parquet(config.data.labels)
    frame["colour"] = np.random.default_rng(0).choice(["red", "blue"], len(frame))
    frame.to_parquet(tmp_path / "t.parquet")
    data = config.data.model_copy(update={"labels": str(tmp_path / "t.parquet")})
    found = write_label_errors(config.model_copy(update={"data": data}), tmp_path)
    assert found[found["task"] == "colour"]["agreement"].iloc[0] < WEAK
    assert "too weak to be trusted" in (tmp_path / "label_errors.html").read_text()


def test_the_door_writes_a_list_for_labellers_and_a_page(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.save(tmp_path / "c.toml")
    assert explore.main(["--config", str(tmp_path / "c.toml"), "--label-errors", "--out", str(tmp_path / "out")]) == 0
    listed = pd.read_csv(tmp_path / "out/label_errors.csv")
    assert {number + 1 for number in WRONG} <= set(listed[listed["task"] == "colour"]["row"])
    html = (tmp_path / "out/label_errors.html").read_text()
    assert "rather blue" in html
    assert "data:image/jpeg" in html
    assert "Labels that are probably wrong" in capsys.readouterr().out
