"""TF-Serving's JSON format: base64 as absl reads it, inputs of every form, numbers that survive the way."""

from __future__ import annotations

import base64
import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from multitask.serving.replies import WireError, write_outputs
from multitask.serving.signatures import Signature, TensorInfo
from multitask.serving.wire import read_call, read_inputs, unescape_base64

TEXT = Signature({"image_bytes": TensorInfo("x:0", "DT_STRING", (-1,))}, {}, "")
FLOAT = Signature({"pixels": TensorInfo("x:0", "DT_FLOAT", (-1, 2))}, {}, "")
BOTH = Signature({"a": TensorInfo("a:0", "DT_STRING", (-1,)), "b": TensorInfo("b:0", "DT_FLOAT", (-1,))}, {}, "")
NONE = Signature({}, {}, "")


def read(body: object, signature: Signature = TEXT):
    text = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_inputs(read_call(text), signature)


def refusal(body: object, signature: Signature = TEXT) -> str:
    with pytest.raises(WireError) as error:
        read(body, signature)
    assert error.value.http_status == 400
    return error.value.text


@given(st.binary())
def test_base64_brings_every_file_back(data: bytes) -> None:
    assert unescape_base64(base64.b64encode(data).decode()) == data


@pytest.mark.parametrize("text", ["YWI=", "YWI", "YW I=", "YW\nI=\t", "YWI."])
def test_base64_may_lack_padding_and_hold_white_space(text: str) -> None:
    assert unescape_base64(text) == b"ab"


@pytest.mark.parametrize("text", ["YWI==", "Y", "YWJjZ", "-_-_", "YW!=", "=", "ä", "YW=I"])
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="Unable to base64 decode"):
        unescape_base64(text)


def test_empty_base64_is_no_bytes() -> None:
    assert unescape_base64("") == b""


@pytest.mark.parametrize(
    ("body", "row"),
    [
        ({"instances": [{"b64": "YQ=="}, {"b64": "Yg=="}]}, True),
        ({"instances": ["a", "b"]}, True),
        ({"instances": [{"image_bytes": {"b64": "YQ=="}}, {"image_bytes": "b"}]}, True),
        ({"inputs": ["a", {"b64": "Yg"}]}, False),
        ({"inputs": {"image_bytes": ["a", "b"], "more": 3}}, False),
        ({"signature_name": "", "instances": ["a", "b"], "other": None}, True),
        (b'\xef\xbb\xbf {"instances": ["a", "b"]} and more', True),
        (b'{"instances": ["a", "b"], "instances": [1]}', True),
    ],
)
def test_every_form_of_strings_is_read(body: object, row: bool) -> None:
    found, is_row = read(body)
    assert (found["image_bytes"].tolist(), is_row) == ([b"a", b"b"], row)


def test_a_string_is_its_utf8_bytes() -> None:
    assert read({"instances": ["ä"]})[0]["image_bytes"].tolist() == ["ä".encode()]
    assert read(b'{"instances": ["\xff\xfe"]}')[0]["image_bytes"].tolist() == [b"\xff\xfe"]


def test_numbers_are_floats_of_any_spelling() -> None:
    found, _ = read(b'{"instances": [[1, 2.5], [-3e2, 1e39], [NaN, Inf], [-Infinity, -Inf]]}', FLOAT)
    expected = np.array([[1, 2.5], [-300, np.inf], [np.nan, np.inf], [-np.inf, -np.inf]], np.float32)
    assert np.array_equal(found["pixels"], expected, equal_nan=True)
    assert found["pixels"].dtype == np.float32


def test_several_inputs_are_named_in_both_forms() -> None:
    rows, _ = read({"instances": [{"a": "x", "b": 1}, {"b": 2, "a": "y"}]}, BOTH)
    columns, _ = read({"inputs": {"a": ["x", "y"], "b": [1, 2]}}, BOTH)
    for found in (rows, columns):
        assert found["a"].tolist() == [b"x", b"y"]
        assert found["b"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"  \n", "JSON Parse error: The document is empty"),
        (b'{"instances": [', "JSON Parse error: .* at offset: "),
        (b"[" * 100_000, "JSON Parse error"),
        (b'{"instances": [1e999]}', "JSON Parse error: Number too big"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", "JSON Parse error"),
        (b'{"instances": ["\\ud800"]}', "JSON Parse error"),
        ([1], "JSON Value: .* Is not object"),
        ({"signature_name": 3, "instances": ["a"]}, "'signature_name' key must be a string value"),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"inputs": ["a"], "instances": ["a"]}, "expecting only one of 'inputs' or 'instances' keys to exist "),
        ({"instances": "a"}, "Expecting 'instances' to be an list/array"),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": [3]}, "JSON Value: 3 Type: Number is not of expected type: string"),
        ({"instances": [None]}, "Type: Null is not of expected type: string"),
        ({"instances": [True]}, "Type: True is not of expected type: string"),
        ({"instances": [{"b64": "!"}]}, "Unable to base64 decode"),
        ({"instances": [{"b64": 3}]}, "does not have named input: b64"),
        ({"instances": [{"b64": "YQ==", "x": 1}]}, "JSON object: does not have named input: b64"),
        ({"instances": [{"image_bytes": {"b64": "YQ==", "x": 1}}]}, "not formatted correctly for base64 data"),
        ({"inputs": {"image_bytes": [{"b64": "YQ==", "x": 1}]}}, "not formatted correctly for base64 data"),
        ({"instances": [{"x": "a"}]}, "JSON object: does not have named input: x"),
        ({"instances": [{"image_bytes": "a"}, "b"]}, "Expecting object but got list at item 1 of input list"),
        ({"instances": ["b", {"x": "a"}]}, "Expecting value/list but got object at item 1 of input list"),
        ({"instances": ["a", ["b", "c"]]}, "Expecting tensor size: 1 but got: 2"),
        ({"instances": ["a", ["b"]]}, r"Expecting shape \[\] but got: \[1\]"),
        ({"inputs": {"x": ["a"]}}, "Missing named input: image_bytes in 'inputs' object"),
        ({"inputs": []}, "No rows"),
        ({"inputs": {"image_bytes": []}}, "No rows"),
    ],
)
def test_wrong_bodies_are_refused_in_the_words_of_the_server(body: object, text: str) -> None:
    assert re.search(text, refusal(body))


@pytest.mark.parametrize(
    ("body", "signature", "text"),
    [
        ({"instances": [[1, 2], [3]]}, FLOAT, "Expecting tensor size: 2 but got: 1"),
        ({"inputs": [[1, 2], [3]]}, FLOAT, "Encountered list at unexpected size: 1 at level: 1 expected size: 2"),
        ({"inputs": [[1, 2], 3]}, FLOAT, "Encountered list at unexpected size"),
        ({"inputs": [["1", 2]]}, FLOAT, "is not of expected type: float"),
        ({"inputs": [[True, 2]]}, FLOAT, "Type: True is not of expected type: float"),
        ({"inputs": [[1, [2]]]}, FLOAT, "is not of expected type: float"),
        ({"instances": ["a"]}, BOTH, "instances is a plain list, but expecting list of objects"),
        ({"instances": [{"a": "x"}]}, BOTH, "keys must be equal to: a,b"),
        ({"inputs": ["a"]}, BOTH, "inputs is a plain value/list, but expecting an object"),
        ({"instances": ["a"]}, NONE, "Failed to get input map for signature: serving_default"),
    ],
)
def test_wrong_tensors_are_refused(body: object, signature: Signature, text: str) -> None:
    assert text in refusal(body, signature)


def test_element_errors_name_the_element() -> None:
    assert refusal({"instances": ["a", 3]}).startswith(
        "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT: "
    )
    assert "element: 0 key: image_bytes of 'instances'" in refusal({"instances": [{"image_bytes": 3}]})


def test_an_error_does_not_send_a_whole_image_back() -> None:
    assert len(refusal({"instances": [{"image_bytes": {"b64": "A" * 100_000, "x": 1}}]})) < 600


@given(npst.arrays(np.float32, (2, 3), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
def test_every_float_survives_the_way(values: np.ndarray) -> None:
    found = json.loads(write_outputs({"y": values}, row=True))["predictions"]
    assert np.array_equal(np.array(found, np.float32), values)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1.0, "1.0"), (0.5, "0.5"), (0.1, "0.1"), (9e6, "9e+06"), (0.99236196, "0.992361963"), (-0.0, "-0.0")],
)
def test_floats_are_written_as_the_server_writes_them(value: float, text: str) -> None:
    assert f"[{text}]" in write_outputs({"y": np.array([[value]], np.float32)}, row=True).decode()


def test_outputs_take_the_form_of_the_request() -> None:
    names = np.array([b"x", b"y"], object)
    one, two = {"y": np.array([1, 2])}, {"y": np.array([[1], [2]]), "name": names}
    assert json.loads(write_outputs(one, row=True)) == {"predictions": [1, 2]}
    assert json.loads(write_outputs(one, row=False)) == {"outputs": [1, 2]}
    assert json.loads(write_outputs(two, row=True)) == {
        "predictions": [{"y": [1], "name": "x"}, {"y": [2], "name": "y"}]
    }
    assert json.loads(write_outputs(two, row=False)) == {"outputs": {"y": [[1], [2]], "name": ["x", "y"]}}


def test_strings_under_a_name_that_ends_in_bytes_are_base64() -> None:
    found = json.loads(write_outputs({"raw_bytes": np.array([b"\xff"], object)}, row=True))
    assert found == {"predictions": [{"b64": "/w=="}]}
