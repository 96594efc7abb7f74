"""The package as a notebook uses it: tables as DataFrames, images as whatever is at hand, one call each.

import multitask
run = multitask.fit(labels=frame, images="photos", tasks={"kind": {"kind": "multiclass", "column": "kind"}})
run.metrics
run.predict(["a.jpg", another.read_bytes(), picture, array])
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from multitask import runs
from multitask.config import Config, config_error, load_config
from multitask.data.archives import Archive, open_archive
from multitask.data.names import has_image_suffix
from multitask.errors import ConfigError, PredictionError, TableError, nearest
from multitask.evaluation.tasks import Evaluation
from multitask.prediction.scoring import score_rows
from multitask.prediction.writing import prediction_rows, prediction_schema
from multitask.progress import Progress, Quiet
from multitask.runs import RUNS
from multitask.spec import TaskConfig
from multitask.storage import replacing

if TYPE_CHECKING:
    import keras

    from multitask.prediction.trained import KerasPredictor

_ONE = (bytes, str, os.PathLike, Image.Image, np.ndarray)
Picture = bytes | str | os.PathLike[str] | Image.Image | NDArray[np.uint8]


class Run(runs.Run):
    """A finished training: its figures as DataFrames, and its model."""

    @property
    def metrics(self) -> pd.DataFrame:
        """Figures on the test split: task, metric, value, low, high (95% interval), baseline, higher_is_better."""
        found = Evaluation.from_dict(self.folder.read_json("metrics.json"))
        rows = [
            {"task": task, "metric": name, **vars(metric)}
            for task, metrics in found.metrics.items()
            for name, metric in metrics.items()
        ]
        return pd.DataFrame(rows)

    @property
    def history(self) -> pd.DataFrame:
        """Losses and scores, one row per epoch."""
        return pd.read_csv(self.folder / "history.csv")

    @property
    def splits(self) -> pd.DataFrame:
        """Which row is in which split, with its labels as numbers."""
        return pd.read_parquet(self.folder / "splits.parquet")

    def predictions(self, split: str = "test") -> pd.DataFrame:
        """Predict the rows of a split: columns as in predictions.parquet."""
        ids = self.splits.query("split == @split")["id"].tolist()
        with open_archive(*self.config.data.archives) as archive:
            return self._predict(ids, ids, archive)

    def predict(self, images: Picture | Sequence[Picture] | Mapping[str, Picture]) -> pd.DataFrame:
        """Predict images: columns as in predictions.parquet, one row per image.

        Args:
            images: one or several, by id or not: bytes of a file, a path, a PIL image, or an array uint8
                (height, width, 3) RGB or (height, width) grey. Without ids a path stands for itself, the others count.

        Raises:
            PredictionError: something is no image at all; a file that cannot be read has its reason as status.
        """
        if isinstance(images, Mapping):
            ids, pictures = list(map(str, images)), list(images.values())
        else:
            pictures = [images] if isinstance(images, _ONE) else list(images)
            ids = [_id(picture, position) for position, picture in enumerate(pictures)]
        keys = [str(position) for position in range(len(pictures))]
        return self._predict(ids, keys, Archive([_Given(dict(zip(keys, pictures, strict=True)))]))

    def _predict(self, ids: Sequence[str], keys: Sequence[str], archive: Archive) -> pd.DataFrame:
        scores, status = score_rows(self._predictor, keys, archive)
        schema = prediction_schema(self.spec, self.config.data.id_column)
        table: pa.Table = prediction_rows(self.spec, schema, ids, scores, status)
        return table.to_pandas()

    @functools.cached_property
    def _predictor(self) -> KerasPredictor:
        from multitask.prediction.trained import KerasPredictor

        return KerasPredictor.of_run(self)

    def _repr_html_(self) -> str:
        return f"<p>Run {self.folder.name}, test split</p>{self.metrics.to_html(index=False, float_format='%.3f')}"


def fit(
    config: Config | str | Path | None = None,
    *,
    labels: pd.DataFrame | str | Path | None = None,
    images: str | Path | Sequence[str | Path] | None = None,
    tasks: Mapping[str, TaskConfig | Mapping[str, Any]] | None = None,
    name: str | None = None,
    folds: int | None = None,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    **settings: Any,
) -> Run:
    """Train a model.

    Args:
        config: settings to begin with: a TOML file, the name of a recipe, or a `Config`.
        labels: a DataFrame, or where a table lies.
        images: an archive, a folder, several of them, or a list of image files.
        tasks: what to learn, by name; as in the configuration file.
        name: of the run; by default the time.
        folds: cross-validate with so many, and put their networks together.
        progress: where to report; `multitask.Lines()` prints.
        root: folder of all runs.
        callbacks: Keras callbacks of your own; `logs` of an epoch hold the row of history.csv, `val_score` in it.
        settings: single settings by their names, e.g. backbone="vgg16", epochs=10, group_columns=("sender_id",).

    Raises:
        ConfigError, TableError, ArchiveError, RunError: with what, where and the next step.
    """
    base = config if isinstance(config, Config) else load_config(config)
    changed: dict[str, Any] = base.model_dump(exclude_unset=True)
    if tasks is not None:
        changed["tasks"] = {key: _plain(task) for key, task in tasks.items()}
    for key, value in settings.items():
        changed.setdefault(_section(key), {})[key] = value
    data = changed.setdefault("data", {})
    tables = Path(root).parent / "tables"
    if labels is not None:
        data["labels"] = _keep(labels, tables) if isinstance(labels, pd.DataFrame) else str(labels)
    if images is not None:
        places = [images] if isinstance(images, str | Path) else list(images)
        data["images"] = _locations(places, tables)
    try:
        whole = Config.model_validate(changed)
    except ValidationError as error:
        raise config_error(error, "fit") from None
    from multitask.training import fitting
    from multitask.training.folds import fit_folds

    if folds is None:
        trained = fitting.fit(whole, name, progress, Path(root), callbacks)
    else:
        trained = fit_folds(whole, folds, name, progress, Path(root), callbacks)
    return Run(trained.folder, trained.config, trained.spec)


def resume(
    name: str,
    progress: Progress = Quiet(),  # noqa: B008
    root: Path = RUNS,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> Run:
    """Go on with an interrupted run; the result is that of a run that was never interrupted."""
    from multitask.training.folds import resume as go_on

    trained = go_on(name, progress, root, callbacks=callbacks)
    return Run(trained.folder, trained.config, trained.spec)


def open_run(name: str = "latest", root: Path = RUNS) -> Run:
    """Open a finished run by its name or its folder."""
    found = runs.open_run(name, root)
    return Run(found.folder, found.config, found.spec)


class _Given:
    """Images at hand as a container, see `data.containers`."""

    names_are_ids, where = True, "images"

    def __init__(self, pictures: Mapping[str, Picture]) -> None:
        self._pictures = pictures

    def members(self) -> Iterable[str]:
        return iter(self._pictures)

    def read(self, member: int, name: str) -> bytes:
        return _as_file(self._pictures[name])

    def identity(self, member: int, name: str) -> str:
        return name

    def close(self) -> None:
        pass


def _section(setting: str) -> str:
    """Return the section of the configuration that has this setting."""
    sections = {
        field: section
        for section in ("data", "model", "fit")
        for field in type(getattr(Config(), section)).model_fields
    }
    if setting not in sections:
        raise ConfigError(f'unknown setting "{setting}"', fix=nearest(setting, sections))
    return sections[setting]


def _plain(task: TaskConfig | Mapping[str, Any]) -> dict[str, Any]:
    return task.model_dump(exclude_unset=True) if isinstance(task, TaskConfig) else dict(task)


def _keep(frame: pd.DataFrame, folder: Path) -> str:
    """Write a table under a name that says what is in it, so that a run can be repeated and resumed."""
    stream = io.BytesIO()
    try:
        frame.to_parquet(stream, index=False)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise TableError(
            f"this DataFrame cannot be kept as parquet ({str(error).splitlines()[0]})",
            expected="text as names of columns, and one type of value in each",
        ) from None
    path = folder / f"{hashlib.sha256(stream.getvalue()).hexdigest()[:16]}.parquet"
    with replacing(path) as temporary:
        temporary.write_bytes(stream.getvalue())
    return str(path)


def _locations(places: Sequence[str | Path], folder: Path) -> tuple[str, ...]:
    """Return where images lie: places as they are; image files as a table of paths."""
    files = [Path(place) for place in places if _is_image_file(place)]
    others = tuple(str(place) for place in places if not _is_image_file(place))
    if not files:
        return others
    frame = pd.DataFrame({"id": [file.stem for file in files], "path": [str(file.resolve()) for file in files]})
    return (*others, f"{_keep(frame, folder)}::id::path")


def _is_image_file(place: str | Path) -> bool:
    return has_image_suffix(str(place)) and "::" not in str(place)


def _id(image: Picture, position: int) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else str(position)


def _as_file(image: Picture) -> bytes:
    """Return an image file; pixels become a PNG, which loses nothing."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        return Path(image).read_bytes()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (2, 3):
            raise PredictionError(
                "this array is no image",
                expected="uint8 (height, width, 3) or (height, width), 0..255",
                received=f"{image.dtype} {image.shape}",
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise PredictionError(
            "this is no image",
            expected="bytes of a file, a path, a PIL image or an array",
            received=type(image).__name__,
        )
    stream = io.BytesIO()
    (image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16") else image.convert("RGB")).save(stream, "PNG")
    return stream.getvalue()
