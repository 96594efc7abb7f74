"""Tags as a list in one column: as lists or as text, settled from the data or given."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.config import Config, TaskConfig
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.tables import read_table
from multitask.errors import TableError
from multitask.spec import Task

LISTS = TaskConfig(kind="multilabel", columns=("patterns",))
EXPECTED = np.array([[1, 1], [0, 1], [0, 0], [np.nan, np.nan]], np.float32)


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("parquet", [["floral", "dots"], ["floral"], [], None]),
        ("parquet", ["floral;dots", "floral", "", None]),
        ("csv", ["floral;dots", "floral", ";", ""]),
        ("csv", ["floral|dots", "floral", "|", ""]),
        ("csv", ["dots, floral", "floral", ",", ""]),
        ("csv", ["['floral', 'dots']", "['floral']", "[]", ""]),
    ],
)
def test_a_column_of_lists_becomes_a_mark_per_tag(kind: str, cells: list[object], tmp_path: Path) -> None:
    frame, path = pd.DataFrame({"uuid": [*"abcd"], "patterns": cells}), tmp_path / f"t.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    classes = settle_classes(read_frame(path), {"tags": LISTS}, "t")
    assert classes == {"tags": ("dots", "floral")}
    [task] = Config(tasks={"tags": LISTS}).model_spec(classes).tasks
    assert (task.decision_columns, task.label_columns) == (("dots", "floral"), ("dots", "floral"))
    np.testing.assert_array_equal(read_table(path, "uuid", [task]).labels["tags"], EXPECTED)


def test_given_tags_keep_their_order_and_an_unknown_one_is_named(tmp_path: Path) -> None:
    config = TaskConfig(kind="multilabel", columns=("patterns",), classes=("floral", "dots", "never"))
    frame = pd.DataFrame({"uuid": [*"ab"], "patterns": ["floral", "dots"]})
    assert settle_classes(frame, {"tags": config}, "t") == {"tags": ("floral", "dots", "never")}
    task = Task(name="tags", **config.model_dump())
    assert read_table(frame, "uuid", [task]).labels["tags"].tolist() == [[1, 0, 0], [0, 1, 0]]
    frame.loc[1, "patterns"] = "floral;dot"
    with pytest.raises(TableError, match=r'row 1 \(id b\): wrong label; expected one of 3 tags; received "dot"'):
        read_table(frame, "uuid", [task])


def test_a_column_of_zeros_and_ones_stays_one_tag_and_words_need_a_list() -> None:
    frame = pd.DataFrame({"uuid": [*"ab"], "patterns": [0, 1]})
    assert settle_classes(frame, {"tags": LISTS}, "t") == {"tags": ("patterns",)}
    frame["patterns"] = ["floral", "dots"]
    task = Task(name="tags", kind="multilabel", columns=("patterns",), classes=("patterns",))
    with pytest.raises(TableError, match="expected 0 or 1"):
        read_table(frame, "uuid", [task])


def test_several_columns_name_their_tags_by_themselves() -> None:
    with pytest.raises(ValueError, match="named by its columns"):
        TaskConfig(kind="multilabel", columns=("a", "b"), classes=("x", "y"))
    with pytest.raises(ValueError, match="named by its columns"):
        TaskConfig(kind="regression", columns=("a",), classes=("x",))


@pytest.mark.tensor
def test_a_training_on_lists_is_that_on_columns(
    sample: Path, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    from multitask.training.fitting import fit

    tags = ("checker", "floral", "polka dot")
    frame = pd.read_parquet(sample / "data.parquet")
    columns = frame[list(tags)].to_numpy(float, na_value=np.nan)
    frame["patterns"] = [
        None if np.isnan(row).any() else [tag for tag, there in zip(tags, row, strict=True) if there] for row in columns
    ]
    frame.loc[np.isnan(columns).any(axis=1), list(tags)] = None
    frame.to_parquet(tmp_path / "t.parquet")
    found = []
    for name, task in (("lists", LISTS), ("columns", TaskConfig(kind="multilabel", columns=tags))):
        config = make_config(epochs=1, labels=str(tmp_path / "t.parquet")).model_copy(update={"tasks": {"tags": task}})
        run = fit(config, name, root=tmp_path)
        found.append((run.folder.read_json("metrics.json"), run.spec.tasks[0].classes))
    assert found[0] == found[1]
