"""What is sent to harm: it is refused before it costs anything, and others are answered meanwhile."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from multitask import serve
from multitask.demo.probe import probe_images
from multitask.errors import ConfigError, ModelFailed
from multitask.publishing.proving import serving
from multitask.serving.client import Client
from multitask.serving.guard import Hosts
from multitask.serving.model_folder import ModelFolder
from multitask.serving.native import NativePredictor
from multitask.serving.replies import WireError
from multitask.serving.server import CONNECTION_SECONDS
from multitask.serving.wire import read_call
from tests import hostile

PHOTO = probe_images()["png"]
PREDICT = "/v1/models/multitask:predict"


def body(*images: bytes, **more: object) -> str:
    return json.dumps({"instances": [{"b64": base64.b64encode(data).decode()} for data in images], **more})


def send(url: str, *lines: str, data: bytes = b"") -> bytes:
    """Send a request exactly as written, and return what comes until the server closes."""
    with socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=60) as connection:
        connection.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode() + data)
        received = b""
        while part := connection.recv(1 << 16):
            received += part
    return received


@pytest.mark.parametrize(
    "text",
    [b'{"' + b'\\"' * 500_000, b'{"\\"\\"\\"' * 100_000, b'{"a": "' + b"\\" * 1_000_001, b'["' * 300_000 + b"Inf"],
    ids=["quotes", "strings", "backslashes", "lists"],
)
def test_reading_json_takes_time_linear_in_it(text: bytes) -> None:
    started = time.process_time()
    with pytest.raises(WireError, match="JSON Parse error"):
        read_call(text + b" Inf")
    assert time.process_time() - started < 5


def test_more_values_than_memory_is_meant_for_are_refused(server: str) -> None:
    bomb = gzip.compress(b'{"instances": [' + b"[]," * 20_000_000 + b"[]]}")
    assert len(bomb) < 200_000
    reply = requests.post(server + PREDICT, data=bomb, headers={"Content-Encoding": "gzip"}, timeout=60)
    assert (reply.status_code, "send fewer" in reply.json()["error"]) == (413, True)


@pytest.mark.parametrize("signature", ["serving_default", "spec"])
def test_more_rows_than_a_request_may_have_are_refused(server: str, signature: str) -> None:
    for many in ({"instances": [""] * 100_000}, {"inputs": [""] * 100_000}):
        reply = requests.post(server + PREDICT, json={"signature_name": signature, **many}, timeout=60)
        assert (reply.status_code, "the most is 1024" in reply.json()["error"]) == (413, True)


@pytest.mark.parametrize("depth", [17, 65, 700, 100_000])
@pytest.mark.parametrize("key", ["instances", "inputs", "signature_name"])
def test_deep_lists_are_refused_in_json(server: str, depth: int, key: str) -> None:
    text = f'{{"{key}": {"[" * depth}"a"{"]" * depth}}}'
    reply = requests.post(server + PREDICT, data=text, timeout=60)
    assert (reply.status_code, set(reply.json())) == (400, {"error"})


def test_shapes_are_compared_before_anything_runs(server: str) -> None:
    for wrong in ({"instances": [["a"]]}, {"inputs": "a"}, {"signature_name": "from_pixels", "instances": [[[1]]]}):
        reply = requests.post(server + PREDICT, json=wrong, timeout=60)
        assert (reply.status_code, "has shape" in reply.json()["error"]) == (400, True)


def test_an_image_that_costs_too_much_is_not_ok_and_its_neighbour_is(server: str) -> None:
    bombs = [hostile.gif(5000, 60), hostile.jpeg_in_scans(1200, 1000), hostile.png(9000, "L")]
    started = time.monotonic()
    rows = requests.post(server + PREDICT, data=body(PHOTO, *bombs), timeout=60).json()["predictions"]
    assert [row["image_ok"] for row in rows] == [True, False, False, False]
    files = [("files", ("x", data)) for data in (PHOTO, *bombs)]
    good, *others = requests.post(f"{server}/files", files=files, timeout=60).json()["results"]
    assert good["ok"]
    assert all(other["status"].startswith("too large: ") for other in others)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("text", ["YWI\u2003=", "YW\u00a0I=", "YW\u2028I="])
def test_white_space_of_other_alphabets_is_no_base64(server: str, text: str) -> None:
    reply = requests.post(server + PREDICT, json={"instances": [{"b64": text}]}, timeout=60)
    assert (reply.status_code, reply.json()["error"]) == (
        400,
        "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: Unable to base64 decode",
    )


def test_an_empty_query_is_part_of_the_address(server: str) -> None:
    reply = send(server, f"POST {PREDICT}? HTTP/1.1", "Host: localhost", "Content-Length: 0", "Connection: close")
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"Malformed request" in reply


def test_a_malformed_request_is_answered_in_json(server: str) -> None:
    head, _, text = send(server, "NONSENSE").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert set(json.loads(text)) == {"error"}


@pytest.mark.parametrize(
    ("bound", "told", "method", "headers", "is_answered"),
    [
        ("127.0.0.1", (), "GET", {"host": "localhost:8501"}, True),
        ("127.0.0.1", (), "GET", {"host": "127.0.0.1"}, True),
        ("127.0.0.1", (), "GET", {"host": "[::1]:8501"}, True),
        ("127.0.0.1", (), "GET", {}, True),
        ("127.0.0.1", (), "GET", {"host": "evil.example:8501"}, False),
        ("127.0.0.1", (), "GET", {"host": "127.0.0.1.evil.example"}, False),
        ("127.0.0.1", ("photos.example",), "GET", {"host": "photos.example"}, True),
        ("0.0.0.0", (), "GET", {"host": "page:8080"}, True),
        ("0.0.0.0", ("photos.example",), "GET", {"host": "other.example"}, False),
        ("127.0.0.1", (), "POST", {"host": "localhost:1", "origin": "http://localhost:1"}, True),
        ("127.0.0.1", (), "POST", {"host": "localhost:1", "origin": "http://localhost:2"}, False),
        ("127.0.0.1", (), "POST", {"host": "localhost:1", "origin": "null"}, False),
        ("0.0.0.0", (), "POST", {"host": "a.example", "origin": "https://evil.example"}, False),
        ("127.0.0.1", ("p.example",), "POST", {"host": "localhost:1", "origin": "https://p.example"}, True),
        ("127.0.0.1", (), "OPTIONS", {"host": "localhost:1", "origin": "https://evil.example"}, True),
    ],
)
def test_only_names_of_this_server_are_answered_and_only_its_page_posts(
    bound: str, told: tuple[str, ...], method: str, headers: dict[str, str], is_answered: bool
) -> None:
    raw = {key.encode(): value.encode() for key, value in headers.items()}
    assert (Hosts(bound, told).refusal(method, raw) is None) == is_answered


def test_a_page_elsewhere_cannot_ask(server: str) -> None:
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        reply = requests.post(server + PREDICT, data=body(PHOTO), headers=headers, timeout=60)
        assert (reply.status_code, set(reply.json())) == (403, {"error"})


def test_connections_that_say_nothing_are_closed(server: str) -> None:
    address = urlsplit(server).hostname, urlsplit(server).port
    half = b"POST /v1/models/multitask:predict HTTP/1.1\r\nHost: localhost\r\n"
    silent = [socket.create_connection(address, timeout=60) for _ in range(50)]
    for number, connection in enumerate(silent):
        connection.sendall(half[: number % len(half)])
    started = time.monotonic()
    for connection in silent:
        while connection.recv(1000):
            pass
        connection.close()
    assert time.monotonic() - started < 40


def test_a_body_that_drips_is_ended(server: str) -> None:
    connection = socket.create_connection((urlsplit(server).hostname, urlsplit(server).port), timeout=60)
    connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n".encode())
    done = threading.Event()

    def drip() -> None:
        while not done.wait(0.5):
            try:
                connection.sendall(b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    received = connection.recv(1000)
    done.set()
    dripping.join()
    connection.close()
    assert b" 408 " in received.split(b"\r\n")[0]


@pytest.mark.slow
def test_a_client_that_takes_nothing_of_its_answers_is_let_go(server: str) -> None:
    """Who comes back to read later finds what the system had taken already, and the end of the connection."""
    body = json.dumps({"signature_name": "spec", "instances": [""] * 1024}).encode()
    request = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    whole = len(requests.post(f"{server}{PREDICT}", data=body, timeout=30).content)
    address = urlsplit(server)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(30)
        client.connect((address.hostname, address.port))
        client.sendall(request * 40)
        time.sleep(CONNECTION_SECONDS + 10)
        received = 0
        while part := client.recv(1 << 20):
            received += len(part)
    assert 0 < received < 20 * whole
    assert requests.get(f"{server}/healthz", timeout=5).ok


def test_bodies_together_have_a_limit_and_stalled_ones_give_way(published: Path) -> None:
    """Thirty clients send most of 60 MB each and stall; what the server holds stays small, and it goes on answering."""
    with serving(published) as url:
        address = urlsplit(url).hostname, urlsplit(url).port
        before = memory_mb(url)
        stalled = []
        for _ in range(30):
            connection = socket.create_connection(address, timeout=2)
            stalled.append(connection)
            try:
                head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n"
                connection.sendall(head.encode())
                for _ in range(50):
                    connection.sendall(b" " * 1_000_000)
            except OSError:
                continue
        assert memory_mb(url) - before < 400
        end = time.monotonic() + 30
        while requests.post(url + PREDICT, data=body(PHOTO), timeout=30).status_code != 200:
            assert time.monotonic() < end
            time.sleep(0.5)
        for connection in stalled:
            connection.close()


def memory_mb(url: str) -> float:
    from tests.serving.test_fuzz import memory_mb

    return memory_mb(url)


def test_labels_answer_from_what_is_loaded(exported: Path, tmp_path: Path) -> None:
    """The newest version never loads; the label stays with the one that answers."""
    folder = ModelFolder(tmp_path / "models/multitask")
    folder.add(exported)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no")
    with serving(folder.directory.parent) as url:
        folder.add(broken)
        end = time.monotonic() + 60
        while "END" not in requests.get(f"{url}/v1/models/multitask", timeout=30).text:
            labelled = requests.post(f"{url}/v1/models/multitask/labels/stable:predict", data=body(PHOTO), timeout=30)
            assert labelled.status_code == 200
            assert time.monotonic() < end
        labelled = requests.post(f"{url}/v1/models/multitask/labels/stable:predict", data=body(PHOTO), timeout=30)
        assert (labelled.status_code, labelled.headers["X-Model-Version"]) == (200, "1")


def test_a_closed_standard_error_does_not_end_the_watch_for_versions(exported: Path, tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "models/multitask")
    folder.add(exported)
    command = [sys.executable, "-m", "multitask.serve", "--models", str(folder.directory.parent), "--port", "0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    try:
        assert process.stderr is not None
        url = next(line for line in process.stderr if line.startswith("serving on")).split()[-1]
        process.stderr.close()
        for version in (2, 3):
            folder.add(exported)
            end = time.monotonic() + 60
            while requests.post(url + PREDICT, data=body(PHOTO), timeout=30).headers["X-Model-Version"] != str(version):
                assert time.monotonic() < end
                time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize(
    "flags", [["--port", "70000"], ["--port", "-1"], ["--max-body-mb", "0"], ["--timeout", "0"], ["--backend", "x:1"]]
)
def test_flags_that_cannot_be_meant_are_one_clear_error(flags: list[str]) -> None:
    with pytest.raises(ConfigError, match=flags[0]):
        serve.main(flags)


def test_listening_to_everybody_without_a_token_is_said(published: Path) -> None:
    command = [sys.executable, "-m", "multitask.serve", "--models", str(published), "--port", "0", "--host", "0.0.0.0"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "MULTITASK_TOKEN": ""})
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if line.startswith("serving on"):
            break
    process.terminate()
    process.wait(30)
    process.stderr.close()
    assert "without a token" in said
    assert "TLS" in said


def test_a_client_without_a_proper_address_says_so() -> None:
    for url in ("localhost:8501", "", "ftp://x", "http://[x"):
        with pytest.raises(ConfigError, match="no address of a server"):
            Client(url)


@pytest.mark.parametrize(
    ("signature", "inputs"),
    [
        ("serving_default", {"image_bytes": [PHOTO, None, PHOTO]}),
        ("serving_default", {"image_bytes": ["text"]}),
        ("serving_default", {"image_bytes": PHOTO}),
        ("serving_default", {"image_bytes": 3}),
        ("serving_default", {"image_bytes": np.array([[b"a"]], object)}),
        ("serving_default", {"image_bytes": np.zeros(3)}),
        ("serving_default", {}),
        ("serving_default", {"x": [PHOTO]}),
        ("from_pixels", {"pixels": np.zeros((32, 32, 3))}),
        ("from_pixels", {"pixels": np.zeros((1, 9, 9, 3))}),
        ("from_pixels", {"pixels": [[1], [2, 3]]}),
        ("from_pixels", {"pixels": None}),
        ("from_pixels", {"pixels": "x"}),
        ("none", {"image_bytes": [PHOTO]}),
    ],
)
def test_a_native_model_survives_what_nobody_should_give_it(exported: Path, signature: str, inputs: dict) -> None:
    predictor = NativePredictor(exported)
    with pytest.raises(ModelFailed):
        predictor.model.run(signature, inputs)
    assert predictor.predict([PHOTO]).ok.all()
    predictor.model.close()
    with pytest.raises(ModelFailed, match="closed"):
        predictor.predict([PHOTO])


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[str, list[str]]]:
    """A server that remembers what it was asked, and describes one model."""
    asked: list[str] = []
    signature = {
        "inputs": {"image_bytes": {"dtype": "DT_STRING", "name": "x:0", "tensor_shape": {"dim": [{"size": "-1"}]}}},
        "outputs": {},
        "method_name": "tensorflow/serving/predict",
    }
    metadata = {"metadata": {"signature_def": {"signature_def": {"serving_default": signature}}}}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *arguments: object) -> None:
            pass

        def do_GET(self) -> None:
            asked.append(f"GET {self.path}")
            self.answer(metadata)

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            asked.append(f"POST {self.path} {text}")
            self.answer({"predictions": []})

        def answer(self, value: object) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    httpd.server_close()


def test_what_would_harm_a_batching_server_does_not_reach_it(behind: tuple[str, list[str]], tmp_path: Path) -> None:
    url, asked = behind
    with serving(tmp_path, "--backend", url) as front:
        for wrong in (
            {"inputs": {"image_bytes": []}},
            {"instances": [["a"]]},
            {"inputs": [["a"]]},
            {"signature_name": "x", "instances": ["a"]},
        ):
            assert requests.post(f"{front}/v1/models/m:predict", json=wrong, timeout=60).status_code == 400
        assert not [line for line in asked if line.startswith("POST")]
        bombs = body(PHOTO, hostile.gif(5000, 60))
        assert requests.post(f"{front}/v1/models/m:predict", data=bombs, timeout=60).status_code == 200
        [passed] = [line for line in asked if line.startswith("POST")]
        sent = json.loads(passed.split(" ", 2)[2])
        assert sent == json.loads(body(PHOTO, b"", signature_name="serving_default"))


@pytest.mark.parametrize("path", ["/v1/../admin", "/v1/models/../../admin", "/v1/models/m/..", "/v1/models/%2e%2e/x"])
def test_nothing_but_addresses_of_models_is_passed_on(behind: tuple[str, list[str]], tmp_path: Path, path: str) -> None:
    url, asked = behind
    with serving(tmp_path, "--backend", url) as front:
        before = len(asked)
        reply = send(front, f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close")
        assert reply.startswith((b"HTTP/1.1 400", b"HTTP/1.1 404"))
        assert asked[before:] == []
