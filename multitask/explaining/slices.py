"""Slices of rows by any column or property of the picture: where answers are worse than elsewhere beyond chance.

For every slice the mean figure of its rows is compared with that of all others. Rows of one group are not independent:
the error of a mean is that of its groups (K.-Y. Liang and S. L. Zeger 1986, https://doi.org/10.1093/biomet/73.1.13).
Of many slices some look bad by chance: Holm's step-down, https://www.jstor.org/stable/4615733, allows for their number.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.metrics import holm
from multitask.spec import ModelSpec, Task

# A slice has so many labelled rows at least, and of a column so many values are looked at, the most frequent.
FEWEST_ROWS, MOST_VALUES = 20, 12
# A column with more values than these among its rows names rows rather than sorting them.
_NAMING_SHARE = 0.5
# What chance alone would exceed in so many of a hundred tables of slices.
_CHANCE = 0.05

Floats = NDArray[np.float64]
Masks = Iterator[tuple[str, NDArray[np.bool_]]]


@dataclass(frozen=True)
class Figure:
    """What is averaged over the rows of a slice: its name, a value per row (NaN where there is no label), its sign."""

    name: str
    values: Floats
    higher_is_better: bool


def slice_rows(
    spec: ModelSpec,
    labels: Mapping[str, NDArray[np.float32]],
    scores: Mapping[str, NDArray[np.float32]],
    columns: pd.DataFrame,
    groups: NDArray[np.int64],
) -> pd.DataFrame:
    """Return a row per task and slice, the worst first.

    Args:
        spec: the tasks.
        labels, scores: per task, as in `evaluation.tasks`.
        columns: (rows, ...) by what to slice; text, numbers or dates. What nearly every row has of its own is left out.
        groups: (rows,) rows of one group are alike.

    Returns:
        Columns task, column, value, rows, figure, here, low, high (95% interval), elsewhere, p (Holm's, of all slices
        of all tasks, that the slice is as good as the rest), is_worse.
    """
    found = []
    cuts = [(str(name), list(_cut(columns[name]))) for name in columns]
    for task in spec.tasks:
        figure = _figure(task, labels[task.name], scores[task.name])
        known = ~np.isnan(figure.values)
        numbers = pd.factorize(groups[known])[0]
        for column, masks in cuts:
            for value, mask in masks:
                inside = mask[known]
                if min(inside.sum(), (~inside).sum()) < FEWEST_ROWS:
                    continue
                facts = _compare(figure, figure.values[known], inside, numbers)
                found.append({"task": task.name, "column": column, "value": value, "figure": figure.name, **facts})
    if not found:
        return pd.DataFrame(columns=["task", "column", "value", "figure", *_FACTS, "is_worse"])
    table = pd.DataFrame(found)
    table["p"] = holm(table["p"].to_numpy())
    table["is_worse"] = table["p"] < _CHANCE
    return table.sort_values(["p", "worse_by"], ascending=[True, False], ignore_index=True).drop(columns="worse_by")


_FACTS = ("rows", "here", "low", "high", "elsewhere", "p")


def worst_slice(table: pd.DataFrame) -> str:
    """Say in a sentence where answers are worst, beyond chance; or that they are nowhere."""
    if not len(table):
        return "No column has slices of enough rows to compare."
    worse = table[table["is_worse"]]
    if not len(worse):
        return f"No slice of {len(table)} is worse than the rest beyond chance."
    first = worse.iloc[0]
    more = f" {len(worse) - 1} more slices are worse beyond chance." if len(worse) > 1 else ""
    return (
        f"{first['task']} is worse where {first['column']} is {first['value']}: {first['figure']} {first['here']:.3f} "
        f"({first['low']:.3f} to {first['high']:.3f}, {first['rows']} rows), elsewhere {first['elsewhere']:.3f}.{more}"
    )


def _figure(task: Task, labels: NDArray[np.float32], scores: NDArray[np.float32]) -> Figure:
    """Return the figure of a task that has a value for every single row."""
    known = (~np.isnan(labels)).reshape(len(labels), -1).any(axis=1)
    if task.kind == "regression":
        errors = np.abs(scores - labels) / np.asarray(task.units(), np.float32)
        mean = np.nansum(errors, axis=1) / np.maximum((~np.isnan(errors)).sum(axis=1), 1)
        return Figure("error in spreads", np.where(known, mean, np.nan).astype(np.float64), higher_is_better=False)
    right = EVALUATORS[task.kind].misses(task, labels, scores) == 0
    name = "accuracy" if task.kind == "multiclass" else "all tags right"
    return Figure(name, np.where(known, right, np.nan), higher_is_better=True)


def _compare(figure: Figure, values: Floats, inside: NDArray[np.bool_], groups: NDArray[np.int64]) -> dict[str, Any]:
    """Compare the mean inside with that outside; the p-value is that of being no worse."""
    here, elsewhere = float(values[inside].mean()), float(values[~inside].mean())
    # What each row adds to the difference of means; summed by group, since rows of one group go together.
    parts = np.where(inside, (values - here) / inside.sum(), -(values - elsewhere) / (~inside).sum())
    count = groups.max() + 1
    scale = count / max(count - 1, 1)
    error = np.sqrt(scale * np.square(np.bincount(groups, parts)).sum())
    own = np.sqrt(scale * np.square(np.bincount(groups, np.where(inside, parts, 0.0))).sum())
    worse_by = elsewhere - here if figure.higher_is_better else here - elsewhere
    # As many units as the smaller side has groups decide how far a mean may stray.
    units = min(len(np.unique(groups[inside])), len(np.unique(groups[~inside])))
    freedom = max(units - 1, 1)
    reach = stats.t.ppf(0.975, freedom) * own
    p = float(stats.t.sf(worse_by / error, freedom)) if error > 0 else float(worse_by <= 0)
    low, high = here - reach, here + reach
    if figure.higher_is_better:
        low, high = max(low, 0.0), min(high, 1.0)
    facts = {"rows": int(inside.sum()), "here": here, "low": low, "high": high, "elsewhere": elsewhere, "p": p}
    return {**facts, "worse_by": worse_by}


def _cut(column: pd.Series[Any]) -> Masks:
    """Yield the slices of a column: its most frequent values, or its quarters where it is of numbers or dates."""
    values = column.reset_index(drop=True)
    if values.map(lambda value: isinstance(value, list | tuple | dict | np.ndarray | bytes)).any():
        return
    distinct = values.nunique()
    is_number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if distinct > MOST_VALUES and (is_number or pd.api.types.is_datetime64_any_dtype(values)):
        yield from _quarters(values)
    elif distinct <= max(MOST_VALUES, _NAMING_SHARE * values.notna().sum()):
        counts = values.value_counts()
        for value in counts.index[:MOST_VALUES]:
            yield _shown(value), (values == value).fillna(value=False).to_numpy(bool)
    if values.isna().any():
        yield "missing", values.isna().to_numpy(bool)


def _quarters(values: pd.Series[Any]) -> Masks:
    edges = values.quantile([0.25, 0.5, 0.75]).drop_duplicates()
    bounds = [None, *edges, None]
    for low, high in itertools.pairwise(bounds):
        mask = values.notna() & ((values > low) if low is not None else True)
        mask &= (values <= high) if high is not None else True
        if low is None:
            name = f"up to {_shown(high)}"
        else:
            name = f"above {_shown(low)}" if high is None else f"{_shown(low)} to {_shown(high)}"
        yield name, mask.to_numpy(bool)


def _shown(value: Any) -> str:
    if isinstance(value, pd.Timestamp):
        return f"{value:%Y-%m-%d}"
    text = f"{value:.4g}" if isinstance(value, float | np.floating) else str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"
