"""Precision over recall, and ROC: one curve per tag, or per class against the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from multitask.evaluation.metrics import average_precision
from multitask.style import FAINT, GRID, SERIES, STYLE


@dataclass(frozen=True)
class Curve:
    """Truth and scores (rows,) of one class or tag, and the threshold in use, if there is one."""

    name: str
    true: NDArray[np.bool_]
    scores: NDArray[np.float32]
    threshold: float | None

    @property
    def can_be_drawn(self) -> bool:
        """Are there rows of both sorts?"""
        return 0 < int(self.true.sum()) < len(self.true)


def plot_curves(title: str, curves: Sequence[Curve]) -> dict[str, Figure]:
    """Draw both plots, of the worst and best curves where they are many."""
    shown = worst_and_best(curves)
    note = f",\nworst and best of {len(curves)}" if len(shown) < len(curves) else ""
    return {
        "precision_recall": plot_precision_recall(title, shown, note),
        "roc": plot_roc(title, shown, note),
    }


def plot_precision_recall(title: str, curves: Sequence[Curve], note: str = "") -> Figure:
    """Draw precision over recall; a dot is the threshold in use."""
    with rc_context(STYLE):
        figure, axes = _square(f"{title}: precision and recall", "recall", "precision")
        for curve, colour in zip(curves, SERIES, strict=False):
            precision, recall, _ = precision_recall_curve(curve.true, curve.scores)
            label = f"{curve.name}  {average_precision_score(curve.true, curve.scores):.2f}"
            axes.plot(recall, precision, color=colour, linewidth=1.8, label=label, drawstyle="steps-post")
            if curve.threshold is not None:
                chosen = curve.scores >= curve.threshold
                hits = float((chosen & curve.true).sum())
                _dot(axes, hits / curve.true.sum(), hits / max(chosen.sum(), 1), colour)
        _legend(axes, f"average precision{note}")
    return figure


def plot_roc(title: str, curves: Sequence[Curve], note: str = "") -> Figure:
    """Draw true over false positive rate; a dot is the threshold in use."""
    with rc_context(STYLE):
        figure, axes = _square(f"{title}: ROC", "false positive rate", "true positive rate")
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for curve, colour in zip(curves, SERIES, strict=False):
            false_rate, true_rate, _ = roc_curve(curve.true, curve.scores)
            label = f"{curve.name}  {auc(false_rate, true_rate):.2f}"
            axes.plot(false_rate, true_rate, color=colour, linewidth=1.8, label=label)
            if curve.threshold is not None:
                chosen = curve.scores >= curve.threshold
                true, wrong = curve.true, ~curve.true
                _dot(axes, (chosen & wrong).sum() / wrong.sum(), (chosen & true).sum() / true.sum(), colour)
        _legend(axes, f"area under the curve{note}")
    return figure


def worst_and_best(curves: Sequence[Curve]) -> list[Curve]:
    """Return the curves that can be drawn: all, or of many the worst and the best by average precision."""
    able = [curve for curve in curves if curve.can_be_drawn]
    if len(able) <= len(SERIES):
        return able
    ranked, half = sorted(able, key=_quality), len(SERIES) // 2
    return [*ranked[:half], *ranked[-half:]]


def _quality(curve: Curve) -> float:
    metric = average_precision(curve.true.astype(np.float32), curve.scores)
    return float(metric(np.ones((1, len(curve.true))))[0])


def _dot(axes: Axes, across: float, up: float, colour: str) -> None:
    axes.plot(across, up, "o", color=colour, markersize=8, markeredgecolor="white", markeredgewidth=1.5)


def _square(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel=across, ylabel=up)
    axes.set_title(title)
    return figure, axes


def _legend(axes: Axes, title: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=title, title_fontsize=8.5, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor=GRID)
