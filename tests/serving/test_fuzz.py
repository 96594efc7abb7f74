"""Whatever is sent to the server: no 500, no crash, no growth, and good requests among the bad are answered right."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multitask.demo.probe import probe_images
from multitask.publishing.proving import serving
from multitask.serving.native import NativePredictor

PROBES = list(probe_images().values())
PREDICT = "/v1/models/multitask:predict"
REQUESTS, CLIENTS, BAD = 10_000, 8, 0.05
ALLOWED = {200, 400, 404, 413}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["b64", "image_bytes", "pixels", "x"]), inner)
    ),
    max_leaves=12,
)
bodies = st.one_of(
    st.binary(max_size=200),
    json_values.map(lambda value: json.dumps(value).encode()),
    st.fixed_dictionaries(
        {},
        optional={
            "instances": json_values,
            "inputs": json_values,
            "signature_name": st.sampled_from(
                ["", "serving_default", "from_pixels", "spec", "__saved_model_init_op", "x", 3]
            ),
        },
    ).map(lambda value: json.dumps(value).encode()),
)
images = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda data, at, byte: data[:at] + bytes([byte]) + data[at + 1 :],
        st.sampled_from(PROBES),
        st.integers(0, 2000),
        st.integers(0, 255),
    ),
    st.builds(lambda data, end: data[:end], st.sampled_from(PROBES), st.integers(0, 3000)),
)


@pytest.fixture(scope="module")
def own_server(published: Path) -> Iterator[str]:
    with serving(published) as url:
        yield url


def memory_mb(url: str) -> float:
    """Return the resident size of the process that listens there."""
    port = int(url.rsplit(":", 1)[1])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and int(fields[1].split(":")[1], 16) == port:
            socket = f"socket:[{fields[9]}]"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(link.readlink().name == socket for link in (process / "fd").iterdir()):
                status = (process / "status").read_text()
                return int(status.split("VmRSS:")[1].split()[0]) / 1024
        except OSError:
            continue
    raise AssertionError(f"nobody listens on {url}")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=bodies,
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "DELETE"]),
    path=st.sampled_from(
        [PREDICT, "/v1/models/multitask/versions/1:predict", "/v1/models/x:predict", "/files", "/v1/models"]
    ),
    headers=st.dictionaries(
        st.sampled_from(["Content-Type", "Content-Encoding"]),
        st.sampled_from(["application/json", "gzip", "multipart/form-data; boundary=x", "text/plain", "deflate"]),
    ),
)
def test_any_body_is_answered_or_refused(own_server: str, body: bytes, method: str, path: str, headers: dict) -> None:
    reply = requests.request(method, own_server + path, data=body, headers=headers, timeout=30)
    assert reply.status_code in ALLOWED | {405}, reply.text
    if reply.status_code != 200 and reply.content:
        assert set(reply.json()) == {"error"}


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(images, min_size=1, max_size=4))
def test_any_image_is_scored_or_not_ok(own_server: str, files: list[bytes]) -> None:
    body = json.dumps({"instances": [{"b64": base64.b64encode(data).decode()} for data in files]})
    reply = requests.post(own_server + PREDICT, data=body, timeout=30)
    assert reply.status_code == 200, reply.text
    for row in reply.json()["predictions"]:
        assert abs(sum(row["category"]) - (1 if row["image_ok"] else 0)) < 1e-4


def test_schemathesis_finds_no_way_to_a_500(own_server: str) -> None:
    schema = schemathesis.openapi.from_url(f"{own_server}/openapi.json")

    for result in schema.get_all_operations():
        operation = result.ok()

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def check(case: schemathesis.Case) -> None:
            response = case.call()
            assert response.status_code < 500, (case.method, case.path, response.text)
            assert response.headers["content-type"]

        check()


@pytest.mark.slow
def test_ten_thousand_requests_with_bad_ones_among_them(own_server: str, exported: Path) -> None:
    """Every good photo gets its own scores, whatever the requests beside it are; memory stays where it is."""
    good = [data for name, data in probe_images().items() if not name.startswith("broken")]
    expected = NativePredictor(exported).predict(good).values["category"]
    good_bodies = [json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]}) for data in good]
    bad_bodies = [
        "{",
        '{"instances": [{"b64": "!"}]}',
        '{"instances": [{"b64": "AAAA"}]}',
        '{"instances": [["a"]]}',
        '{"inputs": []}',
        '{"signature_name": "from_pixels", "instances": [[1]]}',
        json.dumps({"instances": [{"b64": base64.b64encode(b"x" * 200_000).decode()}]}),
    ]
    wrong: list[str] = []
    sizes: list[float] = []

    def ask(seed: int, count: int) -> None:
        chance = random.Random(seed)
        with requests.Session() as session:
            for _ in range(count):
                is_bad = chance.random() < BAD
                number = chance.randrange(len(good))
                body = chance.choice(bad_bodies) if is_bad else good_bodies[number]
                reply = session.post(own_server + PREDICT, data=body, timeout=60)
                if is_bad:
                    fine = reply.status_code == 400 or not reply.json()["predictions"][0]["image_ok"]
                else:
                    fine = reply.status_code == 200 and np.allclose(
                        reply.json()["predictions"][0]["category"], expected[number], atol=1e-4
                    )
                if not fine:
                    wrong.append(f"{reply.status_code} {body[:80]} {reply.text[:200]}")

    for part in range(2):
        clients = [
            threading.Thread(target=ask, args=(100 * part + number, REQUESTS // 2 // CLIENTS))
            for number in range(CLIENTS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        sizes.append(memory_mb(own_server))
    assert not wrong, wrong[:3]
    assert sizes[1] - sizes[0] < 60, sizes
