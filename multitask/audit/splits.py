"""Train, validation, test and folds: stratified over all tasks at once, never parting a group, and lasting.

Where a group goes follows from what is in it: a hash of its content is compared with the share of a part. So rows that
come later leave those that are there where they are, whatever their order. Thresholds are then moved per label as far
as its share needs; they depend on all rows, and little on any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from multitask.errors import TableError
from multitask.spec import Kind, Task

Labels = NDArray[np.float32]

PARTS = ("train", "validation", "test")

# A part may have so many rows of a label too many or too few, or this share of them, before its threshold is moved:
# what is near enough is left alone, so that a split lasts.
_TOLERATED_ROWS, _TOLERATED_SHARE = 0.5, 0.005
_ROUNDS = 10
# How far past the first or last group a threshold is set that takes none or all.
_PAST_THE_END = 0.01


def group_rows(*columns: Sequence[Any] | NDArray[Any]) -> NDArray[np.int64]:
    """Number the groups of rows: rows that share a value in any of the columns are one group.

    Args:
        columns: at least one, each (rows,); a missing value connects nothing.

    Returns:
        int64 (rows,), counting groups from 0.
    """
    rows = len(columns[0])
    edges, offset = [], rows
    for column in columns:
        codes, values = pd.factorize(np.asarray(column, object))
        known = np.flatnonzero(codes >= 0)
        edges.append(np.stack([known, codes[known] + offset]))
        offset += len(values)
    ends = np.concatenate(edges, axis=1)
    graph = sparse.coo_array((np.ones(ends.shape[1], np.int8), (ends[0], ends[1])), shape=(offset, offset))
    _, found = connected_components(graph, directed=False)
    return pd.factorize(found[:rows])[0].astype(np.int64)


def indicators(labels: Mapping[str, Labels], tasks: Sequence[Task]) -> NDArray[np.bool_]:
    """Return bool (rows, strata): one column per class, tag and quarter of a number; a missing label is in none."""
    return np.concatenate([_STRATA[task.kind](task, labels[task.name]) for task in tasks], axis=1)


def strata(tasks: Sequence[Task]) -> list[str]:
    """Return the names of the columns of `indicators`."""
    return [f"{task.name}: {name}" for task in tasks for name in _STRATA_NAMES[task.kind](task)]


def _classes(task: Task, labels: Labels) -> NDArray[np.bool_]:
    return labels[:, None] == np.arange(len(task.classes))


def _tags(task: Task, labels: Labels) -> NDArray[np.bool_]:
    return labels == 1


def _quarters(task: Task, labels: Labels) -> NDArray[np.bool_]:
    """Return which quarter of its known values each number lies in."""
    found = []
    for values in labels.T:
        known = values[~np.isnan(values)]
        edges = np.quantile(known, (0.25, 0.5, 0.75)) if len(known) else np.zeros(3)
        quarter = np.where(np.isnan(values), -1, np.searchsorted(edges, values, side="left"))
        found.append(quarter[:, None] == np.arange(4))
    return np.concatenate(found, axis=1)


_STRATA: Mapping[Kind, Callable[[Task, Labels], NDArray[np.bool_]]] = {
    "multiclass": _classes,
    "multilabel": _tags,
    "regression": _quarters,
}
_STRATA_NAMES: Mapping[Kind, Callable[[Task], Sequence[str]]] = {
    "multiclass": lambda task: task.classes,
    "multilabel": lambda task: task.classes,
    "regression": lambda task: [f"{name}, quarter {quarter}" for name in task.classes for quarter in range(1, 5)],
}


def content_keys(pictures: Sequence[Any] | NDArray[Any]) -> NDArray[np.uint64]:
    """Return uint64 (rows,) that stand for what the rows show: their digest, or the id where there are no images."""
    return pd.util.hash_array(np.asarray(pictures, object))


def assign(
    indicators: NDArray[np.bool_],
    groups: NDArray[np.int64],
    fractions: Sequence[float],
    keys: NDArray[np.uint64],
    seed: int,
) -> NDArray[np.int64]:
    """Give every row a part so that each label is spread over the parts by their fractions.

    The last part is cut off first, then the one before it from what is left. Time is linear in the labels that are
    given, and a few hundredths of a second for 20,000 rows.

    Args:
        indicators: bool (rows, labels).
        groups: int (rows,); a group goes to one part as a whole.
        fractions: share of each part, summing to 1.
        keys: uint64 (rows,), from `content_keys`; the least of a group's, once hashed, stands for the group.
        seed: another one draws another split.

    Returns:
        int64 (rows,), the number of the part.

    Raises:
        TableError: there are fewer groups than parts.
    """
    count, parts = int(groups.max()) + 1, len(fractions)
    if count < parts:
        raise TableError(
            f"{count} groups of rows cannot be divided into {parts} parts",
            fix="Add data, or group by a column with more values (data.group_columns).",
        )
    held = _held(indicators, groups)
    least = np.full(count, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, groups, _mixed(keys))
    part_of, left = np.zeros(count, np.int64), 1.0
    for part in range(parts - 1, 0, -1):
        salt = np.random.SeedSequence([seed, part]).generate_state(1, np.uint64)
        drawn = _mixed(least ^ salt) / 2.0**64
        part_of[_cut(held, drawn, part_of == 0, fractions[part] / left)] = part
        left -= fractions[part]
    _fill_empty_parts(part_of, parts, _sizes(held))
    return part_of[groups]


def _held(indicators: NDArray[np.bool_], groups: NDArray[np.int64]) -> Any:
    """Return how many rows of each label a group holds, sparse (groups, labels + 1); the last label is "is a row"."""
    labels, rows = np.nonzero(indicators.T)
    labels = np.append(labels.astype(np.int32), np.full(len(groups), indicators.shape[1], np.int32))
    members = np.append(groups[rows], groups).astype(np.int32)
    shape = (int(groups.max()) + 1, indicators.shape[1] + 1)
    return sparse.coo_array((np.ones(len(labels), np.float32), (members, labels)), shape=shape).tocsc()


def _sizes(held: Any) -> NDArray[np.float64]:
    return held[:, [-1]].toarray()[:, 0].astype(np.float64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of numbers: splitmix64, Steele et al. 2014, https://doi.org/10.1145/2660193.2660195."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _cut(held: Any, drawn: NDArray[np.float64], is_open: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """Return which of the open groups go to a part that is to get a share of every label.

    A group goes where its drawn number lies below the share plus an offset of each label it holds. Offsets begin at 0;
    one is moved when the part gets too much or too little of its label, the commonest first, the number of rows last,
    over and over since labels come together: as in raking, Deming and Stephan 1940,
    https://doi.org/10.1214/aoms/1177731829. The best of all rounds counts.
    """
    margin = np.where(is_open, drawn - share, np.inf)
    total = held.T @ is_open.astype(np.float64)
    target = share * total
    tolerated = np.maximum(_TOLERATED_ROWS, _TOLERATED_SHARE * target)
    order = np.append(np.argsort(-total[:-1], kind="stable"), len(total) - 1)
    best, least = margin < 0, np.inf
    for _ in range(_ROUNDS + 1):
        chosen = margin < 0
        excess = held.T @ chosen.astype(np.float64) - target
        deviation = float((np.square(excess) / np.maximum(target, 1e-9)).sum())
        if deviation < least:
            best, least = chosen, deviation
        if (np.abs(excess) <= tolerated).all():
            break
        for label in order:
            members = slice(held.indptr[label], held.indptr[label + 1])
            rows, weights = held.indices[members], held.data[members]
            if abs(weights[margin[rows] < 0].sum() - target[label]) > tolerated[label]:
                margin[rows] -= _offset(margin[rows], weights, target[label])
    return best


def _offset(margin: NDArray[np.float64], weights: NDArray[np.float32], target: float) -> float:
    """Return the number below which margins together weigh nearest to the target, midway between two of them."""
    order = np.argsort(margin, kind="stable")
    sums = np.append(0.0, np.cumsum(weights[order], dtype=np.float64))
    at = int(np.abs(sums - target).argmin())
    ranked = margin[order]
    below = ranked[at - 1] if at > 0 else ranked[0] - _PAST_THE_END
    above = ranked[at] if at < len(ranked) and np.isfinite(ranked[at]) else below + _PAST_THE_END
    return float(below + above) / 2


def _fill_empty_parts(part_of: NDArray[np.int64], parts: int, sizes: NDArray[np.float64]) -> None:
    """Give a part that got nothing the smallest group of the part with the most groups."""
    for part in range(parts):
        if not (part_of == part).any():
            donors = np.flatnonzero(part_of == np.bincount(part_of, minlength=parts).argmax())
            part_of[donors[sizes[donors].argmin()]] = part


def split_rows(
    labels: Mapping[str, Labels],
    tasks: Sequence[Task],
    groups: NDArray[np.int64],
    pictures: Sequence[Any] | NDArray[Any],
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.object_]:
    """Return "train", "validation" or "test" per row; arguments as for `indicators`, `content_keys` and `assign`."""
    fractions = (1 - validation - test, validation, test)
    marks = indicators(labels, tasks)
    return np.array(PARTS, object)[assign(marks, groups, fractions, content_keys(pictures), seed)]


def folds(
    labels: Mapping[str, Labels],
    tasks: Sequence[Task],
    groups: NDArray[np.int64],
    pictures: Sequence[Any] | NDArray[Any],
    count: int,
    seed: int,
) -> NDArray[np.int64]:
    """Return the number of the fold, from 0 to `count`, per row; arguments as for `split_rows`."""
    return assign(indicators(labels, tasks), groups, [1 / count] * count, content_keys(pictures), seed)


def deviations(indicators: NDArray[np.bool_], parts: NDArray[Any]) -> dict[str, float]:
    """Return per part the largest difference between the share of a label in it and in all rows."""
    whole = indicators.mean(axis=0)
    return {str(part): float(np.abs(indicators[parts == part].mean(axis=0) - whole).max()) for part in np.unique(parts)}
