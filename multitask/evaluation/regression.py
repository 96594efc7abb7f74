"""Regression tasks: numbers. Labels and scores (rows, numbers), both in the unit of the label column."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.metrics import Figures, Floats, Labels
from multitask.evaluation.words import Words
from multitask.spec import Task
from multitask.style import FAINT, GRID, INK, SERIES, STYLE

# An answer this close to the label, in standard deviations of the training labels, is shown as right.
CLOSE = 0.5


class Regression:
    """See `kinds.Evaluator`. The baseline always answers with the mean of the training rows, for MAE their median."""

    main = "r2"
    watched = ("r2",)

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> list[Figures]:
        """Return the mean R² over the numbers, then MAE, RMSE and R² of each."""
        with np.errstate(invalid="ignore"):
            train = [column[~np.isnan(column)] for column in train_labels.astype(np.float64).T]
        means, medians = (np.array([of(c) if len(c) else np.nan for c in train]) for of in (np.mean, np.median))
        ones = np.ones((1, len(labels)))
        compute = _errors(task, labels, scores)
        baselines = _errors(task, labels, np.tile(means, (len(labels), 1)))(ones)
        of_median = _errors(task, labels, np.tile(medians, (len(labels), 1)))(ones)
        baselines |= {f"{name}_mae": of_median[f"{name}_mae"] for name in task.classes}
        lower = {f"{name}_{figure}": False for name in task.classes for figure in ("mae", "rmse")}
        values = {name: float(found[0]) for name, found in baselines.items()}
        answers = {f"{name}_{figure}": name for name in task.classes for figure in ("mae", "rmse", "r2")}
        return [Figures(compute, values, lower, answers=answers, effort=5 * len(task.classes))]

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task; a number needs no threshold."""
        return task

    def calibrate(self, task: Task, labels: Labels, logits: Labels) -> None:
        """Return nothing: a number is no score."""

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> None:
        """Return nothing: there are no classes."""

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by number: those that have it."""
        return dict(zip(task.classes, (~np.isnan(labels)).sum(axis=0).tolist(), strict=True))

    def details(self, task: Task, labels: Labels, scores: Labels, values: Mapping[str, float]) -> pd.DataFrame:
        """Return nothing: the figures of every number are those of the task."""
        return pd.DataFrame(columns=["label", "rows"])

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw predicted against true numbers."""
        return {"scatter": plot_scatter(task, labels, scores, train_labels)}

    def misses(self, task: Task, labels: Labels, scores: Labels) -> Floats:
        """Return the largest error in standard deviations, of those that do not count as right."""
        errors = np.nan_to_num(np.abs(scores - labels) / np.asarray(task.units(), np.float32), nan=0.0)
        return np.where(errors > CLOSE, errors, 0.0).max(axis=1).astype(np.float64)

    def answer(self, task: Task, scores: Labels, label: Labels) -> Words:
        """Say the numbers."""
        known = ~np.isnan(label)
        said, truth = (_said(task, values) for values in (scores, label))
        if not known.any():
            return Words(said)
        errors = np.abs(scores - label)[known] / np.asarray(task.units(), np.float32)[known]
        return Words(said, truth, bool((errors <= CLOSE).all()))


def plot_scatter(task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> Figure:
    """Draw predicted over true numbers, one panel per number.

    The bands hold half and nine tenths of the predictions, the dashes are the baseline, the mean of the training rows.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4 * len(task.classes), 5.4), layout="constrained")
        values = _errors(task, labels, scores)(np.ones((1, len(labels))))
        panels = figure.subplots(1, len(task.classes), squeeze=False)[0]
        for number, (axes, name) in enumerate(zip(panels, task.classes, strict=True)):
            known = ~np.isnan(labels[:, number])
            true, given = labels[known, number], scores[known, number]
            axes.set(xlabel=f"true {name}", ylabel=f"predicted {name}")
            if not len(true):
                axes.set_title(f"{name}: no labels")
                continue
            low, high = float(min(true.min(), given.min())), float(max(true.max(), given.max()))
            margin = 0.04 * (high - low) or 1.0
            ends = np.array([low - margin, high + margin])
            for share, name_of_share in ((0.5, "half"), (0.9, "nine of ten")):
                reach = float(np.quantile(np.abs(given - true), share))
                label = f"{name_of_share} within {reach:.3g}"
                band = axes.fill_between(ends, ends - reach, ends + reach, alpha=0.13, linewidth=0, label=label)
                band.set_color(SERIES[0])
            axes.plot(ends, ends, color=INK, linewidth=1)
            mean = float(np.nanmean(train_labels[:, number]))
            dashes: Any = (0, (4, 3))
            axes.axhline(mean, color=FAINT, linestyle=dashes, linewidth=1, label=f"baseline {mean:.3g}")
            size = float(np.clip(4000 / len(true), 4, 22))
            axes.scatter(true, given, s=size, alpha=0.5, color=SERIES[0], linewidths=0, rasterized=True)
            axes.set(xlim=ends, ylim=ends, aspect="equal")
            axes.set_title(f"{name}: R² {values[f'{name}_r2'][0]:.2f}, mean error {values[f'{name}_mae'][0]:.3g}")
            axes.legend(loc="upper left", fontsize=8.5, frameon=True, framealpha=0.9, edgecolor=GRID)
    return figure


def _errors(task: Task, labels: Labels, given: NDArray[Any]) -> Callable[[Floats], dict[str, Floats]]:
    """Return weights -> every figure, from weighted sums of errors and of the labels about their mean."""
    true, known = labels.astype(np.float64), ~np.isnan(labels)
    errors = np.where(known, given - np.where(known, true, 0.0), 0.0)
    # About their mean, since squares of large numbers leave no digits for the difference.
    centres = merit.divide(np.where(known, true, 0.0).sum(axis=0), known.sum(axis=0).astype(float), 0.0)
    centred = np.where(known, true - centres, 0.0)
    sums = [known.astype(float), np.abs(errors), np.square(errors), centred, np.square(centred)]

    def compute(weights: Floats) -> dict[str, Floats]:
        count, absolute, squares, total, spread = (weights @ column for column in sums)
        variance = spread - merit.divide(np.square(total), count, 0.0)
        values = {
            "mae": merit.divide(absolute, count),
            "rmse": np.sqrt(merit.divide(squares, count)),
            "r2": 1.0 - merit.divide(squares, variance),
        }
        found = {"r2": merit.mean_over(values["r2"])}
        for number, name in enumerate(task.classes):
            found |= {f"{name}_{figure}": columns[:, number] for figure, columns in values.items()}
        return found

    return compute


def _said(task: Task, values: Labels) -> str:
    known = ((name, value) for name, value in zip(task.classes, values, strict=True) if not np.isnan(value))
    return ", ".join(f"{name} {value:.3g}" for name, value in known)
