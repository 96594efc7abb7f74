"""Weights & Biases: settings, figures per epoch and on the test split, plots.

Without an account: WANDB_MODE=offline keeps everything in the run folder, and `wandb sync` sends it later.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import wandb

from multitask.config import Config
from multitask.integrations.trackers import figures_of
from multitask.runs import Run, RunFolder


class _Wandb:
    def __init__(self, run: Any) -> None:
        self._run = run

    def epoch(self, row: Mapping[str, float]) -> None:
        self._run.log(dict(row), step=int(row["epoch"]))

    def finish(self, run: Run) -> None:
        self._run.summary.update({f"test.{name}": value for name, value in figures_of(run).items()})
        plots = sorted((run.folder / "plots").glob("*.png"))
        self._run.log({f"plots/{path.stem}": wandb.Image(str(path)) for path in plots})
        self._run.finish()


def open_tracker(config: Config, folder: RunFolder) -> _Wandb:
    """Open the run of that name, or go on with it."""
    place = str(folder.directory.resolve())
    # One id per folder, so that a resumed training goes on in the same run.
    number = hashlib.sha256(place.encode()).hexdigest()[:16]
    settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False)
    return _Wandb(
        wandb.init(
            project="multitask",
            name=folder.name,
            id=number,
            resume="allow",
            dir=place,
            config=config.public(),
            settings=settings,
        )
    )
