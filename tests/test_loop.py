"""The whole loop: train, publish, serve, log, alarm, labels, retrain, gate, reload; the server is asked meanwhile."""

from __future__ import annotations

import io
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import requests
from PIL import Image, ImageEnhance

from multitask import monitor, retrain
from multitask.config import Config
from multitask.prediction.log import image_id
from multitask.publishing.gate import publish_run
from multitask.serving.client import Client
from multitask.serving.model_folder import ModelFolder
from multitask.settings import GateConfig
from multitask.training.fitting import fit
from tests.conftest import serving

pytestmark = [pytest.mark.slow, pytest.mark.tensor]


TOKEN = "secret"


class _Asking(threading.Thread):
    """Asks a server again and again, and notes what it answers."""

    def __init__(self, url: str, photos: list[bytes]) -> None:
        super().__init__(daemon=True)
        self._url, self._photos, self._ended = url, photos, threading.Event()
        self.codes: list[int] = []
        self.versions: list[str] = []

    def run(self) -> None:
        with requests.Session() as session:
            session.headers["Authorization"] = f"Bearer {TOKEN}"
            for number in range(10**6):
                if self._ended.is_set():
                    return
                files = {"files": ("a.jpg", self._photos[number % len(self._photos)])}
                answer = session.post(f"{self._url}/files", files=files, timeout=60)
                self.codes.append(answer.status_code)
                self.versions.append(str(answer.json().get("model_version", "")))
                time.sleep(0.02)

    def show(self, photos: list[bytes]) -> None:
        """Send other photos from now on."""
        self._photos = photos

    def end(self) -> None:
        self._ended.set()
        self.join(60)


def _is_whole(data: bytes) -> bool:
    """The demo has damaged files among its pictures."""
    try:
        Image.open(io.BytesIO(data)).load()
    except OSError:
        return False
    return True


def _darkened(data: bytes) -> bytes:
    stream = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        ImageEnhance.Brightness(picture.convert("RGB")).enhance(0.5).save(stream, "JPEG", quality=92)
    return stream.getvalue()


def _until(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


def _alarm(log: Path, run: str) -> bool:
    return monitor.main([str(log), "--reference", run, "--out", str(log.parent / "monitor")]) == 7


def test_a_model_goes_round_and_its_server_never_fails(
    make_config: Callable[..., Config], sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = pd.read_parquet(sample / "data.parquet")
    rows[:90].to_parquet("old.parquet")
    config = make_config(epochs=2, labels="old.parquet")
    config = config.model_copy(update={"gate": GateConfig(beats_baseline=False)})
    run = fit(config, "first")
    models = Path("serving/models")
    publish_run(run, ModelFolder(models / "multitask"))
    with zipfile.ZipFile(sample / "images.zip") as archive:
        photos = {Path(name).stem: archive.read(name) for name in archive.namelist() if name.endswith(".jpg")}
    tested = pd.read_parquet(run.folder / "splits.parquet").query("split != 'train'")["id"]
    with serving(models, "--log", str(tmp_path / "usual")) as url:
        asking = _Asking(url, [photos[name] for name in tested if name in photos])
        asking.start()
        _until(lambda: len(asking.codes) >= 60, 120)
        asking.end()
    assert set(asking.codes) == {200}
    assert not _alarm(tmp_path / "usual", str(run.folder.directory)), "photos as ever raise no alarm"
    shown = [name for name in rows["uuid"][90:] if name in photos and _is_whole(photos[name])]
    dark = {name: _darkened(photos[name]) for name in shown}
    labels = tmp_path / "labels"
    with serving(models, "--log", str(tmp_path / "log"), "--token", TOKEN, "--feedback", str(labels)) as url:
        asking = _Asking(url, list(dark.values()))
        asking.start()
        _until(lambda: len(asking.codes) >= 60, 120)
        _until(lambda: any((tmp_path / "log").rglob("part-*.parquet")), 60)
        assert _alarm(tmp_path / "log", str(run.folder.directory)), "dark photos raise an alarm"
        # People say what was right, photo by photo, under the ids of the log.
        told = rows[rows["uuid"].isin(dark)][["uuid", *config.label_columns()]].drop_duplicates("uuid")
        told["uuid"] = [image_id(dark[name]) for name in told["uuid"]]
        said = [{name: value for name, value in row.items() if pd.notna(value)} for row in told.to_dict("records")]
        said = [row for row in said if len(row) > 1]
        assert Client(url, token=TOKEN).feedback(said) == len(said)
        with zipfile.ZipFile("dark.zip", "w") as archive:
            for data in dark.values():
                archive.writestr(f"{image_id(data)}.jpg", data)
        assert retrain.main([str(labels), "--images", "dark.zip", "--name", "second"]) == 0
        _until(lambda: "2" in asking.versions, 120)
        asking.end()
    assert set(asking.codes) == {200}, "not one request failed, also while the model was changed"
    assert [event["run"] for event in ModelFolder(models / "multitask").ledger()] == ["first", "second"]
