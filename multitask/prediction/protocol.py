"""What every predictor promises: image files in, scores out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        reasons: why a row is not ok, by row, where the predictor knows more than that it could not be read.
    """

    ok: NDArray[np.bool_]
    values: Mapping[str, NDArray[np.float32]]
    reasons: Mapping[int, str] = field(default_factory=dict)


class Predictor(Protocol):
    """Whatever scores image files: a Keras model, a SavedModel, a server."""

    spec: ModelSpec
    workers: int
    """Calls at once that keep it busy: while one is decoded, another is in the network."""

    def predict(self, images: Sequence[bytes]) -> Scores:
        """Score image files, in their order."""
