"""The feedback door: labels that come later are kept whole, and monitor and retrain read them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests

from multitask import serve
from multitask.data.tables import merge_labels, read_table
from multitask.errors import ConfigError, RequestRefused, TableError
from multitask.monitoring.figures import known_figures
from multitask.monitoring.window import Window
from multitask.prediction import feedback as kept
from multitask.prediction.feedback import Feedback
from multitask.publishing.proving import serving
from multitask.runs import Run
from multitask.serving.client import Client
from multitask.spec import ModelSpec, Task

HEADERS = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels")


@pytest.fixture(scope="module")
def taking(published: Path, folder: Path) -> Iterator[str]:
    """A server that takes labels."""
    with serving(published, "--token", "secret", "--feedback", str(folder)) as url:
        yield url


def send(url: str, body: object) -> requests.Response:
    data = body if isinstance(body, bytes) else json.dumps(body)
    return requests.post(f"{url}/feedback", data=data, headers=HEADERS, timeout=30)


def body_of(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


def test_rows_are_a_label_table_when_the_answer_comes_and_the_last_word_counts(taking: str, folder: Path) -> None:
    assert send(taking, {"rows": [{"uuid": "a", "cc3": "SHIRTS"}, {"uuid": "b", "floral": 1}]}).json() == {"kept": 2}
    client = Client(taking, token="secret")
    assert client.feedback([{"uuid": "a", "floral": True, "cc3": None}]) == 1
    assert client.feedback([{"uuid": "b", "floral": 0}]) == 1
    table = read_table(str(folder), "uuid", client.spec.tasks)
    assert list(table.ids) == ["a", "b", "a", "b"]
    old = pd.DataFrame({"uuid": ["a", "c"], "cc3": ["BLOUSES", "BLOUSES"], "floral": [0, 0], "checker": [1, 1]})
    merged, counts = merge_labels(old, pd.read_parquet(folder), "uuid", ["cc3", "floral", "checker"])
    assert counts == {"appended": 1, "changed": 1, "unchanged": 0}
    rows = merged.set_index("uuid")
    assert rows["cc3"].fillna("").to_dict() == {"a": "SHIRTS", "c": "BLOUSES", "b": ""}
    assert rows["floral"].astype(float).to_dict() == {"a": 1.0, "c": 0.0, "b": 0.0}


def test_monitor_finds_the_figures_of_what_was_answered(trained: Run, tmp_path: Path) -> None:
    splits = pd.read_parquet(trained.folder / "splits.parquet")
    scores = pd.read_parquet(trained.folder / "scores.parquet")
    scores = scores[scores["split"] == "test"]
    labels = pd.read_parquet(trained.config.data.labels)
    known = labels[labels["uuid"].isin(scores["id"])].drop_duplicates("uuid")
    columns = ["cc3", "polka dot", "floral", "checker", "width"]
    rows = json.loads(known[["uuid", *columns]].to_json(orient="records"))
    wrong = [{**row, "cc3": "BLOUSES"} for row in rows]
    table = Feedback(tmp_path / "labels", "uuid")
    for start in range(0, len(rows), 20):
        table.keep(trained.spec, body_of(*wrong[start : start + 20]))
        table.keep(trained.spec, body_of(*rows[start : start + 20]))
    window = Window(scores.reset_index(drop=True), len(scores), 0, {}, "", [])
    found = {figure.task: figure for figure in known_figures(trained, window, str(tmp_path / "labels"))}
    assert found["category"].value[0] == pytest.approx(found["category"].reference[0], abs=1e-6)
    assert len(splits) > len(rows)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"\xff", "no rows"),
        (b"[" * 100_000, "no rows"),
        (b"[]", "no rows"),
        (body_of(), "no rows"),
        (body_of(*[{"uuid": "a", "floral": 1}] * 1001), "too many rows; expected at most 1,000; received 1,001"),
        (body_of({"uuid": "a", "floral": 1}, 3), "row 1: has no id"),
        (body_of({"uuid": "", "floral": 1}), "row 0: has no id"),
        (body_of({"id": "a", "floral": 1}), "row 0: has no id"),
        (body_of({"uuid": "a", "flora": 1}), 'row 0: unknown column "flora".*"floral"'),
        (body_of({"uuid": "a", "floral": None}), "row 0: says nothing"),
        (body_of({"uuid": "a"}), "row 0: says nothing"),
        (body_of({"uuid": "a", "cc3": "SHIRT"}), r"row 0 \(id a\).*one of 5 classes.*SHIRTS"),
        (body_of({"uuid": "a", "floral": 2}), "expected 0 or 1"),
        (body_of({"uuid": "a", "floral": {"x": 1}}), "wrong value"),
        (body_of({"uuid": "a", "cc3": ["SHIRTS"]}), "lists"),
        (body_of({"uuid": "a", "floral": 10**400}), "wrong value"),
        (body_of({"uuid": "a" * 2000, "floral": 1}), "wrong value"),
        (body_of({"uuid": "a\n", "floral": 1}), "wrong value"),
        (b'{"rows": [{"uuid": "a", "floral": NaN}]}', "wrong value"),
    ],
)
def test_a_wrong_row_is_named_and_nothing_of_its_request_is_kept(
    taking: str, folder: Path, body: bytes, words: str
) -> None:
    before = sorted(folder.iterdir())
    found = send(taking, body)
    assert found.status_code == 400, found.text
    assert re.search(words, found.json()["error"]), found.text
    assert sorted(folder.iterdir()) == before


def test_who_has_no_token_may_say_nothing(taking: str, folder: Path) -> None:
    before = sorted(folder.iterdir())
    found = requests.post(f"{taking}/feedback", data=body_of({"uuid": "a", "floral": 1}), timeout=30)
    assert found.status_code == 401
    assert sorted(folder.iterdir()) == before


def test_the_door_is_closed_unless_it_is_opened_and_needs_a_token(server: str, published: Path, tmp_path: Path) -> None:
    found = requests.post(f"{server}/feedback", data=body_of({"uuid": "a", "floral": 1}), timeout=30)
    assert found.status_code == 404
    assert "--feedback" in found.json()["error"]
    with pytest.raises(RequestRefused, match="--feedback"):
        Client(server).feedback([{"uuid": "a", "floral": 1}])
    with pytest.raises(ConfigError, match=r"--feedback.*--token"):
        serve.main(["--models", str(published), "--feedback", str(tmp_path / "f")])


def test_many_at_once_are_all_kept_and_many_parts_are_joined(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept, "MOST_PARTS", 5)
    table = Feedback(tmp_path, "uuid")

    def tell(who: int) -> None:
        for number in range(20):
            table.keep(clothing_spec, body_of({"uuid": f"{who}-{number}", "floral": number % 2}))

    threads = [threading.Thread(target=tell, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list(tmp_path.glob("*.parquet"))) <= 7
    found = read_table(str(tmp_path), "uuid", clothing_spec.tasks)
    assert sorted(found.ids) == sorted(f"{who}-{number}" for who in range(4) for number in range(20))
    of_one = [name for name in found.ids if name.startswith("0-")]
    assert of_one == [f"0-{number}" for number in range(20)]


def test_a_full_table_takes_no_more_and_loses_nothing(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Feedback(tmp_path, "uuid")
    table.keep(clothing_spec, body_of({"uuid": "a", "floral": 1}))
    monkeypatch.setattr(kept, "MOST_BYTES", 100)
    with pytest.raises(TableError, match="no room"):
        table.keep(clothing_spec, body_of({"uuid": "b", "floral": 1}))
    assert read_table(str(tmp_path), "uuid").ids.tolist() == ["a"]


def test_lists_of_tags_and_numbers_come_back_as_they_were_said(tmp_path: Path) -> None:
    tasks = (
        Task(name="tags", kind="multilabel", columns=("tags",), classes=("dots", "stripes"), thresholds=(0.5, 0.5)),
        Task(name="price", kind="regression", columns=("price",), classes=("price",), means=(0.0,), spreads=(1.0,)),
    )
    spec = ModelSpec(tasks=tasks)
    rows = [{"id": "a", "tags": ["dots"], "price": 2.5}, {"id": "b", "tags": []}, {"id": "c", "price": 3}]
    assert Feedback(tmp_path, "id").keep(spec, body_of(*rows)) == 3
    found = read_table(str(tmp_path), "id", tasks)
    np.testing.assert_array_equal(found.labels["tags"], [[1, 0], [0, 0], [np.nan, np.nan]])
    np.testing.assert_array_equal(found.labels["price"], [[2.5], [np.nan], [3.0]])
