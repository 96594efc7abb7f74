"""Train, validation, test and folds: repeatable, stratified over all tasks at once, never parting a group."""

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


def assign(
    indicators: NDArray[np.bool_], groups: NDArray[np.int64], fractions: Sequence[float], seed: int
) -> NDArray[np.int64]:
    """Give every row a part so that each label is spread over the parts by their fractions.

    After iterative stratification, Sechidis et al. 2011, https://doi.org/10.1007/978-3-642-23808-6_10: the rarest label
    first. Its units are groups in place of rows, the largest first; and since a group bears many labels, it goes to the
    part that lacks most of all it holds, not of that one label alone.

    Args:
        indicators: bool (rows, labels).
        groups: int (rows,); a group goes to one part as a whole.
        fractions: share of each part, summing to 1.
        seed: breaks ties.

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
    # Every group has a last label, "is a row", which places those that bear no other and keeps the sizes right.
    held = np.zeros((count, indicators.shape[1] + 1))
    np.add.at(held, groups, np.concatenate([indicators, np.ones((len(groups), 1))], axis=1))
    targets = np.asarray(fractions)[:, None] * held.sum(axis=0)
    wanted = targets.copy()
    random = np.random.default_rng(seed)
    order = random.permutation(count)
    part_of = np.full(count, -1)
    remaining = held[:, :-1].sum(axis=0)
    while True:
        left = np.flatnonzero(remaining > 0)
        label = left[remaining[left].argmin()] if len(left) else -1
        bearers = order[(part_of[order] < 0) & (held[order, label] > 0)]
        bearers = bearers[np.argsort(-held[bearers, label], kind="stable")]
        _place(bearers, held, wanted, targets, part_of, random.random((len(bearers), parts)))
        if label < 0:
            break
        remaining -= held[bearers, :-1].sum(axis=0)
        remaining[label] = 0
    _fill_empty_parts(part_of, parts, held[:, -1])
    return part_of[groups]


def _place(
    bearers: NDArray[np.int64],
    held: NDArray[np.float64],
    wanted: NDArray[np.float64],
    targets: NDArray[np.float64],
    part_of: NDArray[np.int64],
    ties: NDArray[np.float64],
) -> None:
    """Give each bearer to the part that wants most of what it holds, and take that off the wants.

    Deviation is the sum over parts and labels of wanted² / target, as in a chi-square; the part chosen lowers it most.
    """
    for bearer, tie in zip(bearers, ties, strict=True):
        labels = np.flatnonzero(held[bearer])
        gain = held[bearer, labels] * (2 * wanted[:, labels] - held[bearer, labels]) / targets[:, labels]
        part = np.lexsort((tie, np.round(gain.sum(axis=1), 9)))[-1]
        part_of[bearer] = part
        wanted[part] -= held[bearer]


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
    validation: float,
    test: float,
    seed: int,
) -> NDArray[np.object_]:
    """Return "train", "validation" or "test" per row; arguments as for `indicators` and `assign`."""
    fractions = (1 - validation - test, validation, test)
    return np.array(PARTS, object)[assign(indicators(labels, tasks), groups, fractions, seed)]


def folds(
    labels: Mapping[str, Labels], tasks: Sequence[Task], groups: NDArray[np.int64], count: int, seed: int
) -> NDArray[np.int64]:
    """Return the number of the fold, from 0 to `count`, per row."""
    return assign(indicators(labels, tasks), groups, [1 / count] * count, seed)


def deviations(indicators: NDArray[np.bool_], parts: NDArray[Any]) -> dict[str, float]:
    """Return per part the largest difference between the share of a label in it and in all rows."""
    whole = indicators.mean(axis=0)
    return {str(part): float(np.abs(indicators[parts == part].mean(axis=0) - whole).max()) for part in np.unique(parts)}
