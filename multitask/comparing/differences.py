"""Two runs on the test rows that they share, and whether one is better beyond chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from multitask.evaluation.comparison import Difference, comparable, compare_task
from multitask.evaluation.metrics import Labels
from multitask.runs import Run
from multitask.spec import Task

# An interval of fewer rows says nothing.
FEWEST_ROWS = 20


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


def compare_runs(best: Run, other: Run) -> Comparison:
    """Compare two runs by the main figure of every task that both answer with the same classes."""
    name = other.folder.name
    tasks = comparable({task.name: task for task in best.spec.tasks}, {task.name: task for task in other.spec.tasks})
    if not tasks:
        return Comparison(name, 0, {}, "other tasks or classes")
    first, second = _tested(best), _tested(other)
    shared = first.index.intersection(second.index)
    if len(shared) < FEWEST_ROWS:
        return Comparison(name, len(shared), {}, f"{len(shared)} common test rows, {FEWEST_ROWS} are needed")
    first, second = first.loc[shared], second.loc[shared]
    groups = pd.factorize(first["group"])[0].astype(np.int64)
    found = {}
    for task in tasks:
        pair = best.spec.task(task), other.spec.task(task)
        labels = _labels(pair[0], first)
        scores = first[list(pair[0].score_columns)], second[list(pair[1].score_columns)]
        values = (scores[0].to_numpy(np.float32), scores[1].to_numpy(np.float32))
        found[task] = compare_task(pair, labels, values, labels, groups)
    return Comparison(name, len(shared), found)


def _tested(run: Run) -> pd.DataFrame:
    """Return labels and scores of the test rows, by picture and id, the n-th of that name."""
    splits = pd.read_parquet(run.folder / "splits.parquet").query("split == 'test'").reset_index(drop=True)
    scores = pd.read_parquet(run.folder / "scores.parquet").query("split == 'test'").reset_index(drop=True)
    names = [column for task in run.spec.tasks for column in task.score_columns]
    frame = pd.concat([splits.drop(columns=names, errors="ignore"), scores[names]], axis=1)
    # Numbers are labels and scores of the same name.
    for task in run.spec.tasks:
        for column in set(task.label_columns) & set(names):
            frame[f"label of {column}"] = splits[column]
    turn = frame.groupby(["sha256", "id"]).cumcount()
    return frame.set_index([frame["sha256"], frame["id"], turn])


def _labels(task: Task, frame: pd.DataFrame) -> Labels:
    names = [f"label of {name}" if f"label of {name}" in frame else name for name in task.label_columns]
    values = frame[names].to_numpy(np.float32)
    return values[:, 0] if task.has_class_numbers else values
