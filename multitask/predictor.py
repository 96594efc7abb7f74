"""What every predictor promises: image files in, scores out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from multitask.spec import ModelSpec


@dataclass(frozen=True)
class Scores:
    """Answers for a batch of images.

    Args:
        ok: bool (batch,): was the image readable; other values of a row that is not ok mean nothing.
        values: per task float32 (batch, classes), 0..1.
    """

    ok: NDArray[np.bool_]
    values: Mapping[str, NDArray[np.float32]]


class Predictor(Protocol):
    """Whatever scores image files: a Keras model, a SavedModel, a server."""

    spec: ModelSpec

    def predict(self, images: Sequence[bytes]) -> Scores:
        """Score image files, in their order."""
