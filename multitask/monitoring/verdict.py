"""The verdict on a window: what moved, what it is worth as far as can be told; for people, programs and Prometheus."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from multitask.monitoring.drift import SIGNIFICANCE, Shift, as_facts, compare, moved
from multitask.monitoring.novelty import tell_apart
from multitask.monitoring.profile import Profile
from multitask.monitoring.signals import signals_of, sureness_of
from multitask.monitoring.window import Window
from multitask.spec import ModelSpec
from multitask.storage import replacing

# Fewer answered images than this can hardly show anything but the largest changes.
FEW_ROWS = 50


@dataclass(frozen=True)
class Estimate:
    """What the answers to a task are probably worth, without labels.

    Args:
        reference: share of right answers among the rows of the profile.
        expected: that share in the window, as far as the model's own sureness tells.
        unsure: share of the window's rows that the model is less sure of than of nine tenths of the reference.
    """

    reference: float
    expected: float
    unsure: float


@dataclass(frozen=True)
class Known:
    """A figure where labels are known, and what it was on the test split; `worse` if the intervals are apart."""

    task: str
    name: str
    value: tuple[float, float, float]
    reference: tuple[float, float, float]

    @property
    def worse(self) -> bool:
        """Does the interval lie below that of the test split?"""
        return self.value[2] < self.reference[1]


@dataclass(frozen=True)
class Verdict:
    """All that is known of a window, against the profile of a run."""

    run: str
    profile: Profile
    window: Window
    shifts: list[Shift]
    estimates: dict[str, Estimate]
    known: list[Known] = field(default_factory=list)

    @property
    def moved(self) -> list[str]:
        """Names of what moved: properties, and figures that are worse."""
        return moved(self.shifts) + [f"{known.task}: {known.name}" for known in self.known if known.worse]

    @property
    def alarm(self) -> bool:
        """Is there anything that a person should look at?"""
        return bool(self.moved)

    @property
    def notes(self) -> list[str]:
        """What a reader should keep in mind."""
        notes, groups = [*self.window.notes], self.profile.groups
        if len(self.window.frame) < FEW_ROWS:
            notes.append(f"{len(self.window.frame):,} answered images are few: only large changes show.")
        if groups is not None:
            notes.append(f"Limits allow for how far {groups.count:,} groups of the reference differ.")
        return notes


def judge(run: str, spec: ModelSpec, profile: Profile, window: Window, known: Sequence[Known] = ()) -> Verdict:
    """Hold a window against a profile."""
    facts = profile.facts
    refused = (facts["refused"], facts["looked"]), (window.refused, window.rows)
    signals = signals_of(spec, profile.frame), signals_of(spec, window.frame)
    seen = tell_apart(profile.frame, window.frame, profile.groups)
    shifts = compare(*signals, refused, profile.groups, [seen] if seen else [])
    return Verdict(run, profile, window, shifts, _estimates(spec, profile, window), list(known))


def write_verdict(verdict: Verdict, out: Path) -> None:
    """Write monitor.json and monitor.prom; the latter for the textfile collector of Prometheus' node exporter."""
    with replacing(out / "monitor.json") as path:
        path.write_text(json.dumps(facts_of(verdict), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    with replacing(out / "monitor.prom") as path:
        path.write_bytes(gauges_of(verdict))


def facts_of(verdict: Verdict) -> dict[str, Any]:
    """Return the verdict ready for JSON."""
    window = verdict.window
    return {
        "alarm": verdict.alarm,
        "moved": verdict.moved,
        "run": verdict.run,
        "reference": {"rows": len(verdict.profile.frame)},
        "window": {
            "rows": window.rows,
            "answered": len(window.frame),
            "refused": window.refused,
            "reasons": window.reasons,
            "span": window.span,
            "latency_ms": window.latency_ms,
        },
        "significance": SIGNIFICANCE,
        "properties": [as_facts(shift) for shift in verdict.shifts],
        "estimates": {task: vars(estimate) for task, estimate in verdict.estimates.items()},
        "figures": [{**vars(known), "worse": known.worse} for known in verdict.known],
        "notes": verdict.notes,
    }


def gauges_of(verdict: Verdict) -> bytes:
    """Return the verdict in Prometheus' text format."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, values: Mapping[str, float], label: str = "") -> None:
        found = Gauge(f"multitask_monitor_{name}", text, ("run", label) if label else ("run",), registry=registry)
        for key, value in values.items():
            found.labels(*((verdict.run, key) if label else (verdict.run,))).set(value)

    shifts, estimates = verdict.shifts, verdict.estimates
    gauge("alarm", "1 if anything moved", {"": verdict.alarm})
    gauge("rows", "Predictions in the window", {"": verdict.window.rows})
    gauge("refused", "Predictions without an answer", {"": verdict.window.refused})
    effects = {shift.name: shift.effect / shift.limit for shift in shifts}
    gauge("effect", "Effect in terms of its limit", effects, "property")
    gauge("p_value", "After Holm's correction", {shift.name: shift.p_value for shift in shifts}, "property")
    gauge("moved", "1 if significant and large", {shift.name: shift.moved for shift in shifts}, "property")
    expected = {task: estimate.expected for task, estimate in estimates.items()}
    gauge("expected_right", "Share of right answers, estimated without labels", expected, "task")
    gauge("unsure", "Share of unsure answers", {task: found.unsure for task, found in estimates.items()}, "task")
    return generate_latest(registry)


def _estimates(spec: ModelSpec, profile: Profile, window: Window) -> dict[str, Estimate]:
    """Estimate accuracy by the difference of confidences, https://arxiv.org/abs/2107.03315."""
    found = {}
    for task in spec.tasks:
        facts = profile.facts["tasks"][task.name]
        if facts and len(window.frame):
            sure = sureness_of(task, window.frame)
            expected = float(np.clip(facts["right"] + sure.mean() - facts["sureness"], 0, 1))
            found[task.name] = Estimate(facts["right"], expected, float((sure < facts["unsure_below"]).mean()))
    return found
