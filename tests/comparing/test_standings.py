"""Finished runs side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.comparing.differences import compare_with_first
from multitask.comparing.page import write_page
from multitask.comparing.standings import Standings, standings
from multitask.config import Config, TaskConfig
from multitask.errors import ConfigError, RunError
from multitask.runs import Run, RunFolder, find_run, open_run, run_folders, start_run
from multitask.training.fitting import fit


@pytest.fixture(scope="module")
def root(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in two settings, one of other tasks, one that is not finished."""
    root = tmp_path_factory.mktemp("runs")
    fit(make_config(epochs=6, learning_rate=1e-2), "good", root=root)
    fit(make_config(epochs=1, learning_rate=1e-6), "poor", root=root)
    other = {"shade": TaskConfig(kind="multiclass", columns=("cc3",), merge={"dark": ("SHIRTS", "BLOUSES")})}
    fit(make_config(epochs=1).model_copy(update={"tasks": other}), "other", root=root)
    start_run(make_config(), "begun", root)
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> Standings:
    return standings(run_folders(root))


def test_runs_are_listed_best_first_and_unfinished_ones_are_named(root: Path, found: Standings) -> None:
    scores = found.figures["val_score"]
    assert scores.tolist() == sorted(scores, reverse=True)
    assert found.unfinished == ("begun",)
    assert set(found.figures["run"]) == {"good", "poor", "other"}
    row = found.figures.set_index("run").loc["good"]
    stated = open_run("good", root).folder.read_json("metrics.json")["category"]["metrics"]["accuracy"]
    assert (row["category.accuracy"], row["category.accuracy.low"]) == (stated["value"], stated["low"])
    assert np.isnan(found.figures.set_index("run").loc["other", "category.accuracy"])
    assert set(found.mains) >= {"category.balanced_accuracy", "tags.mean_average_precision"}


def test_only_settings_that_differ_are_shown(found: Standings) -> None:
    assert {"fit.epochs", "fit.learning_rate"} <= set(found.settings)
    assert "fit.seed" not in found.settings
    assert found.settings.set_index("run").loc["poor", "fit.learning_rate"] == "1e-06"


def test_any_figure_may_decide_and_errors_are_better_small(root: Path) -> None:
    by = standings(run_folders(root), "category.calibration_error").figures
    known = by["category.calibration_error"].dropna()
    assert known.tolist() == sorted(known)
    with pytest.raises(ConfigError, match=r'Did you mean "category.accuracy"'):
        standings(run_folders(root), "category.acuracy")
    with pytest.raises(RunError, match="no run is finished"):
        standings([RunFolder(root / "begun")])


def test_differences_are_paired_on_the_rows_that_both_test(root: Path) -> None:
    good, poor = (open_run(name, root) for name in ("good", "poor"))
    (comparison,) = compare_with_first([good, poor])
    assert comparison.rows == len(pd.read_parquet(good.folder / "splits.parquet").query("split == 'test'"))
    for task, difference in comparison.differences.items():
        values = [
            run.folder.read_json("metrics.json")[task]["metrics"][difference.figure]["value"] for run in (good, poor)
        ]
        assert [difference.candidate, difference.published] == pytest.approx(values)
        assert difference.low <= difference.candidate - difference.published <= difference.high
    assert comparison.verdict
    (same,) = compare_with_first([good, good])
    assert same.verdict == "no difference beyond chance"
    assert {(found.low, found.high) for found in same.differences.values()} == {(0.0, 0.0)}


def test_what_cannot_be_compared_has_a_reason(root: Path, tmp_path: Path) -> None:
    good = open_run("good", root)
    assert compare_with_first([good, open_run("other", root)])[0].verdict == "other tasks or classes"
    shutil.copytree(good.folder.directory, tmp_path / "elsewhere")
    path = tmp_path / "elsewhere/splits.parquet"
    frame = pd.read_parquet(path)
    frame["sha256"] += "x"
    frame.to_parquet(path)
    elsewhere = Run(RunFolder(tmp_path / "elsewhere"), good.config, good.spec)
    assert compare_with_first([good, elsewhere])[0].verdict == "0 common test rows, 20 are needed"
    (elsewhere.folder / "scores.parquet").unlink()
    found = [compare_with_first(pair)[0].verdict for pair in ([good, elsewhere], [elsewhere, good])]
    assert found == ["no scores were kept"] * 2


def test_the_page_names_the_best_run_and_has_all_tables(found: Standings, tmp_path: Path) -> None:
    others = compare_with_first(found.runs)
    write_page(tmp_path / "compare.html", found, others)
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert f"{found.runs[0].folder.name} is the best of 3 runs" in page
    for word in ("fit.learning_rate", "begun", "data:image/png", "other tasks or classes"):
        assert word in page


def test_best_is_the_name_of_the_best_run_on_the_same_rows(root: Path, make_config: Callable[..., Config]) -> None:
    link = root / "latest"
    link.unlink()
    link.symlink_to("poor")
    scores = {
        name: open_run(name, root).folder.read_json("manifest.json")["best_val_score"] for name in ("good", "poor")
    }
    assert find_run("best", root).name == max(scores, key=lambda name: scores[name])
    link.unlink()
    link.symlink_to("other")
    assert find_run("best", root).name == "other"
    with pytest.raises(RunError, match="cannot be the name"):
        start_run(make_config(), "best", root)
