"""verdict and page: from predictions to a verdict that people, programs and Prometheus can read."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance
from prometheus_client.parser import text_string_to_metric_families

from multitask import monitor
from multitask.audit.measures import MEASURES
from multitask.data.archives import open_archive
from multitask.errors import ConfigError, TableError
from multitask.monitoring.novelty import NAME
from multitask.monitoring.profile import open_profile
from multitask.monitoring.verdict import judge
from multitask.monitoring.window import Window
from multitask.prediction.log import PredictionLog
from multitask.prediction.scoring import predict_table
from multitask.prediction.trained import KerasPredictor
from multitask.runs import Run

pytestmark = pytest.mark.tensor


@pytest.fixture(scope="module")
def predicted(trained: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo photos as they are and darkened, predicted and logged."""
    folder = tmp_path_factory.mktemp("predicted")
    splits = pd.read_parquet(trained.folder / "splits.parquet")
    ids = splits["id"].drop_duplicates().tolist()
    with (
        open_archive(*trained.config.data.images) as archive,
        zipfile.ZipFile(folder / "same.zip", "w") as same,
        zipfile.ZipFile(folder / "dark.zip", "w") as dark,
    ):
        for name in ids:
            same.writestr(f"{name}.jpg", archive[name])
            with Image.open(io.BytesIO(archive[name])) as image:
                stream = io.BytesIO()
                ImageEnhance.Brightness(image.convert("RGB")).enhance(0.5).save(stream, "JPEG", quality=95)
            dark.writestr(f"{name}.jpg", stream.getvalue())
    predictor = KerasPredictor.of_run(trained, "float32")
    for name in ("same", "dark"):
        with open_archive(folder / f"{name}.zip") as archive, PredictionLog(folder / f"log_{name}", 1) as log:
            predict_table(predictor, [*ids, "gone"], archive, folder / f"{name}.parquet", log=log)
    return folder


def run_monitor(trained: Run, out: Path, *words: object) -> tuple[int, dict[str, object]]:
    code = monitor.main([*map(str, words), "--reference", str(trained.folder.directory), "--out", str(out)])
    return code, json.loads((out / "monitor.json").read_text(encoding="utf-8"))


def test_the_same_photos_raise_no_alarm(trained: Run, predicted: Path, tmp_path: Path) -> None:
    code, found = run_monitor(trained, tmp_path, predicted / "same.parquet", "--images", predicted / "same.zip")
    assert (code, found["alarm"], found["moved"]) == (0, False, [])
    assert found["window"]["refused"] == 1
    assert found["window"]["reasons"] == {"no image with this id": 1}
    page = (tmp_path / "monitor.html").read_text(encoding="utf-8")
    assert "No alarm" in page
    assert page.count("data:image/jpeg") > 8
    assert "http" not in page.replace("http://www.w3.org", "")


def test_darker_photos_raise_an_alarm_that_names_brightness(trained: Run, predicted: Path, tmp_path: Path) -> None:
    code, found = run_monitor(trained, tmp_path, predicted / "log_dark")
    assert (code, found["alarm"]) == (7, True)
    assert "image_brightness" in found["moved"]
    assert found["window"]["span"].endswith("UTC")
    assert "Alarm" in (tmp_path / "monitor.html").read_text(encoding="utf-8")
    families = {
        family.name: family
        for family in text_string_to_metric_families((tmp_path / "monitor.prom").read_text(encoding="utf-8"))
    }
    assert [sample.value for sample in families["multitask_monitor_alarm"].samples] == [1]
    by_property = {sample.labels["property"]: sample.value for sample in families["multitask_monitor_effect"].samples}
    assert by_property["image_brightness"] > 1


def test_a_log_and_a_table_with_its_images_tell_the_same(trained: Run, predicted: Path, tmp_path: Path) -> None:
    _, log = run_monitor(trained, tmp_path / "a", predicted / "log_dark", "--days", 1)
    table = (predicted / "dark.parquet", "--images", predicted / "dark.zip")
    _, other = run_monitor(trained, tmp_path / "b", *table)
    # A log holds no images that the network could look at again.
    assert log["moved"] == [name for name in other["moved"] if name != NAME]
    assert log["estimates"] == other["estimates"]


def test_a_table_alone_is_watched_by_its_answers(trained: Run, predicted: Path, tmp_path: Path) -> None:
    _, found = run_monitor(trained, tmp_path, predicted / "dark.parquet")
    names = {shift["name"] for shift in found["properties"]}
    assert "category: top score" in names
    assert not any(name.startswith("image") for name in names)
    assert any("--images" in note for note in found["notes"])


def test_labels_give_true_figures(trained: Run, predicted: Path, tmp_path: Path) -> None:
    labels = trained.config.data.labels
    _, found = run_monitor(trained, tmp_path, predicted / "same.parquet", "--labels", labels)
    assert {figure["task"] for figure in found["figures"]} <= {"category", "tags", "size"}
    assert found["figures"]
    expected = found["estimates"]["category"]
    assert 0 <= expected["expected"] <= 1
    assert 0 <= expected["unsure"] <= 1


def test_refused_images_alone_raise_an_alarm(trained: Run) -> None:
    profile = open_profile(trained)
    empty = Window(profile.frame.iloc[:0], 300, 300, {"damaged image": 300}, "", [])
    verdict = judge("r", trained.spec, profile, empty)
    assert verdict.moved == ["refused images"]
    assert verdict.estimates == {}


def test_what_is_no_window_is_explained(trained: Run, predicted: Path, tmp_path: Path) -> None:
    for words, problem in (
        ((tmp_path / "none.parquet",), "no such file"),
        ((trained.config.data.labels,), "no predictions of this run"),
        ((trained.config.data.images[0],), "no table of predictions"),
        ((tmp_path,), "is no log"),
        ((predicted / "same.parquet", "--labels", _strange(tmp_path, trained)), "no row of the window has a label"),
        ((predicted / "same.parquet", "--images", _other(tmp_path)), "none of these images is there"),
    ):
        with pytest.raises(TableError, match=problem):
            run_monitor(trained, tmp_path / "out", *words)
    for words in ((predicted / "same.parquet", "--days", 1), (predicted / "log_same", "--days", 0), ()):
        with pytest.raises(ConfigError):
            run_monitor(trained, tmp_path / "out", *words)


def test_parts_of_other_models_are_left_out_of_a_log(trained: Run, predicted: Path, tmp_path: Path) -> None:
    other = trained.spec.model_copy(update={"dropout": 0.125})
    scores = {task.name: np.full((5, len(task.classes)), 0.1, np.float32) for task in other.tasks}
    with PredictionLog(tmp_path / "log", 1) as log:
        log.add(other, "other", ["x"] * 5, scores, ["ok"] * 5, np.zeros((5, 9), np.float32))
    with pytest.raises(TableError, match="no predictions of this run"):
        run_monitor(trained, tmp_path / "out", tmp_path / "log")
    for part in (predicted / "log_same").glob("date=*/part-*"):
        target = tmp_path / "log" / part.parent.name / part.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(part.read_bytes())
    _, found = run_monitor(trained, tmp_path / "out", tmp_path / "log")
    assert any("other models" in note for note in found["notes"])


def _strange(folder: Path, run: Run) -> Path:
    frame = pd.read_parquet(run.config.data.labels)
    frame["uuid"] = "x" + frame["uuid"].astype(str)
    frame.to_parquet(folder / "strange.parquet")
    return folder / "strange.parquet"


def _other(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("other.jpg", b"none")
    return folder / "other.zip"


def test_how_long_answers_took_is_told_where_a_server_logged_it(trained: Run, tmp_path: Path) -> None:
    profile = open_profile(trained)
    scores = {task.name: profile.frame[list(task.score_columns)].to_numpy(np.float32) for task in trained.spec.tasks}
    ids, measures = profile.frame["id"].tolist(), profile.frame[list(MEASURES)].to_numpy(np.float32)
    with PredictionLog(tmp_path / "log", 1) as log:
        for row, name in enumerate(ids):
            one = {task: values[row : row + 1] for task, values in scores.items()}
            log.add(trained.spec, "multitask 1", [name], one, ["ok"], measures[row : row + 1], 10.0 * (1 + row % 10))
    code, found = run_monitor(trained, tmp_path / "out", tmp_path / "log")
    assert code == 0
    latency = found["window"]["latency_ms"]
    assert latency["0.5"] == pytest.approx(55, abs=5)
    assert latency["0.95"] == 100
    assert "100 ms" in (tmp_path / "out/monitor.html").read_text(encoding="utf-8")
