"""Evaluate a finished run on another labelled table: the same figures, baselines and report as after its training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.data.archives import Archive
from multitask.data.tables import read_table
from multitask.errors import TableError
from multitask.evaluation import plots
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import Evaluation, evaluate
from multitask.prediction.predictor import Predictor
from multitask.prediction.scoring import score_rows
from multitask.progress import Progress, Quiet
from multitask.runs import Run, RunFolder
from multitask.training.results import answer_figures, label_counts


def evaluate_run(
    run: Run,
    predictor: Predictor,
    labels: Path,
    archive: Archive,
    out: Path,
    progress: Progress = Quiet(),  # noqa: B008
) -> Evaluation:
    """Predict the rows of a label table and compare; write metrics.json, plots and report.html into `out`.

    Raises:
        TableError: no row can be evaluated.
    """
    table = read_table(labels, run.config.data.id_column, run.spec.tasks)
    with progress.track("predicting", len(table)) as advance:
        scores, status = score_rows(predictor, list(table.ids), archive, advance=advance)
    ok = np.array([value == "ok" for value in status])
    quarantine = pd.DataFrame({"id": table.ids[~ok], "reason": [value for value in status if value != "ok"]})
    if not ok.any():
        raise TableError(
            "no row could be predicted", where=str(labels), received=f"row 0: {status[0]}", fix="Check --images."
        )
    table, scores = table.take(ok), {name: values[ok] for name, values in scores.items()}
    evaluation = evaluate(run.spec, table.labels, scores, split_labels(run, "train"))
    figures = answer_figures(run.spec, archive, list(table.ids), table.labels, scores, evaluation.confusion)
    write_report(
        out / "report.html",
        title=f"Run {run.folder.name} on {labels.name}",
        facts={"labels": str(labels), "run": str(run.folder.directory)},
        evaluation=evaluation,
        rows_name=labels.name,
        figures=plots.save_plots(figures, out / "plots"),
        notes=[],
        quarantine=quarantine,
        split_counts=label_counts(run.spec, {labels.stem: table.labels}),
        next_commands=[],
    )
    RunFolder(out).write_json("metrics.json", evaluation.as_dict())
    return evaluation


def split_labels(run: Run, part: str) -> dict[str, NDArray[np.float32]]:
    """Return the labels of the rows in one split of a run, per task."""
    frame = pd.read_parquet(run.folder / "splits.parquet")
    frame = frame[frame["split"] == part]
    found = {}
    for task in run.spec.tasks:
        columns = list(task.columns) if task.kind == "multilabel" else [task.name]
        values = frame[columns].to_numpy(np.float32)
        found[task.name] = values if task.kind == "multilabel" else values[:, 0]
    return found
