"""The second stage: where it begins, what it trains, what is kept of it, and what others make of such a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.network.model import build_network, load_network
from multitask.network.weights import copy_weights
from multitask.progress import Quiet
from multitask.publishing.exporting import export_run
from multitask.runs import Run
from multitask.training import folds
from multitask.training.fitting import fit, give_more_epochs, resume
from multitask.training.revising import ensemble, with_thresholds

pytestmark = pytest.mark.tensor

STAGE = {"freeze": "block2_pool", "epochs": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def tuned(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    return fit(make_config(epochs=2, fine_tune=STAGE), "tuned", root=tmp_path_factory.mktemp("stages"))


def test_the_second_stage_trains_what_lies_behind_its_boundary_and_nothing_before(tuned: Run) -> None:
    history = pd.read_csv(tuned.folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2, 3, 4]
    assert history["stage"].tolist() == [1, 1, 2, 2]
    assert tuned.spec.freeze == "block2_pool"
    whole, new = load_network(tuned.folder / "model.keras", tuned.spec), build_network(tuned.spec)
    for one, other in zip(whole.frozen.get_weights(), new.frozen.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    rest, unchanged = (network.members[0].get_layer("rest") for network in (whole, new))
    moved = rest.get_layer("block3_conv").get_weights()[0] - unchanged.get_layer("block3_conv").get_weights()[0]
    assert np.abs(moved).max() > 1e-5


@pytest.mark.parametrize(("backbone", "boundary", "size"), [("small_cnn", "none", 32), ("inceptionv3", "mixed7", 75)])
def test_a_deeper_network_with_the_weights_of_another_gives_its_scores(
    make_config: Callable[..., Config], backbone: str, boundary: str, size: int
) -> None:
    classes = {"category": ("a", "b"), "tags": ("polka dot", "floral", "checker")}
    config = make_config(backbone=backbone, image_size=(size, size), pooling="avg")
    first = build_network(config.model_spec(classes))
    heads = first.trainable
    heads.set_weights([value + np.linspace(0, 0.1, value.size).reshape(value.shape) for value in heads.get_weights()])
    second = build_network(first.spec.model_copy(update={"freeze": boundary}), initialise=False)
    copy_weights(first.whole, second.whole, "the first")
    images = np.random.default_rng(0).integers(0, 256, (4, size, size, 3), np.uint8)
    before, after = first.whole(images, training=False), second.whole(images, training=False)
    for name in before:
        np.testing.assert_allclose(after[name], before[name], atol=1e-5)


class _Interrupting(Quiet):
    def __init__(self, at: str) -> None:
        self._at, self._stage = at, ""

    def say(self, text: str) -> None:
        self._stage = "stage 2" if text.startswith("stage 2:") else self._stage
        if f"{self._stage} {text}".startswith(self._at):
            raise KeyboardInterrupt


@pytest.mark.parametrize("at", [pytest.param("stage 2 training:", marks=pytest.mark.slow), "stage 2 epoch 1/"])
def test_a_training_killed_in_its_second_stage_goes_on_exactly(tuned: Run, tmp_path: Path, at: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(tuned.config, "broken", _Interrupting(at), tmp_path)
    run = resume("broken", root=tmp_path)
    for one, other in zip(_weights(run), _weights(tuned), strict=True):
        np.testing.assert_array_equal(one, other)
    columns = ["epoch", "stage", "loss", "val_score"]
    histories = [pd.read_csv(found.folder / "history.csv")[columns] for found in (run, tuned)]
    pd.testing.assert_frame_equal(*histories)


def test_a_second_stage_that_gets_no_better_leaves_the_network_of_the_first(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    lines: list[str] = []

    class Listening(Quiet):
        def say(self, text: str) -> None:
            lines.append(text)

    stage = {"freeze": "none", "epochs": 1, "learning_rate": 100.0}
    # So long that the first stage is far better than chance, which the thrown network may reach.
    config = make_config(epochs=12)
    model = config.model.model_copy(update={"weights": str(_saved_backbone(config, tmp_path))})
    config = Config(**{**config.model_dump(), "model": model.model_dump(), "fine_tune": stage})
    run = fit(config, "thrown", Listening(), tmp_path)
    assert "stage 2 got no better: its network stays that of the stage before" in lines
    best = np.load(run.folder.best_checkpoint)
    kept = load_network(run.folder / "model.keras", run.spec).members[0].get_layer("standardise").get_weights()
    assert any(np.array_equal(kept[0], best[name]) for name in best.files)
    assert run.folder.read_json("manifest.json")["best_epoch"] <= 12


def _saved_backbone(config: Config, folder: Path) -> Path:
    classes = {
        name: task.columns * 2 if task.kind == "multiclass" else task.columns for name, task in config.tasks.items()
    }
    spec = config.model_spec({**classes, "category": ("a", "b")}).model_copy(update={"freeze": "none"})
    path = folder / "backbone.keras"
    keras.models.clone_model(build_network(spec).members[0].get_layer("rest")).save(path)
    return path


@pytest.mark.slow
def test_more_epochs_go_to_the_last_stage(tuned: Run, tmp_path: Path) -> None:
    run = fit(tuned.config, "short", root=tmp_path)
    give_more_epochs(run.folder, 1)
    longer = resume("short", root=tmp_path)
    assert (longer.config.fit.epochs, longer.config.fine_tune.epochs) == (2, 3)
    assert pd.read_csv(longer.folder / "history.csv")["stage"].tolist() == [1, 1, 2, 2, 2]


@pytest.mark.slow
def test_fine_tuned_runs_are_exported_changed_put_together_and_cross_validated(tuned: Run, tmp_path: Path) -> None:
    assert (export_run(tuned)[0] / "saved_model.pb").is_file()
    other = Config(**{**tuned.config.model_dump(), "fit": {**tuned.config.fit.model_dump(), "seed": 1}})
    both = ensemble([tuned, fit(other, "other", root=tmp_path)], "both", root=tmp_path)
    assert (both.spec.members, both.spec.freeze) == (2, "block2_pool")
    strict = with_thresholds(tuned, 0.9, name="strict", root=tmp_path)
    assert strict.spec.task("tags").settled_thresholds() == (0.9,) * 3
    crossed = folds.fit_folds(tuned.config, 2, "crossed", root=tmp_path)
    assert (crossed.spec.members, crossed.spec.freeze) == (2, "block2_pool")
    assert pd.read_parquet(crossed.folder / "folds.parquet").groupby(["fold", "stage"]).size().tolist() == [2] * 4
    assert (export_run(crossed)[0] / "saved_model.pb").is_file()


@pytest.mark.slow
def test_augmented_pictures_go_through_both_frozen_sides(tuned: Run, tmp_path: Path) -> None:
    augment = ({"op": "flip_horizontal"},)
    fields = {**tuned.config.model_dump(), "augment": augment}
    fields["fit"]["views"] = 2
    run = fit(Config(**fields), "augmented", root=tmp_path)
    assert pd.read_csv(run.folder / "history.csv")["stage"].max() == 2


@pytest.mark.parametrize(
    ("model", "stage", "problem"),
    [
        ({}, {"freeze": "all"}, "a layer before that of model.freeze"),
        ({"freeze": "block2_pool"}, {"freeze": "block2_pool"}, "a layer before that of model.freeze"),
        ({"freeze": "none"}, {"freeze": "block2_pool"}, "a layer before that of model.freeze"),
        ({"weights": "random"}, {"freeze": "none"}, "from scratch"),
        ({}, {"epochs": 5}, "freeze is missing"),
    ],
)
def test_stages_that_do_not_follow_each_other_are_refused(model: dict, stage: dict, problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Config(model=model, fine_tune=stage)


@pytest.mark.parametrize(("boundary", "problem"), [("block9_pool", "not a layer"), ("block3_pool", "would freeze")])
def test_a_boundary_that_does_not_fit_is_refused_before_any_training(
    make_config: Callable[..., Config], tmp_path: Path, boundary: str, problem: str
) -> None:
    config = make_config(freeze="block2_pool", fine_tune={"freeze": boundary})
    with pytest.raises(ConfigError, match=problem) as refused:
        fit(config, "refused", root=tmp_path)
    assert "fine_tune.freeze" in str(refused.value)
    assert not (tmp_path / "refused").exists()


def test_callbacks_of_ones_own_see_the_figures_and_can_end_a_training(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    seen: list[dict[str, float]] = []

    class Watching(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            seen.append(dict(logs or {}))
            self.model.stop_training = len(seen) == 2

    run = fit(make_config(epochs=4), "watched", root=tmp_path, callbacks=[Watching()])
    history = pd.read_csv(run.folder / "history.csv")
    assert history["epoch"].tolist() == [1, 2]
    assert [row["val_score"] for row in seen] == pytest.approx(history["val_score"].tolist())


def _weights(run: Run) -> list[np.ndarray]:
    return keras.saving.load_model(run.folder / "model.keras").get_weights()
