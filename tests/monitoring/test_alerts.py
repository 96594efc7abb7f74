"""Alerts and dashboard: of figures that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from multitask.monitoring.profile import Profile
from multitask.monitoring.verdict import Verdict, gauges_of
from multitask.monitoring.window import Window
from multitask.serving.telemetry import Telemetry

SERVING = Path(__file__).parent.parent.parent / "serving"


def _given() -> set[str]:
    """Return the names of all figures of the monitor and of a server."""
    window = Window(pd.DataFrame(), 1, 0, {}, "", [])
    verdict = Verdict("run", Profile(pd.DataFrame(), {}), window, [], {})
    text = gauges_of(verdict).decode() + Telemetry().text().decode()
    return set(re.findall(r"^# TYPE (multitask_\w+)", text, re.MULTILINE))


def _unknown(text: str) -> list[str]:
    """Return the figures in a text that nobody gives."""
    given = _given()
    names = set(re.findall(r"\bmultitask_\w+", text))
    return [name for name in names if not {name, re.sub(r"_(total|count|bucket|sum)$", "", name)} & given]


def test_every_figure_of_an_alert_is_one_that_we_give() -> None:
    [group] = yaml.safe_load((SERVING / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    assert not _unknown(" ".join(rule["expr"] for rule in group["rules"]))


def _board() -> dict[str, Any]:
    return json.loads((SERVING / "dashboard.json").read_text(encoding="utf-8"))


def test_every_figure_of_the_dashboard_is_one_that_we_give() -> None:
    panels = _board()["panels"]
    queries = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    variables = [found["definition"] for found in _board()["templating"]["list"] if found["type"] == "query"]
    assert len(queries) > len(panels) / 2
    assert not _unknown(" ".join([*queries, *variables]))


def test_the_dashboard_shows_every_figure_of_the_monitor() -> None:
    text = json.dumps(_board())
    assert not [name for name in _given() if name.startswith("multitask_monitor_") and name not in text]


def test_the_panels_of_the_dashboard_are_named_asked_of_a_chosen_source_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in _board()["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        if panel["type"] != "row":
            assert panel["title"]
            assert panel["description"]
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
