"""What a training will take, before it is begun: time, disk, and what is kept; from some images measured here."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import tensorflow as tf

from multitask.audit.looking import look_at_all
from multitask.audit.looks import Looks
from multitask.config import Config
from multitask.data.archives import Archive
from multitask.errors import ConfigError
from multitask.features.computing import row_bytes, seconds_each, seconds_per_image
from multitask.features.dataset import read_images
from multitask.features.filling import FEATURE_BATCH, MEASURED_IMAGES, budget_bytes, wanted_bytes
from multitask.features.preparation import open_data
from multitask.network import hardware
from multitask.network.model import Network, build_network
from multitask.progress import Progress, duration
from multitask.training.optimizer import make_optimizer

_STEPS = 5


@dataclass(frozen=True)
class Step:
    """One thing that a training does with images.

    Args:
        name: what it is.
        times: how often at most: once, or once per epoch.
        images: how many each time.
        seconds: per image.
        disk: bytes that it leaves.
    """

    name: str
    times: int
    images: float
    seconds: float
    disk: float = 0.0

    @property
    def total(self) -> float:
        """Seconds in all."""
        return self.times * self.images * self.seconds


@dataclass(frozen=True)
class Plan:
    """What a training will take at most, and what is to be known of it.

    Args:
        images: how many it is planned for.
        measured: on how many images.
        steps: in their order.
        notes: what is kept, and what else could be done.
    """

    images: int
    measured: int
    steps: Sequence[Step]
    notes: Sequence[str]

    @property
    def seconds(self) -> float:
        """Seconds in all."""
        return sum(step.total for step in self.steps)

    @property
    def disk(self) -> float:
        """Bytes in all."""
        return sum(step.disk for step in self.steps)

    def table(self) -> list[list[str]]:
        """Return the rows of a table: step, times, images, milliseconds per image, time, gigabytes."""
        rows = [
            [
                step.name,
                f"{step.times:,}",
                f"{step.images:,.0f}",
                f"{1000 * step.seconds:.2f}",
                duration(step.total),
                f"{step.disk / 1e9:.2f}" if step.disk else "",
            ]
            for step in self.steps
        ]
        return [*rows, ["in all, at most", "", "", "", duration(self.seconds), f"{self.disk / 1e9:.2f}"]]


def make_plan(config: Config, images: int | None, folds: int | None, progress: Progress) -> Plan:
    """Measure some images, and work out what the training of all would take on this machine.

    Args:
        config: all settings.
        images: plan for so many; by default as many as the label table has rows.
        folds: as many trainings, each on all but one part of the rows.
        progress: where to report.

    Raises:
        ConfigError: no image of the table can be read.
    """
    if images is not None and images < 1:
        raise ConfigError("expected at least 1", where="--plan-images", received=str(images))
    _, spec, table, archive = open_data(config)
    with archive:
        precision = hardware.fastest_precision() if config.fit.precision == "auto" else config.fit.precision
        names = _some([name for name in table.ids if name in archive])
        progress.say(f"measuring {len(names)} images, {precision}")
        count = images or len(set(table.ids))
        steps, notes = [_looking(names, archive, spec.image.max_pixels, count)], []
        stages = [config, config.last_stage()] if config.fine_tune.freeze else [config]
        for number, stage in enumerate(stages, start=1):
            with hardware.strategy().scope():
                network = build_network(stage.model_spec({task.name: task.classes for task in spec.tasks}), precision)
            cost = _Cost(stage, network, precision, names, archive, count, folds or 0)
            title = f"stage {number}, " if len(stages) > 1 else ""
            steps += cost.steps(title)
            notes += cost.notes(title)
    return Plan(count, len(names), steps, notes)


def _some(names: Sequence[str]) -> list[str]:
    """Return names from all over the table."""
    if not names:
        raise ConfigError(
            "no image of the table is there", where="data.images", fix="Check data.images and data.id_column."
        )
    return [names[at] for at in np.unique(np.linspace(0, len(names) - 1, MEASURED_IMAGES).astype(int))]


def _looking(names: list[str], archive: Archive, max_pixels: int, count: int) -> Step:
    def look(some: Sequence[str]) -> Looks:
        return look_at_all(list(some), archive, max_pixels, None, lambda done: None)[0]

    seconds, looks = seconds_each(look, names), look(names)
    written = pa.BufferOutputStream()
    pq.write_table(looks.as_arrow(), written, compression="zstd")
    return Step("look at every image", 1, count, seconds, count * written.tell() / len(names))


class _Cost:
    """What one stage of a training costs."""

    def __init__(
        self,
        config: Config,
        network: Network,
        precision: str,
        names: list[str],
        archive: Archive,
        count: int,
        folds: int,
    ) -> None:
        self._config, self._network, self._precision, self._count = config, network, precision, count
        self._names, self._archive, self._image = names, archive, network.spec.image
        self._wanted = wanted_bytes(config, network, count)
        self._is_kept = self._wanted <= budget_bytes(config)
        # Every fold trains on the rows of the others, and is validated on its own.
        train, validation = 1 - config.data.validation - config.data.test, config.data.validation
        if folds:
            train, validation = (1 - config.data.test) * (folds - 1) / folds, (1 - config.data.test) / folds
        self._epochs = config.fit.epochs * max(folds, 1)
        self._training, self._validation = count * train, count * validation

    def steps(self, title: str) -> list[Step]:
        """Return what is done once, and what in every epoch."""
        return self._kept(title) if self._is_kept else self._streamed(title)

    def _kept(self, title: str) -> list[Step]:
        computed = self._wanted / row_bytes(self._network)
        once = seconds_per_image(self._network, self._names, self._archive, FEATURE_BATCH)
        train, score = self._seconds_of(self._network.trainable)
        frozen = Step(f"{title}{self._frozen_name}", 1, computed, once, self._wanted)
        return [frozen, *self._epochs_of(title, train, score)]

    def _streamed(self, title: str) -> list[Step]:
        decode = self._decoding()
        with hardware.strategy().scope():
            image = keras.Input((self._image.height, self._image.width, 3), dtype="uint8")
            model = keras.Model(image, self._network.trainable(self._network.frozen(image, training=False)))
        train, score = self._seconds_of(model)
        checked = Step(f"{title}decode every image", 1, self._count, decode)
        # A batch is decoded while another is in the network.
        return [checked, *self._epochs_of(title, max(train, decode), max(score, decode))]

    def _epochs_of(self, title: str, train: float, score: float) -> Iterator[Step]:
        model = sum(math.prod(weight.shape) for weight in self._network.whole.weights) * 4
        yield Step(f"{title}training", self._epochs, self._training, train, 3 * model)
        yield Step(f"{title}validation", self._epochs, self._validation, score)

    @property
    def _frozen_name(self) -> str:
        spec = self._network.spec
        return "decode and keep every image" if spec.freeze == "none" else f"frozen side of {spec.backbone}"

    def notes(self, title: str) -> list[str]:
        """Say what is kept, and what else could be done."""
        budget, gigabytes = self._config.data.features_gb, self._wanted / 1e9
        if self._is_kept:
            return [f"{title}features: {gigabytes:,.2f} GB are kept, within data.features_gb ({budget:g})"]
        kept = sum(step.total for step in self._kept(title))
        said = [
            f"{title}features would take {gigabytes:,.2f} GB, more than data.features_gb ({budget:g}): nothing "
            "is kept, every epoch sends all images through the frozen side",
            f"{title}with data.features_gb = {math.ceil(gigabytes)} they are kept: {duration(kept)} at most",
        ]
        spec = self._network.spec
        if spec.freeze == "all" and spec.pooling == "flatten":
            pooled = build_network(spec.model_copy(update={"pooling": "avg"}), self._precision, initialise=False)
            size = wanted_bytes(self._config, pooled, self._count) / 1e9
            said.append(f'{title}with pooling = "avg" they take {size:,.2f} GB')
        return said

    def _decoding(self) -> float:
        def decode(some: Sequence[str]) -> None:
            for _ in read_images(some, self._archive, self._image, FEATURE_BATCH):
                pass

        return seconds_each(decode, self._names)

    def _seconds_of(self, model: Any) -> tuple[float, float]:
        """Return the seconds per row of a training step and of scoring, on features of the right shape."""
        rows = self._config.fit.batch_size
        features = tf.zeros((rows, *model.input.shape[1:]), model.input.dtype)
        labels = {task.name: np.zeros((rows, len(task.classes)), np.float32) for task in self._network.spec.tasks}
        with hardware.strategy().scope():
            model.compile(make_optimizer(self._precision, self._config.fit), loss=dict.fromkeys(labels, "mse"))
        score = tf.function(lambda batch: model(batch, training=False))
        return _seconds(lambda: model.train_on_batch(features, labels)) / rows, _seconds(lambda: score(features)) / rows


def _seconds(work: Callable[[], Any]) -> float:
    """Return how long some work takes once it has been done."""
    work()
    work()
    started = time.monotonic()
    for _ in range(_STEPS):
        work()
    return (time.monotonic() - started) / _STEPS
