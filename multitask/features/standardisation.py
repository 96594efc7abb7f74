"""The heads' input, measured over the training rows: each feature in standard deviations from its mean."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from multitask.errors import ConfigError
from multitask.features.dataset import inference_batches
from multitask.features.preparation import Prepared

# Statistics of the heads' input settle long before this many rows.
STANDARDISE_ROWS = 2048


def standardise(prepared: Prepared, rows: NDArray[np.int64], seed: int) -> None:
    """Set the `standardise` layer to mean and variance of the heads' input over (at most 2048) training rows.

    Measured in the mode in which the network is trained: from scratch, BatchNormalization takes mean and variance from
    each batch, and without them the features would be of another size. Features that hardly vary among those rows are
    not blown up: a variance counts as at least 1 % of the mean one.

    Raises:
        ConfigError: features that are not finite, or the same for all rows.
    """
    if len(rows) > STANDARDISE_ROWS:
        rows = np.sort(np.random.default_rng(seed).choice(rows, STANDARDISE_ROWS, replace=False))
    head_input = prepared.until("head_input")
    total, squares = np.zeros(1), np.zeros(1)
    shape, dtype = tuple(head_input.input.shape[1:]), head_input.input.dtype
    for batch in inference_batches(prepared.gather(rows), shape, dtype, len(rows), 32):
        values = np.asarray(head_input(batch, training=prepared.spec.from_scratch), np.float64)
        total, squares = total + values.sum(axis=0), squares + np.square(values).sum(axis=0)
    mean = total / len(rows)
    with np.errstate(invalid="ignore"):
        variance = np.maximum(squares / len(rows) - np.square(mean), 0.0)
    _check_features(mean, variance, len(rows), prepared)
    layer = prepared.network.trainable.get_layer("standardise")
    layer.moving_mean.assign(mean.astype(np.float32))
    floor = 0.01 * variance.mean() or 1.0
    layer.moving_variance.assign(np.maximum(variance, floor).astype(np.float32))


def _check_features(mean: NDArray[np.float64], variance: NDArray[np.float64], rows: int, prepared: Prepared) -> None:
    """Refuse features from which nothing can be learned."""
    where = f"{prepared.spec.backbone}, weights {prepared.spec.weights}, {prepared.precision}"
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise ConfigError(
            f"{np.count_nonzero(~np.isfinite(mean + variance)):,} of {mean.size:,} features are not finite",
            where=where,
            fix="Use --precision float32 or bfloat16, which have larger numbers than float16."
            if prepared.precision == "float16"
            else "Use other weights or another backbone.",
        )
    # Beyond the digits of float32 a difference is rounding.
    if rows > 1 and (np.sqrt(variance) <= 1e-6 * np.abs(mean)).all():
        raise ConfigError(
            f"the features are the same for all of {rows:,} training rows, so nothing can be learned from them",
            where=where,
            fix="Check that the images differ; use other weights, another backbone, or --precision float32.",
        )
