"""The gate in front of serving: what a model must be to become the next version."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.config import GateConfig
from multitask.data.archives import open_archive
from multitask.demo.probe import probe_images
from multitask.errors import GateError, nearest
from multitask.evaluation.assessment import split_labels
from multitask.evaluation.comparison import comparable, compare_task
from multitask.evaluation.tasks import Evaluation, evaluate_tasks
from multitask.prediction.scoring import score_rows
from multitask.progress import Progress, Quiet
from multitask.publishing.exporting import export_run
from multitask.publishing.proving import PROOF_FILE, digest
from multitask.runs import Run
from multitask.serving.model_folder import ModelFolder
from multitask.serving.native import NativePredictor

LATENCY_CALLS = 9

Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Check:
    """One line of the gate."""

    name: str
    required: str
    found: str
    passed: bool

    def row(self) -> list[str]:
        """Return the line as text, for print."""
        return [self.name, self.required, self.found, "pass" if self.passed else "FAIL"]


@dataclass(frozen=True)
class _TestSplit:
    """The test rows of the candidate, with the labels of its training rows for the baselines."""

    ids: list[str]
    labels: Arrays
    train_labels: Arrays
    groups: NDArray[np.int64]


def publish_run(
    run: Run,
    folder: ModelFolder,
    gate: GateConfig | None = None,
    progress: Progress = Quiet(),  # noqa: B008
) -> tuple[int, list[Check]]:
    """Export a run if that is not done, send it through the gate, and add it as the next version.

    Args:
        run: a finished one.
        folder: where servers look.
        gate: by default that of the run's configuration.
        progress: where to report.

    Returns:
        The new version and the lines of the gate.

    Raises:
        GateError: a line failed; nothing is changed.
        ProofError: the export failed.
    """
    gate = gate or run.config.gate
    export = _proven_export(run, progress)
    checks, facts = _pass_gate(run, export, folder, gate, progress)
    failed = [check for check in checks if not check.passed]
    if failed:
        lines = "; ".join(f"{check.name} is {check.found}, required {check.required}" for check in failed)
        raise GateError(f"refused: {lines}", where=f"run {run.folder.name}", fix="Nothing was changed.")
    beaten = folder.labels().get("stable")
    version = folder.add(export)
    folder.record("publish", version=version, run=run.folder.name, before=beaten, **facts)
    return version, checks


def _proven_export(run: Run, progress: Progress) -> Path:
    """Return the export of a run; made anew unless its proof is of exactly this model and these answers."""
    export = run.folder / "export"
    if (export / PROOF_FILE).is_file():
        proof = json.loads((export / PROOF_FILE).read_text(encoding="utf-8"))
        if (proof["spec"], proof["model"]) == (run.spec.fingerprint(), digest(export)):
            return export
        progress.say(f"{export} is not what was proven; exporting again")
    return export_run(run, progress=progress)[0]


def _pass_gate(
    run: Run, export: Path, folder: ModelFolder, gate: GateConfig, progress: Progress
) -> tuple[list[Check], dict[str, Any]]:
    """Return every line of the gate, and the figures for the ledger."""
    candidate = NativePredictor(export)
    size = sum(path.stat().st_size for path in export.rglob("*") if path.is_file()) / 1e6
    latency = _latency_ms(candidate)
    checks = [
        Check("size", f"at most {gate.max_size_mb:g} MB", f"{size:.1f} MB", size <= gate.max_size_mb),
        Check(
            "latency of one photo",
            f"at most {gate.max_latency_ms:g} ms",
            f"{latency:.1f} ms",
            latency <= gate.max_latency_ms,
        ),
    ]
    split = _test_split(run)
    scores, split = _score(candidate, run, split, "the candidate", progress)
    found = evaluate_tasks(run.spec, split.labels, scores, split.train_labels, run.config.fit.seed, split.groups)
    checks += [_check_floor(found, name, bound) for name, bound in gate.floors.items()]
    versions = folder.versions()
    if gate.not_worse and versions:
        checks += _compare_with(folder, versions[-1], run, split, scores, progress)
    figures = {
        task: {name: round(m.value, 4) for name, m in metrics.items()} for task, metrics in found.metrics.items()
    }
    figures = {task: {name: v for name, v in values.items() if np.isfinite(v)} for task, values in figures.items()}
    facts = {"size_mb": round(size, 1), "latency_ms": round(latency, 1), "figures": figures}
    return checks, facts | {"gate": [" | ".join(check.row()) for check in checks]}


def _check_floor(found: Evaluation, name: str, bound: float) -> Check:
    task, _, figure = name.partition(".")
    if task not in found.metrics or figure not in found.metrics[task]:
        known = [f"{task}.{figure}" for task, metrics in found.metrics.items() for figure in metrics]
        raise GateError(f'no figure "{name}"', where="gate.floors", fix=nearest(name, known))
    metric = found.metrics[task][figure]
    if metric.higher_is_better:
        return Check(name, f"at least {bound:g}", f"{metric.value:.3f}", metric.value >= bound)
    return Check(name, f"at most {bound:g}", f"{metric.value:.3f}", metric.value <= bound)


def _compare_with(
    folder: ModelFolder, version: int, run: Run, split: _TestSplit, scores: Arrays, progress: Progress
) -> list[Check]:
    """Compare with the published version, task by task, on the rows that both can read."""
    published = NativePredictor(folder.path(version))
    tasks, old_tasks = ({task.name: task for task in spec.tasks} for spec in (run.spec, published.spec))
    names = comparable(tasks, old_tasks)
    if not names:
        return [Check(f"against version {version}", "the same tasks", "other tasks, not compared", True)]
    old_scores, kept = _score(published, run, split, f"version {version}", progress)
    rows = np.isin(split.ids, kept.ids)
    checks = []
    for name in names:
        labels, train_labels = split.labels[name][rows], split.train_labels[name]
        difference = compare_task(
            (tasks[name], old_tasks[name]),
            labels,
            (scores[name][rows], old_scores[name]),
            train_labels,
            split.groups[rows],
            run.config.fit.seed,
        )
        text = f"{difference.candidate:.3f} after {difference.published:.3f}, "
        text += f"{difference.low:+.3f} to {difference.high:+.3f}"
        checks.append(
            Check(
                f"{name}.{difference.figure} against version {version}",
                "not worse beyond the interval",
                text,
                not difference.is_worse,
            )
        )
    return checks


def _latency_ms(predictor: NativePredictor) -> float:
    """Return the median time of one photo in milliseconds, after a first call that optimises the graph."""
    photo = probe_images((640, 480))["jpeg_orientation_1"]
    predictor.predict([photo])
    times = []
    for _ in range(LATENCY_CALLS):
        started = time.perf_counter()
        predictor.predict([photo])
        times.append(time.perf_counter() - started)
    return statistics.median(times) * 1000


def _test_split(run: Run) -> _TestSplit:
    frame = pd.read_parquet(run.folder / "splits.parquet")
    test = frame[frame["split"] == "test"]
    groups = test["group"].to_numpy(np.int64)
    return _TestSplit(list(test["id"]), split_labels(run, "test"), split_labels(run, "train"), groups)


def _score(
    predictor: NativePredictor, run: Run, split: _TestSplit, name: str, progress: Progress
) -> tuple[Arrays, _TestSplit]:
    """Score the test rows; rows whose image cannot be read any more are left out, and said."""
    with (
        open_archive(*run.config.data.archives) as archive,
        progress.track(f"scoring {name}", len(split.ids)) as advance,
    ):
        scores, status = score_rows(predictor, split.ids, archive, advance=advance)
    ok = np.array([value == "ok" for value in status])
    if not ok.any():
        raise GateError("no test row can be scored", where=", ".join(run.config.data.archives), received=status[0])
    if not ok.all():
        progress.say(f"{(~ok).sum()} of {len(ok)} test rows cannot be read and are left out")
    kept = _TestSplit(
        [row for row, good in zip(split.ids, ok, strict=True) if good],
        {task: values[ok] for task, values in split.labels.items()},
        split.train_labels,
        split.groups[ok],
    )
    return {task: values[ok] for task, values in scores.items()}, kept
