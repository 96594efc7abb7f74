"""Plots of a study: how the search went, what each setting did, and quality against cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from multitask.settings import Range
from multitask.style import FAINT, INK, RIGHT, SERIES, STYLE
from multitask.tuning.space import as_word


def plot_search(trials: pd.DataFrame, figure_name: str, less_is_better: bool) -> Figure:
    """Draw the value of each trial in the order in which they were done, and the best so far."""
    with rc_context(STYLE):
        figure = Figure(figsize=(9, 4), layout="constrained")
        axes = figure.subplots()
        complete = trials[trials["state"] == "complete"]
        best = complete["value"].cummin() if less_is_better else complete["value"].cummax()
        axes.step(complete["number"], best, where="post", color=SERIES[0], label="best so far")
        axes.plot(complete["number"], complete["value"], "o", color=SERIES[0], alpha=0.55, label="complete")
        low, high = axes.get_ylim()
        others = trials[trials["state"] != "complete"]
        axes.plot(others["number"], np.full(len(others), low), "|", color=FAINT, markersize=9, label="pruned or failed")
        axes.set_ylim(low - 0.02 * (high - low), high)
        axes.set_title(f"{len(trials)} trials, {len(complete)} complete; best {figure_name}: {best.iloc[-1]:.4f}")
        axes.set_xlabel("trial")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(figure_name)
        axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    return figure


def plot_space(
    trials: pd.DataFrame, space: Mapping[str, Any], figure_name: str, importances: Mapping[str, float]
) -> Figure:
    """Draw the value against each setting, the most important first; later trials are darker."""
    complete = trials[trials["state"] == "complete"]
    names = sorted(space, key=lambda name: -importances.get(name, 0.0))
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    with rc_context(STYLE):
        figure = Figure(figsize=(3.6 * columns + 0.6, 3.2 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, name in zip(grid.flat, names, strict=False):
            values, choices = complete[name], space[name]
            if not isinstance(choices, Range):
                words = [str(as_word(choice)) for choice in choices]
                values = complete[name].map(lambda value, words=words: words.index(str(value)))
                axes.set_xticks(range(len(words)), words, rotation=30 if max(map(len, words)) > 6 else 0)
                axes.set_xlim(-0.5, len(words) - 0.5)
            elif choices.log:
                axes.set_xscale("log")
            axes.scatter(values, complete["value"], c=complete["number"], cmap="Blues", edgecolors=INK, linewidths=0.4)
            share = f", importance {importances[name]:.0%}" if name in importances else ""
            axes.set_title(f"{name}{share}", fontsize=10)
        for axes in list(grid.flat)[len(names) :]:
            axes.axis("off")
        for axes in grid[:, 0]:
            axes.set_ylabel(figure_name)
    return figure


def plot_rates(found: pd.DataFrame, suggested: float) -> Figure:
    """Draw the loss against the learning rate, and the rate at which it falls fastest.

    Args:
        found: learning_rate, loss of the step, and smoothed loss.
        suggested: a learning rate.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(found["learning_rate"], found["loss"], color=FAINT, linewidth=0.8, alpha=0.7, label="each step")
        axes.plot(found["learning_rate"], found["smoothed"], color=SERIES[0], linewidth=2, label="smoothed")
        axes.axvline(suggested, color=RIGHT, linewidth=1.5, linestyle=(0, (4, 3)))
        low, high = found["smoothed"].min(), found["smoothed"].iloc[: len(found) // 2].max()
        axes.set_ylim(low - 0.3 * (high - low), high + 0.6 * (high - low))
        axes.annotate(
            f"falls fastest at {suggested:.1e}",
            (suggested, axes.get_ylim()[1]),
            textcoords="offset points",
            xytext=(6, -12),
            color=RIGHT,
        )
        axes.set_xscale("log")
        axes.set_title("Learning rate range test: one step of training at each")
        axes.set_xlabel("learning rate")
        axes.set_ylabel("training loss")
        axes.legend(frameon=False, loc="lower left")
    return figure


def plot_pareto(found: pd.DataFrame, figure_name: str) -> Figure:
    """Draw quality against latency, size as the size of the dot; what nothing beats is in colour."""
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 4.8), layout="constrained")
        axes = figure.subplots()
        front = found[found["undominated"]].sort_values("latency_ms")
        areas = 30 + 470 * found["size_mb"] / found["size_mb"].max()
        colours = np.where(found["undominated"], RIGHT, FAINT)
        axes.plot(front["latency_ms"], front["value"], color=RIGHT, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        axes.scatter(found["latency_ms"], found["value"], s=areas, c=list(colours), alpha=0.75, zorder=2)
        for row in found.itertuples():
            text = f"{row.backbone}, {row.size_mb:,.1f} MB"
            place: Any = {"textcoords": "offset points", "xytext": (0, 14), "ha": "center", "va": "bottom"}
            axes.annotate(
                text, (row.latency_ms, row.value), fontsize=9, color=INK if row.undominated else FAINT, **place
            )
        axes.margins(0.18)
        axes.set_xscale("log")
        for scale in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            scale(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title("Backbones: green are those that none beats in quality, latency and size at once")
        axes.set_xlabel("median milliseconds for one photo, from pixels to scores, on this machine")
        axes.set_ylabel(figure_name)
    return figure
