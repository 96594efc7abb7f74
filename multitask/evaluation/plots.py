"""Plots of a run, made to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import NDArray
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_curve

from multitask.spec import ModelSpec, Task
from multitask.storage import replacing

Scores = NDArray[np.float32]

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
RIGHT, WRONG, FROZEN, TRAINED = "#2f8f5b", "#c8443c", "#9fb3c8", "#e0913a"
SERIES = ("#2b6cb0", "#d9762b", "#2f8f5b", "#8e5ea2", "#c8443c", "#3a9ca6", "#8a6d3b", "#d1508f", "#5b6770", "#7a9a01")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}


def save_plots(figures: Mapping[str, Figure], directory: Path) -> dict[str, Path]:
    """Write each figure as a PNG and return where they are."""
    paths = {}
    for name, figure in figures.items():
        paths[name] = directory / f"{name}.png"
        with replacing(paths[name]) as path, rc_context(STYLE):
            figure.savefig(path)
    return paths


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
        names = [name for name in history if name.endswith(("_accuracy", "average_precision", "val_score"))]
        _lines(scores, history, {name.replace("_", " "): name for name in names})
        scores.set_title(f"Scores, best in epoch {best['epoch']:.0f}: {best['val_score']:.3f}")
        scores.set_ylim(top=1.02)
        for axes in (losses, scores):
            axes.axvline(best["epoch"], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
            axes.set_xlabel("epoch")
    return figure


def plot_confusion(task: Task, confusion: NDArray[np.int64]) -> Figure:
    """Draw counts by true and predicted class; the colour is the share of the true class."""
    with rc_context(STYLE):
        count = len(task.classes)
        side = max(4.4, 0.62 * count + 2.2)
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        share = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), number in np.ndenumerate(confusion):
            colour = "white" if share[row, column] > 0.55 else INK if number else "#b8c1ca"
            size = 10 if count <= 12 else 6.5
            axes.text(column, row, f"{number}", ha="center", va="center", color=colour, fontsize=size)
        axes.set_xticks(range(count), task.classes, rotation=40, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(count), task.classes)
        axes.set(xlabel="predicted", ylabel="true")
        axes.set_title(f"{task.name}: {np.trace(confusion)} of {confusion.sum()} right")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    return figure


def plot_precision_recall(task: Task, labels: Scores, scores: Scores, thresholds: Sequence[float]) -> Figure:
    """Draw precision over recall per tag, or per class against the rest; a dot is the threshold in use."""
    with rc_context(STYLE):
        figure, axes = _square(f"{task.name}: precision and recall", "recall", "precision")
        for index, (name, true, given) in enumerate(_against_rest(task, labels, scores)):
            precision, recall, _ = precision_recall_curve(true, given)
            colour = SERIES[index % len(SERIES)]
            label = f"{name}  {average_precision_score(true, given):.2f}"
            axes.plot(recall, precision, color=colour, linewidth=1.8, label=label, drawstyle="steps-post")
            if task.kind == "multilabel":
                chosen = given >= thresholds[index]
                hits = float((chosen & true).sum())
                dot = (hits / true.sum(), hits / max(chosen.sum(), 1))
                axes.plot(*dot, "o", color=colour, markersize=8, markeredgecolor="white", markeredgewidth=1.5)
        _legend(axes, "average precision")
    return figure


def plot_roc(task: Task, labels: Scores, scores: Scores, thresholds: Sequence[float]) -> Figure:
    """Draw true over false positive rate per tag, or per class against the rest; a dot is the threshold in use."""
    with rc_context(STYLE):
        figure, axes = _square(f"{task.name}: ROC", "false positive rate", "true positive rate")
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        for index, (name, true, given) in enumerate(_against_rest(task, labels, scores)):
            false_rate, true_rate, _ = roc_curve(true, given)
            colour = SERIES[index % len(SERIES)]
            label = f"{name}  {auc(false_rate, true_rate):.2f}"
            axes.plot(false_rate, true_rate, color=colour, linewidth=1.8, label=label)
            if task.kind == "multilabel":
                chosen = given >= thresholds[index]
                dot = ((chosen & ~true).sum() / (~true).sum(), (chosen & true).sum() / true.sum())
                axes.plot(*dot, "o", color=colour, markersize=8, markeredgecolor="white", markeredgewidth=1.5)
        _legend(axes, "area under the curve")
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
                answers = [_answer(task, scores[task.name][number], labels[task.name][number]) for task in spec.tasks]
                for line, (text, colour) in enumerate(answers):
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


def _square(title: str, across: str, up: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6.2, 5.4), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel=across, ylabel=up)
    axes.set_title(title)
    return figure, axes


def _legend(axes: Axes, title: str) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(title=title, title_fontsize=8.5, fontsize=8.5, frameon=True, framealpha=0.9, edgecolor=GRID)


def _against_rest(task: Task, labels: Scores, scores: Scores) -> list[tuple[str, NDArray[np.bool_], Scores]]:
    """Return name, truth and scores per tag or class; those without both kinds of rows have no curve."""
    found = []
    for index, name in enumerate(task.classes):
        given = labels if task.kind == "multiclass" else labels[:, index]
        known = ~np.isnan(given)
        true = given[known] == (index if task.kind == "multiclass" else 1)
        if 0 < true.sum() < len(true):
            found.append((name, true, scores[known, index]))
    return found


def _answer(task: Task, scores: Scores, label: Any) -> tuple[str, str]:
    """Put the answer for one image in words, coloured by whether it is right."""
    if task.kind == "multiclass":
        best = int(scores.argmax())
        text = f"{task.classes[best]} {scores[best]:.0%}"
        if np.isnan(label):
            return text, FAINT
        right = best == int(label)
        return text if right else f"{text}\n(is {task.classes[int(label)]})", RIGHT if right else WRONG
    chosen = scores >= np.asarray(task.settled_thresholds())
    said = ", ".join(name for name, there in zip(task.classes, chosen, strict=True) if there) or f"no {task.name}"
    known = ~np.isnan(label)
    if not known.any():
        return said, FAINT
    right = bool((chosen[known] == (label[known] == 1)).all())
    truth = ", ".join(name for name, there in zip(task.classes, label == 1, strict=True) if there) or "none"
    return said if right else f"{said}\n(is {truth})", RIGHT if right else WRONG


def _box(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    shape = FancyBboxPatch(
        (x - 0.4, y - 0.42), 0.8, 0.84, boxstyle="round,pad=0.02,rounding_size=0.06", color=colour, alpha=0.35, zorder=2
    )
    axes.add_patch(shape)
    axes.add_patch(Rectangle((x - 0.4, y + 0.36), 0.8, 0.06, color=colour, zorder=3))
    axes.text(x, y - 0.02, text, ha="center", va="center", fontsize=7.4, zorder=4)


def _short(count: int) -> str:
    return f"{count / 1e6:.1f} M weights" if count >= 1e6 else f"{count / 1e3:.0f} k weights" if count >= 1e3 else ""
