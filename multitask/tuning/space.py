"""What a search tries and judges by: names of settings and figures, checked before the first trial."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from multitask.config import Config, config_error
from multitask.errors import ConfigError, nearest
from multitask.evaluation.kinds import EVALUATORS
from multitask.settings import Range

# Other data, or other questions, have other scores: their trials could not be compared.
_SEARCHABLE = re.compile(r"(model|fit)\.\w+|tasks\.\w+\.loss_weight")


def with_settings(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values of some settings, e.g. {"fit.epochs": 3}, checked whole.

    Raises:
        ConfigError: a value is wrong; its setting is named.
    """
    settings = config.model_dump()
    for name, value in values.items():
        *path, last = name.split(".")
        section = settings
        for part in path:
            section = section[part]
        section[last] = value
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise config_error(error, "search.space") from None


def check_search(config: Config) -> None:
    """Check names and values of the space, and the objective.

    Raises:
        ConfigError: one of them is wrong.
    """
    known = [name for name in _names(config) if _SEARCHABLE.fullmatch(name)]
    for name, values in config.search.space.items():
        if name not in known:
            raise ConfigError(f'no setting "{name}" to search', where="search.space", fix=nearest(name, known))
        for value in (values.low, values.high) if isinstance(values, Range) else values:
            with_settings(config, {name: value})
        if isinstance(values, Range) and not is_whole(config, name):
            with_settings(config, {name: (values.low + values.high) / 2})
    figures = objectives(config)
    for figure in config.search.objective:
        if figure not in figures:
            raise ConfigError(
                f'no figure "{figure}"', where="search.objective", fix=f"{nearest(figure, figures)}".strip()
            )
    if len({is_loss(figure) for figure in config.search.objective}) != 1:
        raise ConfigError(
            "losses, of which less is better, and scores cannot share a mean",
            where="search.objective",
            received=", ".join(config.search.objective) or "none",
        )
    if "val_loss" in config.search.objective and any(name.startswith("tasks.") for name in config.search.space):
        raise ConfigError(
            "a search of loss weights would win by weighing nothing",
            where='search.objective = "val_loss"',
            fix="Judge by val_score, or by the losses of the tasks.",
        )


def objectives(config: Config) -> list[str]:
    """Return the figures of the validation split that the history of an epoch will hold."""
    figures = ["val_score", "val_loss"]
    for name, task in config.tasks.items():
        watched = (figure.removeprefix("mean_") for figure in EVALUATORS[task.kind].watched)
        figures += [f"val_{name}_{figure}" for figure in ("loss", *watched)]
    return figures


def is_loss(figure: str) -> bool:
    """Tell figures of which less is better; all others that epochs compute are scores."""
    return figure.endswith("_loss")


def less_is_better(config: Config) -> bool:
    """Tell whether the objective is a loss."""
    return is_loss(config.search.objective[0])


def judged_by(config: Config) -> str:
    """Say the objective."""
    figures = config.search.objective
    return figures[0] if len(figures) == 1 else f"mean of {', '.join(figures)}"


def is_whole(config: Config, name: str) -> bool:
    """Tell whether a setting is a whole number: what it makes of the ends of its range says so."""
    values = config.search.space[name]
    if not isinstance(values, Range):
        return False
    ends = [_value(with_settings(config, {name: end}), name) for end in (values.low, values.high)]
    return all(isinstance(end, int) for end in ends)


def suggest(trial: Any, config: Config) -> dict[str, Any]:
    """Let Optuna choose a value of every setting in the space."""
    chosen: dict[str, Any] = {}
    for name, values in config.search.space.items():
        if not isinstance(values, Range):
            by_word = {as_word(value): value for value in values}
            chosen[name] = by_word[trial.suggest_categorical(name, list(by_word))]
        elif is_whole(config, name):
            chosen[name] = trial.suggest_int(name, int(values.low), int(values.high), log=values.log)
        else:
            chosen[name] = trial.suggest_float(name, values.low, values.high, log=values.log)
    return chosen


def as_word(value: Any) -> Any:
    """Return a choice as Optuna stores it: numbers and words as they are, lists and tables as JSON."""
    return value if isinstance(value, bool | int | float | str) else json.dumps(value)


def chosen_by(config: Config, parameters: Mapping[str, Any]) -> Config:
    """Return the configuration of a stored trial."""
    space = config.search.space
    words = {
        name: {} if isinstance(values, Range) else {as_word(value): value for value in values}
        for name, values in space.items()
    }
    return with_settings(config, {name: words[name].get(value, value) for name, value in parameters.items()})


def _names(config: Config) -> list[str]:
    """Return every setting by its dotted name; a table of free keys, such as gate.floors, is one setting."""
    return [
        *_below(config, ""),
        *(f"tasks.{name}.{field}" for name, task in config.tasks.items() for field in _fields(task)),
    ]


def _below(record: BaseModel, prefix: str) -> list[str]:
    found = []
    for field in _fields(record):
        value = getattr(record, field)
        found += _below(value, f"{prefix}{field}.") if isinstance(value, BaseModel) else [f"{prefix}{field}"]
    return found


def _fields(record: BaseModel) -> list[str]:
    return list(type(record).model_fields)


def _value(config: Config, name: str) -> Any:
    found: Any = config
    for part in name.split("."):
        found = found[part] if isinstance(found, dict) else getattr(found, part)
    return found
