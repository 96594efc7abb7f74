"""Which row trains, validates and tests: drawn, by time, by a column; never parting what belongs together."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.audit.division import crossing, divide
from multitask.data.tables import Table
from multitask.errors import TableError
from multitask.settings import DataConfig
from multitask.spec import Task

TASK = Task(name="kind", kind="multiclass", columns=("kind",), classes=("a", "b"))


def make_table(rows: int, **columns: object) -> Table:
    labels = (np.arange(rows) % 2).astype(np.float32)
    extra = pd.DataFrame(columns, index=range(rows))
    return Table(np.array([f"r{row}" for row in range(rows)], object), {"kind": labels}, extra)


def run(table: Table, pictures: object = None, alike: object = None, **settings: object):
    pictures = np.array(pictures if pictures is not None else table.ids, object)
    alike = np.array(alike) if alike is not None else np.full(len(table), -1)
    return divide(table, [TASK], pictures, alike, DataConfig(**settings))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=20, max_size=80), st.lists(st.integers(-1, 20), min_size=80, max_size=80))
def test_nothing_that_belongs_together_is_parted(pictures: list[int], alike: list[int]) -> None:
    if len(set(pictures)) < 12:
        return
    table = make_table(len(pictures), sender=[picture // 3 for picture in pictures])
    members = [str(picture) for picture in pictures]
    with contextlib.suppress(TableError):  # all of them may belong together, and cannot be divided then
        _, parts = run(table, members, alike[: len(pictures)], group_columns=("sender",))
        near = [number if number >= 0 else f"x{row}" for row, number in enumerate(alike[: len(pictures)])]
        for keys in (pictures, list(table.extra["sender"]), near):
            assert pd.Series(parts).groupby(keys).nunique().max() == 1


@pytest.mark.parametrize(
    "names", [("train", "validation", "test"), ("training", "Valid", "testing"), ("TRAIN ", "dev", "Test")]
)
def test_a_column_may_say_the_split(names: tuple[str, str, str]) -> None:
    table = make_table(60, part=[names[row % 3] for row in range(60)])
    _, parts = run(table, split_column="part")
    assert parts.tolist() == ["train", "validation", "test"] * 20


def test_validation_rows_are_drawn_when_the_column_has_none() -> None:
    table = make_table(200, part=["test" if row % 5 == 0 else "train" for row in range(200)])
    _, parts = run(table, split_column="part")
    assert (parts[::5] == "test").all()
    assert (parts == "test").sum() == 40
    assert 20 <= (parts == "validation").sum() <= 40


def test_rows_without_a_split_go_with_their_group_or_are_drawn() -> None:
    given = ["train", "validation", "test", *[None] * 297]
    table = make_table(300, part=given)
    pictures = [str(row) for row in range(300)]
    pictures[10], pictures[11], pictures[12] = pictures[1], pictures[2], pictures[0]
    _, parts = run(table, pictures=pictures, split_column="part")
    assert parts[:3].tolist() == given[:3]
    assert parts[10:13].tolist() == ["validation", "test", "train"]
    drawn = pd.Series(parts[13:]).value_counts(normalize=True)
    assert drawn["train"] == pytest.approx(0.7, abs=0.06)
    assert drawn["test"] == pytest.approx(0.15, abs=0.06)


def test_a_column_that_parts_a_picture_is_an_error_that_names_it() -> None:
    table = make_table(30, part=["train", "validation", "test"] * 10)
    with pytest.raises(
        TableError, match=r"1 groups of rows are in more than one split.*r0 \(train\), r1 \(validation\)"
    ):
        run(table, pictures=["x", "x", *map(str, range(28))], split_column="part")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["train", "valdation", "test"] * 10, 'row 1 .*expected train, validation or test; received "valdation"'),
        (["train", "validation"] * 15, "no row is in the test split"),
        (["test"] * 30, "no row is in the train split"),
    ],
)
def test_a_wrong_split_column_is_explained(values: list[object], words: str) -> None:
    with pytest.raises(TableError, match=words):
        run(make_table(30, part=values), split_column="part")


@pytest.mark.parametrize(
    "times",
    [
        list(range(100)),
        [f"2026-01-{1 + row // 4:02} {row % 4:02}:00" for row in range(100)],
        pd.date_range("2020-01-01", periods=100).to_list(),
    ],
)
def test_the_oldest_rows_train_and_the_newest_test(times: list[object]) -> None:
    order = np.random.default_rng(0).permutation(100)
    table = make_table(100, day=[times[row] for row in order])
    _, parts = run(table, time_column="day")
    age = {part: order[parts == part] for part in ("train", "validation", "test")}
    assert age["train"].max() < age["validation"].min() < age["validation"].max() < age["test"].min()
    assert [len(age[part]) for part in ("train", "validation", "test")] == [70, 15, 15]


def test_rows_of_one_picture_are_as_old_as_the_newest() -> None:
    table = make_table(20, day=range(20))
    _, parts = run(table, pictures=["x", *map(str, range(18)), "x"], time_column="day")
    assert parts[0] == parts[19] == "test"


def test_one_large_group_that_leaves_a_part_empty_is_an_error() -> None:
    table = make_table(400, day=range(400), sender=["one"] * 400)
    with pytest.raises(
        TableError, match=r"no row is in the validation split.*`day`|`day`.*no row is in the validation"
    ):
        run(table, time_column="day", group_columns=("sender",))


@pytest.mark.parametrize(
    "values", [["03/04/2026", "13/04/2026"], ["13.04.2026", "03.04.2026"], ["1-2-2026", "2026-01-02"]]
)
def test_dates_that_can_be_read_in_two_ways_are_refused_by_row(values: list[str]) -> None:
    row = next(number for number, value in enumerate(values) if value.startswith(("03", "1-")))
    with pytest.raises(TableError, match=rf"`day` row {row} \(id r{row}\): .*can be read as day first"):
        run(make_table(30, day=values * 15), time_column="day")


@pytest.mark.parametrize(
    "times",
    [
        [str(1_700_000_000 + row) for row in range(100)],
        [f"{1 + row // 50:02}/{13 + row // 10:02}/2026" for row in range(100)],
        [np.datetime64("2026-01-01") + row for row in range(100)],
        [f"{1 + row // 10} March {2000 + row}" for row in range(100)],
    ],
)
def test_times_that_can_be_read_in_one_way_are_read(times: list[object]) -> None:
    _, parts = run(make_table(100, day=times), time_column="day")
    assert parts.tolist() == ["train"] * 70 + ["validation"] * 15 + ["test"] * 15


def test_near_duplicates_across_a_given_split_are_counted_and_not_refused() -> None:
    table = make_table(60, part=["train", "test", "validation"] * 20)
    alike = np.full(60, -1)
    alike[[0, 1]], alike[[3, 6]] = 0, 1
    groups, parts = run(table, alike=alike, split_column="part")
    assert crossing(groups, parts) == 1
    assert parts.tolist() == ["train", "test", "validation"] * 20


def test_validation_rows_drawn_under_a_given_split_part_no_near_duplicates() -> None:
    table = make_table(300, part=["test" if row % 5 == 0 else "train" for row in range(300)])
    alike = np.array([-1 if row % 5 == 0 else row // 10 for row in range(300)])
    groups, parts = run(table, alike=alike, split_column="part")
    assert crossing(groups, parts) == 0
    assert 10 < (parts == "validation").sum() < 80


def test_the_split_seed_draws_another_split() -> None:
    table = make_table(200)
    assert (run(table)[1] == run(table)[1]).all()
    assert (run(table)[1] != run(table, split_seed=1)[1]).any()


def test_a_row_without_a_time_is_an_error() -> None:
    with pytest.raises(TableError, match=r"`day` row 1 \(id r1\).*expected a date or a number; received 'soon'"):
        run(make_table(3, day=["2026-01-01", "soon", "2026-01-02"]), time_column="day")


def test_a_missing_column_is_an_error_with_the_nearest_name() -> None:
    for setting in ({"split_column": "par"}, {"time_column": "par"}, {"group_columns": ("par",)}):
        with pytest.raises(TableError, match='Did you mean "part"'):
            run(make_table(3, part=["train"] * 3), **setting)


def test_column_and_time_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="exclude each other"):
        DataConfig(split_column="a", time_column="b")


def test_a_hundred_thousand_rows_are_divided_in_seconds(tmp_path: Path) -> None:
    import time

    rng = np.random.default_rng(0)
    tasks = [
        Task(name="kind", kind="multiclass", columns=("kind",), classes=tuple(map(str, range(20)))),
        Task(
            name="tags",
            kind="multilabel",
            columns=tuple(map(str, range(100, 140))),
            classes=tuple(map(str, range(100, 140))),
        ),
    ]
    rows = 100_000
    senders = rng.integers(0, 30_000, rows)
    labels = {
        "kind": rng.choice(20, rows, p=rng.dirichlet(np.ones(20))).astype(np.float32),
        "tags": (rng.random((rows, 40)) < rng.uniform(0.01, 0.4, 40)).astype(np.float32),
    }
    table = Table(np.array([str(row) for row in range(rows)], object), labels, pd.DataFrame({"sender": senders}))
    started = time.process_time()
    _, parts = divide(table, tasks, table.ids, np.full(rows, -1), DataConfig(group_columns=("sender",)))
    # 1 second on two cores; the limit leaves room for a machine that does other things too.
    assert time.process_time() - started < 5
    assert pd.Series(parts).groupby(senders).nunique().max() == 1
    from multitask.audit.splits import indicators

    marks = indicators(labels, tasks)
    frequent = marks.sum(axis=0) >= 1000
    for part in ("train", "validation", "test"):
        assert np.abs(marks[parts == part].mean(axis=0) - marks.mean(axis=0))[frequent].max() < 0.01


def test_empty_group_cells_tie_nothing_together() -> None:
    table = make_table(60, sender=["", None, "anna"] * 20)
    groups, _ = run(table, group_columns=("sender",))
    assert len(np.unique(groups)) == 41
