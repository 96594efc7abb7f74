"""What the network sees in images of the window: could a classifier tell them from the reference, and which are new.

The classifier two-sample test, https://arxiv.org/abs/1610.06545: if a classifier that has seen some images of both
tells others better than a coin would, they are not from one distribution. Here it is a linear discriminant, which
can be trained hundreds of times; see https://doi.org/10.1214/20-AOS1962.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import scipy.stats
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from multitask.data.archives import Archive
from multitask.monitoring.drift import Shift, shift_of_numbers
from multitask.monitoring.signals import Floats
from multitask.monitoring.variation import Groups, Lottery
from multitask.progress import Progress

# From ids and their images to what the network sees of each, (rows, numbers); NaN where it sees none.
See = Callable[[Sequence[str], Archive], NDArray[np.float32]]
NAME, PREFIX = "what the network sees", "network: "
# Of an area under the curve, above that of a coin: rows that are independent.
LIMIT = 0.1
# Images that are looked at; of more, as many are drawn. Below the least, nothing is said.
MOST_REFERENCE, MOST_WINDOW, LEAST = 500, 1_000, 20
FOLDS, DRAWS = 5, 200
# Of numbers with a spread of one: keeps the discriminant calm where there are few images.
_RIDGE = 10.0
_BATCH = 64


def look(frame: pd.DataFrame, rows: NDArray[np.intp], archive: Archive, see: See, progress: Progress) -> pd.DataFrame:
    """Return the frame with columns of what the network sees in the images of some rows, NaN elsewhere."""
    ids = frame["id"].to_numpy()[rows]
    parts = []
    with progress.track("looking at images", len(ids)) as advance:
        for start in range(0, len(ids), _BATCH):
            chosen = ids[start : start + _BATCH].tolist()
            parts.append(see(chosen, archive))
            advance(len(chosen))
    if not parts:
        return frame
    values = np.full((len(frame), parts[0].shape[1]), np.nan, np.float32)
    values[rows] = np.concatenate(parts)
    columns = {f"{PREFIX}{at:02}": column for at, column in enumerate(values.T)}
    return pd.concat([frame, pd.DataFrame(columns, index=frame.index)], axis=1)


def drawn_rows(frame: pd.DataFrame, most: int) -> NDArray[np.intp]:
    """Draw rows to be looked at."""
    return np.sort(np.random.default_rng(0).permutation(len(frame))[:most])


def is_seen(frame: pd.DataFrame) -> bool:
    """Is it known of any row what the network sees in it?"""
    return any(str(name).startswith(PREFIX) and frame[name].notna().any() for name in frame)


def tell_apart(reference: pd.DataFrame, window: pd.DataFrame, groups: Groups | None) -> Shift | None:
    """Return how well a classifier tells the window from the reference; None where too little is known of either.

    Args:
        reference, window: with the columns of `look`.
        groups: of the reference; they are not parted between folds, and the limit allows for how far they differ.
            Nobody knows those of the window: it is parted into stretches, since photos of one sender often come one
            after the other, see https://doi.org/10.1111/ecog.02881.
    """
    if not (is_seen(reference) and is_seen(window)):
        return None
    (ours, known), (theirs, _) = _values(reference, reference), _values(reference, window)
    if min(len(ours), len(theirs)) < LEAST:
        return None
    units = np.arange(len(ours)) if groups is None else np.unique(groups.numbers[known], return_inverse=True)[1]
    random = np.random.default_rng(0)
    folds = np.concatenate([_folds(units, random), np.arange(len(theirs)) * FOLDS // len(theirs)])
    is_window = np.repeat([False, True], [len(ours), len(theirs)])
    scores = _scores(np.concatenate([ours, theirs]), is_window, np.ones(len(folds)), folds)
    before, now = scores[~is_window], scores[is_window]
    limit = LIMIT if groups is None else max(LIMIT, _between(ours, units, groups.sizes, len(theirs)))
    return replace(
        shift_of_numbers(NAME, before, now),
        unit="AUC above 0.5",
        effect=max(0.0, _area(scores, is_window, np.ones(len(folds)))),
        limit=limit,
        p_value=float(scipy.stats.mannwhitneyu(now, before, alternative="greater").pvalue),
    )


def distances(reference: pd.DataFrame, window: pd.DataFrame) -> Floats | None:
    """Return how far each row of the window is from what is nearest to it in the reference: (rows,), NaN if unknown."""
    if not (is_seen(reference) and is_seen(window)):
        return None
    (ours, _), (theirs, known) = _values(reference, reference), _values(reference, window)
    found = np.full(len(window), np.nan)
    if len(ours):
        found[known] = cdist(theirs, ours).min(axis=1)
    return found


def _values(reference: pd.DataFrame, frame: pd.DataFrame) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what is seen in the images of a frame, in spreads of the reference, and of which rows it is known."""
    names = [name for name in reference if str(name).startswith(PREFIX)]
    usual = reference[names].to_numpy(np.float64)
    values = frame[names].to_numpy(np.float64)
    known = np.isfinite(values).all(axis=1)
    spread = np.maximum(np.nanstd(usual, axis=0), 1e-9)
    return (values[known] - np.nanmean(usual, axis=0)) / spread, known


def _between(values: Floats, units: NDArray[np.int64], sizes: NDArray[np.int64], rows: int) -> float:
    """Return how well groups of the reference can be told from its other groups in the most extreme of the draws.

    Half of the groups may stand in the window, weighed up as `variation` says. Its rows are drawn into folds one
    by one, as if groups came mixed, which is the worst that a window may be.
    """
    random, found = np.random.default_rng(0), []
    held = np.bincount(units)
    for _ in range(DRAWS):
        stands = np.isin(np.arange(len(held)), random.permutation(len(held))[: len(held) // 2])
        weights = np.ones(len(held))
        if stands.any():
            weights[stands] = Lottery(held[stands], sizes).draw(rows, random)
        is_window, weight = stands[units], weights[units]
        folds = np.where(is_window, _folds(np.arange(len(units)), random), _folds(units, random))
        used = weight > 0
        if min(is_window[used].sum(), (~is_window[used]).sum()) >= FOLDS:
            part = values[used], is_window[used], weight[used], folds[used]
            found.append(_area(_scores(*part), is_window[used], weight[used]))
    return max(found, default=0.5)


def _folds(units: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.int64]:
    return (random.permutation(int(units.max()) + 1) % FOLDS)[units]


def _scores(values: Floats, is_window: NDArray[np.bool_], weights: Floats, folds: NDArray[np.int64]) -> Floats:
    """Return how much each row looks like the window to a linear discriminant of the other folds, both as heavy."""
    rows = np.column_stack([values, np.ones(len(values))])
    sides = np.where(is_window, weights[is_window].sum(), weights[~is_window].sum())
    weights = weights * len(weights) / (2 * sides)
    target = np.where(is_window, 1.0, -1.0)
    parts = [folds == fold for fold in range(FOLDS)]
    squares = [(rows[part] * weights[part, None]).T @ rows[part] for part in parts]
    products = [rows[part].T @ (weights * target)[part] for part in parts]
    ridge = np.diag([*[_RIDGE] * values.shape[1], 1e-6])
    scores = np.empty(len(rows))
    for part, square, product in zip(parts, squares, products, strict=True):
        scores[part] = rows[part] @ np.linalg.solve(sum(squares) - square + ridge, sum(products) - product)
    return scores


def _area(scores: Floats, is_window: NDArray[np.bool_], weights: Floats) -> float:
    """Return the area under the curve less that of a coin."""
    order = np.argsort(scores, kind="stable")
    ours, theirs = (np.where(side, weights, 0)[order] for side in (~is_window, is_window))
    return float((ours.cumsum() @ theirs) / (ours.sum() * theirs.sum()) - 0.5)
