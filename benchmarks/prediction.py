"""Does batch prediction keep the network busy, in flat memory? Prints both ratios, from one run.

    python benchmarks/prediction.py [--images images.zip]      # 5 minutes on two cores; draws photos if none are given

Rate: `predict_table` (read, decode, resize, network, decide, write parquet) against the bare network on uint8 tensors
in memory, same weights, precision and batch size, turn and turn about. Memory: the peak of
`python -m multitask.predict` as a process of its own for 2,000 and for 20,000 rows, with a small network, since only
the rows matter.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
import tensorflow as tf

from multitask.config import Config, ModelConfig
from multitask.data.archives import open_archive
from multitask.demo.sample import draw_sample
from multitask.network import hardware
from multitask.network.model import build_network
from multitask.prediction.scoring import BATCH_ROWS, predict_table
from multitask.prediction.trained import KerasPredictor

ROUNDS = 3
CLASSES = {
    "category": ("BLOUSES", "CASUAL_DRESSES", "MINI_DRESSES", "SHIRTS", "TANK_TOPS"),
    "tags": ("polka dot", "floral", "checker"),
}


def main() -> None:
    """Measure the rate, then the memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rows", type=int, default=160, help="rows per round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sample = draw_sample(folder / "data/demo", images=200)
        _rate(arguments.images or sample / "images.zip", arguments.rows, folder)
        _memory(sample, folder)


def _rate(images: Path, rows: int, folder: Path) -> None:
    precision = hardware.fastest_precision()
    network = build_network(Config(model=ModelConfig(weights="random")).model_spec(CLASSES), precision)
    predictor = KerasPredictor(network)
    forward = tf.function(lambda batch: network.whole(batch, training=False))
    shape = (BATCH_ROWS, network.spec.image.height, network.spec.image.width, 3)
    tensor = tf.constant(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    with open_archive(images) as archive:
        ids = list(itertools.islice(archive, rows))

        def bare() -> None:
            for _ in range(0, len(ids), BATCH_ROWS):
                forward(tensor)["category"].numpy()

        def whole() -> None:
            predict_table(predictor, ids, archive, folder / "predictions.parquet")

        seconds: dict[str, list[float]] = {"bare": [], "whole": []}
        for turn in range(ROUNDS + 1):
            for name, work in (("bare", bare), ("whole", whole)):
                started = time.monotonic()
                work()
                if turn:  # the first turn warms up
                    seconds[name].append(time.monotonic() - started)
    batches = -(-len(ids) // BATCH_ROWS) * BATCH_ROWS
    rates = {
        "bare": [batches / value for value in seconds["bare"]],
        "whole": [len(ids) / value for value in seconds["whole"]],
    }
    ratios = [whole / bare for whole, bare in zip(rates["whole"], rates["bare"], strict=True)]
    print(f"VGG16, {shape[1]}x{shape[2]}, {precision}, {len(ids)} photos, {ROUNDS} rounds, medians")
    print(f"bare network:  {statistics.median(rates['bare']):8.1f} images/s")
    print(f"predict_table: {statistics.median(rates['whole']):8.1f} images/s")
    print(f"ratio:         {statistics.median(ratios):8.2f}  (from {min(ratios):.2f} to {max(ratios):.2f})")


def _memory(sample: Path, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    train = ["--backbone", "small_cnn", "--weights", "random", "--image-size", "32", "32", "--epochs", "1"]
    subprocess.run(
        [sys.executable, "-m", "multitask.train", *train], cwd=folder, env=environment, check=True, capture_output=True
    )
    ids = pd.read_parquet(sample / "data.parquet")["uuid"]
    peaks: dict[int, float] = {}
    for rows in (2_000, 20_000):
        table = folder / f"{rows}.parquet"
        pd.DataFrame({"uuid": np.resize(ids.to_numpy(object), rows)}).to_parquet(table)
        command = [sys.executable, "-m", "multitask.predict", str(table)]
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None:
            peaks[rows] = max(peaks.get(rows, 0.0), _peak_mb(process.pid))
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"predict failed with status {process.returncode}")
        print(f"peak memory for {rows:6,} rows: {peaks[rows]:7.0f} MB")
    print(f"difference:                 {peaks[20_000] - peaks[2_000]:7.0f} MB")


def _peak_mb(pid: int) -> float:
    """Return the largest resident size of a process so far; the kernel's ru_maxrss would count its parent's too."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return max([int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")], default=0.0)


if __name__ == "__main__":
    main()
