"""Regression tasks: numbers. Labels and scores (rows, numbers), both in the unit of the label column."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.evaluation import metrics as merit
from multitask.evaluation.metrics import Labels, Merit, WeightedMetric
from multitask.evaluation.words import Words
from multitask.spec import Task
from multitask.style import FAINT, GRID, INK, SERIES, STYLE

# An answer this close to the label, in standard deviations of the training labels, is shown as right.
CLOSE = 0.5


class Regression:
    """See `kinds.Evaluator`. The baseline always answers with the mean of the training rows, for MAE their median."""

    main = "r2"
    watched = ("r2",)

    def figures(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Merit]:
        """Return the mean R² over the numbers, then MAE, RMSE and R² of each."""
        found: dict[str, Merit] = {}
        for number, name in enumerate(task.classes):
            true, given = labels[:, number].astype(np.float64), scores[:, number].astype(np.float64)
            train = train_labels[:, number].astype(np.float64)
            train = train[~np.isnan(train)]
            mean, median = (float(of(train)) if len(train) else np.nan for of in (np.mean, np.median))
            for figure, metric, constant, is_better_high in (
                ("mae", merit.absolute_error, median, False),
                ("rmse", merit.root_mean_squared_error, mean, False),
                ("r2", merit.r_squared, mean, True),
            ):
                baseline = merit.plain(metric(true, np.full(len(true), constant)), len(true))
                found[f"{name}_{figure}"] = Merit(metric(true, given), baseline, is_better_high)
        parts = [found[f"{name}_r2"] for name in task.classes]
        whole = Merit(merit.mean([part.metric for part in parts]), merit.nanmean(part.baseline for part in parts))
        return {"r2": whole, **found}

    def settle(self, task: Task, labels: Labels, scores: Labels) -> Task:
        """Return the task; a number needs no threshold."""
        return task

    def confusion(self, task: Task, labels: Labels, scores: Labels) -> None:
        """Return nothing: there are no classes."""

    def counts(self, task: Task, labels: Labels) -> dict[str, int]:
        """Count rows by number: those that have it."""
        return dict(zip(task.classes, (~np.isnan(labels)).sum(axis=0).tolist(), strict=True))

    def plots(self, task: Task, labels: Labels, scores: Labels, train_labels: Labels) -> dict[str, Figure]:
        """Draw predicted against true numbers."""
        return {"scatter": plot_scatter(task, labels, scores, train_labels)}

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
            r2, mae = (_value(metric, true, given) for metric in (merit.r_squared, merit.absolute_error))
            axes.set_title(f"{name}: R² {r2:.2f}, mean error {mae:.3g}")
            axes.legend(loc="upper left", fontsize=8.5, frameon=True, framealpha=0.9, edgecolor=GRID)
    return figure


def _value(metric: merit.NumberMetric, true: NDArray[np.float32], given: NDArray[np.float32]) -> float:
    weighted: WeightedMetric = metric(true.astype(np.float64), given.astype(np.float64))
    return merit.plain(weighted, len(true))


def _said(task: Task, values: Labels) -> str:
    known = ((name, value) for name, value in zip(task.classes, values, strict=True) if not np.isnan(value))
    return ", ".join(f"{name} {value:.3g}" for name, value in known)
