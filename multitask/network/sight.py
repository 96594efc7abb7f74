"""What the network sees in images, in 32 numbers each: to tell images apart by what is in them, not to predict."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.network.model import Network
from multitask.network.preprocessing import preprocess_batch

SIZE = 32


class Sight:
    """What the heads are given, as a mean over places, projected by random signs: a run has nothing more to keep.

    Distances are kept about as they are: https://doi.org/10.1016/S0022-0000(03)00025-4.
    """

    def __init__(self, network: Network) -> None:
        self._network, self._rest = network, network.members[0].get_layer("rest")
        side = network.frozen if network.spec.freeze == "all" else self._rest
        # What has been flattened was a map of so many channels.
        self._channels = int(side.get_layer("pooling").input.shape[-1])

    def of_features(self, features: Any) -> NDArray[np.float32]:
        """Return float32 (rows, 32) of what the frozen side says of images, (rows, ...)."""
        values = tf.cast(self._rest(features, training=False), tf.float32).numpy()
        places = values.reshape(len(values), -1, self._channels).mean(axis=1)
        return np.asarray(places @ _signs(self._channels), np.float32)

    def of_files(self, files: list[bytes]) -> NDArray[np.float32]:
        """Return float32 (rows, 32) of image files; NaN where one cannot be read."""
        images, ok = preprocess_batch(tf.constant(files, tf.string), self._network.spec.image)
        found = self.of_features(self._network.frozen(images, training=False))
        return np.where(ok.numpy()[:, None], found, np.float32(np.nan))


def _signs(channels: int) -> NDArray[np.float32]:
    """Return a matrix (channels, 32) of signs, the same on every machine and in every version of NumPy."""
    drawn = np.frombuffer(hashlib.shake_256(b"sight").digest(channels * SIZE // 8), np.uint8)
    return (2 * np.unpackbits(drawn).reshape(channels, SIZE).astype(np.float32) - 1) / np.float32(np.sqrt(channels))
