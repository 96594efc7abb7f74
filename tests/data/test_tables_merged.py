"""New labels into an old table: nothing is lost, what is known later counts, an empty cell says nothing."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from multitask.data.tables import merge_labels
from multitask.errors import TableError

OLD = pd.DataFrame(
    {"uuid": ["a", "b", "b", "c"], "kind": ["x", "y", "y", None], "tag": [0, 1, 1, 0], "sender": [1, 2, 2, 3]}
)


def test_new_ids_are_appended_and_known_ones_changed_where_something_new_is_said() -> None:
    new = pd.DataFrame({"uuid": ["b", "c", "d", "a"], "kind": ["z", "x", "y", None], "tag": [1.0, np.nan, 1.0, 0.0]})
    merged, counts = merge_labels(OLD, new, "uuid", ("kind", "tag"))
    assert merged["uuid"].tolist() == ["a", "b", "b", "c", "d"]
    assert merged["kind"].tolist() == ["x", "z", "z", "x", "y"]
    assert merged["tag"].tolist() == [0, 1, 1, 0, 1]
    assert merged["sender"].tolist()[:4] == [1, 2, 2, 3]
    assert pd.isna(merged["sender"][4])
    assert counts == {"appended": 1, "changed": 2, "unchanged": 1}


def test_the_last_of_several_new_rows_counts_and_an_empty_table_changes_nothing() -> None:
    new = pd.DataFrame({"uuid": ["a", "a", None], "kind": ["y", "z", "x"]})
    assert merge_labels(OLD, new, "uuid", ("kind",))[0]["kind"].tolist()[0] == "z"
    pd.testing.assert_frame_equal(merge_labels(OLD, new[:0], "uuid", ("kind",))[0], OLD)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from("xyz")), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(5, 15), st.sampled_from(["x", "y", "z", None])), max_size=20),
)
def test_every_old_row_stays_and_every_new_id_is_there_once(
    old: list[tuple[int, str]], new: list[tuple[int, str | None]]
) -> None:
    before = pd.DataFrame(old, columns=["uuid", "kind"])
    later = pd.DataFrame(new, columns=["uuid", "kind"]).astype({"kind": object})
    merged, _ = merge_labels(before, later, "uuid", ("kind",))
    assert merged["uuid"].tolist()[: len(before)] == before["uuid"].astype(str).tolist()
    appended = merged["uuid"].tolist()[len(before) :]
    assert sorted(appended) == sorted({str(row) for row, _ in new} - {str(row) for row, _ in old})
    last = {str(row): kind for row, kind in new if kind is not None}
    for row, kind in zip(merged["uuid"], merged["kind"], strict=True):
        assert row not in last or kind == last[row]


def test_a_table_without_ids_or_labels_is_refused() -> None:
    with pytest.raises(TableError, match="no id column"):
        merge_labels(OLD, pd.DataFrame({"id": ["a"], "kind": ["x"]}), "uuid", ("kind",))
    with pytest.raises(TableError, match="holds no labels"):
        merge_labels(OLD, pd.DataFrame({"uuid": ["a"], "sort": ["x"]}), "uuid", ("kind",))
