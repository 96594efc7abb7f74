"""The client: it waits for a busy server, stays with one version, cuts requests to size, needs no TensorFlow."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask import predict
from multitask.data.archives import open_archive
from multitask.errors import RequestRefused, ServerUnavailable
from multitask.prediction.scoring import predict_table
from multitask.publishing.proving import serving
from multitask.runs import Run
from multitask.serving import client as room
from multitask.serving.client import Client
from multitask.serving.model_folder import ModelFolder
from multitask.spec import ModelSpec

Answer = tuple[int, object]


class Scripted(ThreadingHTTPServer):
    """A real HTTP server that speaks TF-Serving's format and misbehaves as told."""

    def __init__(self, spec: ModelSpec, misbehave: Callable[[str, list[bytes]], Answer | None]) -> None:
        self.spec, self.misbehave, self.requests = spec, misbehave, []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Scripted

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        version = {"version": "3", "state": "AVAILABLE"}
        self.reply(self.server.misbehave("GET", []) or (200, {"model_version_status": [version]}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        images = [base64.b64decode(row["b64"]) for row in body["instances"]]
        self.server.requests.append((self.path, images))
        if body["signature_name"] == "spec":
            self.reply((200, {"predictions": [self.server.spec.model_dump_json()]}))
            return
        row = {task.name: [0.5] * len(task.classes) for task in self.server.spec.tasks} | {"image_ok": True}
        self.reply(self.server.misbehave("POST", images) or (200, {"predictions": [row] * len(images)}))

    def reply(self, answer: Answer) -> None:
        status, content = answer
        if status == 0:
            self.close_connection = True
            self.connection.close()
            return
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def scripted(clothing_spec: ModelSpec) -> Iterator[Callable[..., Scripted]]:
    running: list[Scripted] = []

    def start(misbehave: Callable[[str, list[bytes]], Answer | None] = lambda method, images: None) -> Scripted:
        server = Scripted(clothing_spec, misbehave)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


def times(count: int, answer: Answer, method: str = "POST") -> Callable[[str, list[bytes]], Answer | None]:
    left = [count]

    def misbehave(asked: str, images: list[bytes]) -> Answer | None:
        left[0] -= asked == method
        return answer if asked == method and left[0] >= 0 else None

    return misbehave


def test_an_address_is_all_a_client_needs(scripted, clothing_spec: ModelSpec) -> None:
    server = scripted()
    found = Client(server.url)
    assert (found.spec, found.version) == (clothing_spec, 3)
    scores = found.predict([b"a", b"b"])
    assert scores.ok.tolist() == [True, True]
    assert scores.values["category"].shape == (2, 5)
    assert server.requests[-1][0] == "/v1/models/multitask/versions/3:predict"


@pytest.mark.parametrize("answer", [(429, {"error": "busy"}), (503, {"error": "full"}), (502, b"<html>"), (0, b"")])
def test_a_busy_or_lost_server_is_asked_again(scripted, answer: Answer) -> None:
    server = scripted(times(2, answer))
    assert Client(server.url).predict([b"a"]).ok.all()
    assert len(server.requests) == 1 + 3


def test_patience_ends(scripted) -> None:
    server = scripted(times(1000, (503, {"error": "full"})))
    client = Client(server.url, patience=0.5)
    with pytest.raises(ServerUnavailable, match="503: full") as error:
        client.predict([b"a"])
    assert error.value.exit_code == 6


def test_nobody_there_is_one_clear_error() -> None:
    with pytest.raises(ServerUnavailable, match=r"does not answer; received ConnectionError. Start one"):
        Client("http://127.0.0.1:9", patience=0.3)


def test_a_refusal_is_not_repeated(scripted) -> None:
    server = scripted(times(1, (400, {"error": "x" * 1000})))
    client = Client(server.url)
    with pytest.raises(RequestRefused) as error:
        client.predict([b"a"])
    assert len(str(error.value)) < 500
    assert len(server.requests) == 2


def test_an_answer_that_is_no_json_is_refused(scripted) -> None:
    with pytest.raises(RequestRefused, match="not JSON"):
        Client(scripted(times(9, (200, b"<html>"), "GET")).url)


def test_a_withdrawn_version_ends_the_run_instead_of_mixing(scripted) -> None:
    client = Client(scripted(times(1, (404, {"error": "Servable not found"}))).url)
    with pytest.raises(RequestRefused, match="version 3 is no longer served"):
        client.predict([b"a"])


def test_requests_are_cut_by_rows_and_by_bytes(scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "REQUEST_BYTES", 100)
    server = scripted()
    images = [b"x" * size for size in [60, 60, 30, 300, *[1] * 40]]
    assert Client(server.url).predict(images).ok.all()
    sent = [batch for _, batch in server.requests[1:]]
    assert [image for batch in sent for image in batch] == images
    assert [len(batch) for batch in sent] == [1, 2, 1, 32, 8]


def test_an_image_too_large_for_the_server_is_a_row_with_its_reason(scripted) -> None:
    def limit(method: str, images: list[bytes]) -> Answer | None:
        return (413, {"error": "too large"}) if sum(map(len, images)) > 50 else None

    server = scripted(limit)
    found = Client(server.url).predict([b"a" * 30, b"b" * 80, b"c" * 30])
    assert found.ok.tolist() == [True, False, True]
    assert found.reasons == {1: "larger than the server accepts."}


def test_the_client_loads_without_tensorflow_and_server() -> None:
    code = "import sys, multitask.serving.client\nassert not {'tensorflow', 'fastapi', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_killed_server_delays_a_prediction_and_spoils_nothing(
    trained: Run, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server goes away in the middle; the run fails with a reason, and the next one goes on and is complete."""
    monkeypatch.setattr("multitask.prediction.scoring.BLOCK_ROWS", 16)
    table = Path(trained.config.data.labels)
    ids = list(pd.read_parquet(table)["uuid"])
    with open_archive(*trained.config.data.images) as archive, serving(published) as url:
        client = Client(url, patience=0.2)
        real, asked = client.predict, []

        def fails_later(images):
            asked.append(len(images))
            if len(asked) > 4:
                client.url = "http://127.0.0.1:9"
            return real(images)

        monkeypatch.setattr(client, "predict", fails_later)
        with pytest.raises(ServerUnavailable):
            predict_table(client, ids, archive, tmp_path / "p.parquet", resume="x", workers=1)
        again = Client(url)
        predict_table(again, ids, archive, tmp_path / "p.parquet", resume="x")
        predict_table(Client(url), ids, archive, tmp_path / "whole.parquet")
    assert pd.read_parquet(tmp_path / "p.parquet").equals(pd.read_parquet(tmp_path / "whole.parquet"))


def test_the_door_predicts_by_url_and_by_model_as_by_run(
    trained: Run, published: Path, server: str, tmp_path: Path
) -> None:
    table = Path(trained.config.data.labels).parent / "test.parquet"
    flags = [str(table), "--images", trained.config.data.images[0]]
    sources = {
        "run": ["--run", str(trained.folder.directory), "--precision", "float32"],
        "model": ["--model", str(ModelFolder(published / "multitask").path(1))],
        "url": ["--url", server],
    }
    frames = {}
    for name, source in sources.items():
        assert predict.main([*flags, *source, "--out", str(tmp_path / f"{name}.parquet")]) == 0
        frames[name] = pd.read_parquet(tmp_path / f"{name}.parquet")
    scores = frames["run"].select_dtypes("float32").columns
    for name in ("model", "url"):
        assert frames[name].drop(columns=scores).equals(frames["run"].drop(columns=scores))
        assert np.nanmax(np.abs(frames[name][scores] - frames["run"][scores])) < 1e-4
