"""Where a training is followed beside its run folder: trackers by name, none of which can cost a training."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from multitask.config import Config
from multitask.errors import ConfigError
from multitask.progress import Progress
from multitask.runs import Run, RunFolder


class Tracker(Protocol):
    """Follows one run; a resumed training opens the tracker of its run again."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Take one row of history.csv; `epoch` counts from 1."""

    def finish(self, run: Run) -> None:
        """Take what the finished run's folder holds."""


class Trackers:
    """Some trackers as one; one that fails is told so and left out from then on.

    Args:
        trackers: by name.
        progress: where to say what failed.
    """

    def __init__(self, trackers: Mapping[str, Tracker], progress: Progress) -> None:
        self._trackers, self._progress = dict(trackers), progress

    def epoch(self, row: Mapping[str, float]) -> None:
        """Pass an epoch on."""
        self._each("epoch", row)

    def finish(self, run: Run) -> None:
        """Pass the finished run on."""
        self._each("finish", run)

    def _each(self, method: str, argument: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                getattr(tracker, method)(argument)
            except Exception as error:
                del self._trackers[name]
                self._progress.say(f"{name} is left out from here on ({type(error).__name__}: {error})")


def open_trackers(names: Sequence[str], config: Config, folder: RunFolder, progress: Progress) -> Trackers:
    """Open the trackers of a run.

    Raises:
        ConfigError: one is not installed, or cannot be opened.
    """
    opened = {}
    for name in names:
        try:
            room = importlib.import_module(f"multitask.integrations.{name}")
        except ImportError as error:
            raise ConfigError(
                f"{name} is not installed ({error})",
                where="fit.trackers",
                fix=f'Install it: pip install "multitask[{name}]"',
            ) from None
        try:
            opened[name] = room.open_tracker(config, folder)
        except Exception as error:
            raise ConfigError(
                f"{name} cannot be opened ({type(error).__name__}: {str(error).splitlines()[0]})",
                where="fit.trackers",
                fix="See that its server can be reached, or leave it out.",
            ) from None
    return Trackers(opened, progress)


def figures_of(run: Run) -> dict[str, float]:
    """Return the figures on the test split, as `task.figure`."""
    found = run.folder.read_json("metrics.json")
    return {
        f"{task}.{name}": metric["value"]
        for task, part in found.items()
        for name, metric in part["metrics"].items()
        if metric["value"] is not None
    }


def settings_of(config: Config) -> dict[str, str]:
    """Return every setting by its name, e.g. fit.epochs."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, part in value.items():
                walk(f"{prefix}.{key}" if prefix else key, part)
        else:
            flat[prefix] = str(value)

    walk("", config.public())
    return flat
