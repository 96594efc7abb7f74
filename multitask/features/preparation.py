"""From files to trainable rows: labels checked, images looked at, frozen features on disk, rows split."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.division import crossing, divide, warn_of_crossing
from multitask.audit.inspection import explain_unreadable
from multitask.audit.looks import Looks
from multitask.audit.rows import Audit, audit_cache, audit_rows
from multitask.config import Config
from multitask.data.archives import Archive
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.sources import open_images
from multitask.data.tables import Table, as_table, how_to_name_images
from multitask.errors import TableError
from multitask.features.computing import change_by_name, compute_features, seconds_per_image, view_names
from multitask.features.filling import FEATURE_BATCH, Features, Filled, filled_by_others, filled_store, make_room_for
from multitask.features.streaming import PictureStream
from multitask.network import hardware
from multitask.network.model import Network, build_network
from multitask.progress import Progress
from multitask.settings import AugmentConfig
from multitask.spec import ModelSpec
from multitask.workers import Nobody, Workers


@dataclass(frozen=True)
class Prepared:
    """Everything a training needs, for the usable rows of the label table.

    Args:
        spec: the model, classes settled.
        network: built, its frozen side filled with weights.
        precision: float32, bfloat16 or float16.
        table: the usable rows.
        digests: (rows,) SHA-256 of each row's image.
        groups: (rows,) number of the group that stays on one side: one picture or nearly the same, or what
            data.group_columns says.
        parts: (rows,) "train", "validation" or "test".
        store: features of all rows, or what reads their pictures in every epoch.
        quarantine: the other rows: id, row (in the label table) and reason.
        archive: the images.
        looks: (rows,) properties of the pictures: brightness, contrast, sharpness, megapixels, width by height.
        images_computed, images_reused: how many distinct images went through the frozen side now, and before.
        operations: that change pictures while they train.
        views: features of each training row: of its image, and of what the operations made of it.
    """

    spec: ModelSpec
    network: Network
    precision: str
    table: Table
    digests: NDArray[np.object_]
    groups: NDArray[np.int64]
    parts: NDArray[np.object_]
    store: Features
    quarantine: pd.DataFrame
    archive: Archive
    looks: pd.DataFrame
    images_computed: int
    images_reused: int
    operations: tuple[AugmentConfig, ...] = ()
    views: int = 1

    @property
    def table_rows(self) -> NDArray[np.int64]:
        """Which row of the label table each usable row is."""
        return np.setdiff1d(np.arange(len(self.table) + len(self.quarantine)), self.quarantine["row"])

    def rows(self, part: str) -> NDArray[np.int64]:
        """Return the rows of a split."""
        return np.flatnonzero(self.parts == part)

    @functools.cached_property
    def model(self) -> Any:
        """What is trained: from what `gather` gives to {task: logits}."""
        return self._on_what_is_gathered(self.network.trainable)

    def until(self, layer: str) -> Any:
        """Return the part of `model` up to the output of one of its layers."""
        trainable = self.network.trainable
        return self._on_what_is_gathered(keras.Model(trainable.input, trainable.get_layer(layer).output))

    def _on_what_is_gathered(self, model: Any) -> Any:
        """Return a model of features with the frozen side in front, where pictures are gathered."""
        if not isinstance(self.store, PictureStream):
            return model
        with hardware.strategy().scope():
            image = keras.Input(self.store.shape, dtype="uint8", name="image")
            return keras.Model(image, model(self.network.frozen(image, training=False)))

    def places(self, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """Return positions in `rows`, sorted by where their images lie; None where features lie on disk."""
        is_stream = isinstance(self.store, PictureStream)
        return self.archive.in_order(self.table.ids[rows].tolist()).astype(np.int64) if is_stream else None

    def gather(self, rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return the function from positions in `rows` to their features."""
        return self.store.gather(list(self.digests[rows]))

    def features(self, rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return the function from positions in `rows` to what the frozen side says of them, wherever it is kept."""
        gather = self.gather(rows)
        if not isinstance(self.store, PictureStream):
            return gather
        return lambda positions: self.network.frozen(gather(positions), training=False).numpy()

    def gather_views(self, rows: NDArray[np.int64]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return the same for all views of these rows, those of a row side by side."""
        return self.store.gather(view_names(self.digests[rows], self.operations, self.views))

    def labels(self, rows: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the labels of rows, per task."""
        return {name: values[rows] for name, values in self.table.labels.items()}

    def data_hash(self) -> str:
        """Return a digest of the usable rows: ids, images, labels and splits."""
        digest = hashlib.sha256("\n".join([*self.table.ids, *self.digests, *self.parts]).encode())
        for name in sorted(self.table.labels):
            digest.update(self.table.labels[name].tobytes())
        return digest.hexdigest()


def open_data(config: Config) -> tuple[pd.DataFrame, ModelSpec, Table, Archive]:
    """Read the label table of a configuration and open its images; say what model they make."""
    data = config.data
    frame = read_frame(data.labels, data.query)
    spec = config.model_spec(settle_classes(frame, config.tasks, data.labels))
    return frame, spec, as_table(frame, data.id_column, spec.tasks, data.labels), open_images(data, frame)


def prepare(
    config: Config,
    progress: Progress,
    *,
    for_folds: bool = False,
    workers: Workers = Nobody(),  # noqa: B008
) -> Prepared:
    """Read, look, compute features and split; unusable rows end in the quarantine, each with its reason.

    Args:
        config: all settings.
        progress: where to report.
        for_folds: let all rows train that do not test.
        workers: who may look at images and compute features beforehand.
    """
    data = config.data
    frame, spec, table, archive = open_data(config)
    progress.say(f"labels: {len(table):,} rows in {data.labels}; images: {len(archive):,} in {', '.join(data.images)}")
    precision = hardware.fastest_precision() if config.fit.precision == "auto" else config.fit.precision
    with hardware.strategy().scope():
        network = build_network(spec, precision)
    progress.say(f"network: {spec.backbone}, weights {spec.weights}, frozen: {spec.freeze}, {precision}")
    with progress.track("looking at images", len(set(table.ids))) as advance:
        audit = audit_rows(
            table, spec.tasks, archive, spec.image.max_pixels, audit_cache(data), advance, data.near_duplicates, workers
        )
    for line in audit.warnings:
        progress.say(line)
    filled = _features(config, network, precision, table, audit, archive, progress, workers)
    usable = audit.reasons == ""
    if not usable.any():
        raise TableError(
            _why_nothing_is_usable(audit),
            where=data.labels,
            expected=f"ids such as {', '.join(itertools.islice(archive, 3)) or '(no image at all)'}",
            received=f"ids such as {', '.join(table.ids[:3])}",
            fix=f"An id is a file name. Check data.images and data.id_column. {how_to_name_images(frame)}".strip(),
        )
    quarantine = pd.DataFrame(
        {"id": table.ids[~usable], "row": np.flatnonzero(~usable), "reason": audit.reasons[~usable]}
    )
    progress.say(_quarantine_line(quarantine, len(table)))
    table, digests = table.take(usable), audit.digests[usable]
    groups, parts = divide(table, spec.tasks, digests, audit.alike[usable], data)
    if for_folds:
        parts[parts == "validation"] = "train"
    crossed = crossing(groups, parts)
    if crossed:
        progress.say(warn_of_crossing(crossed))
    looks = _properties(audit.looks, audit.images[usable])
    whole = (spec, network, precision, table, digests, groups, parts, filled.store, quarantine, archive, looks)
    prepared = Prepared(*whole, images_computed=filled.computed, images_reused=filled.reused)
    return with_views(prepared, config, progress, workers) if config.augment else prepared


def with_views(prepared: Prepared, config: Config, progress: Progress, workers: Workers) -> Prepared:
    """Compute the views of the training rows that the store lacks, if there is a frozen side that they go through.

    Pictures that are read in every epoch, or that nothing frozen stands before, are changed as they are taken, anew in
    every epoch.
    """
    is_taken = isinstance(prepared.store, PictureStream) or prepared.spec.freeze == "none"
    views = 1 if is_taken else config.fit.views
    prepared = dataclasses.replace(prepared, operations=config.augment, views=views)
    if isinstance(prepared.store, PictureStream):
        return prepared
    rows = prepared.rows("train")
    names = view_names(prepared.digests[rows], config.augment, views)
    images = dict(zip(names, np.repeat(prepared.table.ids[rows], views).tolist(), strict=True))
    missing = [name for name in images if name not in prepared.store]
    if not missing:
        return prepared
    megabytes = len(missing) * prepared.store.row_bytes / 1e6
    some = list(prepared.table.ids[rows][:FEATURE_BATCH])
    seconds = len(missing) * seconds_per_image(prepared.network, some, prepared.archive, FEATURE_BATCH)
    progress.say(
        f"augmentation: {views - 1} more views of {len(images) // views:,} images: {len(missing):,} to compute, "
        f"about {seconds:,.0f} s and {megabytes:,.0f} MB, once"
    )
    make_room_for(config, prepared.store, len(missing), progress)
    store = filled_by_others(
        prepared.store, config, prepared.network, prepared.precision, images, prepared.archive, workers, config.augment
    )
    with progress.track("computing views", len(missing)) as advance:
        compute_features(
            store,
            prepared.network.frozen,
            images,
            prepared.archive,
            prepared.spec.image,
            FEATURE_BATCH,
            advance,
            change_by_name(config.augment),
        )
    return dataclasses.replace(prepared, store=store)


def _features(
    config: Config,
    network: Network,
    precision: str,
    table: Table,
    audit: Audit,
    archive: Archive,
    progress: Progress,
    workers: Workers,
) -> Filled:
    """Open the store, compute what it lacks, and give rows whose image cannot be decoded their reason."""
    usable = np.flatnonzero(audit.reasons == "")
    images = dict(zip(audit.digests[usable].tolist(), table.ids[usable].tolist(), strict=True))
    filled = filled_store(config, network, precision, images, archive, progress, workers)
    for row in usable[np.isin(audit.digests[usable], filled.failed)] if filled.failed else ():
        audit.reasons[row] = explain_unreadable(archive[table.ids[row]], network.spec.image.max_pixels)
    return filled


def _properties(looks: Looks, files: NDArray[np.int64]) -> pd.DataFrame:
    """Return what is known of the picture of each row."""
    found = {name: getattr(looks, name)[files] for name in ("brightness", "contrast", "sharpness")}
    width, height = looks.width[files].astype(np.float32), looks.height[files].astype(np.float32)
    return pd.DataFrame({**found, "megapixels": width * height / 1e6, "width by height": width / np.maximum(height, 1)})


def _why_nothing_is_usable(audit: Audit) -> str:
    reasons, counts = np.unique(audit.reasons.astype(str), return_counts=True)
    most = counts.argmax()
    return f"no row can be used; {counts[most]:,} of {counts.sum():,} rows: {reasons[most]}"


def _quarantine_line(quarantine: pd.DataFrame, rows: int) -> str:
    if quarantine.empty:
        return f"quarantine: none of {rows:,} rows"
    kinds = quarantine["reason"].str.split(":").str[0].value_counts()
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
    return f"quarantine: {len(quarantine):,} of {rows:,} rows ({counts})"
