"""Publish a run for serving, or go back: `python -m multitask.publish [--run RUN] [--rollback]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask import cli
from multitask.config import load_config
from multitask.errors import command
from multitask.progress import Lines
from multitask.serving.model_folder import CONFIG_SECONDS, MODELS, NAME, ModelFolder


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    run: str = "latest"
    """Run to publish; it is exported first if that is not done."""
    rollback: bool = False
    """Withdraw the newest version instead, so that the one before it answers again."""
    replace_tasks: bool = False
    """Let a model with other tasks or classes take the place of the published one."""
    config: Path | None = None
    """TOML file whose [gate] counts instead of that of the run."""
    models: Path = MODELS
    """Folder of models that servers watch."""
    name: str = NAME
    """Name of the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Publish or roll back, print the gate and the next commands."""
    arguments = cli.parse(Arguments, "multitask.publish", __doc__, argv)
    folder = ModelFolder(arguments.models / arguments.name)
    if arguments.rollback:
        print(f"the labels move first; the version goes {CONFIG_SECONDS:g} s later, when TF-Serving has seen that")
        withdrawn, now = folder.roll_back()
        print(f"{arguments.name}: version {withdrawn} is withdrawn, version {now} answers")
        return 0
    from multitask.runs import open_run

    run = open_run(arguments.run)
    gate = load_config(arguments.config).gate if arguments.config else None
    cli.load_tensorflow()
    from multitask.publishing.gate import publish_run

    version, checks = publish_run(run, folder, gate, Lines(), replace_tasks=arguments.replace_tasks)
    cli.print_table("Gate", ["check", "required", "found", ""], [check.row() for check in checks])
    print(f"published: {folder.path(version)}")
    cli.print_next(command("serve", "--models", arguments.models), "make serve-docker")
    return 0


if __name__ == "__main__":
    cli.run_door(main)
