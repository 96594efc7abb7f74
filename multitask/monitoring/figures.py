"""Figures of a window where its labels have come in, beside those of the test split."""

from __future__ import annotations

import numpy as np
import pandas as pd

from multitask.data.frames import read_frame
from multitask.data.tables import as_table, latest
from multitask.errors import TableError
from multitask.evaluation.assessment import split_labels
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.tasks import Evaluation, evaluate_tasks
from multitask.monitoring.signals import scores_of
from multitask.monitoring.verdict import Known
from multitask.monitoring.window import Window
from multitask.runs import Run


def known_figures(run: Run, window: Window, labels: str) -> list[Known]:
    """Return the main figure of every task on the rows of the window that have a label.

    Raises:
        TableError: none has.
    """
    id_column = run.config.data.id_column
    frame = read_frame(labels)
    if id_column in frame:
        frame = latest(frame, id_column).reset_index()
    table = as_table(frame, id_column, run.spec.tasks, labels)
    places = pd.Series(np.arange(len(table)), index=table.ids)
    is_known = window.frame["id"].isin(places.index).to_numpy()
    if not is_known.any():
        raise TableError(
            "no row of the window has a label",
            where=labels,
            expected=f"ids such as {', '.join(window.frame['id'].head(3))}",
            received=f"ids such as {', '.join(table.ids[:3])}",
        )
    frame = window.frame[is_known]
    rows = places[frame["id"]].to_numpy()
    scores = {task.name: scores_of(task, frame).astype(np.float32) for task in run.spec.tasks}
    true = {name: values[rows] for name, values in table.labels.items()}
    found = evaluate_tasks(run.spec, true, scores, split_labels(run, "train"), run.config.fit.seed)
    before = Evaluation.from_dict(run.folder.read_json("metrics.json"))
    known = []
    for task in run.spec.tasks:
        name = EVALUATORS[task.kind].main
        now, then = found.metrics[task.name][name], before.metrics[task.name][name]
        if np.isfinite([now.value, now.low, now.high, then.value, then.low, then.high]).all():
            known.append(Known(task.name, name, (now.value, now.low, now.high), (then.value, then.low, then.high)))
    return known
