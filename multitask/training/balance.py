"""What the labels of the training rows decide: which rows train, and what the losses weigh rare answers by."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.features.preparation import Prepared
from multitask.network.heads import HEADS
from multitask.progress import Progress
from multitask.settings import FitConfig
from multitask.spec import ModelSpec


def training_rows(prepared: Prepared, fit: FitConfig) -> NDArray[np.int64]:
    """Return the rows of the training split, sampled down if so configured."""
    rows = prepared.rows("train")
    if fit.balance != "downsample":
        return rows
    return downsample(prepared.spec, prepared.labels(rows), rows, fit.seed)


def downsample(
    spec: ModelSpec, labels: Mapping[str, NDArray[np.float32]], rows: NDArray[np.int64], seed: int
) -> NDArray[np.int64]:
    """Keep as many rows of each class of the first task with classes as its rarest has; all unlabelled rows stay."""
    task = next((task for task in spec.tasks if task.has_class_numbers), None)
    if task is None:
        return rows
    classes = np.nan_to_num(labels[task.name], nan=-1).astype(int)
    counts = np.bincount(classes[classes >= 0])
    keep = counts[counts > 0].min()
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    rank = pd.Series(classes[shuffled]).groupby(classes[shuffled]).cumcount().to_numpy()
    return rows[np.sort(shuffled[(rank < keep) | (classes[shuffled] < 0)])]


def label_constants(prepared: Prepared, balance: str, progress: Progress) -> dict[str, NDArray[np.float32]]:
    """Return what the losses need of the training labels, per task."""
    labels = prepared.labels(prepared.rows("train"))
    found = {}
    for task in prepared.spec.tasks:
        head = HEADS[task.kind]
        found[task.name] = head.constants(task, labels[task.name], balance)
        line = head.describe(task, found[task.name])
        if line:
            progress.say(line)
    return found
