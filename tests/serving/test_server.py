"""The embedded server around the models: uploads, token, limits, figures, health, shutdown, a server behind it."""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from multitask import serve
from multitask.demo.probe import probe_images
from multitask.errors import PredictionError, RequestRefused
from multitask.publishing.proving import serving
from multitask.serving.client import Client

PROBES = probe_images()
BODY = json.dumps({"instances": [{"b64": base64.b64encode(PROBES["png"]).decode()}]})
PREDICT = "/v1/models/multitask:predict"


@pytest.fixture(scope="module")
def guarded(published: Path) -> Iterator[str]:
    """A server with a token and a small limit."""
    with serving(published, "--token", "secret", "--max-body-mb", "1") as url:
        yield url


def upload(url: str, *images: bytes, **options: object) -> requests.Response:
    files = [("files", (f"photo {number}.jpg", data)) for number, data in enumerate(images)]
    return requests.post(f"{url}/files", files=files, timeout=30, **options)


def test_files_are_answered_with_label_confidence_and_tags(server: str) -> None:
    found = upload(server, PROBES["png"], PROBES["broken_text"]).json()
    assert found["model_version"] == 1
    good, bad = found["results"]
    assert (good["file"], good["ok"], good["status"]) == ("photo 0.jpg", True, "ok")
    classes = good["tasks"]["category"]["classes"]
    assert [entry["score"] for entry in classes] == sorted((entry["score"] for entry in classes), reverse=True)
    assert [entry["top"] for entry in classes] == [True, True, False, False, False]
    assert (good["label"], good["confidence"]) == (classes[0]["name"], classes[0]["score"])
    tags = good["tasks"]["tags"]["classes"]
    assert all(entry["present"] == (entry["score"] >= entry["threshold"]) for entry in tags)
    assert good["tags"] == [entry["name"] for entry in tags if entry["present"]]
    assert bad == {"file": "photo 1.jpg", "ok": False, "status": "not an image"}


def test_the_picture_is_drawn_on_when_asked_for(server: str) -> None:
    good, bad = upload(server, PROBES["jpeg_orientation_6"], b"", params={"draw": "true"}).json()["results"]
    picture = Image.open(io.BytesIO(base64.b64decode(good["picture"].removeprefix("data:image/jpeg;base64,"))))
    assert picture.width == 320
    assert picture.height > 96  # upright, and the answer below
    assert picture.getpixel((10, 10)) != picture.getpixel((160, 10)), "the picture is in the middle"
    assert "picture" not in bad


def test_a_form_without_files_is_refused_with_the_reason(server: str) -> None:
    for reply in (
        requests.post(f"{server}/files", timeout=30),
        requests.post(f"{server}/files", data={"files": "text"}, timeout=30),
        requests.post(f"{server}/files", data=b"--x", headers={"Content-Type": "multipart/form-data"}, timeout=30),
        upload(server, PROBES["png"], params={"draw": "maybe"}),
    ):
        assert reply.status_code == 400
        assert reply.json()["error"]


def test_the_page_loads_nothing_from_elsewhere(server: str) -> None:
    reply = requests.get(server, timeout=30)
    assert reply.headers["content-type"].startswith("text/html")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", reply.text)
    assert "default-src 'none'" in reply.headers["content-security-policy"]


def test_the_token_guards_everything_but_page_and_health(guarded: str) -> None:
    for path in ("/", "/healthz", "/readyz"):
        assert requests.get(guarded + path, timeout=30).status_code == 200
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
        for path in ("/metrics", "/v1/models/multitask", "/openapi.json", "/nothing"):
            reply = requests.get(guarded + path, headers=headers, timeout=30)
            assert reply.status_code == 401
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "token" in reply.json()["error"]
        assert upload(guarded, PROBES["png"], headers=headers).status_code == 401
    assert upload(guarded, PROBES["png"], headers={"Authorization": "Bearer secret"}).status_code == 200
    with pytest.raises(RequestRefused, match="401"):
        Client(guarded)
    assert Client(guarded, token="secret").predict([PROBES["png"]]).ok.all()


def test_a_body_beyond_the_limit_is_refused_however_it_is_sent(guarded: str) -> None:
    headers = {"Authorization": "Bearer secret"}
    large = b"x" * (1 << 20) + b"x"

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield large[: 1 << 15]

    for data in (large, chunks()):
        try:
            reply = requests.post(guarded + PREDICT, data=data, headers=headers, timeout=30)
        except requests.ConnectionError:
            continue  # answered and closed while we were still sending
        assert reply.status_code == 413
        assert "1048576 bytes" in reply.json()["error"]
    connection = http.client.HTTPConnection(urlsplit(guarded).netloc)
    connection.putrequest("POST", PREDICT)
    connection.putheader("Content-Length", str(1 << 40))
    connection.putheader("Authorization", "Bearer secret")
    connection.endheaders()
    assert connection.getresponse().status == 413
    assert requests.post(guarded + PREDICT, data=BODY, headers=headers, timeout=30).status_code == 200


def test_a_client_lives_with_the_limit(guarded: str) -> None:
    noise = Image.effect_noise((1200, 900), 90)
    stream = io.BytesIO()
    noise.save(stream, "PNG")
    half = stream.getvalue()
    assert len(half) > 700_000
    found = Client(guarded, token="secret").predict([half, half + b" " * 400_000, half[:100_000], PROBES["png"]])
    assert found.ok.tolist()[1:] == [False, False, True]
    assert 1 in found.reasons


def test_figures_are_counted_with_bounded_labels(published: Path) -> None:
    with serving(published) as url:
        requests.post(url + PREDICT, data=BODY, timeout=30)
        upload(url, PROBES["png"], b"")
        for name in ("one", "two", "three"):
            requests.get(f"{url}/v1/models/{name}", timeout=30)
            requests.get(f"{url}/{name}", timeout=30)
        text = requests.get(f"{url}/metrics", timeout=30).text
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["multitask_requests_total", "/v1", "200"] == 1
    assert samples["multitask_requests_total", "/v1", "404"] == 3
    assert samples["multitask_requests_total", "/files", "200"] == 1
    assert samples["multitask_request_seconds_count", "/v1"] == 4
    assert samples["multitask_images_refused_total", "multitask"] == 1
    assert samples["multitask_batch_rows_sum", "multitask"] == 3
    answered = [
        value for key, value in samples.items() if key[0] == "multitask_predictions_total" and "category" in key
    ]
    assert sum(answered) == 2
    assert not any("three" in str(key) for key in samples)


def test_an_answer_that_takes_too_long_is_given_up(published: Path) -> None:
    with serving(published, "--timeout", "0.00001") as url:
        # So many that they are never answered before the clock is looked at.
        photos = [PROBES["jpeg_large"]] * 32
        instances = [{"b64": base64.b64encode(photo).decode()} for photo in photos]
        reply = requests.post(url + PREDICT, json={"instances": instances}, timeout=30)
        assert (reply.status_code, reply.json()["error"]) == (504, "Timed out waiting for notification")
        assert upload(url, *photos).status_code == 504


def test_a_server_without_a_model_is_alive_and_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as url:
        assert requests.get(f"{url}/healthz", timeout=30).status_code == 200
        for reply in (requests.get(f"{url}/readyz", timeout=30), upload(url, PROBES["png"])):
            assert reply.status_code == 503
            assert "no model" in reply.json()["error"]


def test_a_port_in_use_is_one_clear_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PredictionError, match="cannot listen"):
        serve.main(["--models", str(tmp_path), "--port", str(taken.getsockname()[1])])


def test_requests_under_way_are_answered_before_the_end(published: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "multitask.serve", "--models", str(published), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    url = next(line for line in server.stderr if line.startswith("serving on")).split()[-1]
    body = json.dumps({"instances": [{"b64": base64.b64encode(PROBES["jpeg_large"]).decode()}] * 200})
    replies: list[requests.Response] = []
    asking = threading.Thread(target=lambda: replies.append(requests.post(url + PREDICT, data=body, timeout=60)))
    asking.start()
    time.sleep(0.15)
    server.send_signal(signal.SIGTERM)
    asking.join(60)
    assert replies[0].status_code == 200
    assert len(replies[0].json()["predictions"]) == 200
    assert server.wait(30) in (0, -signal.SIGTERM)
    server.stderr.close()


def test_the_page_works_in_front_of_another_server(server: str, tmp_path: Path) -> None:
    """What stands behind is our own server here, where a TF-Serving container would be."""
    with serving(tmp_path, "--backend", server) as url:
        assert requests.get(f"{url}/readyz", timeout=30).json() == {"models": ["multitask"]}
        behind, front = (requests.post(base + PREDICT, data=BODY, timeout=30) for base in (server, url))
        assert front.json() == behind.json()
        wrong = requests.post(url + PREDICT, data=b"{", timeout=30)
        assert (wrong.status_code, "JSON Parse error" in wrong.json()["error"]) == (400, True)
        answers = [upload(base, PROBES["png"], b"no").json()["results"] for base in (server, url)]
        assert answers[0] == answers[1]
        assert Client(url).predict([PROBES["png"]]).ok.all()
    with serving(tmp_path, "--backend", "http://127.0.0.1:9") as url:
        assert requests.get(f"{url}/readyz", timeout=30).status_code == 503
        assert requests.post(url + PREDICT, data=BODY, timeout=30).status_code == 503
        assert upload(url, PROBES["png"]).status_code == 503
