"""The store of a network, filled with what it lacks: by others as far as there are any, and here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from multitask.config import Config
from multitask.data.archives import Archive
from multitask.features.computing import (
    compute_features,
    fill_store,
    open_store,
    row_bytes,
    seconds_per_image,
    store_key,
)
from multitask.features.stores import FeatureStore, make_room
from multitask.features.streaming import PictureStream
from multitask.network.model import Network
from multitask.progress import Progress, duration
from multitask.settings import AugmentConfig
from multitask.workers import Workers

FEATURE_BATCH = 32
# Images by which the cost of a stream is measured.
MEASURED_IMAGES = 64
# Images that one process of several computes before it takes the next.
_SHARE_IMAGES = 512

Features = FeatureStore | PictureStream


@dataclass(frozen=True)
class Filled:
    """A store that holds what a training needs, or what reads the images in every epoch.

    Args:
        store: one or the other.
        computed, reused: how many images went through the frozen side now, and before.
        failed: digests of the images that could not be decoded.
    """

    store: Features
    computed: int = 0
    reused: int = 0
    failed: list[str] = field(default_factory=list)


def filled_store(
    config: Config,
    network: Network,
    precision: str,
    images: Mapping[str, str],
    archive: Archive,
    progress: Progress,
    workers: Workers,
) -> Filled:
    """Open the store of a network and compute what it lacks of images, digest to id; stream what does not fit."""
    if wanted_bytes(config, network, len(images)) > budget_bytes(config):
        return _stream(config, network, precision, images, archive, progress)
    store = open_store(Path(config.data.features), network, precision)
    missing = sum(digest not in store for digest in images)
    make_room_for(config, store, missing, progress)
    store = filled_by_others(store, config, network, precision, images, archive, workers)
    with progress.track("computing features", missing) as advance:
        failed = compute_features(store, network.frozen, images, archive, network.spec.image, FEATURE_BATCH, advance)
    computed = missing - len(failed)
    progress.say(f"features: {computed:,} images computed, {len(images) - missing:,} reused, in {store.directory}")
    return Filled(store, computed, len(images) - missing, failed)


def wanted_bytes(config: Config, network: Network, images: int) -> int:
    """Return the bytes on disk that a training on so many images wants, with the views that augmentation makes."""
    training = 1 - config.data.validation - config.data.test
    more = (config.fit.views - 1) * training if config.augment and network.spec.freeze != "none" else 0
    return round(images * (1 + more) * row_bytes(network))


def budget_bytes(config: Config) -> int:
    """Return the bytes that all stores together may take."""
    return int(config.data.features_gb * 1e9)


def _stream(
    config: Config,
    network: Network,
    precision: str,
    images: Mapping[str, str],
    archive: Archive,
    progress: Progress,
) -> Filled:
    """Say what it costs to keep nothing, and find out which images cannot be decoded."""
    stream = PictureStream(store_key(network, precision), images, archive, network.spec.image)
    wanted, tested = wanted_bytes(config, network, len(images)), 1 - config.data.test
    some = list(images.values())[:MEASURED_IMAGES]
    seconds = seconds_per_image(network, some, archive, FEATURE_BATCH) * len(images) * tested
    progress.say(
        f"features: {len(images):,} images would take {wanted / 1e9:,.1f} GB, more than data.features_gb "
        f"({config.data.features_gb:g}): nothing is kept. Every epoch sends all images through the frozen "
        f"side, about {duration(seconds)}; {config.fit.epochs} epochs at most: {duration(config.fit.epochs * seconds)}"
    )
    with progress.track("decoding every image once", len(images)) as advance:
        return Filled(stream, failed=stream.undecodable(advance))


def filled_by_others(
    store: FeatureStore,
    config: Config,
    network: Network,
    precision: str,
    images: Mapping[str, str],
    archive: Archive,
    workers: Workers,
    operations: tuple[AugmentConfig, ...] = (),
) -> FeatureStore:
    """Let others compute what a store lacks; return it as it is then."""
    missing = [(digest, name) for digest, name in images.items() if digest not in store]
    root = Path(config.data.features)
    fill = partial(fill_store, network.spec, precision, root, archive, operations, FEATURE_BATCH)
    if not workers.share(fill, missing, "computing features", _SHARE_IMAGES):
        return store
    again = open_store(root, network, precision)
    store.close()
    return again


def make_room_for(config: Config, store: FeatureStore, images: int, progress: Progress) -> None:
    """Delete what is unused for longest until so many images more fit; say what."""
    root, key = store.directory.parent, store.name
    for deleted in make_room(root, key, images * store.row_bytes, budget_bytes(config)):
        progress.say(f"features: deleted {root / deleted}, unused for longest, to stay within data.features_gb")
