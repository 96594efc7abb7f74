"""Two runs on the test rows that they share, and whether one is better beyond chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from multitask.evaluation.assessment import labels_of
from multitask.evaluation.comparison import Difference, comparable, compare_task
from multitask.runs import Run

# An interval of fewer rows says nothing.
FEWEST_ROWS = 20

# Labels and groups, and scores, of the same rows.
Tested = tuple[pd.DataFrame, pd.DataFrame]


@dataclass(frozen=True)
class Comparison:
    """The best run against another one.

    Args:
        run: name of the other one.
        rows: test rows that both have, and that trained neither.
        differences: per task, the best run's main figure less the other's; its interval is paired.
        reason: why there is none.
    """

    run: str
    rows: int
    differences: dict[str, Difference]
    reason: str = ""

    @property
    def verdict(self) -> str:
        """What the differences say of the other run."""
        if self.reason:
            return self.reason
        worse = [task for task, found in self.differences.items() if found.low > 0]
        better = [task for task, found in self.differences.items() if found.high < 0]
        words = [f"worse at {', '.join(worse)}"] * bool(worse) + [f"better at {', '.join(better)}"] * bool(better)
        return "; ".join(words) or "no difference beyond chance"


def compare_with_first(runs: Sequence[Run]) -> list[Comparison]:
    """Compare the first run with each other one, by the main figure of every task that both answer alike."""
    first, *others = runs
    tested = _tested(first)
    return [_compare(first, tested, other) for other in others]


def _compare(best: Run, tested: Tested, other: Run) -> Comparison:
    name = other.folder.name
    tasks = comparable({task.name: task for task in best.spec.tasks}, {task.name: task for task in other.spec.tasks})
    if not tasks:
        return Comparison(name, 0, {}, "other tasks or classes")
    if not all((run.folder / "scores.parquet").is_file() for run in (best, other)):
        return Comparison(name, 0, {}, "no scores were kept")
    (rows, scores), (others, other_scores) = tested, _tested(other)
    shared = rows.index.intersection(others.index)
    if len(shared) < FEWEST_ROWS:
        return Comparison(name, len(shared), {}, f"{len(shared)} common test rows, {FEWEST_ROWS} are needed")
    labels = labels_of(best.spec, rows.loc[shared])
    groups = pd.factorize(rows.loc[shared, "group"])[0].astype(np.int64)
    found = {}
    for task in tasks:
        pair = best.spec.task(task), other.spec.task(task)
        given = (
            frame.loc[shared, list(known.score_columns)].to_numpy(np.float32)
            for frame, known in zip((scores, other_scores), pair, strict=True)
        )
        found[task] = compare_task(pair, labels[task], tuple(given), labels[task], groups)
    return Comparison(name, len(shared), found)


def _tested(run: Run) -> Tested:
    """Return splits.parquet and scores.parquet of the test rows, by picture and id, the n-th of that name."""
    splits, scores = (
        pd.read_parquet(path).query("split == 'test'") if path.is_file() else pd.DataFrame()
        for path in (run.folder / "splits.parquet", run.folder / "scores.parquet")
    )
    turn = splits.groupby(["sha256", "id"]).cumcount()
    index = pd.MultiIndex.from_arrays([splits["sha256"], splits["id"], turn])
    return splits.set_index(index), scores.set_index(index) if len(scores) else scores
