"""training, preparation, results: a run is whole, repeatable, and goes on after a kill as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from scipy.special import logit

from multitask.config import Config, TaskConfig, load_config
from multitask.demo.sample import PATTERNS
from multitask.errors import ArchiveError, ConfigError, RunError, TableError
from multitask.evaluation.assessment import split_labels
from multitask.evaluation.calibration import calibrate_classes, calibrate_tags
from multitask.network import hardware, processor
from multitask.progress import Quiet
from multitask.runs import Run, RunFolder, find_run, open_run
from multitask.spec import ModelSpec, Task
from multitask.training import folds
from multitask.training.balance import downsample
from multitask.training.epochs import seed_dropout
from multitask.training.fitting import fit, resume
from tests.conftest import photo, write_table, write_zip

pytestmark = pytest.mark.tensor


class Heard(Quiet):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def weights_of(run: Run) -> list[np.ndarray]:
    return keras.saving.load_model(run.folder / "model.keras").get_weights()


def history_of(folder: RunFolder) -> pd.DataFrame:
    return pd.read_csv(folder / "history.csv").drop(columns="seconds")


def test_a_run_holds_everything_the_design_names(trained: Run) -> None:
    names = {str(path.relative_to(trained.folder.directory)) for path in trained.folder.directory.rglob("*")}
    assert {
        "config.toml",
        "spec.json",
        "manifest.json",
        "splits.parquet",
        "quarantine.parquet",
        "checkpoints/last.npz",
        "checkpoints/best.npz",
        "model.keras",
        "model_summary.txt",
        "history.csv",
        "metrics.json",
        "report.html",
        "MODEL_CARD.md",
        "plots/history.png",
        "plots/predictions.png",
        "plots/architecture.png",
        "plots/category_confusion.png",
        "plots/tags_precision_recall.png",
        "plots/tags_roc.png",
    } <= names
    assert not [name for name in names if Path(name).name.startswith(".")]
    assert open_run("latest", trained.folder.directory.parent).spec == trained.spec


def test_the_model_card_says_what_was_measured(trained: Run) -> None:
    card = (trained.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert headings[0] == "## Model details"
    assert headings[-1] == "## Bias, risks and limitations"
    accuracy = trained.folder.read_json("metrics.json")["category"]["metrics"]["accuracy"]
    assert (
        f"| category | accuracy | {accuracy['value']:.3f} | {accuracy['low']:.3f} to {accuracy['high']:.3f} |" in card
    )
    for tag, threshold in zip(PATTERNS, trained.spec.task("tags").thresholds, strict=True):
        assert f"| tags | {tag} | {threshold:.4f} | f1 |" in card


def test_its_configuration_trains_the_same_model_again(trained: Run, tmp_path: Path) -> None:
    again = fit(load_config(trained.folder.config_file), "again", root=tmp_path)
    for first, second in zip(weights_of(trained), weights_of(again), strict=True):
        np.testing.assert_array_equal(first, second)
    assert history_of(again.folder).equals(history_of(trained.folder))
    manifest = again.folder.read_json("manifest.json")
    assert manifest["images_computed"] == 0
    assert manifest["images_reused"] > 0
    assert manifest["data"] == trained.folder.read_json("manifest.json")["data"]


@pytest.mark.slow
def test_the_split_has_a_seed_of_its_own_and_the_features_none(
    trained: Run, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    seeds: tuple[dict[str, int], ...] = ({}, {"seed": 1}, {"split_seed": 1})
    runs = [fit(make_config(**chosen, epochs=1), root=tmp_path) for chosen in seeds]
    assert [run.folder.read_json("manifest.json")["images_computed"] for run in runs] == [0, 0, 0]
    first, second, third = (pd.read_parquet(run.folder / "splits.parquet")["split"] for run in runs)
    assert (first == second).all()
    assert (first != third).any()


def test_labels_of_a_task_named_like_a_column_of_the_split_table_have_one_of_their_own(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(epochs=1)
    tasks = {"split": config.tasks["category"], "group": TaskConfig(kind="multilabel", columns=("floral",))}
    run = fit(config.model_copy(update={"tasks": tasks}), root=tmp_path)
    used = pd.read_parquet(run.folder / "splits.parquet")
    assert list(used.columns) == ["id", "split", "group", "sha256", "label split", "floral"]
    assert set(used["split"]) == {"train", "validation", "test"}
    labels = split_labels(run, "test")
    assert labels["split"].tolist() == used.loc[used["split"] == "test", "label split"].tolist()


def test_every_row_is_in_a_split_or_in_quarantine_with_its_reason(trained: Run) -> None:
    rows = pd.read_parquet(trained.config.data.labels)
    used = pd.read_parquet(trained.folder / "splits.parquet")
    unused = pd.read_parquet(trained.folder / "quarantine.parquet")
    assert sorted([*used["id"], *unused["id"]]) == sorted(rows["uuid"])
    reasons = unused.set_index("id")["reason"]
    assert "damaged" in reasons["truncated"]
    assert reasons["text"] == "not an image"
    assert reasons["nowhere"] == "no image with this id"
    assert unused["reason"].str.contains("contradictory labels").sum() == 2
    assert (rows["uuid"].iloc[unused["row"]].to_numpy() == unused["id"].to_numpy()).all()


def test_rows_of_one_picture_are_on_one_side(trained: Run) -> None:
    used = pd.read_parquet(trained.folder / "splits.parquet")
    repeated = used[used.duplicated("sha256", keep=False)]
    assert len(repeated) >= 4
    assert (repeated.groupby("sha256")["split"].nunique() == 1).all()
    copied = used[used["id"] == "copy"].iloc[0]
    assert (used["sha256"] == copied["sha256"]).sum() == 2


def test_rows_of_one_sender_are_on_one_side_when_grouped(make_config: Callable[..., Config], tmp_path: Path) -> None:
    config = make_config(group_columns=("sender_id",), epochs=1)
    run = fit(config, root=tmp_path)
    senders = pd.read_parquet(config.data.labels).drop_duplicates("uuid").set_index("uuid")["sender_id"]
    used = pd.read_parquet(run.folder / "splits.parquet")
    assert (used.groupby(used["id"].map(senders))["split"].nunique() == 1).all()


def test_the_saved_model_is_that_of_the_best_epoch_with_thresholds_of_the_validation_split(trained: Run) -> None:
    manifest = trained.folder.read_json("manifest.json")
    temperature = manifest["calibration"]["tags"]["temperature"]
    with np.load(trained.folder.best_checkpoint) as best:
        head = keras.saving.load_model(trained.folder / "model.keras").get_layer("trainable").get_layer("tags_logits")
        stored = [best[name] for name in best.files if best[name].shape == tuple(head.kernel.shape)]
    assert any(np.allclose(value, head.kernel * temperature, rtol=1e-5) for value in stored)
    history = pd.read_csv(trained.folder / "history.csv")
    assert manifest["best_epoch"] == history.loc[history["val_score"].idxmax(), "epoch"]
    best = history["val_score"].max()
    assert manifest["best_val_score"] == pytest.approx(best, abs=0.01), "calibrated, hence not quite"
    assert len(trained.spec.task("tags").thresholds) == 3
    assert trained.spec == ModelSpec.load(trained.folder / "spec.json")


def test_scores_of_the_rows_that_did_not_train_are_kept(trained: Run) -> None:
    splits, scores = (pd.read_parquet(trained.folder / f"{name}.parquet") for name in ("splits", "scores"))
    for part in ("validation", "test"):
        assert scores[scores["split"] == part]["id"].tolist() == splits[splits["split"] == part]["id"].tolist()
    task = trained.spec.tasks[0]
    right = (
        scores[list(task.score_columns)].to_numpy().argmax(axis=1)
        == splits.set_index("id").loc[scores["id"], task.label_columns[0]].to_numpy()
    )
    is_test = (scores["split"] == "test").to_numpy()
    stated = trained.folder.read_json("metrics.json")[task.name]["metrics"]["accuracy"]["value"]
    assert right[is_test].mean() == pytest.approx(stated)


def test_the_saved_model_is_calibrated_on_the_rows_that_did_not_train(trained: Run) -> None:
    """Asking its kept scores for a calibration once more finds none to do; the order of the answers is as it was."""
    splits, scores = (pd.read_parquet(trained.folder / f"{name}.parquet") for name in ("splits", "scores"))
    splits, scores = (frame.query("split == 'validation'") for frame in (splits, scores))
    stated = trained.folder.read_json("manifest.json")["calibration"]
    category, tags = trained.spec.task("category"), trained.spec.task("tags")
    classes = np.log(scores[list(category.score_columns)].to_numpy())
    there = logit(scores[list(tags.score_columns)].to_numpy(np.float64))
    again = {
        "category": calibrate_classes(splits["category"].to_numpy(np.float32), classes),
        "tags": calibrate_tags(splits[list(tags.label_columns)].to_numpy(np.float32), there),
    }
    for task, found in again.items():
        assert stated[task]["temperature"] != 1.0
        # Where scores tell nothing of the labels, none is too flat.
        if stated[task]["temperature"] < 19:
            assert found.temperature == pytest.approx(1.0, abs=0.02)
            np.testing.assert_allclose(found.offsets, 0.0, atol=0.05)


def test_features_are_standardised_by_the_training_split(trained: Run) -> None:
    layer = keras.saving.load_model(trained.folder / "model.keras").get_layer("trainable").get_layer("standardise")
    assert layer.moving_mean.numpy().std() > 0
    assert not np.allclose(layer.moving_variance, 1)


def test_a_missing_label_masks_its_task_for_its_row(make_config: Callable[..., Config], tmp_path: Path) -> None:
    table = pd.read_parquet(make_config().data.labels)
    table.loc[table.index[::2], list(PATTERNS)] = pd.NA
    table.to_parquet(tmp_path / "half.parquet")
    run = fit(make_config(labels=str(tmp_path / "half.parquet")), root=tmp_path / "runs")
    used = pd.read_parquet(run.folder / "splits.parquet")
    assert used["floral"].isna().mean() == pytest.approx(0.5, abs=0.1)
    metrics = run.folder.read_json("metrics.json")
    test = used[used["split"] == "test"]
    assert metrics["tags"]["rows"] == test["floral"].notna().sum()
    assert metrics["category"]["rows"] == test["category"].notna().sum()
    assert np.isfinite(pd.read_csv(run.folder / "history.csv")).all(axis=None)


@pytest.mark.parametrize("freeze", ["none", "block2_pool"])
def test_other_boundaries_train_too(make_config: Callable[..., Config], tmp_path: Path, freeze: str) -> None:
    run = fit(make_config(freeze=freeze, epochs=4, learning_rate=1e-4), root=tmp_path)
    history = pd.read_csv(run.folder / "history.csv")
    assert history["loss"].iloc[-1] < history["loss"].iloc[0]


def test_vgg16_trains_and_answers(make_config: Callable[..., Config], tmp_path: Path) -> None:
    run = fit(make_config(backbone="vgg16", epochs=3), root=tmp_path)
    history = pd.read_csv(run.folder / "history.csv")
    assert history["category_accuracy"].iloc[-1] > history["category_accuracy"].iloc[0]
    assert "block5_conv3" in (run.folder / "model_summary.txt").read_text()


def test_bfloat16_is_recorded_and_the_saved_model_is_float32(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    run = fit(make_config(precision="bfloat16", epochs=1), root=tmp_path)
    assert run.folder.read_json("manifest.json")["precision"] == "bfloat16"
    assert keras.saving.load_model(run.folder / "model.keras").get_layer("frozen").output.dtype == "float32"


@pytest.mark.slow
@pytest.mark.parametrize("gigabytes", [20.0, 1e-6])
def test_two_devices_train_as_one_does_whatever_the_batch_size(
    make_config: Callable[..., Config], tmp_path: Path, gigabytes: float
) -> None:
    """Batches of 33 rows, and what remains for the last one, cannot be halved. With few gigabytes images stream."""
    config = make_config(
        epochs=2,
        batch_size=33,
        dropout=0.0,
        freeze="block2_pool",
        precision="float32",
        features=str(tmp_path / "f1"),
        features_gb=gigabytes,
    )
    fit(config, "one", root=tmp_path / "runs")
    script = f"""
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from multitask.network import hardware
from multitask.training import fitting as training
from multitask.config import load_config
mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
hardware.strategy = lambda: mirrored
run = training.fit(load_config("{tmp_path}/c.toml"), "two", root=Path("{tmp_path}/runs"))
print(run.folder.read_json("metrics.json")["category"]["rows"])
"""
    data = config.data.model_copy(update={"features": str(tmp_path / "f2")})
    config.model_copy(update={"data": data}).save(tmp_path / "c.toml")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    first, second = (history_of(RunFolder(tmp_path / "runs" / name)) for name in ("one", "two"))
    np.testing.assert_allclose(second, first, rtol=0.01)


@pytest.mark.slow
def test_batch_normalisation_learns_from_scratch(make_config: Callable[..., Config], tmp_path: Path) -> None:
    small = {"backbone": "mobilenet", "backbone_options": {"alpha": 0.25}, "pooling": "avg"}
    run = fit(make_config(**small, freeze="none", epochs=8, precision="float32"), root=tmp_path)
    losses = pd.read_csv(run.folder / "history.csv")["loss"]
    assert losses.iloc[0] < 6
    # So few pictures teach little in an epoch, and the first ones go up and down.
    assert losses.min() < 0.95 * losses.iloc[0]


@pytest.mark.parametrize(("factor", "words"), [(0.0, "are the same for all of"), (1e30, "are not finite")])
def test_features_that_tell_nothing_are_refused(
    make_config: Callable[..., Config], tmp_path: Path, factor: float, words: str
) -> None:
    from multitask.network.model import build_network

    spec = make_config().model_spec({"category": ("a", "b"), "tags": PATTERNS})
    network = build_network(spec)
    # Of one sign: a difference of infinities is no number, and what ReLU makes of that depends on the processor.
    network.frozen.set_weights([np.abs(value) * factor for value in network.frozen.get_weights()])
    network.whole.save(tmp_path / "w.keras")
    with pytest.raises(ConfigError, match=words):
        fit(make_config(weights=str(tmp_path / "w.keras"), features=str(tmp_path / "f")), "run", root=tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_float16_scales_its_loss_and_goes_on_from_a_checkpoint(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(precision="float16", freeze="block3_pool", epochs=2)
    straight = fit(config, "straight", root=tmp_path)
    with np.load(straight.folder.last_checkpoint) as arrays:
        scales = [float(arrays[name]) for name in arrays.files if "optimizer" in name and arrays[name].shape == ()]
    # It begins at 2**15 and is halved where a gradient overflows.
    assert any(scale >= 16 and np.log2(scale).is_integer() for scale in scales)
    first = fit(config.model_copy(update={"fit": config.fit.model_copy(update={"epochs": 1})}), "cut", root=tmp_path)
    (first.folder / "metrics.json").unlink()
    config.save(first.folder.config_file)
    resumed = resume("cut", root=tmp_path)
    assert history_of(resumed.folder).equals(history_of(straight.folder))


def test_dropout_inside_the_backbone_is_drawn_from_seed_and_epoch() -> None:
    from multitask.network.model import build_network

    model = {"backbone": "efficientnetb0", "weights": "random", "freeze": "none", "image_size": (32, 32)}
    spec = Config(model={**model, "pooling": "avg"}).model_spec({"category": ("a", "b"), "tags": PATTERNS})
    trainable = build_network(spec).trainable
    inner = keras.Model(trainable.input, trainable.get_layer("head_input").output)
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)

    def features(seed: int, epoch: int) -> np.ndarray:
        seed_dropout(trainable, seed, epoch)
        return np.asarray(inner(images, training=True))

    first = features(3, 5)
    np.testing.assert_array_equal(features(3, 5), first)
    assert not np.array_equal(features(3, 6), first)
    assert not np.array_equal(features(4, 5), first)


def test_an_undefined_score_is_said_and_the_loss_chooses_the_epoch(
    trained: Run, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    table = pd.read_parquet(make_config().data.labels)
    used = pd.read_parquet(trained.folder / "splits.parquet").drop_duplicates("id").set_index("id")
    table["part"] = table["uuid"].map(used["split"]).fillna("train")
    table.loc[table["part"] == "validation", "floral"] = 0
    table.to_parquet(tmp_path / "t.parquet")
    config = make_config(labels=str(tmp_path / "t.parquet"), split_column="part", epochs=4, learning_rate=3e-2)
    tasks = {"tags": {"kind": "multilabel", "columns": ("floral",)}}
    heard = Heard()
    run = fit(Config(data=config.data, model=config.model, fit=config.fit, tasks=tasks), "run", heard, tmp_path)
    assert sum("the validation score is undefined" in line for line in heard.lines) == 1
    history = pd.read_csv(run.folder / "history.csv")
    best = run.folder.read_json("manifest.json")["best_epoch"]
    assert best == history.loc[history["val_loss"].idxmin(), "epoch"]


def _start(config: Config, name: str, root: Path) -> subprocess.Popen[str]:
    """Train in a process of its own, slowed down so that a kill finds it at work."""
    config.save(root / f"{name}.toml")
    script = f"""
import time
from pathlib import Path
from multitask.features import computing as features
from multitask.training import checkpoints, epochs
from multitask.training import fitting as training
from multitask.config import load_config
from multitask.progress import Lines
features.CHUNK_SECONDS = 0.0
features.FeatureStore.add = (lambda add: lambda self, *a: (add(self, *a), time.sleep(0.15)))(features.FeatureStore.add)
save = epochs.save_checkpoint
epochs.save_checkpoint = lambda *a: (time.sleep(0.05), save(*a), time.sleep(0.05))
training.fit(load_config("{root}/{name}.toml"), "{name}", Lines(), Path("{root}/runs"))
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_killed_training_goes_on_to_the_same_weights_and_history(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = make_config(features=str(tmp_path / "features"), epochs=8)
    root = tmp_path / "runs"
    folder = RunFolder(root / "killed")

    def epochs() -> int:
        return len(pd.read_csv(folder / "history.csv")) if (folder / "history.csv").exists() else 0

    stages: list[Callable[[], bool]] = [
        lambda: len(list((tmp_path / "features").glob("*/*.sha256"))) >= 2,
        lambda: folder.best_checkpoint.exists(),
        lambda: epochs() >= 3,
        lambda: epochs() >= 6,
    ]
    process = _start(config, "killed", tmp_path)
    _kill_when(process, stages[0])
    for number, stage in enumerate(stages[1:]):
        computed = len(list((tmp_path / "features").glob("*/*.sha256")))
        resumed = _resume_slowly(tmp_path)
        _kill_when(resumed, stage)
        assert len(list((tmp_path / "features").glob("*/*.sha256"))) >= computed, number
    heard = Heard()
    killed = resume("killed", heard, root)
    assert any("going on after epoch" in line for line in heard.lines)
    straight = fit(config, "straight", root=root)
    assert history_of(killed.folder).equals(history_of(straight.folder))
    for first, second in zip(weights_of(killed), weights_of(straight), strict=True):
        np.testing.assert_array_equal(first, second)
    assert killed.folder.read_json("metrics.json") == straight.folder.read_json("metrics.json")


def _resume_slowly(root: Path) -> subprocess.Popen[str]:
    script = f"""
import time
from pathlib import Path
from multitask.training import epochs
from multitask.training import fitting as training
from multitask.progress import Lines
save = epochs.save_checkpoint
epochs.save_checkpoint = lambda *a: (time.sleep(0.1), save(*a), time.sleep(0.1))
training.resume("killed", Lines(), Path("{root}/runs"))
"""
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


class _Interrupting(Quiet):
    """Interrupts a training after an epoch."""

    def __init__(self, epoch: int) -> None:
        self._start = f"epoch {epoch}/"

    def say(self, text: str) -> None:
        if text.startswith(self._start):
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "schedule": "milestones", "milestones": (2, 3), "learning_rate": 1e-3, "freeze": "none"},
        pytest.param(
            {"optimizer": "adamw", "schedule": "cosine", "warmup_epochs": 1, "task_balance": "learned"},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["sgd", "adamw"],
)
def test_every_optimizer_and_schedule_goes_on_exactly(
    make_config: Callable[..., Config], tmp_path: Path, settings: dict
) -> None:
    config = make_config(**settings)
    straight = fit(config, "straight", root=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(config, "broken", _Interrupting(2), tmp_path)
    broken = resume("broken", root=tmp_path)
    for first, second in zip(weights_of(broken), weights_of(straight), strict=True):
        np.testing.assert_array_equal(first, second)
    histories = [pd.read_csv(run.folder / "history.csv").drop(columns="seconds") for run in (broken, straight)]
    pd.testing.assert_frame_equal(*histories)
    shares = histories[0].filter(like="_share")
    np.testing.assert_allclose(shares.sum(axis=1), 1.0, rtol=1e-4)
    assert shares.shape[1] == len(straight.spec.tasks)


@pytest.mark.slow
def test_weight_decay_spares_biases_and_normalisation(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """With a learning rate that all but stops the gradients' steps, only decay moves kernels; nothing moves biases."""
    still = {"optimizer": "sgd", "momentum": 0.0, "learning_rate": 1e-6, "epochs": 1, "schedule": "constant"}
    plain = fit(make_config(**still), "plain", root=tmp_path)
    decayed = fit(make_config(**still, weight_decay=3e4), "decayed", root=tmp_path)
    for name in (task.name for task in plain.spec.tasks):
        (kernel, bias), (less, same) = (_uncalibrated(run, name) for run in (plain, decayed))
        assert np.abs(less).sum() < 0.95 * np.abs(kernel).sum()
        np.testing.assert_allclose(same, bias, atol=1e-4)


def _uncalibrated(run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel and bias of a head as they were trained."""
    model = keras.models.load_model(run.folder / "model.keras", compile=False)
    kernel, bias = model.get_layer("trainable").get_layer(f"{task}_logits").get_weights()
    found = run.folder.read_json("manifest.json")["calibration"].get(task, {"temperature": 1.0, "offsets": 0.0})
    return kernel * found["temperature"], (bias - found["offsets"]) * found["temperature"]


def test_a_finished_run_is_not_trained_again(trained: Run) -> None:
    heard = Heard()
    before = (trained.folder / "metrics.json").stat().st_mtime_ns
    assert resume("trained", heard, trained.folder.directory.parent).spec == trained.spec
    assert "finished already" in heard.lines[-1]
    assert (trained.folder / "metrics.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_finished_run_is_given_more_epochs_as_if_it_had_had_them(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    straight = fit(make_config(epochs=4), "straight", root=tmp_path)
    fit(make_config(epochs=2), "longer", root=tmp_path)
    longer = folds.resume("longer", root=tmp_path, more_epochs=2)
    assert longer.config.fit.epochs == 4
    pd.testing.assert_frame_equal(history_of(longer.folder), history_of(straight.folder))
    for first, second in zip(weights_of(longer), weights_of(straight), strict=True):
        np.testing.assert_array_equal(first, second)
    with pytest.raises(ConfigError, match="at least 1"):
        folds.resume("longer", root=tmp_path, more_epochs=0)
    assert open_run("longer", tmp_path).config == longer.config
    fit(make_config(epochs=2, schedule="cosine"), "ended", root=tmp_path)
    with pytest.raises(ConfigError, match="cosine"):
        folds.resume("ended", root=tmp_path, more_epochs=2)


def test_a_run_does_not_go_on_with_other_data(make_config: Callable[..., Config], tmp_path: Path) -> None:
    labels = tmp_path / "data.parquet"
    shutil.copy(make_config().data.labels, labels)
    run = fit(make_config(labels=str(labels), epochs=1), "run", root=tmp_path / "runs")
    (run.folder / "metrics.json").unlink()
    pd.read_parquet(labels).iloc[:-5].to_parquet(labels)
    with pytest.raises(RunError, match="not those this run began with"):
        resume("run", root=tmp_path / "runs")


def test_a_damaged_checkpoint_says_so(make_config: Callable[..., Config], tmp_path: Path) -> None:
    run = fit(make_config(epochs=1), "run", root=tmp_path)
    (run.folder / "metrics.json").unlink()
    run.folder.last_checkpoint.write_bytes(b"PK\x03\x04 no more")
    with pytest.raises(RunError, match="cannot go on from this checkpoint"):
        resume("run", root=tmp_path)


def test_an_unfinished_run_is_no_model_yet(make_config: Callable[..., Config], tmp_path: Path) -> None:
    run = fit(make_config(epochs=1), "run", root=tmp_path)
    (run.folder / "metrics.json").unlink()
    with pytest.raises(RunError, match="--resume run"):
        open_run("run", tmp_path)


def test_runs_are_found_by_name_path_and_nearest_name(trained: Run) -> None:
    root = trained.folder.directory.parent
    assert find_run("trained", root).directory == find_run(str(trained.folder.directory), root).directory
    with pytest.raises(RunError, match='Did you mean "trained"'):
        find_run("traned", root)


def test_a_used_name_is_refused_with_both_ways_out(trained: Run) -> None:
    with pytest.raises(RunError, match=r"--resume trained.*--name"):
        fit(trained.config, "trained", root=trained.folder.directory.parent)


def test_a_diverging_loss_stops_the_run_with_advice(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"the loss is (nan|inf).*learning rate"):
        fit(make_config(learning_rate=1e38, freeze="none"), root=tmp_path)


def test_a_boundary_that_is_none_leaves_no_run_behind(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.freeze"):
        fit(make_config(freeze="block9"), "run", root=tmp_path)
    assert not (tmp_path / "run").exists()


def test_ids_that_match_no_image_are_shown_beside_those_that_exist(
    make_config: Callable[..., Config], tmp_path: Path
) -> None:
    archive = write_zip(tmp_path / "a.zip", {"one.jpg": photo()})
    with pytest.raises(TableError, match="expected ids such as one; received ids such as"):
        fit(make_config(images=(str(archive),)), root=tmp_path)
    with pytest.raises(ArchiveError, match="no such file"):
        fit(make_config(images=(str(tmp_path / "none.zip"),)), root=tmp_path)


def test_an_unknown_group_column_is_refused(make_config: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r'"sender".*Did you mean "sender_id"'):
        fit(make_config(group_columns=("sender",)), root=tmp_path)


def test_downsampling_leaves_classes_of_one_size_and_all_unlabelled_rows() -> None:
    labels = {"category": np.array([0] * 50 + [1] * 20 + [2] * 5 + [np.nan] * 3, np.float32)}
    spec = ModelSpec(tasks=(Task(name="category", kind="multiclass", columns=("c",), classes=("a", "b", "c")),))
    rows = np.arange(100, 178)
    kept = downsample(spec, labels, rows, 0)
    values = labels["category"][kept - 100]
    assert np.bincount(values[~np.isnan(values)].astype(int)).tolist() == [5, 5, 5]
    assert np.isnan(values).sum() == 3
    assert (downsample(spec, labels, rows, 0) == kept).all()
    assert (downsample(spec, labels, rows, 1) != kept).any()


@pytest.mark.slow
def test_downsampled_and_unweighted_runs_train(make_config: Callable[..., Config], tmp_path: Path) -> None:
    for balance in ("downsample", "none"):
        heard = Heard()
        run = fit(make_config(balance=balance, epochs=1), balance, heard, tmp_path)
        assert set(run.folder.read_json("manifest.json")["label_constants"]["category"]) == {1.0}
        assert not any(line.startswith("weights of") for line in heard.lines)


def test_what_was_derived_is_said(make_config: Callable[..., Config], tmp_path: Path) -> None:
    heard = Heard()
    fit(make_config(epochs=1), None, heard, tmp_path)
    text = "\n".join(heard.lines)
    for expected in (
        hardware.fastest_precision(),
        "reused",
        "quarantine: 5 of",
        "weights of tags",
    ):
        assert expected in text


def test_tasks_may_be_many_or_one(tmp_path: Path, make_config: Callable[..., Config]) -> None:
    ids = [f"i{number}" for number in range(40)]
    archive = write_zip(tmp_path / "a.zip", {f"{name}.jpg": photo(seed) for seed, name in enumerate(ids)})
    random = np.random.default_rng(0)
    table = write_table(
        tmp_path / "t.parquet",
        ids,
        size=random.integers(34, 46, 40),
        kids=random.random(40) < 0.5,
        warm=random.integers(0, 2, 40),
    )
    config = make_config(labels=str(table), images=(str(archive),), epochs=1)
    tasks = {
        "kids": {"kind": "multilabel", "columns": ("kids",)},
        "size": {"kind": "multiclass", "columns": ("size",), "top_k": 3},
        "season": {"kind": "multilabel", "columns": ("warm",), "threshold": 0.3},
    }
    for names in (["kids"], ["size", "season", "kids"]):
        chosen = Config(
            data=config.data, model=config.model, fit=config.fit, tasks={name: tasks[name] for name in names}
        )
        run = fit(chosen, root=tmp_path / "runs" / str(len(names)))
        assert [task.name for task in run.spec.tasks] == names
        assert set(json.loads((run.folder / "metrics.json").read_text())) == set(names)
    assert run.spec.task("season").settled_thresholds() == (0.3,)


def test_fastest_precision_is_one_this_machine_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MULTITASK_PRECISION", raising=False)
    precision = hardware.fastest_precision()
    if not tf.config.list_physical_devices("GPU"):
        assert precision == ("bfloat16" if processor.has_bfloat16_units() else "float32")
    assert hardware.describe()["machine"] == os.uname().machine


def test_the_precision_of_a_whole_session_is_set_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for precision in ("float32", "bfloat16", "float16"):
        monkeypatch.setenv("MULTITASK_PRECISION", precision)
        assert hardware.fastest_precision() == precision
    monkeypatch.setenv("MULTITASK_PRECISION", "half")
    with pytest.raises(ConfigError, match=r"MULTITASK_PRECISION.*expected float32, bfloat16, float16"):
        hardware.fastest_precision()
