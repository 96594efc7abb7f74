"""recording: what is answered is logged beside the answering, within bounds, and never stops it."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests

from multitask.audit.measures import MEASURES
from multitask.prediction import recording
from multitask.prediction.log import PredictionLog
from multitask.prediction.recording import Answered, Recorder
from multitask.publishing.proving import serving
from multitask.spec import ModelSpec
from tests.conftest import photo


def answered(spec: ModelSpec, images: list[bytes]) -> Answered:
    outputs = {task.name: np.full((len(images), len(task.classes)), 0.4, np.float32) for task in spec.tasks}
    outputs["image_ok"] = np.array([bool(data) for data in images])
    array = np.empty(len(images), object)
    array[:] = images
    return Answered(spec, "m 1", array, outputs, {1: "not an image"}, 3.5)


def test_answers_are_logged_with_measures_and_reasons(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    recorder = Recorder(PredictionLog(tmp_path, 1))
    recorder.take(answered(clothing_spec, [photo(1), b"", photo(1)]))
    deadline = time.monotonic() + 10
    while recorder._rows and time.monotonic() < deadline:
        time.sleep(0.01)
    recorder.close()
    frame = pd.read_parquet(tmp_path)
    assert frame["status"].tolist() == ["ok", "not an image", "ok"]
    assert frame["image_width"].tolist()[::2] == [40, 40]
    assert frame["id"].nunique() == 2
    assert frame.loc[1, list(MEASURES)].isna().all()


def test_what_comes_too_fast_is_logged_without_measures_or_dropped_with_a_count(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "WAITING_BYTES", 50_000)
    monkeypatch.setattr(recording, "WAITING_ROWS", 200)
    counts = {"unmeasured": 0, "dropped": 0}

    def count(what: str, rows: int) -> None:
        counts[what] += rows

    recorder = Recorder(PredictionLog(tmp_path, 1), count)
    images = [photo(seed, (400, 530)) for seed in range(10)]
    started = time.monotonic()
    for _ in range(60):
        recorder.take(answered(clothing_spec, images))
    assert time.monotonic() - started < 1
    recorder.close()
    assert counts["dropped"] > 0
    assert counts["unmeasured"] > 0
    assert len(pd.read_parquet(tmp_path)) == 600 - counts["dropped"]


def test_a_log_that_cannot_be_written_stops_no_answer(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "PART_ROWS", 1)
    counted: list[tuple[str, int]] = []
    recorder = Recorder(PredictionLog(tmp_path / "log", 1), lambda what, rows: counted.append((what, rows)))
    (tmp_path / "log").rmdir()
    (tmp_path / "log").write_bytes(b"")
    for _ in range(3):
        recorder.take(answered(clothing_spec, [photo(1)]))
    recorder.close()
    assert (tmp_path / "log").read_bytes() == b""
    assert sum(rows for what, rows in counted if what == "dropped") == 3


@pytest.mark.tensor
def test_a_server_logs_what_it_answers_and_writes_all_of_it_at_its_end(published: Path, tmp_path: Path) -> None:
    body = {"instances": [{"b64": base64.b64encode(data).decode()} for data in (photo(1), b"none", photo(2))]}
    with serving(published, "--log", str(tmp_path / "log")) as url:
        found = requests.post(f"{url}/v1/models/multitask:predict", json=body, timeout=30)
        assert found.status_code == 200
        files = [("files", ("a.jpg", photo(3)))]
        assert requests.post(f"{url}/files", files=files, timeout=30).status_code == 200
        time.sleep(0.5)
    frame = pd.read_parquet(tmp_path / "log")
    assert len(frame) == 4
    assert (frame["status"] == "ok").sum() == 3
    assert frame.loc[frame["status"] == "ok", list(MEASURES)].notna().all(axis=None)
    assert (frame["latency_ms"] > 0).all()
    scores = found.json()["predictions"][0]["category"]
    columns = [name for name in frame if name.startswith("category_score_")]
    assert any(np.allclose(row, scores, atol=1e-6) for row in frame[columns].to_numpy(float))
