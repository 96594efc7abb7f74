"""The state of a training in one file, written whole: weights, optimizer and history; enough to go on exactly."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from multitask.errors import RunError
from multitask.network.weights import set_weights
from multitask.storage import replacing

History = list[dict[str, float]]


def save_checkpoint(path: Path, model: Any, optimizer: Any | None, history: History) -> None:
    """Write weights, optimizer variables (unless None) and the history, one dict per finished epoch."""
    arrays = {f"weight_{index}": value for index, value in enumerate(model.get_weights())}
    for index, variable in enumerate(optimizer.variables if optimizer else ()):
        arrays[f"optimizer_{index}"] = np.asarray(variable)
    with replacing(path) as temporary:
        np.savez(temporary, history=np.array(json.dumps(history)), **arrays)


def load_checkpoint(path: Path, model: Any, optimizer: Any | None) -> History:
    """Fill the model, and the optimizer unless None, from a checkpoint; return its history.

    Raises:
        RunError: the file is damaged or belongs to another model.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            set_weights(model, [arrays[f"weight_{index}"] for index in range(len(model.weights))])
            if optimizer:
                optimizer.build(model.trainable_variables)
                for index, variable in enumerate(optimizer.variables):
                    variable.assign(arrays[f"optimizer_{index}"])
            return json.loads(str(arrays["history"]))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(
            f"cannot go on from this checkpoint ({error})",
            where=str(path),
            fix="Delete the checkpoints folder to train this run from the start.",
        ) from None
