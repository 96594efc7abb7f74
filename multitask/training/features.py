"""Features of the frozen side on disk: each image goes through the frozen network once, whatever is trained on it.

A store is one folder per frozen network, `<features>/<key>/`. The key covers everything the features depend on beside
the image: weights, boundary, image spec, preprocessing and precision. A row is found by the SHA-256 of the image file.
A chunk is a `.npy` that is memory-mapped and a `.sha256` that lists its rows; the list is renamed into place last, so a
chunk without it was interrupted and does not count.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.errors import ConfigError
from multitask.network import preprocessing
from multitask.network.model import Network
from multitask.storage import replacing
from multitask.training.dataset import read_images

# A chunk is closed when it is full or old, which bounds both memory and the work that a kill can lose.
CHUNK_BYTES = 64 << 20
CHUNK_SECONDS = 20.0


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
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


class FeatureStore:
    """The features of one frozen network, found by image digest; a context manager that marks the store as in use.

    Args:
        root: folder of all stores.
        key: from `store_key`.
        shape: of one row's features.
        dtype: uint8, float32, float16 or bfloat16.
    """

    def __init__(self, root: Path, key: str, shape: tuple[int, ...], dtype: str) -> None:
        self.directory, self.shape = root / key, shape
        self.dtype = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
        self.directory.mkdir(parents=True, exist_ok=True)
        # Its time of change says when the store was last used.
        (self.directory / "in-use").touch()
        self._lock = (self.directory / "in-use").open("a")
        fcntl.flock(self._lock, fcntl.LOCK_SH)
        self._chunks: list[NDArray[Any]] = []
        self._place: dict[str, tuple[int, int]] = {}
        for listing in sorted(self.directory.glob("*.sha256")):
            self._open_chunk(listing)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs delete this store when they need its space."""
        self._lock.close()

    def __contains__(self, digest: str) -> bool:
        return digest in self._place

    @property
    def row_bytes(self) -> int:
        """Bytes on disk per image."""
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def add(self, digests: Sequence[str], features: NDArray[Any]) -> None:
        """Append features (n, *shape) as one chunk, whole or not at all."""
        name = uuid.uuid4().hex
        # numpy's file format does not know bfloat16: its bits are stored.
        bits = np.ascontiguousarray(features, dtype=self.dtype).view(_storable(self.dtype))
        with replacing(self.directory / f"{name}.npy") as path:
            np.save(path, bits)
        with replacing(self.directory / f"{name}.sha256") as path:
            path.write_text("\n".join(digests), encoding="ascii")
        self._open_chunk(self.directory / f"{name}.sha256")

    def gather(self, digests: Sequence[str]) -> Callable[[NDArray[np.int64]], NDArray[Any]]:
        """Return a function from row numbers (n,), which count as in `digests`, to features (n, *shape)."""
        places = np.array([self._place[digest] for digest in digests], np.int64).reshape(-1, 2)

        def fetch(rows: NDArray[np.int64]) -> NDArray[Any]:
            features = np.empty((len(rows), *self.shape), self.dtype)
            chunks, positions = places[rows].T
            for chunk in np.unique(chunks):
                here = chunks == chunk
                features[here] = self._chunks[chunk][positions[here]]
            return features

        return fetch

    def _open_chunk(self, listing: Path) -> None:
        digests = listing.read_text(encoding="ascii").split()
        chunk = np.load(listing.with_suffix(".npy"), mmap_mode="r").view(self.dtype)
        if chunk.shape != (len(digests), *self.shape):
            raise ConfigError("is not a chunk of these features", where=str(listing), fix="Delete the folder.")
        self._place.update({digest: (len(self._chunks), row) for row, digest in enumerate(digests)})
        self._chunks.append(chunk)


def compute_features(
    store: FeatureStore,
    frozen: Any,
    images: Mapping[str, str],
    archive: Archive,
    image: Any,
    batch_size: int,
    advance: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Send the images that the store lacks through the frozen network; return digests that could not be decoded.

    Args:
        store: where features go.
        frozen: the frozen model, uint8 (batch, height, width, 3) to (batch, ...).
        images: digest to id, one id per distinct image.
        archive: where the bytes are.
        image: the image spec.
        batch_size: images per step.
        advance: called with the number of images just done.
    """
    digests = [digest for digest in images if digest not in store]
    forward = tf.function(lambda batch: frozen(batch, training=False), reduce_retracing=True)
    pending: list[tuple[list[str], NDArray[Any]]] = []
    rows_per_chunk = max(batch_size, CHUNK_BYTES // max(store.row_bytes, 1))
    started = time.monotonic()

    def flush() -> None:
        if pending:
            store.add([digest for part, _ in pending for digest in part], np.concatenate([part for _, part in pending]))
            pending.clear()

    for rows, batch in read_images([images[digest] for digest in digests], archive, image, batch_size):
        pending.append(([digests[row] for row in rows.numpy()], forward(batch).numpy()))
        advance(len(rows))
        if sum(len(part) for part, _ in pending) >= rows_per_chunk or time.monotonic() - started > CHUNK_SECONDS:
            flush()
            started = time.monotonic()
    flush()
    return [digest for digest in digests if digest not in store]


def make_room(root: Path, key: str, wanted_bytes: int, budget_bytes: int) -> list[str]:
    """Delete the stores unused for longest until `wanted_bytes` more fit the budget; return what was deleted.

    A store that another process has open is never deleted.

    Raises:
        ConfigError: the features would not fit even alone.
    """
    sizes = {folder: _bytes_in(folder) for folder in root.iterdir() if folder.is_dir()} if root.is_dir() else {}
    if sizes.get(root / key, 0) + wanted_bytes > budget_bytes:
        raise ConfigError(
            "the features of these images do not fit the disk budget",
            where="data.features_gb",
            expected=f"at least {(sizes.get(root / key, 0) + wanted_bytes) / 1e9:.1f}",
            received=f"{budget_bytes / 1e9:.1f}",
            fix='Raise it, or store less per image: pooling = "avg", a smaller image_size, or a later freeze boundary.',
        )
    deleted = []
    for folder in sorted(sizes, key=lambda folder: (folder / "in-use").stat().st_mtime if sizes[folder] else 0.0):
        if sum(sizes.values()) + wanted_bytes <= budget_bytes:
            break
        if folder.name != key and _delete_unused(folder):
            deleted.append(folder.name)
            del sizes[folder]
    return deleted


def _delete_unused(folder: Path) -> bool:
    with (folder / "in-use").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        shutil.rmtree(folder)
    return True


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def _storable(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.uint16) if dtype == ml_dtypes.bfloat16 else dtype
