"""Cross-validation and its ensemble: no row judged by what trained on it, means that are means, exact resumes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from multitask.config import Config, TaskConfig
from multitask.data.archives import open_archive
from multitask.errors import ConfigError, TableError
from multitask.network.model import load_network
from multitask.network.preprocessing import preprocess_batch
from multitask.prediction.trained import KerasPredictor
from multitask.progress import Quiet
from multitask.publishing.exporting import export_run
from multitask.runs import Run
from multitask.training.folds import fit_folds, resume, summary

pytestmark = pytest.mark.tensor

COUNT = 3


@pytest.fixture(scope="module")
def crossed(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    tasks = {**Config().tasks, "size": TaskConfig(kind="regression", columns=("width",))}
    return fit_folds(make_config(tasks=tasks, epochs=2), COUNT, "crossed", root=tmp_path_factory.mktemp("folds"))


def test_every_row_that_does_not_test_is_scored_once_by_a_network_that_did_not_train_on_it(crossed: Run) -> None:
    splits, scored = (pd.read_parquet(crossed.folder / f"{name}.parquet") for name in ("splits", "out_of_fold"))
    rows = splits[splits["split"] == "train"].reset_index(drop=True)
    assert scored["id"].tolist() == rows["id"].tolist()
    assert sorted(scored["fold"].unique()) == [1, 2, 3]
    assert (scored.groupby(rows["group"])["fold"].nunique() == 1).all()
    assert set(splits["split"]) == {"train", "test"}
    for fold in range(1, COUNT + 1):
        member = load_network(crossed.folder / "model.keras", crossed.spec).members[fold - 1]
        kept = np.load(crossed.folder / f"fold-{fold}/checkpoints/best.npz")
        np.testing.assert_allclose(member.get_weights()[0], kept["weight_0"])


def test_the_model_gives_the_mean_of_its_members(crossed: Run) -> None:
    predictor = KerasPredictor.of_run(crossed, "float32")
    ids = pd.read_parquet(crossed.folder / "splits.parquet").query("split == 'test'")["id"].tolist()[:8]
    with open_archive(*crossed.config.data.archives) as archive:
        files = [archive[name] for name in ids]
    found = predictor.predict(files).values
    network = load_network(crossed.folder / "model.keras", crossed.spec)
    images, _ = preprocess_batch(np.array(files, object), crossed.spec.image)
    features = network.frozen(images)
    singles = [
        network.scores([member(features)[task.name] for task in crossed.spec.tasks]) for member in network.members
    ]
    for task in crossed.spec.tasks:
        mean = np.mean([np.asarray(scores[task.name]) for scores in singles], axis=0)
        np.testing.assert_allclose(found[task.name], mean, atol=1e-5 * max(task.units()), err_msg=task.name)


def test_folds_leave_a_table_of_all_epochs_and_a_summary(crossed: Run) -> None:
    history = pd.read_parquet(crossed.folder / "folds.parquet")
    assert history.groupby("fold")["epoch"].max().tolist() == [2, 2, 2]
    found = summary(crossed).set_index("figure")
    best = history.groupby("fold")["val_score"].max()
    assert found.loc["val_score", "mean"] == pytest.approx(best.mean())
    assert found.loc["val_score", "deviation"] == pytest.approx(best.std())
    assert (crossed.folder / "plots/folds.png").is_file()
    assert 'alt="folds"' in (crossed.folder / "report.html").read_text(encoding="utf-8")


def test_numbers_of_members_trained_in_units_of_their_own_are_as_near_as_those_of_one_network(crossed: Run) -> None:
    figures = crossed.folder.read_json("metrics.json")["size"]["metrics"]
    scored = pd.read_parquet(crossed.folder / "out_of_fold.parquet")
    splits = pd.read_parquet(crossed.folder / "splits.parquet").query("split == 'train'")
    apart = np.abs(scored["width"].to_numpy() - splits["width"].to_numpy()).mean()
    assert figures["width_mae"]["value"] == pytest.approx(apart, rel=0.5)


def test_an_ensemble_is_exported_and_proven_like_any_network(crossed: Run) -> None:
    directory, _ = export_run(crossed)
    assert (directory / "saved_model.pb").is_file()


class _Interrupting(Quiet):
    def __init__(self, at: str) -> None:
        self._at, self._fold = at, ""

    def say(self, text: str) -> None:
        self._fold = text if text.startswith("fold") else self._fold
        if f"{self._fold}: {text}".startswith(self._at):
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", ["fold 2 of 3: epoch 1/", pytest.param("fold 3 of 3: plots", marks=pytest.mark.slow)])
def test_a_killed_cross_validation_goes_on_exactly(
    crossed: Run, make_config: Callable[..., Config], tmp_path: Path, at: str
) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_folds(crossed.config, COUNT, "broken", _Interrupting(at), tmp_path)
    first = (tmp_path / "broken/fold-1/checkpoints/last.npz").stat().st_mtime_ns
    run = resume("broken", root=tmp_path)
    assert (tmp_path / "broken/fold-1/checkpoints/last.npz").stat().st_mtime_ns == first, "it is not trained again"
    for one, other in zip(_weights(run), _weights(crossed), strict=True):
        np.testing.assert_array_equal(one, other)


def _weights(run: Run) -> list[np.ndarray]:
    return keras.saving.load_model(run.folder / "model.keras").get_weights()


def test_wrong_folds_are_explained(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="2 or more"):
        fit_folds(make_config(), 1, root=tmp_path)
    with pytest.raises(TableError, match="nowhere"):
        fit_folds(make_config(labels="nowhere.parquet"), 3, root=tmp_path)
    with pytest.raises(ConfigError, match="time_column"):
        fit_folds(make_config(time_column="when"), 3, root=tmp_path)
    assert not list(tmp_path.iterdir())


_ON_TWO_DEVICES = """
import sys
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from multitask.config import load_config
from multitask.network import hardware
from multitask.training.folds import fit_folds
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
hardware.strategy = lambda: mirrored
fit_folds(load_config(sys.argv[1]), 2, "two", root=Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_two_devices_train_the_folds_and_the_ensemble_of_one(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(epochs=2, dropout=0.0, precision="float32", features=str(tmp_path / "f"))
    config.save(tmp_path / "c.toml")
    one = fit_folds(config, 2, "one", root=tmp_path)
    command = [sys.executable, "-c", _ON_TWO_DEVICES, str(tmp_path / "c.toml"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found, other = (pd.read_parquet(tmp_path / name / "scores.parquet") for name in ("one", "two"))
    for task in one.spec.tasks:
        np.testing.assert_allclose(other[list(task.score_columns)], found[list(task.score_columns)], atol=0.02)
