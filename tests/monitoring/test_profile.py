"""profile: what a training leaves behind for the monitor, and what is made for a run that has none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.audit.measures import MEASURES
from multitask.config import load_config
from multitask.errors import RunError
from multitask.monitoring.novelty import is_seen
from multitask.monitoring.profile import open_profile
from multitask.monitoring.signals import signals_of
from multitask.prediction.trained import sight_of
from multitask.runs import Run, RunFolder

pytestmark = pytest.mark.tensor


def copy_without_profile(run: Run, place: Path) -> Run:
    folder = RunFolder(Path(shutil.copytree(run.folder.directory, place / "run")))
    for name in ("profile.parquet", "profile.json"):
        (folder / name).unlink()
    return Run(folder, run.config, run.spec)


def test_a_training_leaves_a_profile_of_the_rows_that_did_not_train(trained: Run) -> None:
    profile = open_profile(trained)
    scores = pd.read_parquet(trained.folder / "scores.parquet")
    assert profile.frame["id"].tolist() == scores["id"].tolist()
    assert set(profile.frame["split"]) == {"validation", "test"}
    assert profile.frame[list(MEASURES)].notna().all(axis=None)
    assert profile.facts["rows"] == len(scores)
    assert profile.facts["looked"] > len(scores)
    assert 0 < profile.facts["refused"] < 20
    assert 0 <= profile.facts["tasks"]["category"]["right"] <= 1
    assert profile.facts["tasks"]["size"] == {}
    watched = signals_of(trained.spec, profile.frame)
    assert {"category: top score", "tags: score of floral", "size: width", "image_width"} <= set(watched.numbers)
    assert set(watched.decisions) == {"category: answer", "tags: polka dot", "tags: floral", "tags: checker"}


def test_a_run_without_a_profile_gets_the_same_one_later(trained: Run, tmp_path: Path) -> None:
    run = copy_without_profile(trained, tmp_path)
    made = open_profile(run, see=sight_of(run))
    pd.testing.assert_frame_equal(made.frame, open_profile(trained).frame, rtol=1e-3, atol=1e-3)
    assert is_seen(made.frame)
    assert made.facts == open_profile(trained).facts
    assert (run.folder / "profile.json").is_file()


def test_a_run_whose_images_are_gone_says_so_in_one_line(trained: Run, tmp_path: Path) -> None:
    run = copy_without_profile(trained, tmp_path)
    config = load_config(run.folder.config_file)
    data = config.data.model_copy(update={"images": (str(tmp_path / "gone.zip"),)})
    with pytest.raises(RunError, match="no profile, and its images cannot be opened"):
        open_profile(Run(run.folder, config.model_copy(update={"data": data}), run.spec))


def test_the_reference_is_sure_of_nine_tenths_of_its_rows(trained: Run) -> None:
    profile = open_profile(trained)
    tops = signals_of(trained.spec, profile.frame).numbers["category: top score"]
    below = profile.facts["tasks"]["category"]["unsure_below"]
    assert np.mean(tops < below) == pytest.approx(0.1, abs=0.05)
