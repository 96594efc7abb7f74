"""Does the monitor see what has changed, and keep quiet where nothing has? Prints alarms in 100 windows of each kind.

    python benchmarks/drift.py --clothing DIR --xray DIR --weights mobilenet_2_5_224_tf_no_top.h5   # 20 minutes

A MobileNet (0.25) is trained on the images of some senders or patients, without one class. The images of the others
are the pool: neither the model nor its profile has seen them. A window is made of whole groups of the pool, as they are
or with their pictures changed (saved with the tables of the original JPEG). It is held against the profile of the run,
and against a profile of the pool's other groups, which is another one for every window: windows of a small pool
overlap, and one odd profile would count a hundred times.
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
from multitask.monitoring.novelty import MOST_REFERENCE, NAME, PREFIX, See, drawn_rows, look, tell_apart
from multitask.monitoring.profile import Profile, measure_rows, open_profile
from multitask.monitoring.signals import signals_of
from multitask.monitoring.variation import Groups
from multitask.prediction.scoring import score_rows
from multitask.prediction.trained import KerasPredictor, sight_of
from multitask.progress import Lines
from multitask.runs import Run
from multitask.training.fitting import fit

WINDOWS, SIZES, SHARE = 100, (300, 100), 0.3


@dataclass(frozen=True)
class Data:
    """A data set: its tasks, the class that training never sees, and how many rows train and make the profile."""

    folder: Path
    tasks: Mapping[str, TaskConfig]
    column: str
    unseen: str
    group: str
    trained: float


def _half(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
    return small.resize(image.size, Image.Resampling.BICUBIC)


def _exposed(image: Image.Image) -> Image.Image:
    return image.point([round(255 * (level / 255) ** 1.6) for level in range(256)] * len(image.getbands()))


SAME = "nothing changed"
CHANGES: dict[str, Callable[[Image.Image], Image.Image] | None] = {
    SAME: None,
    "saved again, else the same": Image.Image.copy,
    "darker by 40%": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brighter by 30%": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "Gaussian blur, radius 3": lambda image: image.filter(ImageFilter.GaussianBlur(3)),
    "half the size, enlarged again": _half,
    "another exposure (gamma 1.6)": _exposed,
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
    causes = {"cause": TaskConfig(kind="multiclass", columns=("cause",))}
    sets = {
        "clothing": (arguments.clothing, clothes, "category", "Shoes", "sender_id", 0.5),
        "xray": (arguments.xray, causes, "cause", "virus", "patient_id", 0.4),
    }
    for name, (folder, *facts) in sets.items():
        if folder is None or not (folder / "labels.parquet").is_file():
            print(f"{name}: its data set is not here; name it with --{name} DIR")
            continue
        with tempfile.TemporaryDirectory() as scratch:
            data = Data(folder, *facts)
            print_alarms(name, data, make_scene(name, data, arguments.weights, Path(scratch)))


@dataclass(frozen=True)
class Scene:
    """A trained run, and scores and measures of what it has not seen: the pool by how it was changed, a class."""

    run: Run
    trained: int
    profile: Profile
    groups: NDArray[np.int64]
    pool: Mapping[str, pd.DataFrame]
    unseen: pd.DataFrame


def make_scene(name: str, data: Data, weights: str, scratch: Path) -> Scene:
    """Train on some groups, and score the others."""
    table = pd.read_parquet(data.folder / "labels.parquet")
    groups = pd.factorize(table[data.group])[0]
    is_unseen = (table[data.column] == data.unseen).to_numpy()
    trains = (np.random.default_rng(0).random(groups.max() + 1) < data.trained)[groups]
    table[trains & ~is_unseen].to_parquet(scratch / "labels.parquet", index=False)
    run = fit(_config(data, weights, scratch), name, Lines(), scratch / "runs")
    predictor, see = KerasPredictor.of_run(run), sight_of(run)
    pool, unseen = table.loc[~trains & ~is_unseen, "uuid"], table.loc[is_unseen, "uuid"]
    with open_archive(data.folder / "images.zip") as archive:
        frames = {
            title: _frame(run, predictor, see, pool, Changed(archive, change) if change else archive)
            for title, change in CHANGES.items()
        }
        other = _frame(run, predictor, see, unseen, archive)
    rows = int((trains & ~is_unseen).sum())
    return Scene(run, rows, open_profile(run), groups[~trains & ~is_unseen], frames, other)


def print_alarms(name: str, data: Data, scene: Scene) -> None:
    """Draw windows of whole groups, print how many of each kind raise an alarm."""
    profile, random = scene.profile, np.random.default_rng(0)
    assert profile.groups is not None
    kinds = profile.groups.count, len(np.unique(scene.groups))
    print(f"\n{name}: {scene.trained:,} rows train, {len(profile.frame):,} of {kinds[0]} groups make the profile;")
    print(f"pool {len(scene.groups):,} of {kinds[1]} other groups; unseen class: {data.unseen} ({len(scene.unseen):,})")
    print(
        f"alarms in {WINDOWS} windows, in brackets so by what the network sees; where nothing has changed also against"
    )
    print("a profile of the pool's other groups, and against that of the run with rows taken as independent\n")
    print(f"{'windows of':34}" + "".join(f"{size:>24}" for size in SIZES))
    same = scene.pool[SAME]

    def count(make: Callable[[np.ndarray, int], pd.DataFrame], size: int, is_same: bool) -> str:
        alarms = np.zeros(4, int)
        for _ in range(WINDOWS):
            kept, rest = _by_group(scene.groups, size, random)
            window = make(kept, size)
            names = _moved(scene.run, profile.frame, window, profile.groups)
            alarms[:2] += [bool(names), NAME in names]
            if is_same:
                others = _as_profile(same.iloc[rest]), window, Groups.of(scene.groups[rest])
                alarms[2:] += [bool(_moved(scene.run, *others)), bool(_moved(scene.run, profile.frame, window, None))]
        return f"{alarms[0]} ({alarms[1]})" + (f" / {alarms[2]} / {alarms[3]}" if is_same else "")

    def mixed(kept: np.ndarray, size: int) -> pd.DataFrame:
        return pd.concat([same.iloc[kept[: size - int(SHARE * size)]], other(kept, int(SHARE * size))])

    def other(_: np.ndarray, size: int) -> pd.DataFrame:
        return scene.unseen.iloc[random.permutation(len(scene.unseen))[:size]]

    makers: dict[str, Callable[[np.ndarray, int], pd.DataFrame]] = {
        title: (lambda kept, _, frame=frame: frame.iloc[kept]) for title, frame in scene.pool.items()
    }
    makers |= {
        f"{SAME}, groups mixed": lambda kept, _: same.iloc[random.permutation(kept)],
        "the unseen class alone": other,
        f"{SHARE:.0%} of the unseen class": mixed,
    }
    for title, make in makers.items():
        counts = (count(make, size, title.startswith(SAME)) for size in SIZES)
        print(f"{title:34}" + "".join(f"{found:>24}" for found in counts), flush=True)


def _config(data: Data, weights: str, scratch: Path) -> Config:
    return Config(
        data=DataConfig(
            labels=str(scratch / "labels.parquet"),
            images=(str(data.folder / "images.zip"),),
            group_columns=(data.group,),
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


def _frame(run: Run, predictor: KerasPredictor, see: See, ids: pd.Series, archive: Archive) -> pd.DataFrame:
    """Return scores and measures of images and what the network sees in them, as a profile holds them."""
    names = ids.tolist()
    scores, status = score_rows(predictor, names, archive)
    assert set(status) == {"ok"}
    columns: dict[str, object] = {"id": names}
    for task in run.spec.tasks:
        columns |= zip(task.score_columns, scores[task.name].T, strict=True)
    measures = measure_rows(names, archive, run.spec.image.max_pixels)
    frame = pd.DataFrame({**columns, **dict(zip(MEASURES, measures.T, strict=True))})
    return look(frame, np.arange(len(frame)), archive, see, Lines())


def _moved(run: Run, reference: pd.DataFrame, window: pd.DataFrame, groups: Groups | None) -> list[str]:
    seen = tell_apart(reference, window, groups)
    signals = signals_of(run.spec, reference), signals_of(run.spec, window)
    return moved(compare(*signals, groups=groups, also=[seen] if seen else []))


def _as_profile(frame: pd.DataFrame) -> pd.DataFrame:
    """Forget what the network sees in rows beyond those that a profile would hold."""
    sight = [name for name in frame if name.startswith(PREFIX)]
    forgotten = np.setdiff1d(np.arange(len(frame)), drawn_rows(frame, MOST_REFERENCE))
    found = frame.copy()
    found.iloc[forgotten, found.columns.get_indexer(sight)] = np.nan
    return found


def _by_group(
    groups: NDArray[np.int64], size: int, random: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Draw whole groups until there are `size` rows; return those rows, in the order of the draw, and the others."""
    order = np.argsort(random.permutation(groups.max() + 1)[groups], kind="stable")
    ends = np.flatnonzero(np.diff(groups[order], append=-1)) + 1
    end = int(ends[np.searchsorted(ends, size)])
    return order[:end], order[end:]


if __name__ == "__main__":
    main()
