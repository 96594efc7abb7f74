"""decisions and writing: what scores decide, and a prediction table that keeps the contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from multitask.errors import TableError
from multitask.prediction.decisions import decide
from multitask.prediction.writing import PredictionWriter
from multitask.spec import ModelSpec, Task

BEST = Task(name="category", kind="multiclass", columns=("cc3",), classes=("a", "b", "c"), top_k=2)
TAGS = Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"), thresholds=(0.3, 0.61))


def test_best_classes_come_first_and_ties_go_to_the_earlier_class() -> None:
    scores = np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]], np.float32)
    assert decide(BEST, scores).tolist() == [[1, 2], [0, 1]]


def test_a_tag_is_present_from_its_threshold_on() -> None:
    scores = np.array([[0.3, 0.6], [0.29, 0.61]], np.float32)
    assert decide(TAGS, scores).tolist() == [[1, 0], [0, 1]]


def _write(path: Path, spec: ModelSpec, ids: list[str], status: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    scores = {task.name: random.random((len(ids), len(task.classes)), np.float32) for task in spec.tasks}
    with PredictionWriter(path, spec, "uuid", {"multitask.run": "r1"}) as writer:
        half = len(ids) // 2
        for part in (slice(0, half), slice(half, None)):
            writer.write(ids[part], {name: values[part] for name, values in scores.items()}, status[part])
    return scores


def test_predictions_have_the_columns_types_and_metadata_of_the_contract(
    tmp_path: Path, clothing_spec: ModelSpec
) -> None:
    scores = _write(tmp_path / "p.parquet", clothing_spec, ["a", "b", "a"], ["ok"] * 3)
    schema = pq.read_schema(tmp_path / "p.parquet")
    types = {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}
    assert list(types.items())[:6] == [
        ("uuid", "string"),
        ("category1", "int64"),
        ("category2", "int64"),
        ("polka dot", "int64"),
        ("floral", "int64"),
        ("checker", "int64"),
    ]
    assert list(types)[6:8] == ["category1_name", "category2_name"]
    assert list(types)[-1] == "status"
    assert schema.metadata[b"multitask.run"] == b"r1"
    assert ModelSpec.model_validate_json(schema.metadata[b"multitask.spec"]) == clothing_spec
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert frame["uuid"].tolist() == ["a", "b", "a"]
    assert frame["category1"].tolist() == scores["category"].argmax(axis=1).tolist()
    names = np.array(clothing_spec.task("category").classes)
    assert frame["category1_name"].tolist() == names[frame["category1"]].tolist()
    assert frame["floral"].tolist() == (scores["tags"][:, 1] >= np.float32(0.5)).astype(int).tolist()
    np.testing.assert_array_equal(frame["category_score_SHIRTS"], scores["category"][:, 3])


def test_a_row_that_is_not_ok_has_nulls_and_its_reason(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    _write(tmp_path / "p.parquet", clothing_spec, ["a", "b", "c"], ["ok", "no image with this id", "ok"])
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert frame["status"].tolist() == ["ok", "no image with this id", "ok"]
    assert frame.loc[1].drop(["uuid", "status"]).isna().all()
    assert frame.loc[[0, 2]].notna().all(axis=None)


def test_an_interrupted_writer_leaves_the_old_file_and_no_other(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"yesterday")
    with pytest.raises(RuntimeError), PredictionWriter(path, clothing_spec, "uuid", {}):
        raise RuntimeError
    assert path.read_bytes() == b"yesterday"
    assert list(tmp_path.iterdir()) == [path]


def test_an_id_column_with_the_name_of_a_prediction_is_refused(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    with pytest.raises(TableError, match='"floral"'):
        PredictionWriter(tmp_path / "p.parquet", clothing_spec, "floral", {})


def test_numbers_stand_in_columns_of_their_own_names_behind_the_decisions(
    tmp_path: Path, clothing_spec: ModelSpec
) -> None:
    size = Task(name="size", kind="regression", columns=("width",), classes=("width",))
    spec = clothing_spec.model_copy(update={"tasks": (size, *clothing_spec.tasks)})
    scores = _write(tmp_path / "p.parquet", spec, ["a", "b"], ["ok", "not an image"])
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert list(frame.columns[:6]) == ["uuid", "category1", "category2", "polka dot", "floral", "checker"]
    assert frame["width"].dtype == np.float32
    assert frame["width"][0] == scores["size"][0, 0]
    assert np.isnan(frame["width"][1])
