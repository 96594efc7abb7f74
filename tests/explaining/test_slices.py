"""Slices: what is worse is found and named, chance is not, groups count as one, many rows take little time."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.evaluation.metrics import holm
from multitask.explaining.slices import slice_rows, worst_slice
from multitask.spec import ModelSpec, Task

CLASSES = ("a", "b", "c")
SPEC = ModelSpec(
    tasks=(
        Task(name="kind", kind="multiclass", columns=("kind",), classes=CLASSES),
        Task(name="tags", kind="multilabel", columns=("p", "q"), classes=("p", "q"), thresholds=(0.5, 0.5)),
        Task(name="size", kind="regression", columns=("w",), classes=("w",), means=(0.0,), spreads=(2.0,)),
    )
)


def _answers(rows: int, wrong: np.ndarray, seed: int = 0) -> tuple[dict, dict]:
    """Labels, and scores that are wrong in these rows."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    given_class = np.where(wrong, (labels + 1) % 3, labels)
    tags = rng.integers(0, 2, (rows, 2)).astype(np.float32)
    numbers = rng.normal(0, 2, (rows, 1)).astype(np.float32)
    return (
        {"kind": labels.astype(np.float32), "tags": tags, "size": numbers},
        {
            "kind": np.eye(3, dtype=np.float32)[given_class],
            "tags": np.where(wrong[:, None], 1 - tags, tags).astype(np.float32),
            "size": numbers + np.where(wrong, 3.0, 0.1)[:, None].astype(np.float32),
        },
    )


def test_the_slice_that_is_worse_is_found_for_every_kind_of_task_and_said() -> None:
    rng = np.random.default_rng(1)
    rows = 600
    day = rng.choice(["Sunday", "Monday", "Tuesday"], rows)
    wrong = rng.random(rows) < np.where(day == "Sunday", 0.5, 0.1)
    columns = pd.DataFrame(
        {
            "day": day,
            "brightness": rng.random(rows),
            "when": pd.to_datetime("2026-01-01") + pd.to_timedelta(np.arange(rows), unit="h"),
            "note": [f"a text of its own {row}" for row in range(rows)],
            "list": [[1]] * rows,
        }
    )
    table = slice_rows(SPEC, *_answers(rows, wrong), columns, np.arange(rows))
    worse = table[table["is_worse"]]
    assert set(zip(worse["task"], worse["column"], worse["value"], strict=True)) == {
        (task, "day", "Sunday") for task in ("kind", "tags", "size")
    }
    assert {"note", "list"}.isdisjoint(table["column"])
    assert (table.groupby(["task", "column"]).size().loc["kind", ["brightness", "when"]] == 4).all()
    first = table.iloc[0]
    assert first["low"] <= first["here"] <= first["high"]
    sentence = worst_slice(table)
    assert "day is Sunday" in sentence
    assert "2 more slices" in sentence


def test_chance_alone_is_hardly_ever_taken_for_a_bad_slice() -> None:
    rng = np.random.default_rng(2)
    alarms = 0
    for seed in range(100):
        wrong = rng.random(300) < 0.3
        columns = pd.DataFrame({f"c{number}": rng.integers(0, 6, 300).astype(str) for number in range(8)})
        alarms += slice_rows(SPEC, *_answers(300, wrong, seed), columns, np.arange(300))["is_worse"].any()
    assert alarms <= 12


def test_one_bad_group_of_many_rows_is_no_bad_slice() -> None:
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(30), 20)
    # Whole groups are right or wrong, whatever their city.
    wrong = (rng.random(30) < 0.3)[groups]
    city = np.where(np.isin(groups, np.flatnonzero(wrong[::20])[:3]), "x", "y")
    alone = slice_rows(SPEC, *_answers(600, wrong), pd.DataFrame({"city": city}), np.arange(600))
    together = slice_rows(SPEC, *_answers(600, wrong), pd.DataFrame({"city": city}), groups)
    assert alone["p"].min() < 1e-6
    assert together["p"].min() > 1e-6


def test_too_few_rows_and_missing_labels_are_left_out() -> None:
    labels, scores = _answers(100, np.zeros(100, bool))
    labels["kind"][:90] = np.nan
    columns = pd.DataFrame({"c": ["x"] * 15 + ["y"] * 85})
    table = slice_rows(SPEC, labels, scores, columns, np.arange(100))
    assert not len(table)
    assert worst_slice(table) == "No column has slices of enough rows to compare."


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holms_values_are_no_less_than_given_and_keep_their_order(values: list[float]) -> None:
    p = np.array(values)
    adjusted = holm(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(adjusted[order]) >= -1e-12).all()
    assert adjusted.min() == pytest.approx(min(1.0, len(p) * p.min()))


@pytest.mark.slow
def test_many_rows_columns_and_answers_take_seconds() -> None:
    rng, rows = np.random.default_rng(4), 10_000
    classes, tags = tuple(f"c{n}" for n in range(1000)), tuple(f"t{n}" for n in range(500))
    spec = ModelSpec(
        tasks=(
            Task(name="kind", kind="multiclass", columns=("kind",), classes=classes),
            Task(name="tags", kind="multilabel", columns=tags, classes=tags),
        )
    )
    labels = {
        "kind": rng.integers(0, 1000, rows).astype(np.float32),
        "tags": rng.integers(0, 2, (rows, 500)).astype(np.float32),
    }
    scores = {"kind": rng.random((rows, 1000), np.float32), "tags": rng.random((rows, 500), np.float32)}
    columns = pd.DataFrame({f"c{number}": rng.integers(0, 40, rows).astype(str) for number in range(12)})
    started = time.monotonic()
    assert len(slice_rows(spec, labels, scores, columns, rng.integers(0, 3000, rows)))
    assert time.monotonic() - started < 20
