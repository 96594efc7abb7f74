"""How much faster is our training than the usual recipe? Prints the ratio of both whole processes, from one run.

    python benchmarks/training.py --labels labels.parquet --images images.zip     # 10 minutes on two cores

The usual recipe is plain Keras: decode, then `model.fit` through the frozen float32 VGG16 in every epoch. It runs in a
process of its own on the same images, split, initial weights, heads, batch size, learning rate and epochs. Its time is
extrapolated: start and first epoch as measured, every further epoch as the second one. Its figures are those of all
epochs: since nothing in front of the heads changes, the rest is trained on features computed once by the same network.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Run ours cold, ours warm, and the recipe; print times, ratios and validation figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--config", type=Path, default=ROOT / "model_training/recipes/photos.toml")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--epochs", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        _compare(arguments, Path(folder))


def _compare(arguments: argparse.Namespace, folder: Path) -> None:
    size, epochs = str(arguments.image_size), arguments.epochs
    data = ["--labels", str(arguments.labels.resolve()), "--images", str(arguments.images.resolve())]
    ours = ["-m", "multitask.train", "--config", str(arguments.config.resolve()), *data, "--weights", "random"]
    ours += ["--image-size", size, size, "--epochs", str(epochs)]
    cold = _seconds([*ours, "--name", "cold"], folder)
    warm = _seconds([*ours, "--name", "warm"], folder)
    start = _seconds(["-c", "import multitask.training.fitting"], folder)
    recipe = ROOT / "benchmarks/usual_recipe.py"
    wall = _seconds([str(recipe), "cold", str(epochs)], folder)
    measured = json.loads((folder / "recipe.json").read_text())
    first, second = measured["epoch_seconds"]
    total = measured["start_seconds"] + first + (epochs - 1) * second
    manifest = json.loads((folder / "model_training/runs/warm/manifest.json").read_text())
    print(f"\nprecision of ours: {manifest['precision']}; processor: {manifest['hardware']['processor']}")
    print(f"ours, cold features:   {cold:8.1f} s, process start to report")
    print(f"ours, warm features:   {warm:8.1f} s, {manifest['images_computed']} images computed")
    print(f"process start alone:   {start:8.1f} s (importing multitask.training.fitting)")
    print(f"usual recipe:          {total:8.1f} s, extrapolated from epochs of {first:.1f} s and {second:.1f} s")
    print(f"                       ({wall:.1f} s measured, with 2 epochs and the pass that gives its figures)")
    print(f"ratio recipe / ours cold:                {total / cold:6.1f}")
    print(f"ratio warm / cold, process start aside:  {(warm - start) / (cold - start):6.2f}")
    print("\nvalidation split, value and 95% interval")
    for name, (value, low, high) in measured["recipe"].items():
        mine = measured["ours"][name][0]
        verdict = "within" if low <= mine <= high else "above" if mine > high else "BELOW"
        print(f"  {name:32s} recipe {value:.3f} ({low:.3f} to {high:.3f})   ours {mine:.3f}  {verdict}")


def _seconds(command: list[str], folder: Path) -> float:
    """Run Python with these arguments and return its wall time."""
    started = time.monotonic()
    subprocess.run([sys.executable, *command], cwd=folder, check=True, env={**_environment(), "PYTHONPATH": str(ROOT)})
    return time.monotonic() - started


def _environment() -> dict[str, str]:
    import os

    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


if __name__ == "__main__":
    main()
