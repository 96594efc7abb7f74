"""Scores that mean what they say: of the answers given with 80%, 80% are right.

A score is calibrated by dividing its logit by a temperature, https://arxiv.org/abs/1706.04599, one per task. That
leaves the order of the classes of an image as it is. Each tag has an offset as well, as in Platt's method (1999), since
weights of rare tags raise their scores; the order of the images stays, and thresholds are chosen afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from multitask.evaluation import metrics as merit
from multitask.evaluation.metrics import Figures, Floats, Labels
from multitask.style import FAINT, SERIES, STYLE

# Bins of equally many answers, https://arxiv.org/abs/1904.01685, section 4.
BINS = 15
_TEMPERATURES = (0.05, 20.0)


@dataclass(frozen=True)
class Calibration:
    """What is done to the logits of a task: divided by the temperature, then moved by an offset per answer."""

    temperature: float
    offsets: tuple[float, ...]


@dataclass(frozen=True)
class Answers:
    """How sure a model was, and was it right: float (rows, answers) and bool; not known where there is no label."""

    sure: NDArray[np.float64]
    right: NDArray[np.bool_]
    known: NDArray[np.bool_]


def calibrate_classes(labels: Labels, logits: Labels) -> Calibration:
    """Return the temperature with the least cross-entropy on rows that did not train.

    The label counts as (rows + 1) / (rows + 2) sure, as in Platt's method, so that few rows that are all right do not
    ask for boundless scores; the rest is for the other classes.

    Args:
        labels: (rows,) class numbers, NaN where there is none.
        logits: (rows, classes).
    """
    known = ~np.isnan(labels)
    rows, classes = int(known.sum()), logits.shape[1]
    given = logits[known].astype(np.float64)
    target = np.full((rows, classes), 1 / (rows + 2) / max(classes - 1, 1))
    target[np.arange(rows), labels[known].astype(int)] = (rows + 1) / (rows + 2)

    def loss(values: Floats) -> tuple[float, Floats]:
        sharpness = np.exp(values[0])
        losses = log_softmax(sharpness * given, axis=1)
        slope = ((np.exp(losses) - target) * given).sum() * sharpness
        return -(target * losses).sum() / max(rows, 1), np.array([slope / max(rows, 1)])

    return Calibration(float(np.exp(-_least(loss, np.zeros(1))[0])), (0.0,) * classes)


def calibrate_tags(labels: Labels, logits: Labels) -> Calibration:
    """Return the temperature, and the offset of each tag, with the least cross-entropy on rows that did not train.

    Labels count as Platt has them: (present + 1) / (present + 2) and 1 / (absent + 2).

    Args:
        labels: (rows, tags) 0 and 1, NaN where there is none.
        logits: (rows, tags).
    """
    present, absent = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    # A tag without labels of both sorts has nothing to be moved by.
    known = ~np.isnan(labels) & (present > 0) & (absent > 0)
    target = np.where(labels == 1, (present + 1) / (present + 2), 1 / (absent + 2))
    given, count = logits.astype(np.float64), max(int(known.sum()), 1)

    def loss(values: Floats) -> tuple[float, Floats]:
        sharpness = np.exp(values[0])
        moved = sharpness * given + values[1:]
        losses = np.where(known, target * np.logaddexp(0, -moved) + (1 - target) * np.logaddexp(0, moved), 0)
        errors = np.where(known, expit(moved) - target, 0)
        slopes = np.array([(errors * given).sum() * sharpness, *errors.sum(axis=0)])
        return losses.sum() / count, slopes / count

    found = _least(loss, np.zeros(1 + logits.shape[1]))
    return Calibration(float(np.exp(-found[0])), tuple(map(float, found[1:])))


def calibration_error(answers: Answers) -> Figures:
    """Return the expected calibration error: how far, on average, being sure is from being right, 0..1.

    A mean over bins of equally many answers; all tags of a task share the bins. It is never 0: of n answers in a bin,
    chance alone makes it about 0.4 / sqrt(n), and in resamples more, so that its interval leans upwards. It has no
    baseline: who never looks and answers with the shares of the classes is calibrated, and useless.
    """
    known, total = answers.known, answers.known.sum(axis=1).astype(float)
    bins = np.zeros(known.shape, np.int64)
    bins[known] = _bins(answers.sure[known])
    excess = np.zeros((len(known), BINS))
    at = np.broadcast_to(np.arange(len(known))[:, None], bins.shape)
    np.add.at(excess, (at, bins), np.where(known, answers.right - answers.sure, 0.0))

    def compute(weights: Floats) -> dict[str, Floats]:
        return {"calibration_error": merit.divide(np.abs(weights @ excess).sum(axis=1), weights @ total)}

    lower = {"calibration_error": False}
    return Figures(compute, {"calibration_error": math.nan}, higher_is_better=lower, effort=BINS + 1)


def plot_reliability(title: str, answers: Answers) -> Figure:
    """Draw the share of right answers over how sure the model was, per bin with its 95% interval (Wilson)."""
    sure, right = answers.sure[answers.known], answers.right[answers.known]
    with rc_context(STYLE):
        figure = Figure(figsize=(6.2, 5.4), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=(0, (4, 3)))
        if len(sure):
            bins = _bins(sure)
            counts = np.bincount(bins, minlength=BINS)
            filled = counts > 0
            means, shares = (np.bincount(bins, values, BINS)[filled] / counts[filled] for values in (sure, right))
            low, high = merit.wilson(shares, counts[filled])
            axes.vlines(means, low, high, color=SERIES[0], alpha=0.45, linewidth=2)
            axes.plot(means, shares, "o-", color=SERIES[0], linewidth=1.6, markersize=6, markeredgecolor="white")
        axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="score", ylabel="share that is right")
        axes.set_title(f"{title}: is it as right as it is sure?")
    return figure


def _bins(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the bin of each value, equal values in one."""
    if not len(values):
        return np.zeros(0, np.int64)
    edges = np.sort(values)[len(values) * np.arange(1, BINS) // BINS]
    return np.searchsorted(edges, values, side="right")


def _least(loss: Callable[[Floats], tuple[float, Floats]], start: Floats) -> Floats:
    """Return where a loss is least, of the logarithm of 1 / temperature and of offsets."""
    limits = [(-np.log(_TEMPERATURES[1]), -np.log(_TEMPERATURES[0])), *[(-20.0, 20.0)] * (len(start) - 1)]
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits).x
