"""The sections of a configuration: each field a setting, with its default, its limits and what it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import tyro
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from multitask.backbones import BACKBONES, is_location
from multitask.errors import nearest
from multitask.spec import BackboneOption, Frozen

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
    its own input scaling; a .keras file or the folder of a KerasHub preset; or, to train from scratch, small_cnn, lenet
    or inception_small."""
    backbone_options: dict[str, BackboneOption] = Field(default_factory=dict)
    """What its constructor takes beside, e.g. alpha = 0.25 of mobilenet; as flags: alpha 0.25. Of a file: scaling,
    which is none (RGB 0..255), unit, tf, torch or caffe."""
    weights: Annotated[str, _alias("--weights")] = "imagenet"
    """imagenet (downloaded once by Keras; of a backbone from a file its own), random (He-initialised), or the path of a
    .h5 or .keras file."""
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
        if backbone not in BACKBONES and not is_location(backbone):
            raise ValueError(f'expected a known backbone, received "{backbone}". {nearest(backbone, BACKBONES)}')
        return backbone


# Strength of each augmentation: what is taken where none is named, and the most. None: it has none.
AUGMENTATIONS: dict[str, tuple[float, float] | None] = {
    "flip_horizontal": None,
    "flip_vertical": None,
    "rotate": (10.0, 180.0),
    "shift": (0.1, 0.5),
    "zoom": (0.1, 0.5),
    "crop": (0.3, 0.9),
    "brightness": (0.2, 1.0),
    "contrast": (0.3, 1.0),
    "colour": (0.3, 1.0),
    "posterize": (4.0, 7.0),
    "blur": (1.0, 4.0),
    "erase": (0.1, 0.5),
}


class AugmentConfig(Frozen):
    """One way in which pictures are changed while they train; never when they are scored."""

    op: str
    """flip_horizontal, flip_vertical; rotate (degrees), shift and zoom (share of the side), crop (share of the area
    that goes), brightness, contrast and colour (share), posterize (bits), blur (pixels), erase (share of the area)."""
    probability: float = Field(default=0.5, gt=0, le=1)
    """Share of the pictures that are changed, each by its own amount."""
    strength: PositiveFloat | None = None
    """The most; in the unit of the operation."""

    @model_validator(mode="after")
    def _is_known_and_strong_enough(self) -> AugmentConfig:
        if self.op not in AUGMENTATIONS:
            raise ValueError(f'expected a known op, received "{self.op}". {nearest(self.op, AUGMENTATIONS)}')
        limits = AUGMENTATIONS[self.op]
        if self.strength is not None and (limits is None or self.strength > limits[1]):
            expected = "no strength" if limits is None else f"a strength of at most {limits[1]:g}"
            raise ValueError(f"{self.op}: expected {expected}, received {self.strength:g}")
        return self

    @property
    def has_strength(self) -> bool:
        """Can the operation be more or less?"""
        return AUGMENTATIONS[self.op] is not None

    @property
    def amount(self) -> float:
        """The strength, or what is taken where none is named."""
        return self.strength or (AUGMENTATIONS[self.op] or (1.0,))[0]


class FitConfig(Frozen):
    """How long and how carefully to train."""

    epochs: Annotated[PositiveInt, _alias("--epochs")] = 40
    """Most epochs to train; stops earlier when the validation score no longer improves."""
    batch_size: Annotated[PositiveInt, _alias("--batch-size")] = 32
    """Rows per training step."""
    learning_rate: Annotated[PositiveFloat, _alias("--learning-rate")] = 1e-4
    """Highest learning rate; see schedule."""
    schedule: Literal["plateau", "constant", "milestones", "cosine"] = "plateau"
    """How the learning rate falls: halved on plateaus, never, to a tenth at each milestone, or along half a cosine."""
    milestones: tuple[PositiveInt, ...] = ()
    """Epochs after which the learning rate falls to a tenth; for the schedule of that name."""
    warmup_epochs: NonNegativeInt = 0
    """Epochs in which the learning rate rises to its highest."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """adamw is Adam with weight decay; sgd has Nesterov's momentum."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of sgd."""
    weight_decay: NonNegativeFloat | None = None
    """Share of each kernel that a step takes away, times the learning rate; by default 1e-4 for adamw, else 0."""
    task_balance: Literal["fixed", "learned"] = "fixed"
    """Weights of the tasks in the loss: their loss_weight, or that over the loss they still have, so that an easy task
    does not drown in a hard one."""
    balance: Literal["weights", "downsample", "none"] = "weights"
    """Class imbalance: weight rare classes and tags, or sample every class down to the rarest."""
    views: PositiveInt = 4
    """Pictures that augmentation makes of one where the network below is frozen, itself among them; each goes through
    it once, and every epoch takes one of them."""
    precision: Annotated[Literal["auto", "float32", "bfloat16", "float16"], _alias("--precision")] = "auto"
    """Arithmetic of the network; auto takes the fastest the hardware has. Heads are always float32."""
    seed: Annotated[NonNegativeInt, _alias("--seed")] = 0
    """Seed of initial weights, data order and dropout; data.split_seed is that of the split."""
    trackers: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ()
    """Where the training is followed beside its run folder; each is an extra of that name."""

    @model_validator(mode="after")
    def _settings_belong_together(self) -> FitConfig:
        if bool(self.milestones) != (self.schedule == "milestones"):
            raise ValueError('schedule = "milestones" and milestones go together, e.g. milestones = [10, 15]')
        if self.optimizer != "sgd" and self.momentum != FitConfig.model_fields["momentum"].default:
            raise ValueError('momentum belongs to optimizer = "sgd"')
        return self


class FineTuneConfig(Frozen):
    """A second stage: when the heads are trained, more of the network is, slowly; what is better is kept."""

    freeze: str = ""
    """Last layer that stays frozen, e.g. block4_pool; or none: train everything. Empty: there is no second stage."""
    epochs: PositiveInt = 10
    """Most epochs of this stage, beside those of [fit]."""
    learning_rate: PositiveFloat = 1e-5
    """Highest learning rate of this stage; its schedule and all else are those of [fit]."""


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


class Range(Frozen):
    """The values between two numbers, both among them."""

    low: float
    high: float
    log: bool = False
    """Draw the logarithm evenly, for what spans powers of ten."""


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]


def _usual_space() -> dict[str, Range | Choices]:
    return {
        "fit.learning_rate": Range(low=1e-5, high=1e-2, log=True),
        "fit.batch_size": (32, 64, 128),
        "model.dropout": Range(low=0.0, high=0.6),
    }


def _is_range(values: object) -> bool:
    try:
        given = Range.model_validate(values)
    except ValidationError:
        return False
    return given.low < given.high and (given.low > 0 or not given.log)


class SearchConfig(Frozen):
    """What `multitask.tune` tries, and by what it judges."""

    trials: PositiveInt = 50
    """Trials of a study, those of earlier starts counted."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: where earlier trials were good (https://doi.org/10.5555/2986459.2986743). random: anywhere."""
    objective: tuple[str, ...] = ("val_score",)
    """Figures of history.csv, on the validation split; of several the mean. One may stand without brackets."""
    folds: NonNegativeInt = 0
    """Cross-validate every trial in so many folds and judge by the mean over them. 0: on the validation split."""
    prune: bool = True
    """Stop a trial that is below the median of the others at the same epoch."""
    space: Annotated[dict[str, Range | Choices], tyro.conf.Suppress] = Field(default_factory=_usual_space, min_length=1)
    """What is tried, by the name of a setting: { low = 1e-5, high = 1e-2, log = true }, or a list of values."""

    @field_validator("objective", mode="before")
    @classmethod
    def _accept_a_single_figure(cls, figures: object) -> object:
        return (figures,) if isinstance(figures, str) else figures

    @field_validator("space", mode="before")
    @classmethod
    def _has_ranges_and_choices(cls, space: object) -> object:
        """Say in one line what two kinds of value would each say in several."""
        for name, values in space.items() if isinstance(space, dict) else ():
            if isinstance(values, Range) or (isinstance(values, list | tuple) and values) or _is_range(values):
                continue
            quotes = "" if "." in name else ", and the setting in quotes"
            expected = f"a list of values, or low < high (0 < low with log){quotes}"
            raise ValueError(f'"{name}": expected {expected}; received {values}')
        return space
