"""Put trained runs together to one model, the mean of their scores: `python -m multitask.ensemble RUN RUN ...`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from multitask import cli
from multitask.errors import command
from multitask.progress import Lines
from multitask.runs import Run, open_run


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Finished runs of the same tasks, backbone, rows and split; seeds, learning and augmentation may differ."""
    name: str | None = None
    """Name of the new run folder; by default the time."""


def main(argv: Sequence[str] | None = None) -> int:
    """Make the run, print what it gains over its members."""
    arguments = cli.parse(Arguments, "multitask.ensemble", __doc__, argv)
    members = [open_run(name) for name in arguments.runs]
    cli.load_tensorflow()
    from multitask.evaluation.kinds import EVALUATORS
    from multitask.evaluation.tasks import Evaluation
    from multitask.training.revising import ensemble

    run = ensemble(members, arguments.name, Lines())

    def row(of: Run) -> list[str]:
        found = Evaluation.from_dict(of.folder.read_json("metrics.json"))
        mains = [found.metrics[task.name][EVALUATORS[task.kind].main] for task in of.spec.tasks]
        return [of.folder.name, *(f"{main.value:.3f} ({main.low:.3f} to {main.high:.3f})" for main in mains)]

    names = [f"{task.name}: {EVALUATORS[task.kind].main.replace('_', ' ')}" for task in run.spec.tasks]
    cli.print_table("Test split: the ensemble and its members", ["run", *names], [row(of) for of in (run, *members)])
    print(f"report: {run.folder / 'report.html'}")
    cli.print_next(command("export", "--run", run.folder.name), command("publish", "--run", run.folder.name))
    return 0


if __name__ == "__main__":
    cli.run_door(main)
