"""What a server counts, for Prometheus; every label has few values, whatever clients send."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from multitask.prediction.decisions import DECISIONS
from multitask.spec import ModelSpec


class Telemetry:
    """The figures of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()

        def register(kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **options: Any) -> Any:
            return kind(f"multitask_{name}", text, labels, registry=self._registry, **options)

        seconds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
        self.requests = register(Counter, "requests", "Requests by route and HTTP status", ("route", "status"))
        self.seconds = register(Histogram, "request_seconds", "Time to answer", ("route",), buckets=seconds)
        self.batch_rows = register(Histogram, "batch_rows", "Rows per batch", ("model",), buckets=(1, 2, 4, 8, 16, 32))
        self.refused = register(Counter, "images_refused", "Images that could not be read", ("model",))
        self.unlogged = register(Counter, "log", "Answers logged without measures, or not at all", ("what",))
        for what in ("unmeasured", "dropped"):
            # Whoever looks for losses sees that there are none.
            self.unlogged.labels(what)
        labels = ("model", "task", "kind", "label")
        self.predictions = register(Counter, "predictions", "Answers by class or tag", labels)

    def count_answers(self, model: str, spec: ModelSpec, outputs: Mapping[str, NDArray[Any]]) -> None:
        """Count what a model answered: the best class of each multiclass task, every present tag."""
        if "image_ok" not in outputs:
            return
        ok = outputs["image_ok"]
        self.refused.labels(model).inc(int((~ok).sum()))
        for task in spec.tasks:
            for label, count in DECISIONS[task.kind].counts(task, outputs[task.name][ok]).items():
                self.predictions.labels(model, task.name, task.kind, label).inc(count)

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self._registry)
