"""Retraining as a person runs it: new labels, the same split of old rows, a gate on old and new rows, one ledger."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from multitask import retrain
from multitask.config import Config, load_config
from multitask.errors import GateError, RunError
from multitask.publishing.gate import publish_run
from multitask.runs import Run
from multitask.serving.model_folder import ModelFolder
from multitask.settings import GateConfig
from multitask.training.fitting import fit

pytestmark = pytest.mark.tensor
ROOT = Path(__file__).parent.parent.parent
EASY = GateConfig(beats_baseline=False)


@pytest.fixture
def place(
    make_config: Callable[..., Config], sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Run]:
    """A folder in which a model of the first hundred rows is published, and its run."""
    monkeypatch.chdir(tmp_path)
    rows = pd.read_parquet(sample / "data.parquet")
    rows[:100].to_parquet("old.parquet")
    rows[100:].to_parquet("new.parquet")
    config = make_config(epochs=2, labels="old.parquet").model_copy(update={"gate": EASY})
    run = fit(config, "first")
    publish_run(run, ModelFolder(Path("serving/models/multitask")))
    return tmp_path, run


def test_new_rows_are_trained_on_and_the_old_ones_stay_in_their_split(
    place: tuple[Path, Run], sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, base = place
    assert retrain.main(["new.parquet", "--images", str(sample / "images.zip"), "--name", "second"]) == 0
    before, after = (
        pd.read_parquet(f"model_training/runs/{name}/splits.parquet", columns=["id", "split"])
        for name in ("first", "second")
    )
    assert after["split"].tolist()[: len(before)] == before["split"].tolist()
    assert set(after["split"].tolist()[len(before) :]) == {"train", "validation", "test"}
    ledger = ModelFolder(Path("serving/models/multitask")).ledger()
    assert [event["run"] for event in ledger] == [base.folder.name, "second"]
    printed = capsys.readouterr().out
    assert "version 1, old rows" in printed
    assert "version 1, new rows" in printed


def test_what_is_worse_is_refused_with_a_code_and_nothing_changes(place: tuple[Path, Run], sample: Path) -> None:
    rows = pd.read_parquet("old.parquet")
    # Labels that say nothing of the pictures, for all rows that train.
    shuffled = rows.assign(cc3=rows["cc3"].sample(frac=1, random_state=0).to_numpy())
    parts = pd.read_parquet("model_training/runs/first/splits.parquet", columns=["id", "split"])
    trains = parts.loc[parts["split"] == "train", "id"]
    shuffled[shuffled["uuid"].isin(trains)].to_parquet("noise.parquet")
    path = Path("model_training/runs/first/config.toml")
    config = load_config(path)
    gate = config.gate.model_copy(update={"floors": {"category.accuracy": 0.999}})
    config.model_copy(update={"gate": gate}).save(path)
    with pytest.raises(GateError, match="refused"):
        retrain.main(["noise.parquet", "--name", "worse"])
    assert ModelFolder(Path("serving/models/multitask")).versions() == [1]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "multitask.publish", "--run", "worse"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 5


def test_without_anything_published_the_run_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="--run RUN"):
        retrain.main(["new.parquet"])
