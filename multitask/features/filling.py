"""The store of a network, filled with what it lacks: by others as far as there are any, and here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from multitask.config import Config
from multitask.data.archives import Archive
from multitask.features.computing import compute_features, fill_store, open_store
from multitask.features.stores import FeatureStore, make_room
from multitask.network.model import Network
from multitask.progress import Progress
from multitask.settings import AugmentConfig
from multitask.workers import Workers

FEATURE_BATCH = 32
# Images that one process of several computes before it takes the next.
_SHARE_IMAGES = 512


def filled_store(
    config: Config,
    network: Network,
    precision: str,
    images: Mapping[str, str],
    archive: Archive,
    progress: Progress,
    workers: Workers,
) -> tuple[FeatureStore, int, list[str]]:
    """Open the store of a network and compute what it lacks of images, digest to id.

    Returns:
        The store, how many images were computed, and the digests of those that could not be decoded.
    """
    store = open_store(Path(config.data.features), network, precision)
    missing = sum(digest not in store for digest in images)
    make_room_for(config, store, missing, progress)
    store = filled_by_others(store, config, network, precision, images, archive, workers)
    with progress.track("computing features", missing) as advance:
        failed = compute_features(store, network.frozen, images, archive, network.spec.image, FEATURE_BATCH, advance)
    computed = missing - len(failed)
    progress.say(f"features: {computed:,} images computed, {len(images) - missing:,} reused, in {store.directory}")
    return store, computed, failed


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
    root, key = store.directory.parent, store.directory.name
    for deleted in make_room(root, key, images * store.row_bytes, int(config.data.features_gb * 1e9)):
        progress.say(f"features: deleted {root / deleted}, unused for longest, to stay within data.features_gb")
