"""What does augmentation cost a small network? Prints the rate of augmented epochs as a share of plain ones.

    python benchmarks/augmentation.py --fashion DIR     # the four idx files of Fashion-MNIST; 10 minutes on two cores

Per network three trainings of the same rows: as they are, moved (flip, shift, zoom, rotate), and with every operation.
The rate is that of the median epoch after the first, in which TensorFlow traces; validation is part of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

from multitask.settings import AUGMENTATIONS

ROOT = Path(__file__).resolve().parent.parent
MOVES = ("flip_horizontal", "shift", "zoom", "rotate")
WAYS = {"as they are": (), "moved": MOVES, "everything": tuple(AUGMENTATIONS)}


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fashion", type=Path, required=True)
    parser.add_argument("--backbones", nargs="+", default=["lenet", "small_cnn", "inception_small"])
    parser.add_argument("--epochs", type=int, default=4)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for backbone in arguments.backbones:
            rates = {way: _rate(Path(folder), backbone, way, arguments) for way in WAYS}
            plain = rates["as they are"]
            print(f"\n{backbone}, 28 x 28, batch 128, images a second and share of the plain rate:")
            for way, rate in rates.items():
                print(f"  {way:12} {rate:10,.0f}  {rate / plain:5.2f}", flush=True)


def _rate(folder: Path, backbone: str, way: str, arguments: argparse.Namespace) -> float:
    """Return the images a second of the median epoch."""
    recipe = (ROOT / "model_training/recipes/lenet.toml").read_text(encoding="utf-8")
    tables = "".join(f'\n[[augment]]\nop = "{operation}"\n' for operation in WAYS[way])
    config = folder / "config.toml"
    config.write_text(recipe.replace('"lenet"', f'"{backbone}"') + tables, encoding="utf-8")
    name = f"{backbone}-{list(WAYS).index(way)}"
    images = str(arguments.fashion.resolve() / "*-images-idx3-ubyte.gz")
    flags = ["--labels", str(arguments.fashion.resolve()), "--images", images, "--epochs", str(arguments.epochs)]
    command = [sys.executable, "-m", "multitask.train", "--config", str(config), "--name", name, *flags]
    subprocess.run(
        command, cwd=folder, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL
    )
    run = folder / "model_training/runs" / name
    rows = pd.read_parquet(run / "splits.parquet", columns=["split"])["split"].eq("train").sum()
    return float(rows / pd.read_csv(run / "history.csv")["seconds"][1:].median())


if __name__ == "__main__":
    main()
