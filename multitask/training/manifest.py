"""What one needs to know to repeat, read or trust a run."""

from __future__ import annotations

import importlib.metadata
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.audit import splits
from multitask.audit.division import crossing, warn_of_crossing
from multitask.config import Config
from multitask.features.preparation import Prepared
from multitask.network import hardware
from multitask.privacy import hide_secrets
from multitask.training.checkpoints import History
from multitask.training.scoring import Held


def manifest_of(
    prepared: Prepared,
    config: Config,
    constants: Mapping[str, NDArray[np.float32]],
    history: History,
    held: Held,
    score: float,
    started: float,
) -> dict[str, Any]:
    """Return what one needs to know to repeat or trust this run.

    Args:
        prepared, config, constants, history, started: of the training.
        held: the rows that it was calibrated on.
        score: of these rows; NaN leaves that of the best epoch, which is then its loss.
    """
    best = max(history, key=lambda row: row["val_score"])
    packages = ("multitask", "tensorflow", "keras", "numpy", "pyarrow", "scikit-learn")
    return {
        "seed": config.fit.seed,
        "backbone": prepared.spec.backbone,
        "weights": prepared.spec.weights,
        "freeze": prepared.spec.freeze,
        "precision": prepared.precision,
        "spec": prepared.spec.fingerprint(),
        "data": prepared.data_hash(),
        "features": prepared.store.name,
        "images_computed": prepared.images_computed,
        "images_reused": prepared.images_reused,
        "rows": len(prepared.table),
        "rows_in_quarantine": len(prepared.quarantine),
        "epochs": len(history),
        "best_epoch": int(best["epoch"]),
        "best_val_score": best["val_score"] if math.isnan(score) else score,
        "calibration": held.facts(),
        "seconds": round(time.monotonic() - started, 1),
        "hardware": hardware.describe(),
        "versions": {name: _version(name) for name in packages},
        "label_constants": {name: np.round(values.astype(float), 4).tolist() for name, values in constants.items()},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def notes_on(prepared: Prepared, history: History) -> list[str]:
    """Say what a reader of the figures should keep in mind."""
    notes = []
    if prepared.spec.weights == "random":
        notes.append("The backbone has random weights, not ImageNet's: these are figures of random features.")
    crossed = crossing(prepared.groups, prepared.parts)
    if crossed:
        notes.append(f"{warn_of_crossing(crossed)}.")
    indicators = splits.indicators(prepared.table.labels, prepared.spec.tasks)
    largest = max(splits.deviations(indicators, prepared.parts).values())
    notes.append(f"The share of any label in a split differs by at most {largest:.1%} from its share in all rows.")
    return notes


def facts_of(config: Config, manifest: Mapping[str, Any]) -> dict[str, str]:
    """Return what a reader of the report wants to know of how the run was made."""
    facts = {name: str(value) for name, value in manifest.items() if isinstance(value, str | int | float)}
    height, width = config.model.image_size
    return {
        "labels": hide_secrets(config.data.labels),
        "images": hide_secrets(", ".join(config.data.images)),
        "image size": f"{height} x {width}, {config.model.resize}",
        "learning rate": f"{config.fit.learning_rate:g}",
        "batch size": str(config.fit.batch_size),
        **facts,
    }
