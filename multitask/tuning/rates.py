"""The learning rate range test: one step at each of many rates, from far too small on until the loss explodes.

L. N. Smith 2017, https://arxiv.org/abs/1506.01186. A good highest rate lies where the loss falls fastest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from multitask.config import Config
from multitask.errors import RunError
from multitask.progress import Progress
from multitask.storage import replacing
from multitask.style import save_plots
from multitask.tuning.plots import plot_rates
from multitask.tuning.study import STUDIES, study_name
from multitask.tuning.trainer import Trainers

_FROM, _TO, _STEPS = 1e-6, 3.0, 200
# Weight of the past in the smoothed loss; the test ends where that is so many times its least.
_PAST, _EXPLODED = 0.9, 4.0
# Steps over which a fall is measured: a factor of 4.5 in the learning rate.
_WIDTH = 20


@dataclass(frozen=True)
class RangeTest:
    """What the test found.

    Args:
        frame: per step: learning_rate, loss, smoothed.
        plot: file of the plot.
    """

    frame: pd.DataFrame
    plot: Path

    @property
    def fastest(self) -> float:
        """Learning rate at which the smoothed loss falls fastest."""
        return fastest(self.frame)

    @property
    def least(self) -> float:
        """Learning rate at which the smoothed loss is least."""
        return float(self.frame.loc[self.frame["smoothed"].idxmin(), "learning_rate"])

    def loss_at(self, rate: float) -> float:
        """Return the smoothed loss at a learning rate of the test."""
        return float(self.frame.loc[self.frame["learning_rate"] == rate, "smoothed"].iloc[0])


def try_rates(config: Config, name: str | None, progress: Progress, root: Path = STUDIES) -> RangeTest:
    """Test learning rates on the first stage of a training.

    Args:
        config: all settings.
        name: of the folder in `root`; by default the time.
        progress: where to report.
        root: folder of all studies.

    Raises:
        RunError: the loss is no number from the first step on.
    """
    rates = np.geomspace(_FROM, _TO, _STEPS)
    losses: list[float] = []
    with Trainers(progress) as trainers:
        trainer = trainers.trainer(config)
        progress.say(f"range test: {_STEPS} steps of {config.fit.batch_size} rows, from {_FROM:g} to {_TO:g}")
        for loss in trainer.try_rates(config, rates.tolist()):
            if not math.isfinite(loss):
                break
            losses.append(loss)
            past = smoothed(losses)
            if past[-1] > _EXPLODED * min(past):
                break
    if len(losses) < 2:
        raise RunError("the loss is no number from the first step on", where="range test", fix="Use float32.")
    frame = pd.DataFrame({"learning_rate": rates[: len(losses)], "loss": losses, "smoothed": smoothed(losses)})
    folder = root / study_name(name)
    with replacing(folder / "learning_rates.csv") as path:
        frame.to_csv(path, index=False)
    plots = save_plots({"learning_rates": plot_rates(frame, fastest(frame))}, folder / "plots")
    return RangeTest(frame, plots["learning_rates"])


def smoothed(losses: list[float]) -> list[float]:
    """Return the running mean of losses in which each past one counts a tenth less, unbiased at the beginning."""
    found, mean = [], 0.0
    for step, loss in enumerate(losses, start=1):
        mean = _PAST * mean + (1 - _PAST) * loss
        found.append(mean / (1 - _PAST**step))
    return found


def fastest(frame: pd.DataFrame) -> float:
    """Return the learning rate before the least smoothed loss at which it falls fastest, per factor of the rate."""
    until = max(int(frame["smoothed"].idxmin()) + 1, _WIDTH)
    # The slope of a straight line through so many steps: between two it would be that of their rows.
    windows = np.lib.stride_tricks.sliding_window_view(frame["smoothed"].to_numpy()[:until], min(_WIDTH, len(frame)))
    slopes = windows @ np.linspace(-1, 1, windows.shape[1])
    return float(frame["learning_rate"].iloc[int(slopes.argmin()) + windows.shape[1] // 2])
