"""A training followed by the real libraries, read back as they themselves read it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.integrations.trackers import Trackers, open_trackers
from multitask.progress import Quiet
from multitask.runs import Run, RunFolder
from multitask.training.fitting import fit

pytestmark = pytest.mark.tensor


class _Heard(Quiet):
    def __init__(self, said: list[str]) -> None:
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)


@pytest.fixture(scope="module")
def tracked(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("tracked") / "model_training"
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    config = make_config(epochs=2, trackers=("tensorboard", "mlflow", "wandb"))
    said: list[str] = []
    run = fit(config, "tracked", _Heard(said), root / "runs")
    assert not [line for line in said if "left out" in line]
    return run


def test_tensorboard_shows_scalars_curves_plots_and_the_graph(tracked: Run) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.pr_curve.metadata import PLUGIN_NAME
    from tensorboard.util.tensor_util import make_ndarray

    found = EventAccumulator(str(tracked.folder / "tensorboard"), size_guidance={"tensors": 0})
    found.Reload()
    history = pd.read_csv(tracked.folder / "history.csv")
    losses = [float(make_ndarray(event.tensor_proto)) for event in found.Tensors("loss/validation")]
    assert losses == pytest.approx(history["val_loss"].tolist())
    accuracy = tracked.folder.read_json("metrics.json")["category"]["metrics"]["accuracy"]["value"]
    assert float(make_ndarray(found.Tensors("test/category.accuracy")[0].tensor_proto)) == pytest.approx(accuracy)
    assert "category_confusion" in found.Tags()["tensors"] or any("confusion" in tag for tag in found.Tags()["tensors"])
    curves = found.PluginTagToContent(PLUGIN_NAME)
    assert set(curves) == {f"{task.name}/{name}/pr_curves" for task in tracked.spec.tasks for name in task.classes}
    counts = make_ndarray(found.Tensors(next(iter(curves)))[0].tensor_proto)
    rows = (pd.read_parquet(tracked.folder / "splits.parquet")["split"] == "test").sum()
    assert (counts[:4].sum(axis=0) == rows).all()
    assert found.Tags()["graph"]


def test_mlflow_holds_settings_epochs_figures_files_and_a_version(tracked: Run) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tracked.folder.directory.parent.parent / 'mlflow.db'}")
    [run] = client.search_runs([client.get_experiment_by_name("multitask").experiment_id])
    assert run.info.run_name == "tracked"
    assert run.info.status == "FINISHED"
    assert run.data.params["fit.epochs"] == "2"
    history = pd.read_csv(tracked.folder / "history.csv")
    losses = client.get_metric_history(run.info.run_id, "val_loss")
    assert [metric.value for metric in losses] == pytest.approx(history["val_loss"].tolist())
    assert "test.category.accuracy" in run.data.metrics
    assert {"config.toml", "model.keras", "report.html", "plots"} <= {
        file.path for file in client.list_artifacts(run.info.run_id)
    }
    assert client.get_model_version_by_alias("multitask", "candidate").run_id == run.info.run_id


def test_wandb_keeps_everything_in_the_run_folder_when_offline(tracked: Run) -> None:
    [file] = (tracked.folder / "wandb").glob("offline-run-*/*.wandb")
    assert file.stat().st_size > 1000


def test_a_resumed_training_goes_on_in_the_record_it_has(tracked: Run) -> None:
    from multitask.integrations.mlflow import open_tracker

    noted = (tracked.folder / "mlflow.txt").read_text(encoding="utf-8").strip()
    assert open_tracker(tracked.config, tracked.folder)._run == noted


def test_a_server_out_of_reach_is_said_before_anything_is_computed(
    make_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ConfigError, match="mlflow cannot be opened"):
        fit(make_config(trackers=("mlflow",)), "x", root=tmp_path)
    assert not (tmp_path / "x").exists()


def test_a_tracker_that_fails_is_left_out_and_costs_nothing(trained: Run) -> None:
    class Failing:
        def epoch(self, row: object) -> None:
            raise OSError("disk full")

        def finish(self, run: Run) -> None:
            raise AssertionError("it should have been left out")

    rows: list[object] = []
    runs: list[Run] = []
    said: list[str] = []

    class Listening:
        def epoch(self, row: object) -> None:
            rows.append(row)

        def finish(self, run: Run) -> None:
            runs.append(run)

    together = Trackers({"failing": Failing(), "listening": Listening()}, _Heard(said))
    together.epoch({"epoch": 1.0})
    together.epoch({"epoch": 2.0})
    together.finish(trained)
    assert said == ["failing is left out from here on (OSError: disk full)"]
    assert len(rows) == 2
    assert runs == [trained]


def test_a_library_that_is_missing_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "multitask.integrations.wandb", None)
    with pytest.raises(ConfigError, match=r'pip install "multitask\[wandb\]"'):
        open_trackers(("wandb",), Config(), RunFolder(tmp_path), Quiet())
