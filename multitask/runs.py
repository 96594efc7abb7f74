"""The run folder: where everything of one training lies."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from multitask.config import Config, load_config
from multitask.errors import RunError, command, nearest
from multitask.spec import ModelSpec
from multitask.storage import replacing

RUNS = Path("model_training/runs")
# Names that stand for a run.
_WORDS = ("latest", "best")


@dataclass(frozen=True)
class RunFolder:
    """The files of one training, finished or not."""

    directory: Path

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.directory.name

    def __truediv__(self, name: str) -> Path:
        return self.directory / name

    @property
    def config_file(self) -> Path:
        """The configuration, which re-runs the training."""
        return self / "config.toml"

    @property
    def last_checkpoint(self) -> Path:
        """State after the newest epoch."""
        return self / "checkpoints/last.npz"

    @property
    def best_checkpoint(self) -> Path:
        """Weights of the epoch with the best validation score."""
        return self / "checkpoints/best.npz"

    def part(self, name: str) -> RunFolder:
        """Return the folder of a part of this training, made if need be, with checkpoints of its own."""
        (self / name).mkdir(exist_ok=True)
        return RunFolder(self / name)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file, whole or not at all."""
        with replacing(self / name) as path:
            path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    def read_json(self, name: str) -> dict[str, Any]:
        """Read a JSON file of the run."""
        return json.loads((self / name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Run:
    """A finished training: its folder, how it was made, what it is."""

    folder: RunFolder
    config: Config
    spec: ModelSpec


def start_run(config: Config, name: str | None = None, root: Path = RUNS) -> RunFolder:
    """Make a new run folder that holds its configuration; named by the time unless `name` is given.

    Raises:
        RunError: there is a run of that name.
    """
    folder = RunFolder(root / (name or datetime.now().strftime("%Y-%m-%d-%H%M%S")))
    if name is not None and (not re.fullmatch(r"[\w.-]+", name) or name in (*_WORDS, ".", "..")):
        raise RunError(f'"{name}" cannot be the name of a run', expected="letters, digits, - and _")
    try:
        folder.directory.mkdir(parents=True)
    except FileExistsError:
        raise RunError(
            "there is a run of that name",
            where=str(folder.directory),
            fix=f"Go on with it (--resume {folder.name}) or choose another --name.",
        ) from None
    with replacing(folder.config_file) as path:
        config.save(path)
    return folder


def find_run(name: str = "latest", root: Path = RUNS) -> RunFolder:
    """Find a run folder by the name of the run or by its path.

    `latest` is the newest finished one. `best` has the highest validation score among the finished runs that answer the
    same tasks and have the same rows, labels and split as `latest` (of others the scores are not comparable).

    Raises:
        RunError: there is none.
    """
    if name == "best":
        return _best(root)
    for directory in (root / name, Path(name)):
        if (directory / "config.toml").is_file():
            return RunFolder(directory.resolve())
    known = [folder.name for folder in run_folders(root)]
    fix = nearest(name, known) if known else f"Train one: {command('train')}"
    raise RunError(f'no run "{name}"', where=str(root), fix=fix)


def run_folders(root: Path = RUNS) -> list[RunFolder]:
    """Return the folders of all runs, finished or not."""
    found = [file.parent for file in sorted(root.glob("*/config.toml"))]
    return [RunFolder(folder) for folder in found if not folder.is_symlink()]


def _best(root: Path) -> RunFolder:
    latest = find_run("latest", root)

    def kin(folder: RunFolder) -> list[Any]:
        tasks = ModelSpec.load(folder / "spec.json").tasks
        return [folder.read_json("data.json")["data"], [(task.name, task.kind, task.classes) for task in tasks]]

    finished = [folder for folder in run_folders(root) if (folder / "metrics.json").is_file()]
    alike = [folder for folder in finished if kin(folder) == kin(latest)]
    return max(alike, key=lambda folder: folder.read_json("manifest.json")["best_val_score"])


def open_run(name: str = "latest", root: Path = RUNS) -> Run:
    """Open a finished run.

    Raises:
        RunError: there is none, or it is not finished.
    """
    folder = find_run(name, root)
    if not (folder / "metrics.json").is_file():
        raise RunError(
            "this run is not finished",
            where=str(folder.directory),
            fix=f"Go on with it: {command('train', '--resume', folder.name)}",
        )
    return Run(folder, load_config(folder.config_file), ModelSpec.load(folder / "spec.json"))


def point_latest(folder: RunFolder) -> None:
    """Let `latest` beside the run point to it."""
    link = folder.directory.parent / f".latest-{uuid.uuid4().hex[:8]}"
    link.symlink_to(folder.name, target_is_directory=True)
    os.replace(link, folder.directory.parent / "latest")
