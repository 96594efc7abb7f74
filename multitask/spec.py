"""What a model is: its tasks, its image, its backbone. Activations, losses, columns and fields follow from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

Kind = Literal["multiclass", "multilabel", "regression"]

Names = tuple[str, ...]

# How thresholds are chosen; see evaluation.thresholds.
_RULE = r"f1|(precision|recall) >= (0\.\d*[1-9]\d*|1(\.0*)?)|cost \d*[1-9]\d*:\d*[1-9]\d*"

# What keras.applications take beside what every backbone takes, e.g. alpha = 0.25.
BackboneOption = bool | int | float | str


class Frozen(BaseModel):
    """A record that refuses unknown keys and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


# What splits.parquet says of a row beside its labels.
SPLIT_COLUMNS = ("id", "split", "group", "sha256")


class TaskConfig(Frozen):
    """One question about an image, asked by label columns."""

    kind: Kind
    """multiclass: exactly one of several classes. multilabel: each tag is there or not. regression: numbers."""
    columns: tuple[str, ...] = Field(min_length=1)
    """Label columns: one for multiclass (class names or integers), one per tag (0 or 1) or one of lists of tags (lists,
    or text such as floral;dots), one per number."""
    classes: tuple[str, ...] = ()
    """Class names, or tags of a column of lists, in score order. Empty: read from the label table and sorted."""
    merge: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """New class names, each for several old ones, e.g. tops = ["shirt", "coat"]; multiclass only."""
    top_k: PositiveInt = 1
    """How many best classes a prediction names; multiclass only."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Score from which a tag counts as present; multilabel only. None: chosen per tag on the validation split."""
    threshold_by: str = "f1"
    """How it is chosen: f1, or a floor as "precision >= 0.9" or "recall >= 0.95", or a price as "cost 5:1" where a tag
    that is missed costs five times one that is wrongly seen."""
    loss_weight: float = Field(default=1.0, ge=0)
    """Share of this task in the training loss."""
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """focal gives answers that are right already less weight; of classes and tags only."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=0.5)
    """Share of each label that is spread over all answers; of classes and tags only."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_single_column(cls, data: object) -> object:
        """`column = "cc3"` is a shorter way to write `columns = ["cc3"]`."""
        if isinstance(data, dict) and "column" in data and "columns" not in data:
            data = {**data, "columns": (data["column"],)}
            del data["column"]
        return data

    @field_validator("threshold_by")
    @classmethod
    def _is_a_rule(cls, rule: str) -> str:
        if not re.fullmatch(_RULE, rule):
            raise ValueError(f'expected f1, "precision >= 0.9", "recall >= 0.95" or "cost 5:1", received "{rule}"')
        return rule

    @field_validator("columns", "classes")
    @classmethod
    def _without_repeats(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"expected distinct names, received {repeated} more than once")
        return names

    @model_validator(mode="after")
    def _fields_fit_the_kind(self) -> TaskConfig:
        layout = LAYOUTS[self.kind]
        if layout.one_column and len(self.columns) != 1:
            raise ValueError(f"a {self.kind} task has exactly one column, received {list(self.columns)}")
        for setting in ("merge", "top_k", "threshold", "threshold_by", "loss", "label_smoothing"):
            default = TaskConfig.model_fields[setting].get_default(call_default_factory=True)
            if setting not in layout.settings and getattr(self, setting) != default:
                owners = " and ".join(kind for kind, other in LAYOUTS.items() if setting in other.settings)
                raise ValueError(f"{setting} belongs to {owners} tasks")
        is_named = "classes" in layout.settings or (layout.may_list and len(self.columns) == 1)
        if self.classes and not is_named and self.classes != self.columns:
            raise ValueError(f"the answers of a {self.kind} task are named by its columns; leave classes out")
        merged = [old for names in self.merge.values() for old in names]
        if len(merged) > len(set(merged)):
            raise ValueError("a class can be merged into one other only")
        if self.classes and self.top_k > len(self.classes):
            raise ValueError(f"top_k is {self.top_k} but there are {len(self.classes)} classes")
        return self

    def merged(self, name: str) -> str:
        """Return the class that a label stands for."""
        return next((new for new, names in self.merge.items() if name in names), name)


class Task(TaskConfig):
    """A task of a model: its name and classes are settled, so its scores have a fixed shape `(batch, classes)`."""

    name: str
    classes: tuple[str, ...] = Field(min_length=1)
    thresholds: tuple[float, ...] = ()
    """One per tag, for multilabel tasks once the model is trained."""
    means: tuple[float, ...] = ()
    """Of each number over the training rows; for regression tasks once the model is trained."""
    spreads: tuple[float, ...] = ()
    """Standard deviation of each number, likewise."""

    @property
    def label_columns(self) -> Names:
        """Columns of splits.parquet that hold this task's labels as numbers, one of class numbers or one per answer.

        Names of the other columns of that table are theirs: the labels of a task `group` are in `label group`.
        """
        names = (self.name,) if LAYOUTS[self.kind].one_column else self.classes
        return tuple(f"label {name}" if name in SPLIT_COLUMNS else name for name in names)

    @property
    def lists_tags(self) -> bool:
        """Does its one label column hold lists of answers? Else it holds class numbers, or each answer has a column."""
        return LAYOUTS[self.kind].may_list and self.classes != self.columns

    @property
    def has_class_numbers(self) -> bool:
        """Is a label one class number? Else it is a row of values, one per answer."""
        return LAYOUTS[self.kind].one_column

    @property
    def decision_columns(self) -> Names:
        """Columns of a prediction table that hold this task's decisions, as integers."""
        return LAYOUTS[self.kind].decisions(self)

    @property
    def name_columns(self) -> Names:
        """Columns of a prediction table that hold class names."""
        return LAYOUTS[self.kind].names(self)

    @property
    def score_columns(self) -> Names:
        """Columns of a prediction table that hold what the network gives, in class order: scores, or the numbers."""
        return LAYOUTS[self.kind].scores(self)

    @property
    def answer_outputs(self) -> Names:
        """Outputs of the served model beside the scores, which bear the task's name.

        Multiclass: names and scores of the `top_k` best classes, (batch, top_k). Multilabel: is each tag there, 0 or 1,
        (batch, tags). Regression: none, its scores are the answer.
        """
        return LAYOUTS[self.kind].outputs(self)

    def units(self) -> tuple[float, ...]:
        """Return what counts as a difference of one in each score: 1 for probabilities, a number's spread."""
        return self.spreads or (1.0,) * len(self.classes)

    def settled_thresholds(self) -> tuple[float, ...]:
        """Return one decision threshold per tag: the trained ones, else the configured one, else 0.5."""
        return self.thresholds or (self.threshold or 0.5,) * len(self.classes)


@dataclass(frozen=True)
class Layout:
    """How the labels and answers of one kind of task are named; an answer is a class, a tag or a number.

    Args:
        one_column: is a label one class number, in one column? Else there is a column per answer.
        may_list: may one column hold lists of answers instead?
        settings: fields of a task that belong to this kind.
        decisions, names, scores, outputs: see the properties of `Task`.
    """

    one_column: bool
    may_list: bool
    settings: frozenset[str]
    decisions: Callable[[Task], Names]
    names: Callable[[Task], Names]
    scores: Callable[[Task], Names]
    outputs: Callable[[Task], Names]


def _ranks(task: Task) -> Names:
    return (task.name,) if task.top_k == 1 else tuple(f"{task.name}{rank + 1}" for rank in range(task.top_k))


def _scores(task: Task) -> Names:
    return tuple(f"{task.name}_score_{name}" for name in task.classes)


LAYOUTS: dict[Kind, Layout] = {
    "multiclass": Layout(
        one_column=True,
        may_list=False,
        settings=frozenset(("classes", "merge", "top_k", "loss", "label_smoothing")),
        decisions=_ranks,
        names=lambda task: tuple(f"{column}_name" for column in _ranks(task)),
        scores=_scores,
        outputs=lambda task: (f"{task.name}_top", f"{task.name}_top_scores"),
    ),
    "multilabel": Layout(
        one_column=False,
        may_list=True,
        settings=frozenset(("threshold", "threshold_by", "loss", "label_smoothing")),
        decisions=lambda task: task.classes,
        names=lambda task: (),
        scores=_scores,
        outputs=lambda task: (f"{task.name}_present",),
    ),
    "regression": Layout(
        one_column=False,
        may_list=False,
        settings=frozenset(),
        decisions=lambda task: (),
        names=lambda task: (),
        scores=lambda task: task.classes,
        outputs=lambda task: (),
    ),
}


class ImageSpec(Frozen):
    """How image bytes become a `uint8 (height, width, 3)` RGB array."""

    height: PositiveInt = 224
    width: PositiveInt = 224
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    max_pixels: PositiveInt = 64_000_000


class ModelSpec(Frozen):
    """Everything needed to build the network and to read its answers."""

    tasks: tuple[Task, ...] = Field(min_length=1)
    image: ImageSpec = ImageSpec()
    backbone: str = "vgg16"
    backbone_options: dict[str, BackboneOption] = Field(default_factory=dict)
    weights: str = "imagenet"
    freeze: str = "all"
    pooling: Literal["flatten", "avg", "max"] = "flatten"
    dropout: float = 0.25
    members: PositiveInt = 1
    """Trainable sides on one frozen side, of which the scores are the mean: an ensemble."""
    architecture: str = ""
    """Of a backbone that came from a file: what it is made of, see `backbones.read_architecture`."""

    @model_validator(mode="after")
    def _columns_are_distinct(self) -> ModelSpec:
        check_column_names(self.tasks)
        return self

    @property
    def from_scratch(self) -> bool:
        """Is all of the network trained, beginning with random weights?"""
        return self.freeze == "none" and self.weights == "random"

    def task(self, name: str) -> Task:
        """Return the task of that name."""
        return next(task for task in self.tasks if task.name == name)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change whenever any field does."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the spec as `spec.json`, the file that travels with every model."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> ModelSpec:
        """Read what `save` wrote."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))


def check_column_names(tasks: Iterable[Task]) -> None:
    """Raise ValueError when two tasks would write the same column of a prediction table, or the same served output."""
    columns, outputs = {"status": "the status column"}, {"image_ok": "the flag of readable images"}
    for task in tasks:
        for seen, kind, names in (
            (columns, "column", (*task.decision_columns, *task.name_columns, *task.score_columns)),
            (outputs, "output", (task.name, *task.answer_outputs)),
        ):
            for name in names:
                if name in seen:
                    raise ValueError(f'task "{task.name}" would write the {kind} "{name}", as does {seen[name]}')
                seen[name] = f'task "{task.name}"'
