"""The small world of the tests: drawn photos, a tiny network, one trained run; all in temporary folders."""

from __future__ import annotations

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import contextlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multitask.config import Config, DataConfig, FitConfig, ModelConfig, TaskConfig
from multitask.demo.sample import draw_sample
from multitask.publishing.proving import serving
from multitask.runs import Run
from multitask.serving.model_folder import ModelFolder
from multitask.spec import ImageSpec, ModelSpec, Task


def photo(seed: int = 0, size: tuple[int, int] = (40, 30), kind: str = "JPEG", **options: object) -> bytes:
    """Encode a small colourful picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(stream, kind, **options)
    return stream.getvalue()


class Tally:
    """How much is under way at once, and the most that ever was."""

    def __init__(self) -> None:
        self._lock, self._now, self.most = threading.Lock(), 0, 0

    @contextlib.contextmanager
    def of(self, count: int) -> Iterator[None]:
        """Count something for a moment."""
        self._add(count)
        time.sleep(0.001)
        yield
        self._add(-count)

    def _add(self, count: int) -> None:
        with self._lock:
            self._now += count
            self.most = max(self.most, self._now)


def peak_kilobytes() -> int:
    """Return the most memory this process has held; ru_maxrss would count that of the process it was forked from."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def write_zip(path: Path, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def write_table(path: Path, ids: Iterable[str], **columns: object) -> Path:
    """Write a parquet table."""
    pd.DataFrame({"uuid": list(ids), **columns}).to_parquet(path, index=False)
    return path


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo dataset, small."""
    return draw_sample(tmp_path_factory.mktemp("data") / "demo", images=140)


@pytest.fixture(scope="session")
def make_config(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Config]:
    """Return a function that makes a configuration which trains in seconds."""
    features = tmp_path_factory.mktemp("features")

    sections = {
        DataConfig: {
            "features": str(features),
            "labels": str(sample / "data.parquet"),
            "images": (str(sample / "images.zip"),),
        },
        ModelConfig: {"backbone": "small_cnn", "weights": "random", "image_size": (32, 32)},
        FitConfig: {"epochs": 4, "learning_rate": 1e-3},
    }

    def make(**settings: object) -> Config:
        chosen = [
            kind(**base | {name: value for name, value in settings.items() if name in kind.model_fields})
            for kind, base in sections.items()
        ]
        whole = {name: settings[name] for name in ("tasks", "augment", "fine_tune", "search") if name in settings}
        return Config(**dict(zip(("data", "model", "fit"), chosen, strict=True)), **whole)

    return make


@pytest.fixture(scope="session")
def trained(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished run of the tiny network on the small demo dataset, with a task of every kind."""
    from multitask.training.fitting import fit

    tasks = {**Config().tasks, "size": TaskConfig(kind="regression", columns=("width",))}
    return fit(make_config(tasks=tasks), "trained", root=tmp_path_factory.mktemp("runs"))


@pytest.fixture
def clothing_spec() -> ModelSpec:
    """The default tasks, with settled classes and thresholds."""
    classes = ("BLOUSES", "CASUAL_DRESSES", "MINI_DRESSES", "SHIRTS", "TANK_TOPS")
    tags = ("polka dot", "floral", "checker")
    return ModelSpec(
        tasks=(
            Task(name="category", kind="multiclass", columns=("cc3",), classes=classes, top_k=2),
            Task(name="tags", kind="multilabel", columns=tags, classes=tags, thresholds=(0.3, 0.5, 0.7)),
        ),
        image=ImageSpec(height=32, width=32),
        backbone="small_cnn",
        weights="random",
    )


@pytest.fixture(scope="session")
def exported(trained: Run) -> Path:
    """The proven SavedModel of the tiny run."""
    from multitask.publishing.exporting import export_run

    return export_run(trained)[0]


@pytest.fixture(scope="session")
def published(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models with one version of one model in it."""
    models = tmp_path_factory.mktemp("models")
    ModelFolder(models / "multitask").add(exported)
    return models


@pytest.fixture(scope="session")
def server(published: Path) -> Iterator[str]:
    """The address of a running server, a process of its own."""
    with serving(published) as url:
        yield url


@pytest.fixture(scope="session")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The SavedModel of a real VGG16 with random weights, small images."""
    import tensorflow as tf

    from multitask.network.model import build_network
    from multitask.network.preprocessing import preprocess_batch
    from multitask.publishing.saved_model import write_saved_model

    config = Config(model=ModelConfig(weights="random", image_size=(64, 64)))
    spec = config.model_spec({"category": ("a", "b", "c"), "tags": config.tasks["tags"].columns})
    network = build_network(spec, heads="float64")
    images, _ = preprocess_batch(tf.constant([photo(seed) for seed in range(32)]), spec.image)
    features = network.frozen(images).numpy()
    # As a training does; raw features of a random network would leave every probability at 0 or 1.
    layer = network.trainable.get_layer("standardise")
    layer.moving_mean.assign(features.mean(axis=0))
    layer.moving_variance.assign(features.var(axis=0) * 400)
    out = tmp_path_factory.mktemp("vgg16") / "1"
    write_saved_model(network, out, photo())
    return out
