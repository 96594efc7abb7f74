"""Scores of rows from their stored features, and the network calibrated by those of rows that did not train."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.evaluation.calibration import Calibration
from multitask.evaluation.kinds import EVALUATORS
from multitask.features.dataset import distributed, inference_batches
from multitask.features.preparation import Prepared
from multitask.network import hardware
from multitask.network.sight import Sight
from multitask.progress import Progress
from multitask.spec import ModelSpec

SCORING_BATCH = 128

Arrays = dict[str, NDArray[np.float32]]


@dataclasses.dataclass(frozen=True)
class Held:
    """Rows that did not train what scored them; their logits and scores per task, float32 (rows, classes)."""

    rows: NDArray[np.int64]
    logits: Arrays
    scores: Arrays
    calibrations: Mapping[str, Calibration] = dataclasses.field(default_factory=dict)
    """What has been done to the logits of each task, if anything has."""

    def facts(self) -> dict[str, Any]:
        """Return the calibrations ready for JSON."""
        return {name: dataclasses.asdict(found) for name, found in self.calibrations.items()}


def score_rows(prepared: Prepared, rows: NDArray[np.int64]) -> tuple[Arrays, Arrays]:
    """Return logits and scores of rows, per task float32 (rows, classes), from their stored features."""
    model, strategy = prepared.model, hardware.strategy()
    shape, dtype, parts = tuple(model.input.shape[1:]), model.input.dtype, strategy.num_replicas_in_sync
    batches = inference_batches(prepared.gather(rows), shape, dtype, len(rows), SCORING_BATCH, parts)
    steps = math.ceil(len(rows) / SCORING_BATCH)
    found = model.predict(distributed(batches, strategy), steps=steps, verbose=0)
    logits = {task.name: found[task.name][: len(rows)] for task in prepared.spec.tasks}
    return logits, _scores(prepared, logits)


def score_split(prepared: Prepared, part: str) -> Held:
    """Score the rows of a split."""
    rows = prepared.rows(part)
    return Held(rows, *score_rows(prepared, rows))


def calibrate(prepared: Prepared, held: Held, progress: Progress) -> Held:
    """Calibrate the network by rows that did not train it; return them as it scores them then.

    What calibration does to logits goes into the last layer, so that every copy of the network has it. The members of
    an ensemble have it each, and their mean is a little less sure than it might be.
    """
    labels, logits, found = prepared.labels(held.rows), dict(held.logits), {}
    for task in prepared.spec.tasks:
        calibration = EVALUATORS[task.kind].calibrate(task, labels[task.name], held.logits[task.name])
        if calibration is None:
            continue
        found[task.name], offsets = calibration, np.array(calibration.offsets, np.float32)
        logits[task.name] = held.logits[task.name] / np.float32(calibration.temperature) + offsets
        for member in prepared.network.members:
            layer = member.get_layer(f"{task.name}_logits")
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel / calibration.temperature, bias / calibration.temperature + offsets])
        progress.say(f"calibration of {task.name}: temperature {calibration.temperature:.2f}")
    scores = _scores(prepared, logits)
    return Held(held.rows, logits, {name: (scores if name in found else held.scores)[name] for name in scores}, found)


def score_frame(prepared: Prepared, spec: ModelSpec, scored: Held, facts: Mapping[str, Any]) -> pd.DataFrame:
    """Return id, some facts, and score columns of some rows."""
    columns = {"id": prepared.table.ids[scored.rows], **facts}
    for task in spec.tasks:
        columns |= zip(task.score_columns, scored.scores[task.name].T, strict=True)
    return pd.DataFrame(columns)


def sight_of(prepared: Prepared) -> Callable[[Sequence[str], Archive], NDArray[np.float32]]:
    """Return what tells what the network sees in the images of usable rows: from their stored features, unread."""
    sight = Sight(prepared.network)
    rows = {name: row for row, name in enumerate(prepared.table.ids)}

    def see(ids: Sequence[str], _: Archive) -> NDArray[np.float32]:
        chosen = np.array([rows[name] for name in ids], np.int64)
        return sight.of_features(prepared.features(chosen)(np.arange(len(chosen))))

    return see


def _scores(prepared: Prepared, logits: Arrays) -> Arrays:
    scores = prepared.network.scores([logits[task.name] for task in prepared.spec.tasks])
    return {name: np.asarray(values) for name, values in scores.items()}
