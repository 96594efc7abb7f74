"""make_dataset alone, as in the notebook: rows, images and labels stay together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from multitask.data.archives import open_archive
from multitask.data.tables import read_table
from multitask.features.dataset import make_dataset
from multitask.network.preprocessing import preprocess
from multitask.spec import ImageSpec, Task
from tests.conftest import photo, write_table, write_zip

IMAGE = ImageSpec(height=16, width=24)
TASKS = [
    Task(name="kind", kind="multiclass", columns=("kind",), classes=("a", "b")),
    Task(name="tags", kind="multilabel", columns=("t", "u"), classes=("t", "u")),
]
NOTEBOOK = Path(__file__).parents[2] / "model_training/make_dataset.ipynb"


@pytest.fixture
def data(tmp_path: Path):
    names = [f"p{number}" for number in range(7)]
    path = write_table(
        tmp_path / "t.parquet", names, kind=["a", "b", None, "a", "b", "a", "b"], t=[0, 1] * 3 + [0], u=[1] * 7
    )
    archive = open_archive(
        write_zip(tmp_path / "a.zip", {f"{name}.jpg": photo(seed) for seed, name in enumerate(names)})
    )
    return read_table(path, "uuid", TASKS), archive


def test_every_row_comes_once_in_order_with_its_own_image_and_labels(data) -> None:
    table, archive = data
    batches = list(make_dataset(table, archive, TASKS, IMAGE, batch_size=3, with_ids=True))
    assert [len(ids) for ids, *_ in batches] == [3, 3, 1]
    ids = np.concatenate([ids for ids, *_ in batches])
    images = np.concatenate([images for _, images, _ in batches])
    assert [name.decode() for name in ids] == list(table.ids)
    for name, image in zip(table.ids, images, strict=True):
        assert (image == preprocess(archive[name], IMAGE).numpy()).all()
    for task in TASKS:
        values = np.concatenate([labels[task.name] for _, _, labels in batches])
        assert np.array_equal(values, table.labels[task.name], equal_nan=True)


def test_shuffled_rows_keep_their_image_and_labels_and_are_drawn_anew(data) -> None:
    table, archive = data
    dataset = make_dataset(table, archive, TASKS, IMAGE, batch_size=7, shuffle_seed=1, with_ids=True)
    orders = []
    for ids, images, labels in [next(iter(dataset)), next(iter(dataset))]:
        rows = [list(table.ids).index(name.decode()) for name in ids.numpy()]
        orders.append(rows)
        assert sorted(rows) == list(range(7))
        assert np.array_equal(labels["tags"], table.labels["tags"][rows])
        assert (images[0] == preprocess(archive[table.ids[rows[0]]], IMAGE)).numpy().all()
    assert orders[0] != orders[1]


def test_an_unreadable_image_is_an_error_that_names_its_row(data) -> None:
    table, archive = data
    table.ids[4] = "p9"
    with pytest.raises(tf.errors.InvalidArgumentError, match="unreadable images"):
        list(make_dataset(table, archive, TASKS, IMAGE))


def test_the_notebook_runs_and_shows_what_it_shows() -> None:
    import nbformat
    from nbclient import NotebookClient

    saved = nbformat.read(NOTEBOOK, as_version=4)
    rerun = nbformat.from_dict(json.loads(json.dumps(saved)))
    NotebookClient(rerun, timeout=280, resources={"metadata": {"path": str(NOTEBOOK.parent.parent)}}).execute()
    for before, after in zip(saved.cells, rerun.cells, strict=True):
        if before.cell_type == "code":
            assert texts(before) == texts(after)


def texts(cell) -> list[str]:
    """What a cell prints; losses differ in the last digits between machines."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            found.append(output.text)
        elif output.output_type == "execute_result" and "keras" not in cell.source:
            found.append(output.data["text/plain"])
    return found
