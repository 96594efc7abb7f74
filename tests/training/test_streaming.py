"""Trainings whose features do not fit the disk budget: nothing is kept, and the model is that of one whose do."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config
from multitask.data.archives import open_archive
from multitask.errors import ConfigError
from multitask.features.dataset import SHARD_ROWS, SHARDS_MIXED, shuffled
from multitask.prediction.scoring import score_rows
from multitask.prediction.trained import KerasPredictor
from multitask.runs import Run
from multitask.training import folds
from multitask.training.fitting import fit, resume
from tests.training.test_fitting import Heard, history_of, weights_of

pytestmark = pytest.mark.tensor

TINY = 1e-6
ALIKE = {"epochs": 3, "batch_size": 4096, "dropout": 0.0, "freeze": "block2_pool", "precision": "float32"}


@pytest.fixture(scope="module")
def streamed(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    root = tmp_path_factory.mktemp("streamed")
    return fit(make_config(**ALIKE, features=str(root / "features"), features_gb=TINY), "run", root=root)


def test_it_learns_what_a_training_on_stored_features_learns(
    streamed: Run, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    stored = fit(make_config(**ALIKE), "stored", root=tmp_path)
    np.testing.assert_allclose(history_of(streamed.folder), history_of(stored.folder), rtol=1e-3, atol=1e-5)
    for one, other in zip(weights_of(streamed), weights_of(stored), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=2e-3)


def test_it_keeps_no_features_and_says_what_that_costs(make_config: Callable[..., Config], tmp_path: Path) -> None:
    heard = Heard()
    run = fit(make_config(epochs=1, features=str(tmp_path / "f"), features_gb=TINY), "r", heard, tmp_path / "runs")
    assert not list((tmp_path / "f").rglob("*.npy"))
    assert any("nothing is kept. Every epoch" in line and "1 epochs at most" in line for line in heard.lines)
    assert run.folder.read_json("manifest.json")["features"].startswith("stream-")


def test_its_model_scores_files_as_it_scored_its_rows(streamed: Run) -> None:
    kept = pd.read_parquet(streamed.folder / "scores.parquet").head(20)
    with open_archive(*streamed.config.data.archives) as archive:
        scores, _ = score_rows(KerasPredictor.of_run(streamed, "float32"), kept["id"].tolist(), archive)
    for task in streamed.spec.tasks:
        np.testing.assert_allclose(scores[task.name], kept[list(task.score_columns)], atol=1e-4)


@pytest.mark.slow
def test_it_goes_on_after_a_kill_as_if_nothing_had_happened(make_config: Callable[..., Config], tmp_path: Path) -> None:
    import keras

    def stop(epoch: int, logs: object) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    config = make_config(epochs=4, features=str(tmp_path / "f"), features_gb=TINY)
    whole = fit(config, "whole", root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(config, "killed", root=tmp_path, callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=stop)])
    killed = resume("killed", root=tmp_path)
    pd.testing.assert_frame_equal(history_of(whole.folder), history_of(killed.folder))
    for one, other in zip(weights_of(whole), weights_of(killed), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_pictures_are_changed_anew_in_every_epoch(make_config: Callable[..., Config], tmp_path: Path) -> None:
    from multitask.settings import AugmentConfig

    augment = (AugmentConfig(op="flip_horizontal"), AugmentConfig(op="brightness"))
    config = make_config(epochs=2, features=str(tmp_path / "f"), features_gb=TINY, augment=augment)
    run = fit(config, "changed", root=tmp_path)
    plain = fit(make_config(epochs=2, features=str(tmp_path / "f"), features_gb=TINY), "plain", root=tmp_path)
    assert not list((tmp_path / "f").rglob("*.npy"))
    assert not np.allclose(history_of(run.folder)["loss"], history_of(plain.folder)["loss"], rtol=1e-4)


@pytest.mark.slow
def test_folds_and_their_ensemble_can_be_streamed(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config(epochs=1, features=str(tmp_path / "f"), features_gb=TINY, freeze="block2_pool")
    run = folds.fit_folds(config, 2, "folds", root=tmp_path)
    kept = pd.read_parquet(run.folder / "scores.parquet")
    kept = kept[kept["split"] == "test"].head(10)
    with open_archive(*config.data.archives) as archive:
        scores, _ = score_rows(KerasPredictor.of_run(run, "float32"), kept["id"].tolist(), archive)
    for task in run.spec.tasks:
        np.testing.assert_allclose(scores[task.name], kept[list(task.score_columns)], atol=1e-3)


@pytest.mark.slow
def test_the_second_stage_may_stream_where_the_first_keeps(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """Features of the whole base are small, those of an early layer are not."""
    heard = Heard()
    config = make_config(
        epochs=1,
        pooling="avg",
        features=str(tmp_path / "f"),
        features_gb=4e-4,
        fine_tune={"freeze": "block2_pool", "epochs": 1, "learning_rate": 1e-3},
    )
    fit(config, "both", heard, tmp_path / "runs")
    assert sum("images computed" in line for line in heard.lines) == 1
    assert sum("nothing is kept" in line for line in heard.lines) == 1
    assert len(list((tmp_path / "f").rglob("*.npy"))) == 1


def test_a_compressed_tar_is_refused_since_it_cannot_be_read_in_another_order(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(features=str(tmp_path / "f"), features_gb=TINY)
    with zipfile.ZipFile(config.data.images[0]) as archive:
        archive.extractall(tmp_path / "files")
    with tarfile.open(tmp_path / "images.tgz", "w:gz") as tar:
        tar.add(tmp_path / "files", "files")
    data = config.data.model_copy(update={"images": (str(tmp_path / "images.tgz"),)})
    with pytest.raises(ConfigError, match=r"features_gb.*pack the images as zip"):
        fit(config.model_copy(update={"data": data}), "run", root=tmp_path / "runs")


@pytest.mark.parametrize("count", [1, SHARD_ROWS, 3 * SHARD_ROWS + 7, (SHARDS_MIXED + 5) * SHARD_ROWS + 1])
def test_an_epoch_has_every_row_once_in_an_order_of_its_own_and_reads_in_shards(count: int) -> None:
    places = np.random.default_rng(1).permutation(count)
    orders = [shuffled(places, seed=3, epoch=epoch) for epoch in (0, 0, 1)]
    np.testing.assert_array_equal(orders[0], orders[1])
    for order in orders:
        assert sorted(order) == list(range(count))
    if count > 1:
        assert (orders[0] != orders[2]).any()
    shard_of = np.empty(count, int)
    shard_of[places] = np.arange(count) // SHARD_ROWS
    most = SHARD_ROWS * SHARDS_MIXED
    assert all(
        len(set(shard_of[order[start : start + SHARD_ROWS]])) <= SHARDS_MIXED + 1
        for order in orders
        for start in range(0, count, most)
    )
