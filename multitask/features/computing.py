"""Features of the frozen side: each image goes through the frozen network once, whatever is trained on it.

The key of a store covers everything the features depend on beside the image: weights, boundary, image spec,
preprocessing and precision. A row is found by the SHA-256 of the image file.
"""

from __future__ import annotations

import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.features.augmentation import augment, draw_count
from multitask.features.dataset import read_images
from multitask.features.stores import FeatureStore
from multitask.network import hardware, preprocessing
from multitask.network.model import Network, build_network
from multitask.parallel import bounded_map
from multitask.settings import AugmentConfig
from multitask.spec import ModelSpec

# A chunk is closed when it is full or old, which bounds both memory and the work that a kill can lose.
CHUNK_BYTES = 64 << 20
CHUNK_SECONDS = 20.0


def view_names(digests: Iterable[str], operations: Sequence[AugmentConfig], views: int) -> list[str]:
    """Return the names of all views of images in a store, those of one image side by side; the first is the image."""
    facts = json.dumps([(operation.op, operation.probability, operation.amount) for operation in operations])
    mark = hashlib.sha256(facts.encode()).hexdigest()[:8]
    return [f"{digest}.{mark}.{view}" if view else digest for digest in digests for view in range(views)]


def change_by_name(operations: Sequence[AugmentConfig]) -> Callable[[Any, Sequence[str]], Any]:
    """Return what changes pictures by draws that follow from their names alone, so that a view is always the same."""
    run = tf.function(lambda batch, draws: augment(batch, operations, draws), reduce_retracing=True)

    def change(batch: Any, names: Sequence[str]) -> Any:
        seeds = (hashlib.sha256(name.encode()).digest() for name in names)
        draws = [np.random.default_rng(list(seed)).random(draw_count(operations), np.float32) for seed in seeds]
        return run(batch, np.stack(draws))

    return change


def store_key(network: Network, precision: str) -> str:
    """Return the name of the store that holds this network's features: 16 hexadecimal digits."""
    spec = network.spec
    facts = {
        "backbone": spec.backbone,
        "options": spec.backbone_options,
        "freeze": spec.freeze,
        "pooling": spec.pooling if spec.freeze == "all" else "",
        "image": spec.image.model_dump(),
        "preprocessing": preprocessing.VERSION,
        "precision": precision if spec.freeze != "none" else "",
        "weights": network.frozen_digest(),
    }
    if spec.architecture:
        facts["architecture"] = spec.architecture
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def fill_store(
    spec: ModelSpec,
    precision: str,
    root: Path,
    archive: Archive,
    operations: Sequence[AugmentConfig],
    batch_size: int,
    images: list[tuple[str, str]],
) -> None:
    """Compute features of some images, digest or name of a view and id, in another process than needs them."""
    network = _network(spec.model_dump_json(), precision)
    change = change_by_name(operations) if operations else lambda batch, names: batch
    with open_store(root, network, precision, to_add=True) as store:
        compute_features(store, network.frozen, dict(images), archive, spec.image, batch_size, change=change)


@functools.lru_cache(maxsize=2)
def _network(spec: str, precision: str) -> Network:
    return build_network(ModelSpec.model_validate_json(spec), precision)


def row_bytes(network: Network) -> int:
    """Return the bytes that the features of one image take on disk."""
    output = network.frozen.output
    return int(np.prod(output.shape[1:])) * tf.as_dtype(output.dtype).size


def seconds_per_image(network: Network, ids: Sequence[str], archive: Archive, batch_size: int) -> float:
    """Measure how long an image takes from its archive through the frozen side, on some images."""
    forward = tf.function(lambda images: network.frozen(images, training=False), reduce_retracing=True)

    def work(some: Sequence[str]) -> None:
        for _, batch in read_images(some, archive, network.spec.image, batch_size):
            forward(batch)

    return seconds_each(work, ids)


def seconds_each(work: Callable[[Sequence[str]], object], items: Sequence[str]) -> float:
    """Measure how long work takes for each item, without what it takes to begin."""
    work(items)
    started = time.monotonic()
    work(items[:1])
    begun = time.monotonic()
    work(items)
    took = time.monotonic() - begun
    # On a busy machine the beginning may look longer than all of it.
    return max(took - (begun - started), took / 4) / max(len(items) - 1, 1)


def open_store(root: Path, network: Network, precision: str, *, to_add: bool = False) -> FeatureStore:
    """Open the store of a network below the folder of all stores."""
    output = network.frozen.output
    return FeatureStore(root, store_key(network, precision), tuple(output.shape[1:]), str(output.dtype), to_add=to_add)


def compute_features(
    store: FeatureStore,
    frozen: Any,
    images: Mapping[str, str],
    archive: Archive,
    image: Any,
    batch_size: int,
    advance: Callable[[int], None] = lambda done: None,
    change: Callable[[Any, Sequence[str]], Any] = lambda batch, names: batch,
) -> list[str]:
    """Send the images that the store lacks through the frozen network; return digests that could not be decoded.

    Args:
        store: where features go.
        frozen: the frozen model, uint8 (batch, height, width, 3) to (batch, ...).
        images: digest, or name of a view, to id; one id per distinct image.
        archive: where the bytes are.
        image: the image spec.
        batch_size: images per step.
        advance: called with the number of images just done.
        change: what is done to a batch of pictures, uint8 (batch, height, width, 3), of these digests, before.
    """
    digests = [digest for digest in images if digest not in store]
    forwards = hardware.on_each_device(frozen, lambda model, batch: model(batch, training=False))
    pending: list[tuple[list[str], NDArray[Any]]] = []
    rows_per_chunk = max(batch_size, CHUNK_BYTES // max(store.row_bytes, 1))
    started = time.monotonic()

    def flush() -> None:
        if pending:
            store.add([digest for part, _ in pending for digest in part], np.concatenate([part for _, part in pending]))
            pending.clear()

    def compute(numbered: tuple[int, Any]) -> tuple[list[str], NDArray[Any]]:
        number, (rows, batch) = numbered
        names = [digests[row] for row in rows.numpy()]
        return names, forwards[number % len(forwards)](change(batch, names)).numpy()

    batches = read_images([images[digest] for digest in digests], archive, image, batch_size)
    for names, computed in bounded_map(compute, enumerate(batches), len(forwards)):
        pending.append((names, computed))
        advance(len(names))
        if sum(len(part) for part, _ in pending) >= rows_per_chunk or time.monotonic() - started > CHUNK_SECONDS:
            flush()
            started = time.monotonic()
    flush()
    return [digest for digest in digests if digest not in store]
