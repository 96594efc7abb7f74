"""The front door for notebooks: DataFrames and whatever holds an image, in; DataFrames, out."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import multitask
from multitask.errors import ConfigError, PredictionError, TableError
from tests.conftest import photo

pytestmark = pytest.mark.tensor

TASKS = {
    "colour": {"kind": "multiclass", "column": "colour"},
    "size": {"kind": "regression", "columns": ["width"]},
}
SMALL = {"backbone": "small_cnn", "weights": "random", "image_size": (16, 16), "epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty pictures of one colour each, some dark at the left up to their width."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(40):
        pixels = np.full((24, 24, 3), (200, 40, 40) if number % 2 else (40, 40, 200), np.uint8)
        pixels[:, : number % 20] //= 4
        Image.fromarray(pixels).save(folder / f"p{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rows = range(40)
    return pd.DataFrame(
        {
            "uuid": [f"p{number:02}" for number in rows],
            "colour": ["red" if number % 2 else "blue" for number in rows],
            "width": [float(number % 20) for number in rows],
        }
    )


@pytest.fixture(scope="module")
def run(frame: pd.DataFrame, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> multitask.Run:
    root = tmp_path_factory.mktemp("work")
    settings = {**SMALL, "features": str(root / "features")}
    return multitask.fit(labels=frame, images=photos, tasks=TASKS, name="first", root=root / "runs", **settings)


def test_a_run_shows_its_figures_and_epochs_as_tables(run: multitask.Run) -> None:
    assert {"task", "metric", "value", "low", "high", "baseline", "higher_is_better", "answer"} == set(
        run.metrics.columns
    )
    assert set(run.metrics["task"]) == {"colour", "size"}
    assert run.history["epoch"].tolist() == [1, 2]
    assert set(run.splits["split"]) == {"train", "validation", "test"}
    assert "width_mae" in run._repr_html_()


def test_predictions_of_a_split_are_those_of_its_rows(run: multitask.Run) -> None:
    found = run.predictions()
    assert found["uuid"].tolist() == run.splits.query("split == 'test'")["id"].tolist()
    assert (found["status"] == "ok").all()
    assert {"colour", "colour_name", "width"} <= set(found.columns)


def test_one_picture_has_one_answer_however_it_is_given(run: multitask.Run, photos: Path) -> None:
    path = photos / "p07.png"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    given = [path, str(path), path.read_bytes(), picture, np.asarray(picture), picture.convert("P", palette=1)]
    found = run.predict(given)
    assert found["uuid"].tolist() == [str(path), str(path), "2", "3", "4", "5"]
    assert found["width"].to_numpy() == pytest.approx(found["width"][0], rel=1e-5)
    alone = run.predict(picture)
    assert alone["width"][0] == pytest.approx(found["width"][0], rel=1e-5)
    named = run.predict({"a": path, "b": picture})
    assert named["uuid"].tolist() == ["a", "b"]


def test_pixels_that_jpeg_would_change_stay_as_they_are(run: multitask.Run) -> None:
    array = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    found = run.predict([array, stream.getvalue(), array[..., 0]])
    assert found["width"][0] == found["width"][1] != found["width"][2]


def test_what_cannot_be_read_has_its_reason_and_what_is_no_image_is_refused(run: multitask.Run, photos: Path) -> None:
    found = run.predict([photos / "none.png", b"text", photo()])
    assert "No such file" in found["status"][0]
    assert found["status"][1:].tolist() == ["not an image", "ok"]
    with pytest.raises(PredictionError, match=r"expected uint8 .* received float64 \(4, 4, 3\)"):
        run.predict(np.zeros((4, 4, 3)))
    with pytest.raises(PredictionError, match="received int"):
        run.predict([7])


def test_images_may_be_a_list_of_files_and_the_run_can_be_opened_and_repeated(
    run: multitask.Run, frame: pd.DataFrame, photos: Path
) -> None:
    root = run.folder.directory.parent
    settings = {**SMALL, "features": run.config.data.features}
    files = sorted(photos.glob("*.png"))
    again = multitask.fit(labels=frame, images=files, tasks=TASKS, name="second", root=root, **settings)
    pd.testing.assert_frame_equal(again.metrics, run.metrics)
    opened = multitask.open_run("second", root)
    assert opened.config == again.config
    from_its_file = multitask.fit(opened.folder.config_file, name="third", root=root)
    pd.testing.assert_frame_equal(from_its_file.metrics, run.metrics)
    assert multitask.resume("third", root=root).spec == from_its_file.spec


def test_wrong_settings_and_tables_are_explained(frame: pd.DataFrame, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='Did you mean "epochs"'):
        multitask.fit(labels=frame, images=photos, epoch=3, root=tmp_path / "runs")
    with pytest.raises(ConfigError, match=r"fit.epochs: expected greater than 0"):
        multitask.fit(labels=frame, images=photos, epochs=0, root=tmp_path / "runs")
    with pytest.raises(ConfigError, match="name a recipe: catalogue, demo"):
        multitask.fit("no_such_recipe", root=tmp_path / "runs")
    mixed = frame.assign(width=[*frame["width"][:-1], "wide"])
    with pytest.raises(TableError, match="cannot be kept as parquet"):
        multitask.fit(labels=mixed, images=photos, root=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
