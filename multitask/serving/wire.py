"""Requests in TF-Serving's REST format: JSON bodies to arrays, with its rules, its errors and their HTTP statuses.

Sources: tensorflow/serving util/json_tensor.cc and model_servers/http_rest_api_util.cc, version 2.20. Two things differ
on purpose: an empty batch is refused instead of kept waiting, and an error echoes at most 256 characters of a request.
"""

from __future__ import annotations

import base64
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.serving.replies import WireError
from multitask.serving.signatures import NUMPY, Signature, TensorInfo

ECHO_CHARACTERS = 256
# What a request may hold. Every comma, colon and opening bracket of JSON is a Python object of so many bytes, about.
MAX_TOKENS, BYTES_PER_TOKEN = 2_000_000, 100
MAX_ROWS = 1024
# numpy's arrays have at most 64 dimensions, TensorFlow's images 4.
MAX_RANK = 16

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """A predict request whose JSON is sound: the document, and the signature it names."""

    document: Mapping[str, Any]
    signature: str


def read_call(body: bytes) -> Call:
    """Parse a request body as far as that needs no model.

    Raises:
        WireError: it is no JSON object, its signature_name is not a string, or it holds too much.
    """
    if sum(map(body.count, (b",", b":", b"[", b"{"))) > MAX_TOKENS:
        raise WireError(f"the request holds more than {MAX_TOKENS} values; send fewer rows in one", "TOO_LARGE")
    document = _parse(body)
    if not isinstance(document, dict):
        raise WireError(f"JSON Value: {_echo(document)} Type: {_kind(document)} Is not object")
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise WireError(f"JSON Value: {_echo(document)} 'signature_name' key must be a string value.")
    return Call(document, name or "serving_default")


def read_inputs(call: Call, signature: Signature) -> tuple[Arrays, bool]:
    """Return the inputs of a call by name, strings as object arrays of bytes, and whether it is in row form.

    Raises:
        WireError: the call does not fit the signature, or has too many rows.
    """
    document, infos = call.document, signature.inputs
    if not infos:
        raise WireError(f"Failed to get input map for signature: {call.signature}")
    if "instances" in document and "inputs" in document:
        raise WireError("Not formatted correctly expecting only one of 'inputs' or 'instances' keys to exist ")
    if "instances" in document:
        return _rows(document["instances"], infos), True
    if "inputs" in document:
        return _columns(document["inputs"], infos), False
    raise WireError("Missing 'inputs' or 'instances' key")


def unescape_base64(text: str) -> bytes:
    """Decode base64 as absl::Base64Unescape does.

    Padding may be missing or be dots, white space is skipped, the URL-safe alphabet is refused; see the table of
    section 1.3 of the REST contract.

    Raises:
        WireError: the text is not base64.
    """
    packed = _SPACE.sub("", text).replace(".", "=")
    digits = packed.rstrip("=")
    padding = len(packed) - len(digits)
    needed = -len(digits) % 4
    if needed == 3 or padding not in (0, needed):
        raise WireError("Unable to base64 decode")
    try:
        return base64.b64decode(digits + "=" * needed, validate=True)
    except ValueError:
        raise WireError("Unable to base64 decode") from None


def _parse(body: bytes) -> Any:
    """Parse JSON as rapidjson does: NaN and Inf allowed, text after the end ignored, the first of equal keys counts."""
    text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape").lstrip(" \t\r\n")
    if not text:
        raise WireError("JSON Parse error: The document is empty")
    try:
        try:
            return _DECODER.raw_decode(text)[0]
        except json.JSONDecodeError:
            if b"Inf" not in body:
                raise
            longer = _STRING_OR_INF.sub(lambda word: _LONG.get(word[0], word[0]), text)
            return _DECODER.raw_decode(longer)[0]
    except json.JSONDecodeError as error:
        raise WireError(f"JSON Parse error: {error.msg} at offset: {error.pos}") from None
    except RecursionError:
        raise WireError("JSON Parse error: Nested too deeply at offset: 0") from None
    except ValueError as error:
        raise WireError(f"JSON Parse error: {error} at offset: 0") from None


def _first_of_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def _to_float(text: str) -> float:
    value = float(text)
    if value in (np.inf, -np.inf):
        raise ValueError("Number too big to be stored in double.")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_first_of_each, parse_float=_to_float)
# Python knows Infinity, but not its short form; strings are matched first so that they stay as they are. One without an
# end takes all the rest, and nothing is tried twice: the time is linear in the text, whatever it holds.
_STRING_OR_INF = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|\bInf\b', re.DOTALL)
_LONG = {"Inf": "Infinity"}
_SPACE = re.compile(r"\s", re.ASCII)


def _rows(instances: Any, infos: Mapping[str, TensorInfo]) -> Arrays:
    """Read the row form: a list of values, or of objects that name each input."""
    if not isinstance(instances, list):
        raise WireError(
            f"JSON Value: {_echo(instances)} Type: {_kind(instances)} Expecting 'instances' to be an list/array"
        )
    if not instances:
        raise WireError("JSON Value: [] Type: Array No values in 'instances' array")
    _check_rows(len(instances))
    named = isinstance(instances[0], dict) and not _is_base64(instances[0])
    if not named and len(infos) > 1:
        raise WireError("instances is a plain list, but expecting list of objects as multiple input tensors required")
    found: dict[str, list[NDArray[Any]]] = {name: [] for name in infos}
    for item, value in enumerate(instances):
        if named and not isinstance(value, dict):
            raise WireError(f"Expecting object but got list at item {item} of input list")
        if not named and isinstance(value, dict) and not _is_base64(value):
            raise WireError(f"Expecting value/list but got object at item {item} of input list")
        for name, part in (value if named else {next(iter(infos)): value}).items():
            if name not in infos:
                raise WireError(_at(item, f"JSON object: does not have named input: {name}"))
            try:
                array = _tensor(part, infos[name].dtype)
                _check_alike(array, found[name])
            except WireError as error:
                raise WireError(_at(item, f"Error: INVALID_ARGUMENT: {error.text}", f"key: {name} " * named)) from None
            found[name].append(array)
        if named and set(value) != set(infos):
            raise WireError(_at(item, f"JSON object: {_echo(value)} keys must be equal to: {','.join(infos)}"))
    return {name: _stack(arrays) for name, arrays in found.items()}


def _at(item: int, text: str, key: str = "") -> str:
    return f"Failed to process element: {item} {key}of 'instances' list. {text}"


def _check_alike(array: NDArray[Any], before: list[NDArray[Any]]) -> None:
    if before and before[0].size != array.size:
        raise WireError(f"Expecting tensor size: {before[0].size} but got: {array.size}")
    if before and before[0].shape != array.shape:
        raise WireError(f"Expecting shape {list(before[0].shape)} but got: {list(array.shape)}")


def _stack(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    if arrays[0].dtype == object:
        stacked = np.empty((len(arrays), *arrays[0].shape), object)
        for row, array in enumerate(arrays):
            stacked[row] = array[()] if array.ndim == 0 else array
        return stacked
    return np.stack(arrays)


def _columns(inputs: Any, infos: Mapping[str, TensorInfo]) -> Arrays:
    """Read the column form: one tensor, or an object that names each input; further names are ignored."""
    if not isinstance(inputs, dict) or _is_base64(inputs):
        if len(infos) > 1:
            raise WireError("inputs is a plain value/list, but expecting an object as multiple input tensors required")
        inputs = {next(iter(infos)): inputs}
    found = {}
    for name, info in infos.items():
        if name not in inputs:
            raise WireError(f"Missing named input: {name} in 'inputs' object.")
        found[name] = _tensor(inputs[name], info.dtype)
        if found[name].ndim and not len(found[name]):
            raise WireError(f"No rows in input: {name}; expecting at least one")
        _check_rows(len(found[name]) if found[name].ndim else 1)
    return found


def _check_rows(rows: int) -> None:
    if rows > MAX_ROWS:
        raise WireError(f"the request holds {rows} rows, the most is {MAX_ROWS}; send it in parts", "TOO_LARGE")


def _tensor(value: Any, dtype: str) -> NDArray[Any]:
    """Return nested lists as an array; strings as object array of bytes."""
    shape: list[int] = []
    flat = [value]
    while any(isinstance(item, list) for item in flat[:1]):
        sizes = {len(item) if isinstance(item, list) else -1 for item in flat}
        if len(sizes) > 1:
            expected = len(flat[0])
            received = next(size for size in sizes if size != expected)
            raise WireError(
                f"Encountered list at unexpected size: {received} at level: {len(shape)} expected size: {expected}"
            )
        shape.append(sizes.pop())
        if len(shape) > MAX_RANK:
            raise WireError(f"Encountered a list nested more than {MAX_RANK} deep; no input has such a shape")
        flat = list(itertools.chain.from_iterable(flat))
    if dtype == "DT_STRING":
        array = np.empty(len(flat), object)
        array[:] = [_bytes(item) for item in flat]
        return array.reshape(shape)
    if dtype not in NUMPY:
        raise WireError(f"inputs of type {dtype} cannot be sent in JSON", "UNIMPLEMENTED")
    if not set(map(type, flat)) <= {int, float}:
        wrong = next(item for item in flat if type(item) not in (int, float))
        raise _wrong_type(wrong, "float")
    with np.errstate(over="ignore"):
        try:
            return np.array(flat, np.float64).astype(NUMPY[dtype]).reshape(shape)
        except OverflowError:
            raise WireError("JSON Parse error: Number too big to be stored in double. at offset: 0") from None


def _bytes(value: Any) -> bytes:
    """Return what a JSON string, or {"b64": text}, stands for."""
    if isinstance(value, dict):
        if not _is_base64(value):
            raise WireError(f"JSON Value: {_echo(value)} not formatted correctly for base64 data")
        return unescape_base64(value["b64"])
    if not isinstance(value, str):
        raise _wrong_type(value, "string")
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise WireError("JSON Parse error: The surrogate pair in string is invalid. at offset: 0") from None


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"b64"} and isinstance(value["b64"], str)


def _wrong_type(value: Any, expected: str) -> WireError:
    return WireError(f"JSON Value: {_echo(value)} Type: {_kind(value)} is not of expected type: {expected}")


def _kind(value: Any) -> str:
    """Name the type of a JSON value as rapidjson does."""
    if isinstance(value, bool):
        return str(value)
    names: dict[type, str] = {type(None): "Null", dict: "Object", list: "Array", str: "String"}
    return names.get(type(value), "Number")


def _echo(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "..."
    return text if len(text) <= ECHO_CHARACTERS else text[:ECHO_CHARACTERS] + "..."
