"""Models made of trained ones, without training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config
from multitask.data.archives import open_archive, read_image
from multitask.errors import ConfigError, RunError
from multitask.network.model import load_network
from multitask.prediction.trained import KerasPredictor
from multitask.publishing.exporting import export_run
from multitask.runs import Run
from multitask.training.fitting import MADE_OF, fit, resume
from multitask.training.revising import ensemble, with_thresholds


@pytest.fixture(scope="module")
def runs(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("members")
    return [fit(make_config(seed=seed), f"seed{seed}", root=root) for seed in range(2)]


def _scores(run: Run, part: str = "test") -> pd.DataFrame:
    return pd.read_parquet(run.folder / "scores.parquet").query("split == @part").reset_index(drop=True)


def test_other_thresholds_are_those_of_the_rule_on_the_same_scores(runs: list[Run]) -> None:
    (old, _), root = runs, runs[0].folder.directory.parent
    new = with_thresholds(old, "recall >= 0.9", name="careful", root=root)
    pd.testing.assert_frame_equal(_scores(new), _scores(old), atol=1e-4)
    held, splits = _scores(new, "validation"), pd.read_parquet(new.folder / "splits.parquet").set_index("id")
    task = new.spec.task("tags")
    for tag, column, threshold in zip(task.classes, task.score_columns, task.thresholds, strict=True):
        there = splits.loc[held["id"], tag].to_numpy() == 1
        assert (held[column][there] >= np.float32(threshold)).mean() >= 0.9
    assert task.thresholds != old.spec.task("tags").thresholds
    assert new.config.tasks["tags"].threshold_by == "recall >= 0.9"
    assert (new.folder / "report.html").is_file()
    directory, _ = export_run(new)
    assert (directory / "saved_model.pb").is_file()


def test_a_threshold_may_be_given(runs: list[Run], tmp_path: Path) -> None:
    new = with_thresholds(runs[0], 0.3, ["tags"], root=tmp_path)
    assert set(new.spec.task("tags").settled_thresholds()) == {0.3}


def test_an_ensemble_gives_the_mean_of_its_members_calibrated_once_more(runs: list[Run]) -> None:
    root = runs[0].folder.directory.parent
    together = ensemble(runs, "together", root=root)
    assert together.spec.members == 2
    assert together.folder.read_json(MADE_OF)["runs"] == [str(run.folder.directory) for run in runs]
    network = load_network(together.folder / "model.keras", together.spec)
    assert len(network.members) == 2
    with open_archive(*together.config.data.archives) as archive:
        photos = [read_image(archive, name)[0] for name in _scores(together)["id"]]
    found = KerasPredictor.of_run(together).predict(photos).values
    means = [
        np.mean([_scores(run)[list(task.score_columns)].to_numpy() for run in runs], axis=0)
        for task in together.spec.tasks
    ]
    for task, mean in zip(together.spec.tasks, means, strict=True):
        if task.kind == "multiclass":
            assert (found[task.name].argmax(axis=1) == mean.argmax(axis=1)).mean() > 0.9
    scores = [run.folder.read_json("manifest.json")["best_val_score"] for run in (together, *runs)]
    assert len(set(scores)) == 3, "an ensemble has a score of its own"
    stated = _scores(together)[list(together.spec.tasks[0].score_columns)].to_numpy()
    np.testing.assert_allclose(found[together.spec.tasks[0].name], stated, atol=0.02)
    directory, _ = export_run(together)
    assert (directory / "saved_model.pb").is_file()


def test_what_cannot_be_put_together_is_explained(
    runs: list[Run], make_config: Callable[..., Config], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="too few runs"):
        ensemble(runs[:1], root=tmp_path)
    elsewhere = fit(make_config(split_seed=5, epochs=1), "elsewhere", root=tmp_path)
    with pytest.raises(RunError, match="another split"):
        ensemble([runs[0], elsewhere], root=tmp_path)
    wider = fit(make_config(pooling="max", epochs=1), "wider", root=tmp_path)
    with pytest.raises(RunError, match="another pooling"):
        ensemble([runs[0], wider], root=tmp_path)
    with pytest.raises(ConfigError, match="no thresholds"):
        with_thresholds(runs[0], "f1", ["category"], root=tmp_path)
    with pytest.raises(ConfigError, match="expected f1"):
        with_thresholds(runs[0], "recall", root=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "latest", "wider"]


def test_a_revision_that_was_killed_is_not_trained_by_a_resume(runs: list[Run], tmp_path: Path) -> None:
    new = with_thresholds(runs[0], "f1", name="killed", root=tmp_path)
    (new.folder / "metrics.json").unlink()
    with pytest.raises(RunError, match="being made of others"):
        resume("killed", root=tmp_path)
