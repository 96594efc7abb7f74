"""Plots of a run, made to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray

from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.words import Words
from multitask.spec import ModelSpec
from multitask.style import FAINT, FROZEN, INK, RIGHT, SERIES, STYLE, TRAINED, WRONG

Scores = NDArray[np.float32]


def plot_history(history: pd.DataFrame) -> Figure:
    """Draw losses and scores over the epochs, the best epoch marked.

    Args:
        history: one row per epoch: epoch, loss, val_loss, val_score, and columns that end in `_accuracy`.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        best = history.loc[history["val_score"].idxmax()]
        _lines(losses, history, {"training": "loss", "validation": "val_loss"})
        losses.set_title("Loss")
        losses.set_ylim(bottom=0)
        names = [name for name in history if name.endswith(("_accuracy", "average_precision", "_r2", "val_score"))]
        _lines(scores, history, {name.replace("_", " "): name for name in names})
        scores.set_title(f"Scores, best in epoch {best['epoch']:.0f}: {best['val_score']:.3f}")
        scores.set_ylim(bottom=max(scores.get_ylim()[0], -1.0), top=1.02)
        for axes in (losses, scores):
            axes.axvline(best["epoch"], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlabel("epoch")
    return figure


def plot_folds(history: pd.DataFrame) -> Figure:
    """Draw losses and score over the epochs of all folds: mean, its 95% interval, and the band from least to most.

    The interval is that of Student's t over the folds that reached an epoch.

    Args:
        history: as for `plot_history`, with the column fold.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 4.2), layout="constrained")
        losses, scores = figure.subplots(1, 2)
        drawn = ((losses, {"training": "loss", "validation": "val_loss"}), (scores, {"score": "val_score"}))
        for axes, columns in drawn:
            for (name, column), colour in zip(columns.items(), SERIES, strict=False):
                grouped = history.groupby("epoch")[column].agg(["mean", "min", "max", "sem", "count"])
                grouped = grouped[grouped["count"] > 1]
                reach = grouped["sem"] * scipy.stats.t.ppf(0.975, grouped["count"] - 1)
                axes.plot(grouped.index, grouped["mean"], color=colour, label=name)
                axes.fill_between(grouped.index, grouped["min"], grouped["max"], color=colour, alpha=0.12)
                low, high = grouped["mean"] - reach, grouped["mean"] + reach
                axes.fill_between(grouped.index, low, high, color=colour, alpha=0.25)
            axes.set_xlabel("epoch")
            axes.legend()
        count = history["fold"].nunique()
        losses.set_title(f"Loss of {count} folds: mean, its 95% interval, least to most")
        losses.set_ylim(bottom=0)
        scores.set_title(f"Validation score, best {history.groupby('fold')['val_score'].max().mean():.3f} on average")
    return figure


def plot_predictions(
    spec: ModelSpec,
    images: Sequence[NDArray[np.uint8]],
    scores: Mapping[str, Scores],
    labels: Mapping[str, Scores],
    columns: int = 6,
) -> Figure:
    """Draw photos with what the model says of them; green is right, red is wrong, with the truth below it.

    Args:
        spec: names of tasks and classes, and thresholds.
        images: uint8 (height, width, 3).
        scores, labels: per task, one row per image.
        columns: photos side by side.
    """
    with rc_context(STYLE):
        rows, lines = -(-len(images) // columns), len(spec.tasks)
        text_share = 0.2 * lines
        figure = Figure(figsize=(2.1 * columns, 2.0 * (1 + text_share) * rows))
        grid = figure.subplots(rows, columns, squeeze=False)
        bottom = text_share / (1 + text_share) / rows
        figure.subplots_adjust(left=0.008, right=0.992, top=0.995, bottom=bottom, wspace=0.06, hspace=text_share + 0.04)
        for number, axes in enumerate(grid.flat):
            axes.axis("off")
            if number < len(images):
                axes.imshow(images[number], aspect="auto")
                for line, task in enumerate(spec.tasks):
                    words = EVALUATORS[task.kind].answer(task, scores[task.name][number], labels[task.name][number])
                    text, colour = _coloured(words)
                    place = {
                        "transform": axes.transAxes,
                        "ha": "left",
                        "va": "top",
                        "fontsize": 7.6,
                        "linespacing": 1.25,
                    }
                    weight = "bold" if line == 0 else "normal"
                    axes.text(0, -0.025 - 0.19 * line, text, color=colour, fontweight=weight, **place)
    return figure


def plot_architecture(stages: Sequence[Mapping[str, Any]], heads: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the path of an image: frozen stages, where features are stored, trained stages, heads.

    Args:
        stages: name, shape ("7x7x512"), params and frozen of each.
        heads: name, classes (how many) and activation of each.
    """
    with rc_context({**STYLE, "axes.grid": False}):
        boxes = len(stages) + 1
        figure = Figure(figsize=(max(9.0, 1.32 * (boxes + 1)), 3.2), layout="constrained")
        axes = figure.subplots()
        axes.set(xlim=(-0.7, boxes + 0.75), ylim=(-1.5, 1.65))
        axes.axis("off")
        last_frozen = max((index for index, stage in enumerate(stages) if stage["frozen"]), default=-1)
        for index, stage in enumerate(stages):
            text = f"{stage['name']}\n{stage['shape']}\n{_short(stage['params'])}"
            _box(axes, index, 0, text, FROZEN if stage["frozen"] else TRAINED)
            axes.annotate("", (index + 0.56, 0), (index + 0.42, 0), arrowprops={"arrowstyle": "->", "color": FAINT})
        spread = np.linspace(0.75, -0.75, len(heads)) if len(heads) > 1 else [0.0]
        for head, height in zip(heads, spread, strict=True):
            _box(axes, len(stages), float(height), f"{head['name']}\n{head['classes']} {head['activation']}", TRAINED)
        line = last_frozen + 0.5
        axes.plot([line, line], [-1.15, 1.15], color=INK, linewidth=1, linestyle=(0, (3, 3)))
        axes.text(line, 1.25, "features, kept on disk", ha="center", va="bottom", color=INK)
        axes.text(line - 0.1, -1.2, "frozen: once per image", ha="right", va="top", color="#61788f")
        axes.text(line + 0.1, -1.2, "trained", ha="left", va="top", color="#b36a17")
    return figure


def _lines(axes: Axes, history: pd.DataFrame, columns: Mapping[str, str]) -> None:
    for index, (label, column) in enumerate(columns.items()):
        colour = SERIES[index % len(SERIES)]
        wide = 2.6 if column == "val_score" else 1.6
        axes.plot(history["epoch"], history[column], color=colour, linewidth=wide, label=label)
    axes.legend(frameon=False, fontsize=8.5)


def _coloured(words: Words) -> tuple[str, str]:
    if words.is_right is None:
        return words.said, FAINT
    return (words.said, RIGHT) if words.is_right else (f"{words.said}\n(is {words.truth})", WRONG)


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    shape = FancyBboxPatch(
        (x - 0.4, y - 0.42), 0.8, 0.84, boxstyle="round,pad=0.02,rounding_size=0.06", color=colour, alpha=0.35, zorder=2
    )
    axes.add_patch(shape)
    axes.add_patch(Rectangle((x - 0.4, y + 0.36), 0.8, 0.06, color=colour, zorder=3))
    axes.text(x, y - 0.02, text, ha="center", va="center", fontsize=7.4, zorder=4)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M weights" if count >= 1e6 else f"{count / 1e3:.0f} k weights" if count >= 1e3 else ""
