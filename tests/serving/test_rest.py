"""Black box: a running server against sections 1.1 to 1.6 of TF-Serving's REST contract."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from multitask.demo.probe import probe_images

GOOD = base64.b64encode(probe_images()["png"]).decode()
PREDICT = "/v1/models/multitask:predict"
ONE = json.dumps({"instances": [{"b64": GOOD}]}).encode()
Reply = tuple[int, str, bytes]


@pytest.fixture(scope="module")
def ask(server: str) -> Callable[..., Reply]:
    """Send a request exactly as written; return status, content type and body."""

    def send(method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection(urlsplit(server).netloc, timeout=30)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, response.headers.get("Content-Type", ""), response.read()
        finally:
            connection.close()

    return send


def error(reply: Reply) -> str:
    assert reply[1] == "application/json"
    body = json.loads(reply[2])
    assert set(body) == {"error"}
    return body["error"]


@pytest.mark.parametrize(
    "path",
    [
        PREDICT,
        "/v1/models/multitask/versions/1:predict",
        "/v1/models/multitask/versions/0001:predict",
        "/v1/models/multitask/labels/stable:predict",
        "/V1/MODELS/multitask:predict",
        "/v1/models/multi%74ask:predict",
    ],
)
def test_predict_answers_at_every_address_of_a_version(ask, path: str) -> None:
    status, kind, body = ask("POST", path, ONE)
    assert (status, kind) == (200, "application/json")
    [row] = json.loads(body)["predictions"]
    assert row["image_ok"] is True
    assert len(row["category"]) == 5
    assert all(isinstance(name, str) for name in row["category_top"])


@pytest.mark.parametrize(
    "path", ["/v1/models/multitask", "/v1/models/multitask/versions/1", "/v1/models/multitask/labels/none"]
)
def test_status_lists_versions_with_their_state(ask, path: str) -> None:
    status, kind, body = ask("GET", path)
    assert (status, kind) == (200, "application/json")
    assert json.loads(body) == {
        "model_version_status": [
            {"version": "1", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/multitask/metadata",
        "/v1/models/multitask/versions/1/metadata",
        "/v1/models/multitask/labels/stable/metadata",
    ],
)
def test_metadata_describes_the_signatures(ask, path: str) -> None:
    status, _, body = ask("GET", path)
    found = json.loads(body)
    assert status == 200
    assert found["model_spec"] == {"name": "multitask", "signature_name": "", "version": "1"}
    signatures = found["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "from_pixels", "__saved_model_init_op"} <= set(signatures)
    image_bytes = signatures["serving_default"]["inputs"]["image_bytes"]
    assert image_bytes["dtype"] == "DT_STRING"
    assert image_bytes["tensor_shape"] == {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False}
    assert signatures["serving_default"]["method_name"] == "tensorflow/serving/predict"
    assert signatures["serving_default"]["defaults"] == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", PREDICT, 400, f"Malformed request: GET {PREDICT}"),
        ("POST", "/v1/models/multitask", 400, "Malformed request: POST /v1/models/multitask"),
        ("POST", "/v1/models/multitask/metadata", 400, "Malformed request"),
        ("POST", "/v1/models/multitask:PREDICT", 400, "Malformed request"),
        ("POST", "/v1/models/multitask:guess", 400, "Malformed request"),
        ("POST", f"{PREDICT}?x=1", 400, "Malformed request"),
        ("POST", f"{PREDICT}/", 400, "Malformed request"),
        ("POST", "/v1/models/multitask/versions/one:predict", 400, "Malformed request"),
        ("POST", "/v1/models/multitask/versions/1/labels/stable:predict", 400, "Malformed request"),
        ("PUT", PREDICT, 400, "Malformed request: PUT"),
        ("PATCH", PREDICT, 400, "Malformed request: PATCH"),
        ("DELETE", "/v1/models/multitask", 400, "Malformed request: DELETE"),
        ("GET", "/v1/other", 400, "Malformed request: GET /v1/other"),
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/models/multitask?x=1", 404, "Could not find any versions of model multitask?x=1"),
        ("GET", "/v1/models/none", 404, "Could not find any versions of model none"),
        ("GET", "/v1/models/multitask/versions/7", 404, "Could not find version 7 of model multitask"),
        ("GET", "/v1/models/none/metadata", 404, "Servable not found for request: Latest(none)"),
        (
            "GET",
            "/v1/models/multitask/versions/7/metadata",
            404,
            "Servable not found for request: Specific(multitask, 7)",
        ),
        ("POST", "/v1/models/none:predict", 404, "Servable not found for request: Latest(none)"),
        (
            "POST",
            "/v1/models/multitask/versions/7:predict",
            404,
            "Servable not found for request: Specific(multitask, 7)",
        ),
        ("POST", "/v1/models/multitask/labels/none:predict", 400, "Unrecognized servable version label: none"),
        ("GET", "/v1/models/multitask/labels/none/metadata", 400, "Unrecognized servable version label: none"),
        ("POST", "/v1/models/multitask:classify", 400, "signature method_name"),
    ],
)
def test_wrong_addresses_are_refused_in_the_words_of_the_server(ask, method, path, status, text) -> None:
    reply = ask(method, path, ONE if method == "POST" else None)
    assert reply[0] == status
    assert text in error(reply)


def test_a_version_beyond_int64_is_refused_without_a_body(ask) -> None:
    for number in ("9223372036854775808", "9" * 5000):
        assert ask("POST", f"/v1/models/multitask/versions/{number}:predict", ONE)[0::2] == (400, b"")
    assert ask("GET", "/v1/models/multitask/versions/9223372036854775807")[0] == 404


def test_wrong_json_counts_before_an_unknown_model(ask) -> None:
    assert "JSON Parse error" in error(ask("POST", "/v1/models/none:predict", b"{"))
    assert "'signature_name'" in error(ask("POST", "/v1/models/none:predict", b'{"signature_name": 1}'))
    assert "Servable not found" in error(ask("POST", "/v1/models/none:predict", b'{"signature_name": "x"}'))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"[]", "Is not object"),
        (b'{"signature_name": "none"}', 'Serving signature name: "none" not found in signature def'),
        (
            b'{"signature_name": "__saved_model_init_op"}',
            "Failed to get input map for signature: __saved_model_init_op",
        ),
        (b"{}", "Missing 'inputs' or 'instances' key"),
        (b'{"instances": [3]}', "is not of expected type: string"),
        (b'{"instances": [{"b64": "?"}]}', "Unable to base64 decode"),
        (b'{"inputs": {"x": 1}}', "Missing named input: image_bytes in 'inputs' object."),
        (b'{"inputs": []}', "No rows"),
        (b'{"inputs": "a scalar"}', "shape"),
        (b'{"instances": [["rank"], ["two"]]}', "shape"),
        (b'{"signature_name": "from_pixels", "instances": [[[1, 2, 3]]]}', "shape"),
        (b'{"signature_name": "from_pixels", "inputs": [1.0, 2.0]}', "shape"),
    ],
)
def test_wrong_bodies_are_refused(ask, body: bytes, text: str) -> None:
    reply = ask("POST", PREDICT, body)
    assert reply[0] == 400
    assert text.lower() in error(reply).lower()


def test_both_forms_answer_in_their_own_form(ask) -> None:
    row = json.loads(ask("POST", PREDICT, ONE)[2])
    column = json.loads(ask("POST", PREDICT, json.dumps({"inputs": {"image_bytes": [{"b64": GOOD}]}}).encode())[2])
    assert set(row) == {"predictions"}
    assert set(column) == {"outputs"}
    assert row["predictions"][0]["category"] == column["outputs"]["category"][0]


def test_a_single_output_stands_alone(ask) -> None:
    rows = json.loads(ask("POST", PREDICT, b'{"signature_name": "spec", "instances": ["", ""]}')[2])["predictions"]
    assert len(rows) == 2
    assert json.loads(rows[0])["tasks"][0]["name"] == "category"


def test_pixels_are_answered_as_their_file_is(ask) -> None:
    pixels = [[[[10.0, 20, 30]] * 32] * 32, [[[300, 0, 0]] * 32] * 32]
    reply = ask("POST", PREDICT, json.dumps({"signature_name": "from_pixels", "instances": pixels}).encode())
    assert [row["image_ok"] for row in json.loads(reply[2])["predictions"]] == [True, False]


def test_one_bad_image_leaves_the_others(ask) -> None:
    body = json.dumps({"instances": [{"b64": GOOD}, {"b64": "AAAA"}, {"b64": ""}, {"b64": GOOD}]}).encode()
    rows = json.loads(ask("POST", PREDICT, body)[2])["predictions"]
    assert [row["image_ok"] for row in rows] == [True, False, False, True]
    assert rows[0] == rows[3] == json.loads(ask("POST", PREDICT, ONE)[2])["predictions"][0]


def test_more_rows_than_a_batch_are_answered_in_order(ask) -> None:
    images = [GOOD if number % 3 else "" for number in range(70)]
    body = json.dumps({"instances": [{"b64": image} for image in images]}).encode()
    rows = json.loads(ask("POST", PREDICT, body)[2])["predictions"]
    assert [row["image_ok"] for row in rows] == [bool(image) for image in images]


def test_gzip_bodies_are_inflated_and_broken_ones_count_as_empty(ask) -> None:
    headers = {"Content-Encoding": "gzip"}
    packed = gzip.compress(ONE)
    assert ask("POST", PREDICT, packed, headers)[0] == 200
    for body in (packed[:-9], b"no gzip", packed + gzip.compress(b"more"), gzip.compress(b" " * (101 << 20))):
        assert error(ask("POST", PREDICT, body, headers)) == "JSON Parse error: The document is empty"
    assert "JSON Parse error" in error(ask("POST", PREDICT, packed, {"Content-Encoding": "GZIP"}))


def test_content_types_are_not_looked_at(ask) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "nonsense"):
        assert ask("POST", PREDICT, ONE, {"Content-Type": kind})[0] == 200


def test_options_and_head_answer_as_the_server_does(ask) -> None:
    assert ask("OPTIONS", PREDICT, headers={"Origin": "https://example.org"})[0::2] == (200, b"")
    assert ask("OPTIONS", PREDICT)[0::2] == (400, b"")
    assert ask("HEAD", "/v1/models/multitask")[0] == 400


def test_paths_outside_are_not_found(ask) -> None:
    for path in ("/v1", "/v2/models/multitask", "/nothing", "//v1/models/multitask"):
        assert ask("GET", path)[0] == 404
