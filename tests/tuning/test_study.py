"""Studies as a person runs them: what they leave, kills, several processes, other data, a best recipe that holds."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from multitask.config import Config, load_config
from multitask.progress import Quiet
from multitask.settings import SearchConfig

pytestmark = pytest.mark.tensor
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a configuration of a quick search."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "c.toml").write_text(
        f"""
        [data]
        labels = "{sample / "data.parquet"}"
        images = ["{sample / "images.zip"}"]
        [model]
        backbone = "small_cnn"
        weights = "random"
        image_size = [32, 32]
        [fit]
        epochs = 4
        precision = "float32"
        [search]
        trials = 4
        """
    )
    return folder


def tune(folder: Path, *flags: object, config: str = "c.toml") -> subprocess.Popen[str]:
    """Start a search in a folder."""
    command = [sys.executable, "-m", "multitask.tune", "--config", config, *map(str, flags)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def done(process: subprocess.Popen[str]) -> str:
    """Wait for a search; return what it printed."""
    try:
        output, _ = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 0, output
    return output


def study(folder: Path, name: str) -> optuna.Study:
    database = folder / "model_training/studies" / name / "study.db"
    return optuna.load_study(study_name=name, storage=f"sqlite:///{database}")


@pytest.mark.slow
def test_the_best_recipe_trains_to_the_figure_of_its_trial(folder: Path) -> None:
    from multitask.training.fitting import fit

    output = done(tune(folder, "--name", "one", "--trials", 5))
    left = folder / "model_training/studies/one"
    assert str(Path("model_training/studies/one/best.toml")) in output
    trials = pd.read_parquet(left / "trials.parquet")
    assert len(trials) == 5
    assert {"number", "state", "value", "epochs", "seconds", "fit.learning_rate", "model.dropout"} <= set(trials)
    assert all((left / "plots" / f"{name}.png").stat().st_size > 10_000 for name in ("history", "space"))
    text = (left / "best.toml").read_text()
    assert text.startswith(f"# Trial {trials['number'][trials['value'].idxmax()]}, the best of 5")
    best = load_config(left / "best.toml")
    assert best.search == SearchConfig()
    run = fit(best, "found", root=folder / "runs")
    history = pd.read_csv(run.folder / "history.csv")
    np.testing.assert_allclose(history["val_score"].max(), trials["value"].max(), atol=1e-4)


@pytest.mark.slow
def test_a_cross_validated_trial_has_the_mean_of_the_folds_of_a_training(folder: Path) -> None:
    from multitask.training.folds import fit_folds
    from multitask.tuning.results import write_study
    from multitask.tuning.study import search

    config = load_config(folder / "c.toml")
    few = {"trials": 2, "folds": 3, "space": {"fit.learning_rate": (1e-3,), "model.dropout": (0.0, 0.25)}}
    config = config.model_copy(update={"search": SearchConfig(**few)})
    left = search(config, "folded", 1, Quiet(), folder)
    trials = write_study(left, config).set_index("model.dropout")
    assert (trials["epochs"] == 3 * config.fit.epochs).all()
    run = fit_folds(load_config(left / "best.toml"), 3, "crossed", root=folder / "runs")
    history = pd.read_parquet(run.folder / "folds.parquet")
    expected = history.groupby("fold")["val_score"].max().mean()
    np.testing.assert_allclose(trials["value"].max(), expected, atol=1e-3)


@pytest.mark.slow
def test_a_killed_search_goes_on_without_losing_or_repeating_a_trial(folder: Path) -> None:
    process = tune(folder, "--name", "killed", "--trials", 60, "--epochs", 6)
    database = folder / "model_training/studies/killed/study.db"
    while not (database.exists() and _finished(folder, "killed") >= 2):
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = study(folder, "killed").trials
    kept = [trial for trial in before if trial.state.is_finished()]
    running = [trial for trial in before if trial.state.name == "RUNNING"]
    count = len(kept) + 3
    output = done(tune(folder, "--name", "killed", "--trials", count, "--epochs", 6))
    after = study(folder, "killed").trials
    assert "3 of" in output
    assert [trial.value for trial in after[: len(kept)]] == [trial.value for trial in kept]
    states = [trial.state.name for trial in after]
    assert states.count("COMPLETE") + states.count("PRUNED") == count
    for trial in running:
        assert after[trial.number].state.name == "FAIL"
        # Killed while it was drawn, a trial has some of its parameters.
        drawn_again = [other for other in after if "again" in other.user_attrs]
        again = [other for other in drawn_again if trial.params.items() <= other.params.items()]
        assert len(again) == bool(trial.params)
    assert len(pd.read_parquet(database.parent / "trials.parquet")) == count
    drawn = [tuple(trial.params.values()) for trial in after if trial.state.name != "FAIL"]
    assert len(set(drawn)) == len(drawn)


def _finished(folder: Path, name: str) -> int:
    try:
        return sum(trial.state.is_finished() for trial in study(folder, name).trials)
    except Exception:
        return 0  # the database is being made


@pytest.mark.slow
def test_two_processes_share_the_trials_of_one_study(folder: Path) -> None:
    done(tune(folder, "--name", "shared", "--jobs", 2, "--trials", 6))
    assert [trial.state.is_finished() for trial in study(folder, "shared").trials] == [True] * 6


def test_a_study_goes_on_with_the_settings_and_data_it_began_with_alone(folder: Path) -> None:
    done(tune(folder, "--name", "own", "--trials", 1))
    process = tune(folder, "--name", "own", "--trials", 2, "--epochs", 3)
    output, _ = process.communicate()
    assert process.returncode == 4
    assert "begun with other settings" in output
    assert len(study(folder, "own").trials) == 1


@pytest.mark.slow
def test_every_backbone_is_tried_first_and_measured(folder: Path) -> None:
    text = (folder / "c.toml").read_text().replace("[search]", "[search.space]").replace("trials = 4", "")
    text += '"model.backbone" = ["small_cnn", "mobilenetv2"]\n"model.pooling" = ["avg", "max"]\n'
    (folder / "backbones.toml").write_text(text)
    output = done(tune(folder, "--name", "pareto", "--trials", 2, config="backbones.toml"))
    left = folder / "model_training/studies/pareto"
    found = pd.read_csv(left / "pareto.csv").set_index("backbone")
    assert set(found.index) == {"small_cnn", "mobilenetv2"}
    assert found.loc["mobilenetv2", "size_mb"] > found.loc["small_cnn", "size_mb"] > 0
    assert found["latency_ms"].min() > 0
    assert found["undominated"].any()
    assert (left / "plots/pareto.png").exists()
    assert "ms for one photo" in output


def test_a_loss_that_is_no_number_ends_the_trial_and_not_the_search(folder: Path) -> None:
    text = (folder / "c.toml").read_text() + '[search.space]\n"fit.learning_rate" = [1e-3, 1e38]\n'
    (folder / "wild.toml").write_text(text)
    done(tune(folder, "--name", "wild", "--trials", 6, config="wild.toml"))
    trials = pd.read_parquet(folder / "model_training/studies/wild/trials.parquet")
    assert len(trials) == 6
    assert trials.loc[trials["fit.learning_rate"] == 1e38, "reason"].str.contains("the loss is").all()


def test_without_optuna_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from multitask.errors import ConfigError
    from multitask.progress import Quiet
    from multitask.tuning.study import search

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigError, match="pip install 'optuna>=5,<6'"):
        search(Config(), "none", 1, Quiet(), tmp_path)
    assert not list(tmp_path.iterdir())
