"""Quality against latency and size: the best trial of every backbone, and which of them no other beats."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from multitask.config import Config
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.network import hardware
from multitask.network.model import build_network
from multitask.progress import Progress
from multitask.storage import replacing
from multitask.style import save_plots
from multitask.tuning.plots import plot_pareto
from multitask.tuning.results import trials_of
from multitask.tuning.space import chosen_by, judged_by, less_is_better
from multitask.tuning.study import open_study

WARM_UP, MEASURED = 3, 15


def write_pareto(folder: Path, config: Config, progress: Progress) -> pd.DataFrame:
    """Measure every backbone that has a complete trial; write `pareto.csv` and `plots/pareto.png`.

    Returns:
        A row per backbone, fastest first: backbone, trial, value, latency_ms (median of one photo), size_mb (float32
        weights) and undominated: no other is at least as good in all three and better in one.
    """
    study = open_study(folder)
    parameters = [trial.params for trial in study.get_trials(deepcopy=False)]
    trials = trials_of(study, config)
    best = trials[trials["state"] == "complete"].sort_values("value", ascending=less_is_better(config))
    best = best.drop_duplicates("model.backbone")
    rows = []
    with progress.track("measuring backbones", len(best)) as advance:
        for number, value, backbone in zip(best["number"], best["value"], best["model.backbone"], strict=True):
            rows.append((backbone, number, value, *measure(chosen_by(config, parameters[number]))))
            advance(1)
    found = pd.DataFrame(rows, columns=["backbone", "trial", "value", "latency_ms", "size_mb"])
    found = found.sort_values("latency_ms", ignore_index=True)
    signs = [1 if less_is_better(config) else -1, 1, 1]
    found["undominated"] = undominated(found[["value", "latency_ms", "size_mb"]].to_numpy(float) * signs)
    with replacing(folder / "pareto.csv") as path:
        found.to_csv(path, index=False)
    save_plots({"pareto": plot_pareto(found, judged_by(config))}, folder / "plots")
    return found


def measure(config: Config) -> tuple[float, float]:
    """Return the median milliseconds from the pixels of one photo to its scores, and the megabytes of the weights."""
    data = config.data
    spec = config.model_spec(settle_classes(read_frame(data.labels, data.query), config.tasks, data.labels))
    precision = hardware.fastest_precision() if config.fit.precision == "auto" else config.fit.precision
    network = build_network(spec, precision, initialise=False)
    answer = tf.function(lambda image: network.whole(image, training=False))
    image = tf.zeros((1, *network.whole.input.shape[1:]), tf.uint8)
    seconds = []
    for _ in range(WARM_UP + MEASURED):
        started = time.perf_counter()
        for scores in answer(image).values():
            scores.numpy()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[WARM_UP:]) * 1e3, network.whole.count_params() * 4 / 1e6


def undominated(costs: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which rows (rows, costs) no other row beats: it would cost no more in anything and less in something."""
    no_more = (costs[:, None] <= costs[None]).all(axis=2)
    less = (costs[:, None] < costs[None]).any(axis=2)
    return np.logical_not((no_more & less).any(axis=0))
