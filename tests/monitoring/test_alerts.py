"""The alert rules: of figures that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import yaml

from multitask.monitoring.profile import Profile
from multitask.monitoring.verdict import Verdict, gauges_of
from multitask.monitoring.window import Window
from multitask.serving.telemetry import Telemetry

RULES = Path(__file__).parent.parent.parent / "serving/alerts.yaml"


def test_every_figure_of_an_alert_is_one_that_we_give() -> None:
    window = Window(pd.DataFrame(), 1, 0, {}, "", [])
    verdict = Verdict("run", Profile(pd.DataFrame(), {}), window, [], {})
    telemetry = Telemetry()
    text = gauges_of(verdict).decode() + telemetry.text().decode()
    given = set(re.findall(r"^# TYPE (multitask_\w+)", text, re.MULTILINE))
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]:
        for name in re.findall(r"multitask_\w+", rule["expr"]):
            assert {name, re.sub(r"_(total|count|bucket|sum)$", "", name)} & given, name
