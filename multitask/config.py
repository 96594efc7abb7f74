"""How to make a model: one TOML file, every field of it also a flag; checked whole, wrong settings named together."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from multitask.backbones import is_location, read_architecture
from multitask.errors import ConfigError, nearest
from multitask.privacy import hide_secrets
from multitask.settings import (
    AugmentConfig,
    DataConfig,
    FineTuneConfig,
    FitConfig,
    GateConfig,
    ModelConfig,
    SearchConfig,
)
from multitask.spec import LAYOUTS, Frozen, ImageSpec, ModelSpec, Task, TaskConfig


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
    augment: tuple[AugmentConfig, ...] = ()
    """How pictures are changed while they train, one [[augment]] table each."""
    fit: FitConfig = FitConfig()
    fine_tune: FineTuneConfig = FineTuneConfig()
    gate: GateConfig = GateConfig()
    search: SearchConfig = SearchConfig()

    @model_validator(mode="after")
    def _floors_are_of_tasks(self) -> Config:
        for name in self.gate.floors:
            task, _, figure = name.partition(".")
            if task not in self.tasks or not figure:
                expected = f"task.figure, e.g. {next(iter(self.tasks))}.accuracy"
                raise ValueError(f'gate.floors: expected {expected}, received "{name}". {nearest(task, self.tasks)}')
        return self

    @model_validator(mode="after")
    def _second_stage_goes_deeper(self) -> Config:
        first, second = self.model.freeze, self.fine_tune.freeze
        if second and (second in ("all", first) or first == "none"):
            expected = "none, or a layer before that of model.freeze"
            raise ValueError(f'fine_tune.freeze: expected {expected} ("{first}"), received "{second}"')
        if second == "none" and self.model.weights == "random":
            raise ValueError('a network with random weights is trained from scratch: model.freeze = "none", alone')
        if not second and self.fine_tune != FineTuneConfig():
            raise ValueError("fine_tune.freeze is missing: the last layer that stays frozen, or none")
        return self

    @model_validator(mode="after")
    def _folds_are_possible(self) -> Config:
        if self.search.folds == 1:
            raise ValueError("search.folds: expected 2 or more, or 0 for the validation split, received 1")
        if self.search.folds and self.data.time_column:
            raise ValueError("search.folds: folds take rows from any time to judge any other; leave time_column out")
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
        if is_location(self.model.backbone):
            location = Path(self.model.backbone)
            weights = str(location) if self.model.weights == "imagenet" else self.model.weights
            architecture = read_architecture(location, self.model.backbone_options)
            rest |= {"backbone": location.stem, "backbone_options": {}, "weights": weights}
            rest["architecture"] = architecture
        image = ImageSpec(height=height, width=width, resize=self.model.resize)
        try:
            return ModelSpec(tasks=tasks, image=image, **rest)
        except ValidationError as error:
            raise config_error(error, "tasks") from None

    def last_stage(self) -> Config:
        """Return the settings of the second stage as those of a training of its own; these, if there is none."""
        stage = self.fine_tune
        if not stage.freeze:
            return self
        model = self.model.model_copy(update={"freeze": stage.freeze})
        fit = self.fit.model_copy(update={"epochs": stage.epochs, "learning_rate": stage.learning_rate})
        return self.model_copy(update={"model": model, "fit": fit, "fine_tune": FineTuneConfig()})

    def public(self) -> dict[str, Any]:
        """Return all settings as plain values; a password of a database is `***`."""
        settings = self.model_dump(mode="json", exclude_none=True)
        data = settings["data"]
        data |= {"labels": hide_secrets(data["labels"]), "images": [hide_secrets(place) for place in data["images"]]}
        return settings

    def save(self, path: Path) -> None:
        """Write the configuration as TOML that `load_config` reads back as an equal one, but for passwords.

        Where one is written as `***`, $MULTITASK_DATABASE_PASSWORD is taken.
        """
        path.write_text(tomli_w.dumps(self.public()), encoding="utf-8")


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
