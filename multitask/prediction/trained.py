"""A trained network as a function of image files: what batch prediction calls and what the export traces."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from multitask.data.archives import Archive, read_image
from multitask.network import hardware
from multitask.network.model import Network, load_network
from multitask.network.preprocessing import preprocess_batch
from multitask.network.sight import Sight
from multitask.prediction.protocol import Scores
from multitask.runs import Run, open_run
from multitask.spec import ModelSpec


def score_bytes(network: Network, image_bytes: Any) -> dict[str, Any]:
    """Score image files inside a graph.

    Args:
        network: the trained network.
        image_bytes: string (batch,).

    Returns:
        Per task float32 (batch, classes) scores, and "image_ok" bool (batch,); scores of a row that is not ok are 0.
    """
    return score_pixels(network, *preprocess_batch(image_bytes, network.spec.image))


def score_pixels(network: Network, images: Any, ok: Any) -> dict[str, Any]:
    """Score uint8 (batch, height, width, 3) images, RGB; rows that are not `ok` get zeros, as in `score_bytes`."""
    scores = network.whole(images, training=False)
    found = {name: tf.where(ok[:, None], tf.cast(value, tf.float32), 0.0) for name, value in scores.items()}
    return {**found, "image_ok": ok}


def sight_of(run: Run) -> Callable[[Sequence[str], Archive], NDArray[np.float32]]:
    """Load the model of a finished run to tell what it sees in the images of ids; see `Sight`."""
    # As in the training: what bfloat16 rounds away would look like a small change of all images.
    precision = run.folder.read_json("manifest.json").get("precision", "float32")
    sight = Sight(load_network(run.folder / "model.keras", run.spec, precision))
    return lambda ids, archive: sight.of_files([read_image(archive, name)[0] for name in ids])


class KerasPredictor:
    """Predicts with the Keras model of a run."""

    def __init__(self, network: Network) -> None:
        self.spec: ModelSpec = network.spec
        signature = [tf.TensorSpec([None], tf.string)]

        def score(whole: Any, image_bytes: Any) -> dict[str, Any]:
            return score_bytes(dataclasses.replace(network, whole=whole), image_bytes)

        self._scores = hardware.on_each_device(network.whole, score, signature)
        self._turn, self.workers = itertools.count(), 2 * len(self._scores)

    @classmethod
    def of_run(cls, run: Run, precision: str = "auto") -> KerasPredictor:
        """Load the model of a finished run; auto takes the fastest precision of this machine."""
        precision = hardware.fastest_precision() if precision == "auto" else precision
        return cls(load_network(run.folder / "model.keras", run.spec, precision))

    @classmethod
    def of_folder(cls, folder: str, precision: str) -> KerasPredictor:
        """Load the model in the folder of a finished run."""
        return cls.of_run(open_run(folder), precision)

    def predict(self, images: Sequence[bytes]) -> Scores:
        """Score image files; see `Predictor`."""
        score = self._scores[next(self._turn) % len(self._scores)]
        found = {name: value.numpy() for name, value in score(tf.constant(list(images), tf.string)).items()}
        return Scores(ok=found.pop("image_ok"), values=found)
