"""Evaluate a finished run on another labelled table: the same figures, baselines and report as after its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.inspection import open_picture
from multitask.data.archives import Archive, read_image
from multitask.data.locations import Location
from multitask.data.tables import read_table
from multitask.errors import TableError
from multitask.evaluation import plots
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import Evaluation, evaluate_tasks
from multitask.prediction.protocol import Predictor
from multitask.prediction.scoring import score_rows
from multitask.progress import Progress, Quiet
from multitask.runs import Run, RunFolder
from multitask.spec import ModelSpec
from multitask.style import save_plots

GALLERY_IMAGES = 18


def evaluate_run(
    run: Run,
    predictor: Predictor,
    labels: str | Path,
    archive: Archive,
    out: Path,
    progress: Progress = Quiet(),  # noqa: B008
) -> Evaluation:
    """Predict the rows of a label table and compare; write metrics.json, plots and report.html into `out`.

    Raises:
        TableError: no row can be evaluated.
    """
    place = Location.of_table(str(labels))
    table = read_table(labels, run.config.data.id_column, run.spec.tasks)
    with progress.track("predicting", len(table)) as advance:
        scores, status = score_rows(predictor, list(table.ids), archive, advance=advance)
    ok = np.array([value == "ok" for value in status])
    quarantine = pd.DataFrame({"id": table.ids[~ok], "reason": [value for value in status if value != "ok"]})
    if not ok.any():
        raise TableError(
            "no row could be predicted", where=str(place), received=f"row 0: {status[0]}", fix="Check --images."
        )
    table, scores = table.take(ok), {name: values[ok] for name, values in scores.items()}
    train_labels = split_labels(run, "train")
    evaluation = evaluate_tasks(run.spec, table.labels, scores, train_labels)
    figures = answer_figures(run.spec, archive, list(table.ids), table.labels, scores, train_labels)
    write_report(
        out / "report.html",
        title=f"Run {run.folder.name} on {place.name}",
        facts={"labels": str(place), "run": str(run.folder.directory)},
        evaluation=evaluation,
        rows_name=place.name,
        figures=save_plots(figures, out / "plots"),
        notes=[],
        quarantine=quarantine,
        split_counts=label_counts(run.spec, {place.stem: table.labels}),
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
        values = frame[list(task.label_columns)].to_numpy(np.float32)
        found[task.name] = values[:, 0] if task.has_class_numbers else values
    return found


def answer_figures(
    spec: ModelSpec,
    archive: Archive,
    ids: Sequence[str],
    labels: Mapping[str, NDArray[np.float32]],
    scores: Mapping[str, NDArray[np.float32]],
    train_labels: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """Draw what the model answers for some labelled rows: a gallery, and the plots of every task.

    A picture that has become unreadable since leaves its place empty.
    """
    shown = slice(0, GALLERY_IMAGES)
    images = [_picture(archive, name, spec) for name in ids[shown]]
    shown_scores = {name: values[shown] for name, values in scores.items()}
    shown_labels = {name: values[shown] for name, values in labels.items()}
    figures = {"predictions": plots.plot_predictions(spec, images, shown_scores, shown_labels)}
    for task in spec.tasks:
        given = (labels[task.name], scores[task.name], train_labels[task.name])
        for name, figure in EVALUATORS[task.kind].plots(task, *given).items():
            figures[f"{task.name}_{name}"] = figure
    return figures


def _picture(archive: Archive, name: str, spec: ModelSpec) -> NDArray[np.uint8]:
    data, _ = read_image(archive, name)
    picture = open_picture(data, 2 * max(spec.image.height, spec.image.width), spec.image.max_pixels)
    return np.full((1, 1, 3), 238, np.uint8) if picture is None else np.asarray(picture)


def label_counts(spec: ModelSpec, labels: Mapping[str, Mapping[str, NDArray[np.float32]]]) -> dict[str, dict[str, int]]:
    """Count rows, in all and with each label, per split; `labels` are by split and task."""
    counts: dict[str, dict[str, int]] = {"rows": {}}
    for part, values in labels.items():
        counts["rows"][part] = len(next(iter(values.values())))
        for task in spec.tasks:
            for name, count in EVALUATORS[task.kind].counts(task, values[task.name]).items():
                counts.setdefault(f"{task.name}: {name}", {})[part] = count
    return counts
