"""tables: labels as people have them become float32 arrays or a clear error."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.tables import read_table
from multitask.errors import TableError
from multitask.spec import Task, TaskConfig
from tests.conftest import write_table

TAGS = ("polka dot", "floral")


def tag_task(**fields: object) -> Task:
    return Task(name="tags", kind="multilabel", columns=TAGS, classes=TAGS, **fields)


def class_task(classes: tuple[str, ...], **fields: object) -> Task:
    return Task(name="category", kind="multiclass", columns=("cc3",), classes=classes, **fields)


@pytest.mark.parametrize(
    "column",
    [
        [1, 0, None],
        [1.0, 0.0, float("nan")],
        [True, False, None],
        ["1", "0", None],
        pd.array([1, 0, pd.NA], "Int64"),
        pd.array([True, False, pd.NA], "boolean"),
    ],
)
def test_tags_of_any_type_become_zero_one_and_nan(tmp_path: Path, column: object) -> None:
    path = write_table(tmp_path / "t.parquet", "abc", **{"polka dot": column, "floral": [0, 1, 1]})
    labels = read_table(path, "uuid", [tag_task()]).labels["tags"]
    np.testing.assert_array_equal(labels, np.array([[1, 0], [0, 1], [np.nan, 1]], np.float32))
    assert labels.dtype == np.float32


@pytest.mark.parametrize(
    ("column", "classes"),
    [
        (["b", "a", None], ("a", "b")),
        (pd.Categorical(["b", "a", None]), ("a", "b")),
        ([10, 2, None], ("2", "10")),
        (pd.array([10, 2, pd.NA], "Int64"), ("2", "10")),
    ],
)
def test_classes_are_read_and_sorted_numbers_by_value(tmp_path: Path, column: object, classes: tuple[str, ...]) -> None:
    path = write_table(tmp_path / "t.parquet", "abc", cc3=column)
    tasks = {"category": TaskConfig(kind="multiclass", columns=("cc3",))}
    assert settle_classes(read_frame(path), tasks, "t") == {"category": classes}
    labels = read_table(path, "uuid", [class_task(classes)]).labels["category"]
    np.testing.assert_array_equal(labels, np.array([1, 0, np.nan], np.float32))


def test_given_classes_keep_their_order_and_may_be_absent() -> None:
    task = TaskConfig(kind="multiclass", columns=("cc3",), classes=("z", "a", "never"))
    assert settle_classes(pd.DataFrame({"cc3": ["a"]}), {"category": task}, "t") == {"category": ("z", "a", "never")}


def test_an_unknown_class_names_row_id_and_the_nearest_class(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", ["x", "004b8_x", "z"], cc3=["SHIRTS", "SHIRT", "SHIRT "])
    with pytest.raises(TableError) as caught:
        read_table(path, "uuid", [class_task(("BLOUSES", "SHIRTS"))])
    text = str(caught.value)
    assert "`cc3` row 1 (id 004b8_x)" in text
    assert 'received "SHIRT" (and 1 more rows)' in text
    assert 'Did you mean "SHIRTS"?' in text


@pytest.mark.parametrize("value", [2, -1, 0.5, "yes"])
def test_a_tag_other_than_zero_or_one_is_refused(tmp_path: Path, value: object) -> None:
    column = [value, value] if isinstance(value, str) else [1, value]
    path = write_table(tmp_path / "t.parquet", "ab", **{"polka dot": column, "floral": [0, 0]})
    with pytest.raises(TableError, match="expected 0 or 1"):
        read_table(path, "uuid", [tag_task()])


def test_integer_ids_become_text_and_missing_ids_become_empty(tmp_path: Path) -> None:
    pd.DataFrame({"uuid": [7, None, 12]}).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", "uuid").ids.tolist() == ["7", "", "12"]


def test_other_columns_are_carried_in_row_order(tmp_path: Path) -> None:
    path = write_table(tmp_path / "t.parquet", "abc", cc3=["p", "q", "p"], sender=[1, 2, 3])
    table = read_table(path, "uuid", [class_task(("p", "q"))]).take(np.array([True, False, True]))
    assert table.ids.tolist() == ["a", "c"]
    assert table.extra["sender"].tolist() == [1, 3]
    assert table.labels["category"].tolist() == [0, 0]


@pytest.mark.parametrize("missing", ["uuid", "cc3"])
def test_a_missing_column_is_named_with_the_nearest_one(tmp_path: Path, missing: str) -> None:
    frame = pd.DataFrame({"uuid": ["a"], "cc3": ["p"]}).rename(columns={missing: missing + "_"})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=f'no column "{missing}".*Did you mean "{missing}_"'):
        read_table(tmp_path / "t.parquet", "uuid", [class_task(("p", "q"))])


@pytest.mark.parametrize(("content", "problem"), [(None, "no such file"), (b"a,b\n1,2\n", "cannot be read as a table")])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "t.parquet").write_bytes(content)
    with pytest.raises(TableError, match=problem):
        read_frame(tmp_path / "t.parquet")


def test_a_folder_and_an_empty_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="is a folder without tables"):
        read_frame(tmp_path)
    with pytest.raises(TableError, match="has no rows"):
        read_frame(write_table(tmp_path / "t.parquet", []))


def test_a_single_class_is_no_task() -> None:
    task = {"category": TaskConfig(kind="multiclass", columns=("cc3",))}
    with pytest.raises(TableError, match="at least two classes"):
        settle_classes(pd.DataFrame({"cc3": ["a", "a"]}), task, "t")


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=30))
def test_labels_survive_the_table_whatever_is_missing(
    tmp_path_factory: pytest.TempPathFactory, names: list[str | None]
) -> None:
    path = write_table(
        tmp_path_factory.mktemp("t") / "t.parquet", map(str, range(len(names))), cc3=pd.array(names, "str")
    )
    labels = read_table(path, "uuid", [class_task(("a", "b", "c"))]).labels["category"]
    assert [None if np.isnan(value) else "abc"[int(value)] for value in labels] == names


def number_task() -> Task:
    return Task(name="size", kind="regression", columns=("width", "price"), classes=("width", "price"))


def test_numbers_of_any_type_become_float32_and_nan(tmp_path: Path) -> None:
    price = [Decimal("9.5"), None, Decimal(3)]
    path = write_table(tmp_path / "t.parquet", "abc", width=["1.5", None, "2"], price=price)
    labels = read_table(path, "uuid", [number_task()]).labels["size"]
    np.testing.assert_array_equal(labels, np.array([[1.5, 9.5], [np.nan, np.nan], [2, 3]], np.float32))


@pytest.mark.parametrize("value", ["wide", "1e99", "inf"])
def test_a_cell_that_is_no_number_is_named(tmp_path: Path, value: str) -> None:
    path = write_table(tmp_path / "t.parquet", "ab", width=["1", value], price=[1, 2])
    with pytest.raises(
        TableError, match=rf'`width` row 1 \(id b\): wrong label; expected a number; received "{value}"'
    ):
        read_table(path, "uuid", [number_task()])
