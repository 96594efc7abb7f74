"""Two machines of Ray on one: the same files as without, also when a process is killed, from the same functions."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from multitask import predict
from multitask.config import Config
from multitask.errors import ConfigError, RunError
from multitask.progress import Quiet
from multitask.runs import Run
from multitask.training.folds import fit_folds

ray = pytest.importorskip("ray", reason="the extra scale is not installed")
pytestmark = [pytest.mark.slow, pytest.mark.tensor]

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cluster of two nodes of one core, in the environment."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        nodes.add_node(num_cpus=1)
        nodes.wait_for_nodes()
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield
        nodes.shutdown()


def _workers() -> list[int]:
    """Return the processes that do tasks now."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            line = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if line.startswith(b"ray::_in_place"):
            found.append(int(folder.name))
    return found


def _kill_one(killed: list[int]) -> None:
    for _ in range(600):
        found = _workers()
        if found:
            # In the middle of its work, not before it has begun.
            time.sleep(1.0)
            os.kill(found[0], signal.SIGKILL)
            killed.append(found[0])
            return
        time.sleep(0.1)


def test_a_prediction_with_a_killed_process_is_the_file_of_one_process(
    cluster: None, trained: Run, tmp_path: Path
) -> None:
    ids = pd.read_parquet(trained.config.data.labels)["uuid"].tolist()
    table = tmp_path / "rows.parquet"
    pd.DataFrame({"uuid": [*(ids * 40)[:4500], "unknown"]}).to_parquet(table)
    flags = [str(table), "--run", str(trained.folder.directory)]
    assert predict.main([*flags, "--out", str(tmp_path / "alone.parquet")]) == 0
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one, args=(killed,))
    killer.start()
    assert predict.main([*flags, "--out", str(tmp_path / "shared.parquet"), "--on", "ray"]) == 0
    killer.join()
    assert killed, "a process was killed"
    assert (tmp_path / "shared.parquet").read_bytes() == (tmp_path / "alone.parquet").read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_a_data_set_is_looked_at_elsewhere_and_nothing_is_left_to_look_at_here(
    cluster: None, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    from multitask import explore

    config = make_config(features=str(tmp_path / "features"))
    config.save(tmp_path / "c.toml")
    flags = ["--config", str(tmp_path / "c.toml")]
    assert explore.main([*flags, "--out", str(tmp_path / "shared"), "--on", "ray"]) == 0
    [written] = (path for path in tmp_path.rglob("looks-*") if path.is_dir())
    before = sorted(written.iterdir())
    assert explore.main([*flags, "--out", str(tmp_path / "alone")]) == 0
    assert sorted(written.iterdir()) == before
    one, other = (json.loads((tmp_path / name / "audit.json").read_text()) for name in ("shared", "alone"))
    assert one == other


def test_folds_trained_elsewhere_make_the_same_model(
    cluster: None, make_config: Callable[..., Config], sample: Path, tmp_path: Path
) -> None:
    from multitask.integrations.ray import open_workers

    config = make_config(epochs=2, features=str(tmp_path / "features"), precision="float32")
    with open_workers(Quiet()) as workers:
        shared = fit_folds(config, 2, "shared", root=tmp_path / "shared", workers=workers)
    stores = list((tmp_path / "features").iterdir())
    written = {path: path.stat().st_mtime_ns for store in stores for path in store.glob("*.npy")}
    alone = fit_folds(config, 2, "alone", root=tmp_path / "alone")
    assert {path: path.stat().st_mtime_ns for store in stores for path in store.glob("*.npy")} == written
    scores = [pd.read_parquet(run.folder / "scores.parquet") for run in (shared, alone)]
    for name in scores[0].columns.drop(["id", "split"]):
        np.testing.assert_allclose(scores[0][name], scores[1][name], atol=1e-4)


def test_trials_elsewhere_are_told_to_the_study_here(
    cluster: None, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(epochs=2, features=str(tmp_path / "features"))
    config.save(tmp_path / "c.toml")
    command = [sys.executable, "-m", "multitask.tune", "--config", "c.toml", "--name", "far", "--trials", "4"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "--jobs", "2", "--on", "ray"], cwd=tmp_path, env=environment, check=True, timeout=300)
    folder = tmp_path / "model_training/studies/far"
    study = optuna.load_study(study_name="far", storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert (folder / "best.toml").is_file()


def _refuse(items: list[int]) -> None:
    raise ConfigError("cannot be", where=f"item {items[0]}")


def _die(items: list[int]) -> None:
    os._exit(1)


def test_errors_of_others_are_told_here(cluster: None) -> None:
    from multitask.integrations.ray import open_workers

    with open_workers(Quiet()) as workers:
        assert workers.share(sum, range(10), "adding", 4) == [6, 22, 17]
        assert workers.share(partial(map, str), [], "nothing", 4) == []
        with pytest.raises(ConfigError, match="item 3: cannot be"):
            workers.share(_refuse, [3], "refusing", 1)
        with pytest.raises(RunError, match="died of the same work"):
            workers.share(_die, [1], "dying", 1)


def test_a_cluster_that_is_not_there_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    from multitask.integrations.ray import open_workers

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(RunError, match="no cluster of Ray"), open_workers(Quiet()):
        pass
