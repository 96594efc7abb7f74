"""How to make a model: one TOML file, every field of it also a flag; checked whole, wrong settings named together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
import tyro
from pydantic import (
    BaseModel,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from multitask.backbones import BACKBONES
from multitask.errors import ConfigError, nearest
from multitask.privacy import hide_secrets
from multitask.spec import (
    LAYOUTS,
    BackboneOption,
    Frozen,
    ImageSpec,
    ModelSpec,
    Task,
    TaskConfig,
)

Share = Annotated[float, Field(gt=0, lt=0.9)]


def _alias(*flags: str) -> Any:
    return tyro.conf.arg(aliases=flags)


def in_table(images: Sequence[str], table: str) -> tuple[str, ...]:
    """Return locations of images in which `labels::` stands for a table."""
    return tuple(table + place.removeprefix("labels") if place.startswith("labels::") else place for place in images)


class DataConfig(Frozen):
    """Where labels and images lie, and how rows are divided."""

    labels: Annotated[str, _alias("--labels")] = "data/data.parquet"
    """Label table: parquet, CSV or Arrow; several by a pattern; a folder of parts or with a folder per class; SQL."""
    query: str = ""
    """What to select, where labels is the address of a database."""
    images: Annotated[tuple[str, ...], _alias("--images")] = ("data/data.zip",)
    """Zip or tar archives, folders, idx files, or a column: TABLE::ID_COLUMN::IMAGE_COLUMN, where `labels` is the label
    table. An image's id is its file name, or its path, without extension."""
    id_column: str = "uuid"
    """Column of the tables that holds the image id; `row` is the number of the row, for tables without one."""
    group_columns: tuple[str, ...] = ()
    """Rows that share a value in one of these columns stay on one side of a split, e.g. sender_id."""
    split_column: str = ""
    """Column that says where each row belongs: train, validation or test. Empty: rows are divided here."""
    time_column: str = ""
    """Column of dates or numbers: the oldest rows train, the newest test. Empty: rows are drawn."""
    validation: Share = 0.15
    """Share of the rows that chooses checkpoint and thresholds."""
    test: Share = 0.15
    """Share of the rows that is only ever evaluated."""
    split_seed: NonNegativeInt = 0
    """Seed of the split; another one draws other rows. fit.seed leaves the split alone."""
    near_duplicates: bool = True
    """Keep nearly equal pictures on one side of a split."""
    features: str = "model_training/features"
    """Folder where features of the frozen network are kept between runs."""
    features_gb: PositiveFloat = 20.0
    """Disk budget of that folder in GB; features unused for longest are deleted first."""

    @field_validator("test")
    @classmethod
    def _leaves_rows_to_train_on(cls, test: float, info: Any) -> float:
        if test + info.data.get("validation", 0) >= 0.9:
            raise ValueError("validation and test together must leave at least a tenth of the rows for training")
        return test

    @property
    def archives(self) -> tuple[str, ...]:
        """Locations of the images; `labels::ID::IMAGE` is a column of the label table itself."""
        return in_table(self.images, f"{self.labels}::{self.query}" if self.query else self.labels)

    @model_validator(mode="after")
    def _one_way_to_divide(self) -> DataConfig:
        if self.split_column and self.time_column:
            raise ValueError("split_column and time_column exclude each other")
        return self


class ModelConfig(Frozen):
    """Which network, and where it is frozen."""

    backbone: Annotated[str, _alias("--backbone")] = "vgg16"
    """Network below the heads, of keras.applications by name (mobilenetv2, efficientnetb0, densenet121, ...), each with
    its own input scaling; or small_cnn."""
    backbone_options: dict[str, BackboneOption] = Field(default_factory=dict)
    """What its constructor takes beside, e.g. alpha = 0.25 of mobilenet; as flags: alpha 0.25."""
    weights: Annotated[str, _alias("--weights")] = "imagenet"
    """imagenet (downloaded once by Keras), random (He-initialised), or the path of a .h5 or .keras file."""
    image_size: Annotated[tuple[PositiveInt, PositiveInt], _alias("--image-size")] = (224, 224)
    """Height and width in pixels that every image is resized to."""
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    """stretch to the size, pad to keep all of the picture, or crop to fill the size."""
    pooling: Literal["flatten", "avg", "max"] = "flatten"
    """What turns the last feature map into a vector for the heads."""
    freeze: Annotated[str, _alias("--freeze")] = "all"
    """all: train the heads only. none: train everything. Or the name of the last frozen layer, e.g. block4_pool."""
    dropout: float = Field(default=0.25, ge=0, lt=1)
    """Share of the features dropped before the heads while training."""

    @field_validator("backbone")
    @classmethod
    def _is_known(cls, backbone: str) -> str:
        if backbone not in BACKBONES:
            raise ValueError(f'expected a known backbone, received "{backbone}". {nearest(backbone, BACKBONES)}')
        return backbone


class FitConfig(Frozen):
    """How long and how carefully to train."""

    epochs: Annotated[PositiveInt, _alias("--epochs")] = 40
    """Most epochs to train; stops earlier when the validation score no longer improves."""
    batch_size: Annotated[PositiveInt, _alias("--batch-size")] = 32
    """Rows per training step."""
    learning_rate: Annotated[PositiveFloat, _alias("--learning-rate")] = 1e-4
    """First learning rate of Adam; halved on plateaus."""
    balance: Literal["weights", "downsample", "none"] = "weights"
    """Class imbalance: weight rare classes and tags, or sample every class down to the rarest."""
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _alias("--precision")] = "auto"
    """Arithmetic of the network; auto takes the fastest the hardware has. Heads are always float32."""
    seed: Annotated[NonNegativeInt, _alias("--seed")] = 0
    """Seed of initial weights, data order and dropout; data.split_seed is that of the split."""


class GateConfig(Frozen):
    """What a model must reach before it is published."""

    floors: dict[str, float] = Field(default_factory=dict)
    """Least value of figures on the test split, of errors the largest, e.g. "category.accuracy" = 0.6; names as in
    metrics.json."""
    not_worse: bool = True
    """Refuse a model that is worse than the published one, beyond the 95% interval, on the same test rows."""
    beats_baseline: bool = True
    """Refuse a model with a task that it answers no better than one that never looks at the image."""
    max_size_mb: PositiveFloat = 2000.0
    """Largest SavedModel in megabytes."""
    max_latency_ms: PositiveFloat = 5000.0
    """Longest median time for one photo, on the machine that publishes."""


def _clothing() -> dict[str, TaskConfig]:
    return {
        "category": TaskConfig(kind="multiclass", columns=("cc3",), top_k=2),
        "tags": TaskConfig(kind="multilabel", columns=("polka dot", "floral", "checker")),
    }


class Config(Frozen):
    """All settings of one training; the defaults are the clothing model."""

    data: DataConfig = DataConfig()
    tasks: dict[str, TaskConfig] = Field(default_factory=_clothing, min_length=1)
    model: ModelConfig = ModelConfig()
    fit: FitConfig = FitConfig()
    gate: GateConfig = GateConfig()

    @model_validator(mode="after")
    def _floors_are_of_tasks(self) -> Config:
        for name in self.gate.floors:
            task, _, figure = name.partition(".")
            if task not in self.tasks or not figure:
                expected = f"task.figure, e.g. {next(iter(self.tasks))}.accuracy"
                raise ValueError(f'gate.floors: expected {expected}, received "{name}". {nearest(task, self.tasks)}')
        return self

    @field_validator("tasks")
    @classmethod
    def _names_can_be_outputs(cls, tasks: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name, task in tasks.items():
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) or name in ("image_ok", "status"):
                raise ValueError(f'expected a task name of letters, digits and _, received "{name}"')
            others = [other.columns for other in tasks.values() if not LAYOUTS[other.kind].one_column]
            if LAYOUTS[task.kind].one_column and any(name in columns for columns in others):
                raise ValueError(f'expected a task name that is no column of tags or numbers, received "{name}"')
        return tasks

    def label_columns(self) -> tuple[str, ...]:
        """Return every label column of every task."""
        return tuple(column for task in self.tasks.values() for column in task.columns)

    def model_spec(self, classes: Mapping[str, tuple[str, ...]]) -> ModelSpec:
        """Return the spec of the model to make; `classes` settles the class names of each task."""
        tasks = tuple(
            Task(**{**task.model_dump(), "name": name, "classes": classes[name]}) for name, task in self.tasks.items()
        )
        height, width = self.model.image_size
        rest = self.model.model_dump(exclude={"image_size", "resize"})
        image = ImageSpec(height=height, width=width, resize=self.model.resize)
        try:
            return ModelSpec(tasks=tasks, image=image, **rest)
        except ValidationError as error:
            raise config_error(error, "tasks") from None

    def save(self, path: Path) -> None:
        """Write the configuration as TOML that `load_config` reads back as an equal one, but for passwords.

        A password of a database is written as `***`; where that stands, $MULTITASK_DATABASE_PASSWORD is taken.
        """
        settings = self.model_dump(mode="json", exclude_none=True)
        data = settings["data"]
        data |= {"labels": hide_secrets(data["labels"]), "images": [hide_secrets(place) for place in data["images"]]}
        path.write_text(tomli_w.dumps(settings), encoding="utf-8")


def load_config(path: str | Path | None) -> Config:
    """Read a TOML file, or return the defaults for None; every wrong setting is named in one ConfigError.

    Args:
        path: of the file, or the name of a recipe that comes with this package, e.g. "demo".
    """
    if path is None:
        return Config()
    recipes = _recipes()
    try:
        data = tomllib.loads(recipes.get(str(path), Path(path)).read_text(encoding="utf-8"))
    except OSError as error:
        fix = f"Check the path, or name a recipe: {', '.join(recipes)}."
        raise ConfigError(f"cannot be read ({error.strerror})", where=str(path), fix=fix) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"is not TOML: {error}", where=str(path)) from None
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        raise config_error(error, str(path)) from None


def _recipes() -> dict[str, Path]:
    """Return the recipes by name: those in the package where it is installed, in model_training/ in the repository."""
    here = Path(__file__).parent
    for folder in (here / "recipes", here.parent / "model_training/recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.toml"))}
    return {}


def config_error(error: ValidationError, where: str) -> ConfigError:
    """Return one ConfigError that names every wrong setting of a failed validation, one line each."""
    lines = [_explain(detail) for detail in error.errors()]
    return ConfigError(
        lines[0] if len(lines) == 1 else f"{len(lines)} wrong settings\n  " + "\n  ".join(lines), where=where
    )


def _explain(detail: ErrorDetails) -> str:
    """Say one pydantic error in our words: key, expected, received, nearest valid name."""
    path = [str(part) for part in detail["loc"]]
    key = ".".join(path) or "settings"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key. {nearest(path[-1], _fields_at(path[:-1]))}"
    if detail["type"] == "missing":
        return f"{key}: is missing"
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {message}"
    return f"{key}: expected {message.removeprefix('Input should be ')}, received {detail['input']!r}"


def _fields_at(path: list[str]) -> list[str]:
    """Return the keys that are valid below a path of keys of the configuration."""
    if path[:1] == ["tasks"] and len(path) == 2:
        return [*TaskConfig.model_fields, "column"]
    model: type[BaseModel] = Config
    for part in path:
        annotation = model.model_fields[part].annotation if part in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
