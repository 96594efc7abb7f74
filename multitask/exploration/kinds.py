"""What exploration does differently for each kind of task: counts, baselines, values to correlate, what to judge."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.exploration.advice import RARE_ROWS
from multitask.spec import Kind, Task

Labels = NDArray[np.float32]

# Numbers are counted in so many ranges of equal width.
RANGES = 10


@dataclass(frozen=True)
class Question:
    """One decision per row that a model can be asked: which class, or whether a tag is there; NaN where not known."""

    task: Task
    name: str
    labels: Labels
    classes: tuple[str, ...]


class Explorer(Protocol):
    """How labels of one kind of task are looked at; labels are (rows,) or (rows, answers)."""

    noun: str
    """What its labels are called."""
    in_order: bool
    """Have its labels an order of their own, and mean nothing by being rare?"""

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by label."""

    def baselines(self, task: Task, labels: Labels) -> dict[str, float]:
        """Return figures that are reached without looking at an image."""

    def more(self, labels: Labels) -> dict[str, Any]:
        """Return further facts."""

    def values(self, task: Task, labels: Labels) -> Labels:
        """Return (rows, answers): what is correlated; NaN where not known."""

    def surprises(self, task: Task, frame: pd.DataFrame) -> list[str]:
        """Name columns that are read, but show that the table was made in several ways."""

    def questions(self, task: Task, labels: Labels) -> Iterator[Question]:
        """Yield what can be judged by another model."""


def describe_task(task: Task, labels: Labels) -> dict[str, Any]:
    """Return what is known of a task's labels, ready for JSON."""
    explorer = EXPLORERS[task.kind]
    counts = explorer.counts(task, labels)
    known = int((~np.isnan(labels)).reshape(len(labels), -1).all(axis=1).sum())
    return {
        "kind": task.kind,
        "noun": explorer.noun,
        "rows_with_label": known,
        "rows_without_label": len(labels) - known,
        "counts": counts,
        "in_order": explorer.in_order,
        "rare": [name for name, count in counts.items() if 0 < count < RARE_ROWS and not explorer.in_order],
        "absent": [name for name, count in counts.items() if not count and not explorer.in_order],
        "baselines": {name: round(float(value), 4) for name, value in explorer.baselines(task, labels).items()},
        **explorer.more(labels),
    }


class _Classes:
    noun, in_order = "class", False

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        counts = np.bincount(labels[~np.isnan(labels)].astype(int), minlength=len(task.classes))
        return dict(zip(task.classes, counts.tolist(), strict=True))

    def baselines(self, task: Task, labels: Labels) -> dict[str, float]:
        counts = np.sort(list(self.counts(task, labels).values()))[::-1]
        shares = counts / max(counts.sum(), 1)
        return {"accuracy": float(shares[0]), f"top_{task.top_k}_accuracy": float(shares[: task.top_k].sum())}

    def more(self, labels: Labels) -> dict[str, Any]:
        return {}

    def values(self, task: Task, labels: Labels) -> Labels:
        marks = (labels[:, None] == np.arange(len(task.classes))).astype(np.float32)
        marks[np.isnan(labels)] = np.nan
        return marks

    def surprises(self, task: Task, frame: pd.DataFrame) -> list[str]:
        return []

    def questions(self, task: Task, labels: Labels) -> Iterator[Question]:
        yield Question(task, task.columns[0], labels, task.classes)


class _Tags:
    noun, in_order = "tag", False

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        return dict(zip(task.classes, (labels == 1).sum(axis=0).tolist(), strict=True))

    def baselines(self, task: Task, labels: Labels) -> dict[str, float]:
        complete = labels[~np.isnan(labels).any(axis=1)]
        packed = np.packbits(complete == 1, axis=1)
        most = np.unique(packed, axis=0, return_counts=True)[1].max() if len(complete) else 0
        none = float(1 - np.nanmean(labels)) if (~np.isnan(labels)).any() else 0.0
        return {"no_tag_accuracy": none, "exact_match": most / max(len(complete), 1)}

    def more(self, labels: Labels) -> dict[str, Any]:
        complete = labels[~np.isnan(labels).any(axis=1)]
        tags, rows = np.unique((complete == 1).sum(axis=1), return_counts=True)
        return {"rows_by_number_of_tags": dict(zip(map(str, tags.tolist()), rows.tolist(), strict=True))}

    def values(self, task: Task, labels: Labels) -> Labels:
        return labels

    def surprises(self, task: Task, frame: pd.DataFrame) -> list[str]:
        found = []
        for column in task.columns:
            values = frame[column]
            nulls = int(values.isna().sum())
            if task.lists_tags:
                found.append(f"{column} holds lists of tags" + (f"; {nulls:,} missing" if nulls else ""))
                continue
            kind = "text" if values.dtype == object or pd.api.types.is_string_dtype(values) else str(values.dtype)
            if not pd.api.types.is_integer_dtype(values):
                found.append(f"{column} is {kind}, read as 0 and 1" + (f"; {nulls:,} missing" if nulls else ""))
        return found

    def questions(self, task: Task, labels: Labels) -> Iterator[Question]:
        for tag, name in enumerate(task.classes):
            yield Question(task, name, labels[:, tag], ("0", "1"))


class _Numbers:
    noun, in_order = "range", True

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        found = {}
        for name, values in zip(task.classes, labels.T, strict=True):
            known = values[~np.isnan(values)]
            if len(known):
                counts, edges = np.histogram(known, bins=RANGES)
                for count, low, high in zip(counts.tolist(), edges, edges[1:], strict=False):
                    found[f"{name} {low:.3g} to {high:.3g}"] = count
        return found

    def baselines(self, task: Task, labels: Labels) -> dict[str, float]:
        """Return the mean absolute error of the median, and the root mean squared error of the mean."""
        found = {}
        for name, values in zip(task.classes, labels.T, strict=True):
            known = values[~np.isnan(values)].astype(np.float64)
            if len(known):
                found[f"{name}_mae"] = float(np.abs(known - np.median(known)).mean())
                found[f"{name}_rmse"] = float(known.std())
        return found

    def more(self, labels: Labels) -> dict[str, Any]:
        return {}

    def values(self, task: Task, labels: Labels) -> Labels:
        return labels

    def surprises(self, task: Task, frame: pd.DataFrame) -> list[str]:
        columns = [column for column in task.columns if not pd.api.types.is_numeric_dtype(frame[column])]
        return [f"{column} is {frame[column].dtype}, read as numbers" for column in columns]

    def questions(self, task: Task, labels: Labels) -> Iterator[Question]:
        """Yield nothing: confident learning judges classes."""
        yield from ()


EXPLORERS: Mapping[Kind, Explorer] = {"multiclass": _Classes(), "multilabel": _Tags(), "regression": _Numbers()}
