"""What a report explains: of every kind of task, with pictures that are there and with some that are gone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask import evaluate
from multitask.config import Config
from multitask.data.archives import open_archive
from multitask.evaluation.assessment import labels_of
from multitask.explaining.pictures import explain_pictures
from multitask.explaining.reasons import explain_answers
from multitask.network.model import load_network
from multitask.runs import Run
from multitask.training.fitting import fit

pytestmark = pytest.mark.tensor


def test_a_run_explains_itself(trained: Run) -> None:
    slices = pd.read_parquet(trained.folder / "slices.parquet")
    assert {"task", "column", "value", "rows", "here", "elsewhere", "p", "is_worse"} <= set(slices)
    html = (trained.folder / "report.html").read_text(encoding="utf-8")
    verdict = re.findall(r"<p>(\w+: [^<]*)</p>", html)
    assert [line.partition(":")[0] for line in verdict] == [task.name for task in trained.spec.tasks]
    assert all("of never looking at the image" in line for line in verdict)
    assert (trained.folder / "plots/category_confused.png").is_file()
    card = (trained.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert verdict[0].replace("&#39;", "'") in card


def test_pictures_of_answers_are_drawn_where_maps_are_large_enough(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = fit(make_config(epochs=1, image_size=(64, 64)), "larger", root=tmp_path)
    names = {path.stem for path in (run.folder / "plots").glob("*.png")}
    assert {"category_attention", "tags_attention"} <= names
    frame = pd.read_parquet(run.folder / "splits.parquet").query("split == 'test'")
    scores = pd.read_parquet(run.folder / "scores.parquet").query("split == 'test'")
    given = {task.name: scores[list(task.score_columns)].to_numpy(np.float32) for task in run.spec.tasks}
    network = load_network(run.folder / "model.keras", run.spec)
    gone = ["gone", *frame["id"][1:]]
    columns = pd.DataFrame({"half": np.arange(len(frame)) % 2})
    with open_archive(*run.config.data.archives) as archive:
        _, figures = explain_answers(
            run.spec, network, archive, gone, labels_of(run.spec, frame), given, columns, frame["group"].to_numpy()
        )
    assert "category_attention" in figures


def test_right_answers_have_nothing_to_be_confused(trained: Run) -> None:
    frame = pd.read_parquet(trained.folder / "splits.parquet").query("split == 'test'")
    labels = labels_of(trained.spec, frame)
    right = {}
    for task in trained.spec.tasks:
        values = labels[task.name]
        right[task.name] = np.eye(len(task.classes))[values.astype(int)] if task.has_class_numbers else values
    assert explain_pictures(trained.spec, labels, right, lambda row: np.zeros((1, 1, 3), np.uint8)) == {}


def test_other_tables_are_sliced_too(
    trained: Run, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("multitask.explaining.slices.FEWEST_ROWS", 5)
    rows = pd.read_parquet(sample / "data.parquet")
    rows["shop"] = np.where(np.arange(len(rows)) % 2, "north", "south")
    rows.to_parquet(tmp_path / "rows.parquet")
    flags = ["--run", str(trained.folder.directory), "--out", str(tmp_path / "out")]
    assert evaluate.main([str(tmp_path / "rows.parquet"), *flags]) == 0
    assert "shop: south" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
