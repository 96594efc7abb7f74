"""Train a model: `python -m multitask.train [--config FILE] [--name RUN] [--resume RUN] [settings]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multitask import cli
from multitask.backbones import is_location
from multitask.config import Config, DataConfig, load_config
from multitask.errors import ConfigError
from multitask.progress import Lines
from multitask.runs import Run
from multitask.spec import ImageSpec

DEMO = Path("data/demo")


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    config: Path | None = None
    """TOML file with settings; flags override it."""
    name: str | None = None
    """Name of the run folder; by default the time."""
    resume: str | None = None
    """Go on with this interrupted run, by its own settings."""
    more_epochs: int | None = None
    """With --resume: train the run, finished or not, for so many epochs more than its settings say."""
    folds: int | None = None
    """Cross-validate: train a network per fold, and put them together to one model."""
    plan: bool = False
    """Say what it would take, from some images measured on this machine, and train nothing."""
    plan_images: int | None = None
    """With --plan: as if there were so many images."""
    on: cli.On = None
    settings: cli.Settings = Config()  # noqa: RUF009


def main(argv: Sequence[str] | None = None) -> int:
    """Train, print the results and the next commands."""
    arguments = cli.parse_with_config(Arguments, "multitask.train", __doc__, argv)
    progress = Lines()
    config = arguments.settings
    if arguments.resume is None:
        config = _with_demo_data(config, progress)
    elif config != load_config(arguments.config) or arguments.config or arguments.name or arguments.folds:
        raise ConfigError(
            "a resumed run keeps its own name and settings",
            where="command line",
            fix=f"Give --resume {arguments.resume} alone, or with --more-epochs, or start a new run.",
        )
    if arguments.more_epochs is not None and arguments.resume is None:
        raise ConfigError("goes with --resume", where="--more-epochs", fix="Name the run that shall go on.")
    if arguments.plan_images is not None and not arguments.plan:
        raise ConfigError("goes with --plan", where="--plan-images")
    cli.load_tensorflow()
    from multitask.training import fitting, folds

    if arguments.resume is None and Path(config.data.labels).is_relative_to(DEMO):
        config = _with_weights_in_reach(config, progress)
    if arguments.plan:
        _print_plan(config, arguments, progress)
        return 0
    with cli.workers(arguments.on, progress) as workers:
        if arguments.resume is not None:
            run = folds.resume(arguments.resume, progress, more_epochs=arguments.more_epochs, workers=workers)
        elif arguments.folds is not None:
            run = folds.fit_folds(config, arguments.folds, arguments.name, progress, workers=workers)
        else:
            run = fitting.fit(config, arguments.name, progress, workers=workers)
    if (run.folder / folds.FOLDS).is_file():
        _print_folds(run)
    _print_results(run)
    return 0


def _print_plan(config: Config, arguments: Arguments, progress: Lines) -> None:
    from multitask.training.planning import make_plan

    plan = make_plan(config, arguments.plan_images, arguments.folds, progress)
    columns = ["step", "times", "images", "ms each", "time", "GB"]
    cli.print_table(f"Plan for {plan.images:,} images, by {plan.measured} of them", columns, plan.table())
    for note in plan.notes:
        print(note)


def _print_folds(run: Run) -> None:
    from multitask.training.folds import summary

    rows = [[name, *(f"{value:.3f}" for value in values)] for name, *values in summary(run).itertuples(index=False)]
    cli.print_table("Best epochs of the folds", ["figure", "mean", "deviation", "least", "most"], rows)


def _print_results(run: Run) -> None:
    from multitask.evaluation.tasks import Evaluation
    from multitask.training.results import next_commands

    evaluation = Evaluation.from_dict(run.folder.read_json("metrics.json"))
    cli.print_metrics(f"Test split of run {run.folder.name}", evaluation, run.spec)
    print(f"report: {run.folder / 'report.html'}")
    cli.print_next(*next_commands(run.folder, run.config))


def _with_demo_data(config: Config, progress: Lines) -> Config:
    """Turn to the demo dataset, drawn if need be, when no data is at the default place and none was named."""
    default = DataConfig()
    untouched = (config.data.labels, config.data.images) == (default.labels, default.images)
    if untouched and not Path(default.labels).exists():
        data = {"labels": str(DEMO / "data.parquet"), "images": (str(DEMO / "images.zip"),)}
        progress.say(f"no {default.labels}: training on the demo dataset in {DEMO}")
        config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    if Path(config.data.labels).is_relative_to(DEMO) and not Path(config.data.labels).exists():
        from multitask.demo.sample import draw_sample

        progress.say(f"drawing the demo dataset in {DEMO}")
        draw_sample(DEMO)
    return config


def _with_weights_in_reach(config: Config, progress: Lines) -> Config:
    """Let the demo, and only the demo, run without ImageNet weights."""
    if config.model.weights != "imagenet" or is_location(config.model.backbone):
        return config
    from multitask.network.weights import ImagenetUnreachable, imagenet_weights

    height, width = config.model.image_size
    image = ImageSpec(height=height, width=width)
    try:
        imagenet_weights(config.model.backbone, image, config.model.backbone_options)
    except ImagenetUnreachable as error:
        progress.say(f"{error}\nThe demo goes on with random weights; its figures are those of random features.")
        return config.model_copy(update={"model": config.model.model_copy(update={"weights": "random"})})
    return config


if __name__ == "__main__":
    cli.run_door(main)
