"""How much cheaper are many trainings on what they have in common? Prints ratios of whole processes, from one run.

    python benchmarks/search.py trials folds --labels labels.parquet --images images.zip     # 15 minutes on two cores

`trials`: a search of 50 trials on stored features against 50 plain runs, each from nothing with an empty store. Plain
runs are extrapolated from two; the search from `--trials` of them, if fewer are done: its start as measured, every
trial as their mean.

`folds`: cross-validation in five folds against one training, each from nothing with an empty store.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
TRIALS = 50


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "model_training/recipes/photos.toml")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials that are done")
    arguments = parser.parse_args()
    for part in arguments.parts:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[part](arguments, Path(folder))


def trials(arguments: argparse.Namespace, folder: Path) -> None:
    """Compare a search with plain runs."""
    settings = _settings(arguments)
    plain = [_seconds(["-m", "multitask.train", *settings], _new(folder / name)) for name in ("first", "second")]
    where = folder / "second"
    search = ["-m", "multitask.tune", *settings, "--name", "search", "--trials", str(arguments.trials)]
    wall = _seconds(search, where)
    done = pd.read_parquet(where / "model_training/studies/search/trials.parquet")
    each = done["seconds"].mean()
    start = wall - done["seconds"].sum()
    total, runs = start + TRIALS * each, TRIALS * sum(plain) / len(plain)
    counts = ", ".join(f"{count} {state}" for state, count in done["state"].value_counts().items())
    print(f"\nplain runs from nothing, {arguments.epochs} epochs:  {plain[0]:.1f} s and {plain[1]:.1f} s")
    print(f"search, {len(done)} trials done ({counts}, {done['epochs'].mean():.1f} epochs on average): {wall:.1f} s")
    epoch = done["seconds"].sum() / done["epochs"].sum()
    print(f"  of which start and end {start:.1f} s, a trial {each:.2f} s, an epoch {epoch:.3f} s")
    print(f"{TRIALS} plain runs, extrapolated: {runs:,.0f} s; {TRIALS} trials: {total:,.0f} s")
    print(f"ratio plain runs / search on stored features: {runs / total:6.1f}")


def folds(arguments: argparse.Namespace, folder: Path) -> None:
    """Compare a cross-validation with one training."""
    train = ["-m", "multitask.train", *_settings(arguments)]
    once = _seconds(train, _new(folder / "once"))
    crossed = _seconds([*train, "--folds", "5"], _new(folder / "crossed"))
    print(f"\none training from nothing, {arguments.epochs} epochs: {once:.1f} s; five folds: {crossed:.1f} s")
    print(f"ratio five folds / one training: {crossed / once:6.2f}")


def _settings(arguments: argparse.Namespace) -> list[str]:
    settings = ["--config", str(arguments.config.resolve()), "--weights", "random", "--epochs", str(arguments.epochs)]
    return [*settings, "--labels", str(arguments.labels.resolve()), "--images", str(arguments.images.resolve())]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _seconds(command: list[str], folder: Path) -> float:
    """Run Python with these arguments and return its wall time."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)}
    started = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, env=environment)
    return time.monotonic() - started


PARTS = {"trials": trials, "folds": folds}

if __name__ == "__main__":
    main()
