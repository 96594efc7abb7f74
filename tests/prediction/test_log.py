"""log: parts by day that are whole or not there, within their size, with everything but the picture."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from multitask.audit.measures import MEASURES
from multitask.data.archives import open_archive
from multitask.errors import TableError
from multitask.prediction.log import PredictionLog, log_parts, log_schema
from multitask.prediction.protocol import Scores
from multitask.prediction.scoring import predict_table
from multitask.spec import ModelSpec, Task
from tests.conftest import photo, write_zip

ROOT = Path(__file__).parent.parent.parent


def add(log: PredictionLog, spec: ModelSpec, count: int = 3, model: str = "m 1") -> None:
    random = np.random.default_rng(0)
    scores = {task.name: random.random((count, len(task.classes)), np.float32) for task in spec.tasks}
    measures = np.full((count, len(MEASURES)), 0.5, np.float32)
    log.add(
        spec, model, [f"i{row}" for row in range(count)], scores, ["ok"] * (count - 1) + ["damaged"], measures, 12.5
    )


def test_a_log_holds_answers_measures_time_and_model_by_day(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    with PredictionLog(tmp_path, 1) as log:
        add(log, clothing_spec)
        add(log, clothing_spec, model="m 2")
    parts = log_parts(tmp_path)
    assert len(parts) == 2
    assert {part.parent.name for part in parts} == {f"date={datetime.now(UTC):%Y-%m-%d}"}
    schema = pq.read_schema(parts[0])
    assert schema.remove_metadata().equals(log_schema(clothing_spec))
    assert {pq.read_schema(part).metadata[b"multitask.model"] for part in parts} == {b"m 1", b"m 2"}
    frame = pd.read_parquet(tmp_path)
    assert len(frame) == 6
    assert frame["status"].tolist() == ["ok", "ok", "damaged"] * 2
    assert frame["category1_name"].notna().tolist() == [True, True, False] * 2
    assert set(frame["latency_ms"]) == {12.5}
    assert (datetime.now(UTC) - frame["time"].max()).total_seconds() < 60


def test_what_waits_is_due_when_it_is_much_or_old(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = PredictionLog(tmp_path, 1)
    monkeypatch.setattr("multitask.prediction.log.PART_ROWS", 10)
    add(log, clothing_spec, 9)
    assert (log.waiting, log.is_due) == (9, False)
    add(log, clothing_spec, 1)
    assert log.is_due
    log.flush()
    assert (log.waiting, log.is_due) == (0, False)
    monkeypatch.setattr("multitask.prediction.log.PART_SECONDS", 0.0)
    assert log.is_due


def test_the_oldest_parts_go_and_leave_nothing_of_their_day(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    with PredictionLog(tmp_path, 1) as log:
        add(log, clothing_spec, 10)
    size = log_parts(tmp_path)[0].stat().st_size
    for date in ("2020-01-01", "2020-01-02"):
        (tmp_path / f"date={date}").mkdir()
        for name in ("part-1.parquet", ".part-2.parquet"):
            (tmp_path / f"date={date}" / name).write_bytes(bytes(size))
    with PredictionLog(tmp_path, 2.5 * size / 1e9) as log:
        add(log, clothing_spec, 10)
    assert len(log_parts(tmp_path)) == 2
    # The day before the last may be written to by another process.
    assert [day.name for day in sorted(tmp_path.iterdir())][:-1] == ["date=2020-01-02"]


def test_two_writers_share_a_folder_and_lose_no_row(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    def write() -> None:
        with PredictionLog(tmp_path, 1) as log:
            for _ in range(10):
                add(log, clothing_spec)
                log.flush()

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pd.read_parquet(tmp_path)) == 90


def test_what_cannot_be_written_waits_and_a_place_that_cannot_be_written_is_refused_at_once(
    tmp_path: Path, clothing_spec: ModelSpec
) -> None:
    folder = tmp_path / "log"
    log = PredictionLog(folder, 1)
    add(log, clothing_spec)
    folder.rmdir()
    folder.write_bytes(b"")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        log.flush()
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        PredictionLog(folder, 1)
    folder.unlink()
    log.flush()
    assert len(pd.read_parquet(folder)) == 3


def test_a_kill_leaves_whole_parts_only(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    clothing_spec.save(tmp_path / "spec.json")
    code = f"""
from pathlib import Path
from multitask.prediction.log import PredictionLog
from multitask.spec import ModelSpec
from tests.prediction.test_log import add
spec, log = ModelSpec.load(Path({str(tmp_path / "spec.json")!r})), PredictionLog(Path({str(tmp_path / "log")!r}), 1)
while True:
    add(log, spec, 20)
    log.flush()
"""
    writer = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    while len(log_parts(tmp_path / "log")) < 5:
        assert writer.poll() is None
        time.sleep(0.01)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    parts = log_parts(tmp_path / "log")
    assert all(pq.read_table(part).num_rows == 20 for part in parts)


def test_an_answer_with_the_name_of_a_column_of_the_log_is_refused() -> None:
    task = Task(name="size", kind="regression", columns=("image_width",), classes=("image_width",))
    with pytest.raises(TableError, match='"image_width" has the name of a column'):
        log_schema(ModelSpec(tasks=(task,)))


class Flat:
    """Answers the same for every image."""

    workers = 2

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec

    def predict(self, images: list[bytes]) -> Scores:
        values = {t.name: np.full((len(images), len(t.classes)), 0.4, np.float32) for t in self.spec.tasks}
        return Scores(np.array([data != b"broken" for data in images]), values)


def test_a_predicted_table_is_logged_with_the_measures_of_its_images(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    images = write_zip(tmp_path / "i.zip", {"a.jpg": photo(1), "b.jpg": photo(2, (64, 48)), "c.jpg": photo(3)[:300]})
    with open_archive(images) as archive, PredictionLog(tmp_path / "log", 1) as log:
        predict_table(
            Flat(clothing_spec), ["b", "none", "a"], archive, tmp_path / "p.parquet", metadata={"run": "r1"}, log=log
        )
    frame = pd.read_parquet(tmp_path / "log")
    assert frame["id"].tolist() == ["b", "none", "a"]
    assert frame["status"].tolist() == ["ok", "no image with this id", "ok"]
    assert frame["image_width"].tolist()[::2] == [64, 40]
    assert frame.loc[1, list(MEASURES)].isna().all()
    assert pq.read_schema(log_parts(tmp_path / "log")[0]).metadata[b"multitask.model"] == b"r1"
