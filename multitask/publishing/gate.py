"""The gate in front of serving: what a model must be to become the next version."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from multitask.data.archives import open_archive
from multitask.demo.probe import probe_images
from multitask.errors import GateError, nearest
from multitask.evaluation.assessment import split_labels
from multitask.evaluation.comparison import comparable, compare_task
from multitask.evaluation.kinds import EVALUATORS
from multitask.evaluation.tasks import Evaluation, evaluate_tasks
from multitask.prediction.scoring import score_rows
from multitask.progress import Progress, Quiet
from multitask.publishing.exporting import export_run
from multitask.publishing.proving import PROOF_FILE, digest
from multitask.runs import Run
from multitask.serving.model_folder import ModelFolder
from multitask.serving.native import NativePredictor
from multitask.settings import GateConfig
from multitask.spec import ModelSpec, Task

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
    *,
    replace_tasks: bool = False,
    periods: Mapping[str, set[str]] | None = None,
) -> tuple[int, list[Check]]:
    """Export a run if that is not done, send it through the gate, and add it as the next version.

    Args:
        run: a finished one.
        folder: where servers look.
        gate: by default that of the run's configuration.
        progress: where to report.
        replace_tasks: let a model with other tasks or classes take the place of the published one.
        periods: ids of test rows by a name for them, on each of which the candidate must not be worse either.

    Returns:
        The new version and the lines of the gate.

    Raises:
        GateError: a line failed, or another version was published meanwhile; nothing is changed.
        ProofError: the export failed.
    """
    gate = gate or run.config.gate
    export = _proven_export(run, progress)
    beaten = folder.labels().get("stable")
    checks, facts = _pass_gate(run, export, folder, gate, progress, replace_tasks, periods or {})
    failed = [check for check in checks if not check.passed]
    if failed:
        lines = "; ".join(f"{check.name} is {check.found}, required {check.required}" for check in failed)
        raise GateError(f"refused: {lines}", where=f"run {run.folder.name}", fix="Nothing was changed.")
    return folder.add(export, {"run": run.folder.name, "before": beaten, **facts}, after=beaten), checks


def _proven_export(run: Run, progress: Progress) -> Path:
    """Return the export of a run; made anew unless its proof is of exactly this model and these answers."""
    export = run.folder / "export"
    if (export / PROOF_FILE).is_file():
        proof = json.loads((export / PROOF_FILE).read_text(encoding="utf-8"))
        if (proof.get("spec"), proof.get("model")) == (run.spec.fingerprint(), digest(export)):
            return export
        progress.say(f"{export} is not what was proven; exporting again")
    return export_run(run, progress=progress)[0]


def _pass_gate(
    run: Run,
    export: Path,
    folder: ModelFolder,
    gate: GateConfig,
    progress: Progress,
    replace_tasks: bool,
    periods: Mapping[str, set[str]],
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
    if gate.beats_baseline:
        checks += [_check_baseline(task, found) for task in run.spec.tasks]
    versions = folder.versions()
    if versions:
        published = NativePredictor(folder.path(versions[-1]))
        checks.append(_check_tasks(run.spec, published.spec, versions[-1], replace_tasks))
        if gate.not_worse and checks[-1].passed:
            checks += _compare_with(published, versions[-1], run, split, scores, progress, periods)
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


def _check_baseline(task: Task, found: Evaluation) -> Check:
    """Compare the main figure of a task with that of a predictor that never looks at the image."""
    figure = EVALUATORS[task.kind].main
    metric = found.metrics[task.name][figure]
    difference = metric.value - metric.baseline if metric.higher_is_better else metric.baseline - metric.value
    required = f"{'above' if metric.higher_is_better else 'below'} {metric.baseline:.3f}"
    # A comparison with NaN is false: a figure that cannot be computed is no proof.
    return Check(f"{task.name}.{figure} against its baseline", required, f"{metric.value:.3f}", difference > 0)


def _check_tasks(candidate: ModelSpec, published: ModelSpec, version: int, replace_tasks: bool) -> Check:
    """Say how the questions differ that clients will get answers to."""
    new, old = ({task.name: task for task in spec.tasks} for spec in (candidate, published))
    differences = [f"no task {name}" for name in old if name not in new]
    differences += [f"a task {name} more" for name in new if name not in old]
    for name in (name for name in new if name in old):
        lost, gained = ([c for c in a[name].classes if c not in b[name].classes] for a, b in ((old, new), (new, old)))
        if new[name].kind != old[name].kind:
            differences.append(f"{name} is {new[name].kind} after {old[name].kind}")
        elif lost or gained:
            differences.append(f"{name} " + " and ".join(_named(lost, "without") + _named(gained, "with")))
        elif new[name].classes != old[name].classes:
            differences.append(f"the classes of {name} in another order")
    required = "any tasks (--replace-tasks)" if replace_tasks else "the same tasks and classes (or --replace-tasks)"
    name = f"tasks against version {version}"
    return Check(name, required, "; ".join(differences) or "the same", replace_tasks or not differences)


def _named(classes: list[str], word: str) -> list[str]:
    """Name some classes, a few where there are many."""
    more = f" and {len(classes) - 5} more" if len(classes) > 5 else ""
    return [f"{word} {', '.join(classes[:5])}{more}"] if classes else []


def _compare_with(
    published: NativePredictor,
    version: int,
    run: Run,
    split: _TestSplit,
    scores: Arrays,
    progress: Progress,
    periods: Mapping[str, set[str]],
) -> list[Check]:
    """Compare with the published version, on the rows that both can read, every task that both answer alike.

    On all of them, and on those of each period.
    """
    tasks, old_tasks = ({task.name: task for task in spec.tasks} for spec in (run.spec, published.spec))
    names = comparable(tasks, old_tasks)
    if not names:
        return []
    old_scores, kept = _score(published, run, split, f"version {version}", progress)
    rows = np.flatnonzero(np.isin(split.ids, kept.ids))
    ids = np.array(kept.ids, object)
    checks = []
    for period, known in {"": set(kept.ids), **periods}.items():
        among = np.flatnonzero([name in known for name in ids])
        for name in names if len(among) else ():
            difference = compare_task(
                (tasks[name], old_tasks[name]),
                split.labels[name][rows[among]],
                (scores[name][rows[among]], old_scores[name][among]),
                split.train_labels[name],
                split.groups[rows[among]],
                run.config.fit.seed,
            )
            text = f"{difference.candidate:.3f} after {difference.published:.3f}, "
            text += f"{difference.low:+.3f} to {difference.high:+.3f}"
            of_rows = f", {period}" if period else ""
            checks.append(
                Check(
                    f"{name}.{difference.figure} against version {version}{of_rows}",
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
