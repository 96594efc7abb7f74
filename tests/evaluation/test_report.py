"""plots and report: real pictures of plausible size, one file that opens without a network."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multitask.evaluation import plots
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import evaluate
from multitask.spec import ModelSpec, Task


@pytest.fixture
def spec() -> ModelSpec:
    classes = ("BLOUSES", "<b>DRESSES</b>", "SHIRTS")
    return ModelSpec(
        tasks=(
            Task(name="category", kind="multiclass", columns=("c",), classes=classes, top_k=2),
            Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"), thresholds=(0.4, 0.5)),
        )
    )


def answers(rows: int = 120) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(0)
    labels = {
        "category": random.integers(0, 3, rows).astype(np.float32),
        "tags": (random.random((rows, 2)) < 0.4).astype(np.float32),
    }
    scores = {
        "category": random.dirichlet(np.ones(3), rows).astype(np.float32),
        "tags": random.random((rows, 2)).astype(np.float32),
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


def figures(spec: ModelSpec) -> dict[str, object]:
    labels, scores = answers()
    category, tags = spec.tasks
    confusion = evaluate(spec, labels, scores, labels).confusion["category"]
    photos = [np.full((32, 24, 3), 90, np.uint8)] * 8
    stages = [
        {"name": "block1", "shape": "112x112x64", "params": 38_720, "frozen": True},
        {"name": "pooling", "shape": "512", "params": 0, "frozen": False},
    ]
    heads = [{"name": "category", "classes": 3, "activation": "softmax"}]
    return {
        "history": plots.plot_history(history()),
        "category_confusion": plots.plot_confusion(category, confusion),
        "category_roc": plots.plot_roc(category, labels["category"], scores["category"], ()),
        "tags_roc": plots.plot_roc(tags, labels["tags"], scores["tags"], (0.4, 0.5)),
        "tags_precision_recall": plots.plot_precision_recall(tags, labels["tags"], scores["tags"], (0.4, 0.5)),
        "predictions": plots.plot_predictions(spec, photos, scores, labels),
        "architecture": plots.plot_architecture(stages, heads),
    }


def test_every_plot_is_a_picture_with_something_on_it(spec: ModelSpec, tmp_path: Path) -> None:
    for name, path in plots.save_plots(figures(spec), tmp_path).items():
        with Image.open(path) as image:
            assert image.width >= 600, name
            assert len(image.convert("L").getcolors(256)) > 20, name


def test_plots_stand_one_epoch_one_row_and_thirty_classes(tmp_path: Path) -> None:
    names = tuple(f"class {number}" for number in range(30))
    task = Task(name="many", kind="multiclass", columns=("c",), classes=names)
    spec = ModelSpec(tasks=(task,))
    labels, scores = np.zeros(1, np.float32), np.full((1, 30), 1 / 30, np.float32)
    drawn = {
        "history": plots.plot_history(history(1)),
        "confusion": plots.plot_confusion(task, np.eye(30, dtype=np.int64)),
        "roc": plots.plot_roc(task, labels, scores, ()),
        "predictions": plots.plot_predictions(
            spec, [np.zeros((8, 8, 3), np.uint8)], {"many": scores}, {"many": labels}
        ),
    }
    assert len(plots.save_plots(drawn, tmp_path)) == 4


def test_the_report_is_one_file_that_needs_no_network_and_escapes_names(spec: ModelSpec, tmp_path: Path) -> None:
    labels, scores = answers()
    write_report(
        tmp_path / "report.html",
        title="Run <one>",
        facts={"seed": "0"},
        evaluation=evaluate(spec, labels, scores, labels),
        rows_name="the test split",
        figures=plots.save_plots(figures(spec), tmp_path),
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
    assert html.count("data:image/png;base64,") == len(figures(spec))
    assert "1,000" in html
