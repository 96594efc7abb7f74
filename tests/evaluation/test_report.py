"""plots and report: real pictures of plausible size, one file that opens without a network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from multitask.evaluation import plots
from multitask.evaluation.assessment import write_details
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import evaluate_tasks
from multitask.spec import ModelSpec, Task
from multitask.style import save_plots


@pytest.fixture
def spec() -> ModelSpec:
    classes = ("BLOUSES", "<b>DRESSES</b>", "SHIRTS")
    return ModelSpec(
        tasks=(
            Task(name="category", kind="multiclass", columns=("c",), classes=classes, top_k=2),
            Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"), thresholds=(0.4, 0.5)),
            Task(name="size", kind="regression", columns=("width",), classes=("width",), spreads=(2.0,)),
        )
    )


def answers(rows: int = 120) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    labels = {
        "category": random.integers(0, 3, rows).astype(np.float32),
        "tags": (random.random((rows, 2)) < 0.4).astype(np.float32),
        "size": random.normal(40, 2, (rows, 1)).astype(np.float32),
    }
    scores = {
        "category": random.dirichlet(np.ones(3), rows).astype(np.float32),
        "tags": random.random((rows, 2)).astype(np.float32),
        "size": labels["size"] + random.normal(0, 1, (rows, 1)).astype(np.float32),
    }
    labels["category"][0] = labels["tags"][1, 0] = labels["tags"][2] = np.nan
    return labels, scores


def history(epochs: int = 5) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "epoch": range(1, epochs + 1),
            "loss": np.linspace(2, 1, epochs),
            "val_loss": np.linspace(2.1, 1.5, epochs),
            "val_score": np.linspace(0.3, 0.8, epochs),
            "category_accuracy": np.linspace(0.3, 0.9, epochs),
            "val_category_accuracy": np.linspace(0.3, 0.7, epochs),
        }
    )


def drawn(task: Task, labels: np.ndarray, scores: np.ndarray) -> dict[str, Figure]:
    return EVALUATORS[task.kind].plots(task, labels, scores, labels)


def figures(spec: ModelSpec) -> dict[str, object]:
    labels, scores = answers()
    photos = [np.full((32, 24, 3), 90, np.uint8)] * 8
    stages = [
        {"name": "block1", "shape": "112x112x64", "params": 38_720, "frozen": True},
        {"name": "pooling", "shape": "512", "params": 0, "frozen": False},
    ]
    heads = [{"name": "category", "classes": 3, "activation": "softmax"}]
    return {
        "history": plots.plot_history(history()),
        **{
            f"{task.name}_{name}": figure
            for task in spec.tasks
            for name, figure in drawn(task, labels[task.name], scores[task.name]).items()
        },
        "predictions": plots.plot_predictions(spec, photos, scores, labels),
        "architecture": plots.plot_architecture(stages, heads),
    }


def test_every_plot_is_a_picture_with_something_on_it(spec: ModelSpec, tmp_path: Path) -> None:
    for name, path in save_plots(figures(spec), tmp_path).items():
        with Image.open(path) as image:
            assert image.width >= 600, name
            assert len(image.convert("L").getcolors(256)) > 20, name


def test_plots_stand_one_epoch_one_row_and_thirty_classes(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(30))
    task = Task(name="many", kind="multiclass", columns=("c",), classes=names)
    spec = ModelSpec(tasks=(task,))
    labels, scores = np.zeros(1, np.float32), np.full((1, 30), 1 / 30, np.float32)
    found = {
        "history": plots.plot_history(history(1)),
        **drawn(task, labels, scores),
        "predictions": plots.plot_predictions(
            spec, [np.zeros((8, 8, 3), np.uint8)], {"many": scores}, {"many": labels}
        ),
    }
    assert len(save_plots(found, tmp_path)) == 6


def test_the_report_is_one_file_that_needs_no_network_and_escapes_names(spec: ModelSpec, tmp_path: Path) -> None:
    labels, scores = answers()
    found = evaluate_tasks(spec, labels, scores, labels)
    write_report(
        tmp_path / "report.html",
        title="Run <one>",
        facts={"seed": "0"},
        evaluation=found,
        rows_name="the test split",
        figures=save_plots(figures(spec), tmp_path),
        details=write_details(spec, labels, scores, found, tmp_path),
        notes=["Random weights."],
        quarantine=pd.DataFrame({"id": ["<script>"], "reason": ["not an image"]}),
        split_counts={"rows": {"train": 1000, "test": 20}, "<b>DRESSES</b>": {"train": 300, "test": 5}},
        next_commands=["python -m multitask.predict TEST.parquet"],
    )
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(""", html)
    assert "<script>" not in html
    assert "<b>DRESSES</b>" not in html
    assert "&lt;b&gt;DRESSES&lt;/b&gt;" in html
    assert "Run &lt;one&gt;" in html
    assert html.count('src="data:image/') == len(figures(spec))
    assert "1,000" in html


def test_a_tag_that_no_row_has_leaves_the_thresholds_of_the_others_in_place() -> None:
    task = Task(name="t", kind="multilabel", columns=("x", "y"), classes=("x", "y"), thresholds=(0.9, 0.5))
    labels = np.array([[0, 0], [0, 1], [0, 1], [0, 0]], np.float32)
    scores = np.array([[0.1, 0.1], [0.1, 0.8], [0.1, 0.7], [0.1, 0.2]], np.float32)
    (line,) = [line for line in drawn(task, labels, scores)["roc"].axes[0].lines if line.get_marker() == "o"]
    assert line.get_xydata().tolist() == [[0.0, 1.0]]


def test_pictures_and_report_stay_legible_with_many_classes(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(300))
    task = Task(name="many", kind="multiclass", columns=("c",), classes=names)
    random = np.random.default_rng(0)
    labels, scores = random.integers(0, 300, 900).astype(np.float32), random.random((900, 300), np.float32)
    paths = save_plots(drawn(task, labels, scores), tmp_path)
    for path in paths.values():
        with Image.open(path) as image:
            assert max(image.size) < 2000
    found = evaluate_tasks(ModelSpec(tasks=(task,)), {"many": labels}, {"many": scores}, {"many": labels})
    details = write_details(ModelSpec(tasks=(task,)), {"many": labels}, {"many": scores}, found, tmp_path)
    assert len(details) == 300
    write_report(
        tmp_path / "report.html",
        title="many",
        facts={},
        evaluation=found,
        rows_name="rows",
        figures=paths,
        details=details,
        notes=[],
        quarantine=pd.DataFrame({"id": [], "reason": []}),
        split_counts={"rows": {"test": 900}, **{name: {"test": 3} for name in names}},
        next_commands=[],
    )
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("<tr>") < 200
    assert "confusion" not in found.as_dict()["many"]
