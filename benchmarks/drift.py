"""Does the monitor see what has changed, and keep quiet where nothing has? Prints alarms in 100 windows of each kind.

    python benchmarks/drift.py --clothing DIR --xray DIR --weights mobilenet_2_5_224_tf_no_top.h5      # 6 minutes

A MobileNet (0.25) is trained on some rows, without one class. The others are the pool: neither the model nor its
profile has seen them. A window is drawn from it, as it is or with its pictures changed (saved with the tables of the
original JPEG). It is held against the profile of the run, and against a profile of the pool's other rows, which is
another one for every window: windows of a small pool overlap, and one odd profile would count a hundred times.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageFilter

from multitask.audit.measures import MEASURES
from multitask.config import Config, DataConfig, FitConfig, ModelConfig, TaskConfig
from multitask.data.archives import Archive, open_archive
from multitask.monitoring.drift import compare, moved
from multitask.monitoring.profile import measure_rows, open_profile
from multitask.monitoring.signals import signals_of
from multitask.prediction.scoring import score_rows
from multitask.prediction.trained import KerasPredictor
from multitask.progress import Lines
from multitask.runs import Run
from multitask.training.fitting import fit

WINDOWS, SIZES, SHARE = 100, (300, 100, 50), 0.3


@dataclass(frozen=True)
class Data:
    """A data set: its tasks, the class that training never sees, and how many rows train and make the profile."""

    folder: Path
    tasks: Mapping[str, TaskConfig]
    column: str
    unseen: str
    trained: float


def _half(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved again, else the same": Image.Image.copy,
    "darker by 40%": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brighter by 30%": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "Gaussian blur, radius 3": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "half the size, enlarged again": _half,
}


class Changed(Archive):
    """An archive whose pictures are changed when they are read."""

    def __init__(self, archive: Archive, change: Callable[[Image.Image], Image.Image]) -> None:
        self._archive, self._change = archive, change

    def __getitem__(self, name: str) -> bytes:
        with Image.open(io.BytesIO(self._archive[name])) as image:
            image.load()
            stream = io.BytesIO()
            self._change(image).save(stream, "JPEG", qtables=image.quantization)
        return stream.getvalue()

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive)

    def in_order(self, names: Sequence[str]) -> NDArray[np.intp]:
        """Return the order of the archive."""
        return self._archive.in_order(names)


def main() -> None:
    """Train, predict, draw windows, print the table of each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clothing", type=Path)
    parser.add_argument("--xray", type=Path)
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a file of Keras")
    arguments = parser.parse_args()
    clothes = {
        "category": TaskConfig(kind="multiclass", columns=("category",), top_k=2),
        "audience": TaskConfig(kind="multilabel", columns=("kids",)),
    }
    sets = {
        "clothing": (arguments.clothing, clothes, "category", "Shoes", 0.5),
        "xray": (arguments.xray, {"cause": TaskConfig(kind="multiclass", columns=("cause",))}, "cause", "virus", 0.4),
    }
    for name, (folder, *facts) in sets.items():
        if folder is None or not (folder / "labels.parquet").is_file():
            print(f"{name}: its data set is not here; name it with --{name} DIR")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            measure_set(name, Data(folder, *facts), arguments.weights, Path(scratch))


def measure_set(name: str, data: Data, weights: str, scratch: Path) -> None:
    """Print the table of one data set."""
    table = pd.read_parquet(data.folder / "labels.parquet")
    random = np.random.default_rng(0)
    is_unseen = (table[data.column] == data.unseen).to_numpy()
    trains = (random.random(len(table)) < data.trained) & ~is_unseen
    table[trains].to_parquet(scratch / "labels.parquet", index=False)
    run = fit(_config(data, weights, scratch), name, Lines(), scratch / "runs")
    predictor, profile = KerasPredictor.of_run(run), open_profile(run)
    pool, unseen = table[~trains & ~is_unseen].reset_index(drop=True), table[is_unseen]
    with open_archive(data.folder / "images.zip") as archive:
        same = _frame(run, predictor, pool["uuid"], archive)
        other = _frame(run, predictor, unseen["uuid"], archive)
        changed = {
            title: _frame(run, predictor, pool["uuid"], Changed(archive, change)) for title, change in CHANGES.items()
        }
    print(f"\n{name}: {trains.sum():,} rows train, {len(profile.frame):,} of them make the profile; pool {len(pool):,}")
    print(f"unseen class: {data.unseen} ({len(unseen):,}); alarms in {WINDOWS} windows, against the profile of the run")
    print("and, behind the stroke, of the pool's other rows\n")
    print(f"{'windows of':34}" + "".join(f"{size:>14}" for size in SIZES))
    kinds = {"nothing changed": same, **changed}
    rows = {title: (lambda kept, size, frame=frame: frame.iloc[kept]) for title, frame in kinds.items()}
    rows[f"{SHARE:.0%} of the unseen class"] = lambda kept, size: _mixed(same, other, kept, int(SHARE * size), random)
    rows["the unseen class alone"] = lambda kept, size: other.iloc[random.permutation(len(other))[:size]]
    for title, make in rows.items():
        cells = (_count(run, profile.frame, same, make, size, random) for size in SIZES)
        print(f"{title:34}" + "".join(f"{f'{own} / {rest}':>14}" for own, rest in cells), flush=True)
    if "sender_id" in pool:
        count = sum(_alarm(run, *_by_sender(same, pool["sender_id"], random)) for _ in range(WINDOWS))
        print(f"{'nothing changed, other senders':34}{f'- / {count}':>14}")


def _config(data: Data, weights: str, scratch: Path) -> Config:
    return Config(
        data=DataConfig(
            labels=str(scratch / "labels.parquet"),
            images=(str(data.folder / "images.zip"),),
            features=str(scratch / "features"),
            validation=0.25,
            test=0.25,
        ),
        tasks=dict(data.tasks),
        model=ModelConfig(
            backbone="mobilenet",
            backbone_options={"alpha": 0.25},
            weights=weights,
            image_size=(224, 224),
        ),
        fit=FitConfig(epochs=30, learning_rate=1e-3),
    )


def _frame(run: Run, predictor: KerasPredictor, ids: pd.Series, archive: Archive) -> pd.DataFrame:
    """Return scores and measures of images, as a profile holds them."""
    names = ids.tolist()
    scores, status = score_rows(predictor, names, archive)
    assert set(status) == {"ok"}
    columns = {}
    for task in run.spec.tasks:
        columns |= zip(task.score_columns, scores[task.name].T, strict=True)
    measures = measure_rows(names, archive, run.spec.image.max_pixels)
    return pd.DataFrame({**columns, **dict(zip(MEASURES, measures.T, strict=True))})


def _count(
    run: Run,
    profile: pd.DataFrame,
    same: pd.DataFrame,
    make: Callable[[np.ndarray, int], pd.DataFrame],
    size: int,
    random: np.random.Generator,
) -> tuple[int, int]:
    """Return how many windows raise an alarm, against the run's profile and against the rest of the pool."""
    own = rest = 0
    for _ in range(WINDOWS):
        order = random.permutation(len(same))
        window = make(order[:size], size)
        own += _alarm(run, profile, window)
        rest += _alarm(run, same.iloc[order[size:]], window)
    return own, rest


def _alarm(run: Run, reference: pd.DataFrame, window: pd.DataFrame) -> bool:
    return bool(moved(compare(signals_of(run.spec, reference), signals_of(run.spec, window))))


def _mixed(
    same: pd.DataFrame, other: pd.DataFrame, kept: np.ndarray, count: int, random: np.random.Generator
) -> pd.DataFrame:
    return pd.concat([same.iloc[kept[count:]], other.iloc[random.permutation(len(other))[:count]]])


def _by_sender(
    same: pd.DataFrame, senders: pd.Series, random: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide the pool by sender: a window of about 300 rows of some, the reference of the others."""
    counts = senders.value_counts().sample(frac=1, random_state=int(random.integers(1 << 31)))
    chosen = senders.isin(counts.index[: int(np.searchsorted(counts.cumsum(), SIZES[0])) + 1]).to_numpy()
    return same[~chosen], same[chosen]


if __name__ == "__main__":
    main()
