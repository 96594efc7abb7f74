"""Plots of a data set, made to be shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from multitask.audit.looks import Looks
from multitask.style import FAINT, SERIES, STYLE

# More labels than this are too small to be read in a matrix.
MATRIX_LABELS = 40
# Of more labels the rarest and the most frequent are drawn.
BARS = 40


def plot_balance(tasks: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw how many rows bear each label, one panel per task."""
    shown = {name: _shown(task) for name, task in tasks.items()}
    heights = [max(len(counts), 2) for counts in shown.values()]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 0.3 * sum(heights) + 0.9 * len(heights)), layout="constrained")
        panels = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
        for axes, (name, task), colour in zip(panels, tasks.items(), SERIES * len(heights), strict=False):
            counts = shown[name]
            left_out = len(task["counts"]) - len(counts)
            note = f"; the {left_out} between are left out" if left_out else ""
            bars = axes.barh([label for label, _ in counts], [count for _, count in counts], color=colour, height=0.7)
            axes.bar_label(bars, [f"{count:,}" for _, count in counts], padding=4, color=FAINT)
            axes.set_title(f"{name}: rows with each {task['noun']}{note}")
            axes.grid(visible=False, axis="y")
            axes.margins(x=0.1)
    return figure


def _shown(task: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Return labels and their rows from the bottom up, of many the rarest and the most frequent.

    Ranges of a number have an order of their own.
    """
    counts = list(task["counts"].items())
    if task["in_order"]:
        return counts
    counts.sort(key=lambda entry: entry[1])
    half = BARS // 2
    return counts if len(counts) <= BARS else [*counts[:half], *counts[-half:]]


def plot_correlation(columns: Sequence[str], correlation: NDArray[np.float64]) -> Figure:
    """Draw which labels come together (red) and which avoid each other (blue)."""
    shown = list(columns[:MATRIX_LABELS])
    size = 2.6 + 0.34 * len(shown)
    with rc_context(STYLE):
        figure = Figure(figsize=(size + 0.8, size), layout="constrained")
        axes = figure.subplots()
        matrix = np.where(np.eye(len(shown), dtype=bool), np.nan, correlation[: len(shown), : len(shown)])
        limit = max(float(np.nanmax(np.abs(matrix), initial=0.0)), 0.1)
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit)
        axes.set_xticks(range(len(shown)), shown, rotation=90)
        axes.set_yticks(range(len(shown)), shown)
        axes.grid(visible=False)
        axes.set_title("Labels that come together (correlation)")
        figure.colorbar(image, ax=axes, shrink=0.6)
    return figure


def plot_images(looks: Looks, limits: Mapping[str, float]) -> Figure:
    """Draw sizes, brightness and sharpness of the readable images; lines mark what is called dark, bright, blurred."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 3.2), layout="constrained")
        sizes, light, sharp = figure.subplots(1, 3)
        # Images of one size are one dot.
        widths, heights = np.unique(np.stack([looks.width, looks.height]), axis=1)
        sizes.scatter(widths, heights, s=9, alpha=0.35, color=SERIES[0], linewidths=0)
        sizes.set(title="Size", xlabel="width, pixels", ylabel="height, pixels")
        sizes.set_xlim(0, max(widths.tolist(), default=1) * 1.08)
        sizes.set_ylim(0, max(heights.tolist(), default=1) * 1.08)
        light.hist(looks.brightness, bins=40, range=(0, 1), color=SERIES[1])
        light.set(title="Brightness", xlabel="mean luma, 0 black to 1 white", ylabel="images")
        sharp.hist(np.log10(np.maximum(looks.sharpness, 0.1)), bins=40, color=SERIES[2])
        sharp.set(title="Sharpness", xlabel="variance of the Laplacian, power of ten", ylabel="images")
        for axes, values in ((light, (limits["dark"], limits["bright"])), (sharp, (np.log10(limits["blurred"]),))):
            for value in values:
                axes.axvline(value, color=FAINT, linestyle="--", linewidth=1)
    return figure
