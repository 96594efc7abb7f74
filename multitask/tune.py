"""Search for better settings: `python -m multitask.tune [--config FILE] [--trials N] [--name STUDY] [--jobs N]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask import cli
from multitask.config import Config
from multitask.errors import ConfigError, command
from multitask.progress import Lines


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    config: Path | None = None
    """TOML file with settings; flags override it. Its section `search` says what to try."""
    trials: int | None = None
    """Trials of the study, those of earlier starts counted; by default search.trials."""
    name: str | None = None
    """Name of the study; that of an earlier one goes on with it. By default the time."""
    jobs: int = 1
    """Processes that share the trials."""
    on: cli.On = None
    range_test: bool = False
    """Instead of a search, train one short way with a rising learning rate, and show where the loss falls."""
    settings: cli.Settings = Config()  # noqa: RUF009


def main(argv: Sequence[str] | None = None) -> int:
    """Search, print the best trials, the backbones where several were tried, and the next command."""
    arguments = cli.parse_with_config(Arguments, "multitask.tune", __doc__, argv)
    for flag in ("trials", "jobs"):
        number = getattr(arguments, flag)
        if number is not None and number < 1:
            raise ConfigError("expected at least 1", where=f"--{flag}", received=str(number))
    config = arguments.settings
    if arguments.range_test:
        return _test_range(arguments)
    if arguments.trials is not None:
        section = config.search.model_copy(update={"trials": arguments.trials})
        config = config.model_copy(update={"search": section})
    from multitask.tuning.study import search

    progress = Lines()
    with cli.workers(arguments.on, progress) as workers:
        folder = search(config, arguments.name, arguments.jobs, progress, workers=workers if arguments.on else None)
    from multitask.tuning.results import best_first, write_study

    trials = write_study(folder, config)
    cli.print_table(f"Best of {len(trials)} trials of study {folder.name}", *best_first(trials, config))
    if "model.backbone" in config.search.space:
        _print_pareto(folder, config, progress)
    print(f"trials: {folder / 'trials.parquet'}\nplots: {folder / 'plots'}")
    folds = ("--folds", config.search.folds) if config.search.folds else ()
    cli.print_next(command("train", "--config", folder / "best.toml", *folds))
    return 0


def _test_range(arguments: Arguments) -> int:
    cli.load_tensorflow()
    from multitask.tuning.rates import try_rates

    found = try_rates(arguments.settings, arguments.name, Lines())
    cli.print_table(
        "Learning rate",
        ["", "learning rate", "loss there"],
        [
            ["where the loss falls fastest", f"{found.fastest:.1e}", f"{found.loss_at(found.fastest):.4f}"],
            ["where it is least", f"{found.least:.1e}", f"{found.loss_at(found.least):.4f}"],
        ],
    )
    print(f"plot: {found.plot}")
    recipe = ("--config", arguments.config) if arguments.config else ()
    cli.print_next(command("train", *recipe, "--learning-rate", f"{found.fastest:.1e}"))
    return 0


def _print_pareto(folder: Path, config: Config, progress: Lines) -> None:
    cli.load_tensorflow()
    from multitask.tuning.pareto import write_pareto

    rows = [
        [row.backbone, f"{row.value:.4f}", f"{row.latency_ms:,.1f}", f"{row.size_mb:,.1f}", row.verdict]
        for row in write_pareto(folder, config, progress)
        .assign(verdict=lambda found: found["undominated"].map({True: "", False: "another beats it"}))
        .itertuples()
    ]
    cli.print_table("Backbones", ["backbone", "value", "ms for one photo", "MB", ""], rows)


if __name__ == "__main__":
    cli.run_door(main)
