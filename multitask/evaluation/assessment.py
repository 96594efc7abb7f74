"""Evaluate a finished run on a labelled table, new rows apart from those it was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.audit.inspection import open_picture
from multitask.audit.splits import group_rows
from multitask.data.archives import Archive, read_image
from multitask.data.cells import as_names
from multitask.data.locations import Location
from multitask.data.tables import Table, read_table
from multitask.errors import TableError
from multitask.evaluation import plots
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.report import write_report
from multitask.evaluation.tasks import Evaluation, evaluate_tasks, weak_heads
from multitask.prediction.protocol import Predictor
from multitask.prediction.scoring import score_rows
from multitask.progress import Progress, Quiet
from multitask.runs import Run, RunFolder
from multitask.spec import ModelSpec
from multitask.storage import replacing
from multitask.style import save_plots

GALLERY_IMAGES, WORST_IMAGES = 18, 12
# Columns of splits.parquet that hold what data.group_columns said of a row.
GROUP_PREFIX = "group: "

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Assessment:
    """Figures of a run on a table.

    Args:
        new: on rows whose picture, id and groups took no part in the training; None if there is none.
        seen: on the others, which says what the model remembers, not what it can.
        rows: how many rows are new and seen.
    """

    new: Evaluation | None
    seen: Evaluation | None
    rows: tuple[int, int]


def evaluate_run(
    run: Run,
    predictor: Predictor,
    labels: str | Path,
    archive: Archive,
    out: Path,
    progress: Progress = Quiet(),  # noqa: B008
) -> Assessment:
    """Predict the rows of a label table and compare; write figures, plots and report.html into `out`.

    metrics.json and the report are those of the new rows, or of the seen ones where there is no other.

    Raises:
        TableError: no row can be evaluated.
    """
    place = Location.of_table(str(labels))
    table = read_table(labels, run.config.data.id_column, run.spec.tasks)
    hashing = _Hashing(archive)
    with progress.track("predicting", len(table)) as advance:
        scores, status = score_rows(predictor, list(table.ids), hashing, advance=advance)
    ok = np.array([value == "ok" for value in status])
    quarantine = pd.DataFrame({"id": table.ids[~ok], "reason": [value for value in status if value != "ok"]})
    if not ok.any():
        raise TableError(
            "no row could be predicted", where=str(place), received=f"row 0: {status[0]}", fix="Check --images."
        )
    table, scores = table.take(ok), {name: values[ok] for name, values in scores.items()}
    digests = np.array([hashing.digests[name] for name in table.ids], object)
    columns = _group_columns(run, table)
    groups = group_rows(digests, *columns.values())
    seen = _seen(run, table, digests, columns)
    train_labels = split_labels(run, "train")

    def evaluate(rows: NDArray[np.bool_]) -> Evaluation | None:
        if not rows.any():
            return None
        true, given = ({name: values[rows] for name, values in part.items()} for part in (table.labels, scores))
        return evaluate_tasks(run.spec, true, given, train_labels, run.config.fit.seed, groups[rows])

    found = Assessment(evaluate(~seen), evaluate(seen), (int((~seen).sum()), int(seen.sum())))
    shown = seen if found.new is None else ~seen
    _write(run, found, table.take(shown), {name: values[shown] for name, values in scores.items()}, archive, out, place)
    with replacing(out / "quarantine.parquet") as path:
        quarantine.to_parquet(path, index=False)
    return found


def _write(
    run: Run, found: Assessment, table: Table, scores: Arrays, archive: Archive, out: Path, place: Location
) -> None:
    shown = found.new or found.seen
    assert shown is not None
    folder, (new, seen) = RunFolder(out), found.rows
    folder.write_json("metrics.json", shown.as_dict())
    if found.new is not None and found.seen is not None:
        folder.write_json("metrics_of_seen_rows.json", found.seen.as_dict())
    details = write_details(run.spec, table.labels, scores, shown, out)
    notes = weak_heads(run.spec, shown)
    if seen:
        notes.insert(0, seen_line(found))
    figures = answer_figures(run.spec, archive, list(table.ids), table.labels, scores, split_labels(run, "train"))
    write_report(
        out / "report.html",
        title=f"Run {run.folder.name} on {place.name}",
        facts={
            "labels": str(place),
            "run": str(run.folder.directory),
            "new rows": f"{new:,}",
            "seen rows": f"{seen:,}",
        },
        evaluation=shown,
        rows_name=f"{place.name}" if found.new is not None else f"{place.name}, on which it was trained",
        figures=save_plots(figures, out / "plots"),
        details=details,
        notes=notes,
        quarantine=pd.DataFrame(columns=["id", "reason"]),
        split_counts=label_counts(run.spec, {place.stem: table.labels}),
        next_commands=[],
    )


def seen_line(found: Assessment) -> str:
    """Say how many rows are no test of the model."""
    new, seen = found.rows
    if new:
        return f"{seen:,} of {new + seen:,} rows took part in the training, by picture, id or group; they are left out"
    return f"all {seen:,} rows took part in the training, by picture, id or group: these figures are no result"


def split_labels(run: Run, part: str) -> Arrays:
    """Return the labels of the rows in one split of a run, per task."""
    frame = pd.read_parquet(run.folder / "splits.parquet")
    return labels_of(run.spec, frame[frame["split"] == part])


def labels_of(spec: ModelSpec, frame: pd.DataFrame) -> Arrays:
    """Return the labels of rows of splits.parquet, per task."""
    found = {}
    for task in spec.tasks:
        values = frame[list(task.label_columns)].to_numpy(np.float32)
        found[task.name] = values[:, 0] if task.has_class_numbers else values
    return found


class _Hashing(Archive):
    """An archive that notes the SHA-256 of what is read from it."""

    def __init__(self, archive: Archive) -> None:
        self._archive, self.digests = archive, dict[str, str]()
        self.ambiguous = archive.ambiguous

    def __getitem__(self, name: str) -> bytes:
        data = self._archive[name]
        self.digests[name] = hashlib.sha256(data).hexdigest()
        return data

    def __iter__(self) -> Iterator[str]:
        return iter(self._archive)

    def __len__(self) -> int:
        return len(self._archive)

    def __contains__(self, name: object) -> bool:
        return name in self._archive

    def in_order(self, names: Sequence[str]) -> NDArray[np.intp]:
        return self._archive.in_order(names)

    def files(self, name: str) -> tuple[str, ...]:
        return self._archive.files(name)


def _group_columns(run: Run, table: Table) -> dict[str, NDArray[np.object_]]:
    names = [name for name in run.config.data.group_columns if name in table.extra]
    return {name: as_names(table.extra[name]) for name in names}


def _seen(
    run: Run, table: Table, digests: NDArray[np.object_], columns: Mapping[str, NDArray[np.object_]]
) -> NDArray[np.bool_]:
    """Tell rows whose picture, id or group is among the rows that trained the model or chose its best epoch."""
    frame = pd.read_parquet(run.folder / "splits.parquet")
    frame = frame[frame["split"].isin(["train", "validation"])]
    seen = np.isin(digests, frame["sha256"].to_numpy(object)) | np.isin(table.ids, frame["id"].to_numpy(object))
    for name, values in columns.items():
        if GROUP_PREFIX + name in frame:
            known = set(frame[GROUP_PREFIX + name].dropna())
            seen |= np.array([value in known for value in values])
    return seen


def write_details(spec: ModelSpec, labels: Arrays, scores: Arrays, evaluation: Evaluation, out: Path) -> pd.DataFrame:
    """Write details.csv, a row per class and tag with its figures, those of the worst F1 first; return it."""
    tables = []
    for task in spec.tasks:
        values = {name: metric.value for name, metric in evaluation.metrics[task.name].items()}
        table = EVALUATORS[task.kind].details(task, labels[task.name], scores[task.name], values)
        table.insert(0, "task", task.name)
        tables.append(table.sort_values("f1", kind="stable") if "f1" in table else table)
    found = pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)
    with replacing(out / "details.csv") as path:
        found.to_csv(path, index=False)
    return found


def answer_figures(
    spec: ModelSpec,
    archive: Archive,
    ids: Sequence[str],
    labels: Mapping[str, NDArray[np.float32]],
    scores: Mapping[str, NDArray[np.float32]],
    train_labels: Mapping[str, NDArray[np.float32]],
) -> dict[str, Any]:
    """Draw what the model answers for labelled rows: the first of them, per task those most surely wrong, its plots.

    A picture that has become unreadable since leaves its place empty.
    """

    def gallery(rows: NDArray[np.int64]) -> Any:
        images = [_picture(archive, ids[row], spec) for row in rows]
        given, true = ({name: values[rows] for name, values in part.items()} for part in (scores, labels))
        return plots.plot_predictions(spec, images, given, true)

    figures = {"predictions": gallery(np.arange(min(len(ids), GALLERY_IMAGES)))}
    for task in spec.tasks:
        given = (labels[task.name], scores[task.name], train_labels[task.name])
        for name, figure in EVALUATORS[task.kind].plots(task, *given).items():
            figures[f"{task.name}_{name}"] = figure
        misses = EVALUATORS[task.kind].misses(task, labels[task.name], scores[task.name])
        worst = np.argsort(-misses, kind="stable")[:WORST_IMAGES]
        worst = worst[misses[worst] > 0]
        if len(worst):
            figures[f"{task.name}_worst"] = gallery(worst)
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
