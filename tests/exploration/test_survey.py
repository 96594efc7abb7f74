"""explore: what a person sees of a data set before any training."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multitask import explore
from multitask.audit.inspection import look_at
from multitask.audit.looks import Looks
from multitask.audit.rows import Audit
from multitask.config import Config, DataConfig, TaskConfig
from multitask.data.tables import Table
from multitask.demo.probe import encode
from multitask.exploration.facts import correlate, explore_data
from multitask.exploration.kinds import describe_task
from multitask.exploration.survey import survey
from multitask.spec import Task
from multitask.training.fitting import fit
from tests.conftest import photo, write_table, write_zip


def config(folder: Path, **data: object) -> Config:
    tasks = {
        "category": TaskConfig(kind="multiclass", columns=("cc3",), top_k=2),
        "tags": TaskConfig(kind="multilabel", columns=("floral", "checker")),
    }
    places = {
        "labels": str(folder / "t.parquet"),
        "images": (str(folder / "a.zip"),),
        "features": str(folder / "f/features"),
    }
    return Config(data=DataConfig(**places | data), tasks=tasks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty rows: three of one picture, two of one id, one broken, one missing, an orphan, a rare class."""
    ids = [f"p{number}" for number in range(38)] + ["p0", "lost"]
    images = {f"p{number}.jpg": photo(number) for number in range(38)} | {"orphan.jpg": photo(99)}
    images |= {"p1.jpg": photo(0), "p2.jpg": b"broken"}
    write_zip(tmp_path / "a.zip", images)
    labels = ["A"] * 20 + ["B"] * 18 + ["A", "C"]
    write_table(
        tmp_path / "t.parquet", ids, cc3=labels, floral=[0.0, 1.0] + [0.0] * 38, checker=[False] * 30 + [True] * 10
    )
    # p0, its copy p1 and the repeated p0 agree.
    frame = pd.read_parquet(tmp_path / "t.parquet")
    frame.loc[[0, 1, 38], ["floral", "checker"]] = [0.0, False]
    frame.to_parquet(tmp_path / "t.parquet")
    return tmp_path


def test_rows_that_name_paths_leave_only_the_others_without_a_row(tmp_path: Path) -> None:
    """Two folders hold the same file names; rows name them by path, with the extension or without."""
    names = [f"{folder}/{number}" for folder in ("in", "out") for number in range(8)]
    write_zip(tmp_path / "a.zip", {f"{name}.jpg": photo(seed) for seed, name in enumerate([*names, "in/orphan"])})
    ids = [f"{name}.jpg" if row % 2 else name for row, name in enumerate(names)]
    marks = [0, 1] * 8
    write_table(tmp_path / "t.parquet", ids, cc3=["A", "B"] * 8, floral=marks, checker=marks)
    found = survey(config(tmp_path), tmp_path / "out").facts["table"]
    assert (found["images_without_row"], found["images_without_row_examples"]) == (1, ["in/orphan"])
    assert found["rows_that_cannot_be_used"] == 0


def test_the_facts_are_counted(folder: Path) -> None:
    found = survey(config(folder), folder / "out").facts
    assert json.loads((folder / "out/audit.json").read_text()) == found
    table, images = found["table"], found["images"]
    assert (table["rows"], table["ids"], table["repeated_ids"], table["repeated_ids_with_conflicting_labels"]) == (
        40,
        39,
        1,
        0,
    )
    assert table["images_without_row_examples"] == ["orphan"]
    assert table["reasons"] == {"not an image": 1, "no image with this id": 1}
    assert images["readable"] == 36
    assert (images["rows_of_repeated_files"], images["groups_of_repeated_files"]) == (3, 1)
    assert found["tasks"]["category"]["counts"] == {"A": 21, "B": 18, "C": 1}
    assert found["tasks"]["category"]["rare"] == ["B", "C"]
    assert found["tasks"]["category"]["baselines"] == {"accuracy": 0.525, "top_2_accuracy": 0.975}
    assert found["tasks"]["tags"]["rows_by_number_of_tags"] == {"0": 31, "1": 9}
    assert found["tasks"]["tags"]["baselines"]["no_tag_accuracy"] == 0.8875
    assert table["types"] == ["floral is float64, read as 0 and 1", "checker is bool, read as 0 and 1"]
    assert found["splits"]["groups_on_two_sides"] == 0
    assert any(line.startswith("Rows that cannot be used: 2.") for line in found["advice"])
    assert any('No row has two tags of "tags"' in line for line in found["advice"])


def test_the_quarantine_is_that_of_a_training(make_config: Callable[..., Config], tmp_path: Path) -> None:
    settings = make_config(epochs=1)
    survey(settings, tmp_path / "out")
    run = fit(settings, "run", root=tmp_path)
    expected = pd.read_parquet(run.folder / "quarantine.parquet")
    assert pd.read_parquet(tmp_path / "out/quarantine.parquet").equals(expected)
    assert len(expected)
    facts = json.loads((tmp_path / "out/audit.json").read_text())
    parts = pd.read_parquet(run.folder / "splits.parquet")["split"].value_counts()
    assert facts["splits"]["rows"] == {part: int(parts[part]) for part in ("train", "validation", "test")}


def test_what_every_image_looks_like_is_a_table(folder: Path) -> None:
    survey(config(folder), folder / "out")
    found = pd.read_parquet(folder / "out/images.parquet")
    assert found["id"].tolist() == pd.read_parquet(folder / "t.parquet")["uuid"].tolist()
    assert {"format", "width", "height", "orientation", "brightness", "contrast", "sharpness", "digest"} <= set(found)
    assert found["digest"][0] == found["digest"][1] == found["digest"][38]
    assert found["perceptual_hash"][0] == found["perceptual_hash"][1]
    assert found["reason"][2] == "not an image"


def test_the_report_is_one_file_with_pictures(folder: Path) -> None:
    survey(config(folder), folder / "out")
    html = (folder / "out/report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)""", html)
    for heading in (
        "What to do about it",
        "Cannot be read",
        "The same file in several rows",
        "The split a training would make",
    ):
        assert heading in html
    assert html.count("data:image/jpeg") >= 3
    assert html.count("data:image/png") == 3


def test_a_table_without_its_images_is_looked_at_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.zip").unlink()
    out = folder / "out"
    code = explore.main(
        [
            "--labels",
            str(folder / "t.parquet"),
            "--images",
            str(folder / "a.zip"),
            "--out",
            str(out),
            "--tasks.tags.columns",
            "floral",
            "checker",
        ]
    )
    assert code == 0
    printed = capsys.readouterr()
    assert "Looking at the table alone" in printed.err
    assert "0.525" in printed.out
    facts = json.loads((out / "audit.json").read_text())
    assert "images" not in facts
    assert facts["splits"]["groups"] == 39
    assert facts["splits"]["groups_on_two_sides"] == 0


def test_conflicting_repeats_and_absent_classes_are_named(folder: Path) -> None:
    frame = pd.read_parquet(folder / "t.parquet")
    frame.loc[38, "cc3"] = "B"
    frame.to_parquet(folder / "t.parquet")
    settings = config(folder)
    task = settings.tasks["category"].model_copy(update={"classes": ("A", "B", "C", "D")})
    settings = settings.model_copy(update={"tasks": settings.tasks | {"category": task}})
    found = survey(settings, folder / "out").facts
    assert found["table"]["repeated_ids_with_conflicting_labels"] == 1
    assert found["tasks"]["category"]["absent"] == ["D"]
    assert found["table"]["reasons"]['contradictory labels of "category" for one picture'] == 3


def test_nulls_and_text_tags_are_told(folder: Path) -> None:
    frame = pd.read_parquet(folder / "t.parquet")
    frame["floral"] = ["1", None, *["0"] * 38]
    frame.loc[3, "cc3"] = None
    frame.to_parquet(folder / "t.parquet")
    found = survey(config(folder), folder / "out").facts
    assert found["table"]["types"][0] == "floral is text, read as 0 and 1; 1 missing"
    assert found["tasks"]["category"]["rows_without_label"] == 1


def test_labels_that_come_together_are_found() -> None:
    marks = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [0, 0, 0]], np.float32)
    assert np.allclose(correlate([marks]), [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_missing_labels_correlate_with_nothing() -> None:
    tags = np.array([[1, np.nan], [0, np.nan], [1, np.nan], [np.nan, 0], [np.nan, 1]], np.float32)
    assert correlate([tags])[0, 1] == 0


def test_a_label_that_only_some_rows_have_correlates_as_among_them() -> None:
    tags = np.array([[0, 0], [1, 1], [0, 0], [1, 1], [1, np.nan], [0, np.nan]], np.float32)
    assert correlate([tags])[0, 1] == pytest.approx(1)


def test_rows_with_missing_tags_are_not_counted_by_their_number_of_tags() -> None:
    task = Task(name="tags", kind="multilabel", columns=("a", "b"), classes=("a", "b"))
    labels = np.array([[1, 1], [0, np.nan], [np.nan, np.nan], [0, 0]], np.float32)
    assert describe_task(task, labels)["rows_by_number_of_tags"] == {"0": 1, "2": 1}


def test_images_named_by_their_paths_are_no_orphans(tmp_path: Path) -> None:
    for name in ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(photo(int(name[2])))
    write_table(tmp_path / "t.parquet", ["a/1", "a/2", "b/3"], floral=[0, 1, 0])
    data = config(tmp_path, images=(str(tmp_path / "images"),)).data
    tasks = {"tags": TaskConfig(kind="multilabel", columns=("floral",))}
    facts = survey(Config(data=data, tasks=tasks), tmp_path / "out").facts["table"]
    assert (facts["images_without_row"], facts["images_without_row_examples"]) == (1, ["b/4"])


def test_defects_of_many_images_are_found_in_linear_time() -> None:
    count = 40_000
    look = look_at(encode(Image.new("RGB", (20, 20), "black"), "PNG"), 10_000)
    looks = Looks.of([look]).take(np.zeros(count, int))
    audit = Audit(looks, np.arange(count), np.full(count, -1), np.full(count, "", object), count)
    ids = np.array([f"i{number}" for number in range(count)], object)
    task = Task(name="tags", kind="multilabel", columns=("a",), classes=("a",))
    table = Table(ids, {"tags": np.zeros((count, 1), np.float32)}, pd.DataFrame(index=range(count)))
    started = time.process_time()
    found = explore_data(pd.DataFrame({"a": np.zeros(count, int)}), table, [task], audit, None, [], None)
    assert (found.facts["images"]["blank"], found.facts["images"]["dark"]) == (count, 0)
    # A tenth of a second; looking each dark row up in a list of blank ones took thirty.
    assert time.process_time() - started < 10
