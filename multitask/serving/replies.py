"""Replies in TF-Serving's REST format: arrays, states, signatures and errors to JSON.

Source: tensorflow/serving util/json_tensor.cc, version 2.20.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from numpy.typing import NDArray
from starlette.exceptions import HTTPException as StarletteHTTPException

from multitask.errors import MultitaskError
from multitask.serving.signatures import Signature, TensorInfo

# For the description of the server in OpenAPI.
_ERROR = {"content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}}}
REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, **_ERROR}
    for code, text in {
        400: "the request is wrong",
        401: "the token is missing or wrong",
        403: "the name of the host, or the origin of the page, is not one of this server's",
        404: "no such model or version",
        413: "the body is too large",
        503: "no model is ready, or too many requests wait",
        504: "the answer took too long",
    }.items()
}


def _body(**properties: Any) -> dict[str, Any]:
    """Describe a JSON body with these properties."""
    schema = {"type": "object", "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_FILE = {"type": "object", "properties": {"b64": {"type": "string"}}}
PREDICT_BODY = _body(signature_name={"type": "string"}, instances={"type": "array", "items": _FILE})
_LABELS = {"type": "object", "example": {"uuid": "004b8_x", "cc3": "SHIRTS", "floral": 1}}
FEEDBACK_BODY = _body(rows={"type": "array", "items": _LABELS})

_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


_HTTP = {
    **dict.fromkeys(("INVALID_ARGUMENT", "FAILED_PRECONDITION", "OUT_OF_RANGE"), 400),
    **{"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403, "NOT_FOUND": 404, "ALREADY_EXISTS": 409, "ABORTED": 409},
    **{
        "TOO_LARGE": 413,
        "RESOURCE_EXHAUSTED": 429,
        "CANCELLED": 499,
        "UNIMPLEMENTED": 501,
        "UNAVAILABLE": 503,
        "DEADLINE_EXCEEDED": 504,
    },
}


class WireError(Exception):
    """A request that is answered with an error.

    Args:
        text: for the client.
        code: status code of TensorFlow; TOO_LARGE, which it does not have, asks for smaller requests.
    """

    def __init__(self, text: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(text)
        self.text, self.code = text, code

    @property
    def http_status(self) -> int:
        """The HTTP status of the code."""
        return _HTTP.get(self.code, 500)


def error_body(text: str) -> bytes:
    """Return the JSON of an error."""
    return json.dumps({"error": text}, indent=4).encode()


def add_errors(app: FastAPI) -> None:
    """Give every error the shape {"error": text}."""
    kinds: dict[type[Exception], Callable[[Any], tuple[int, str]]] = {
        MultitaskError: lambda error: (error.http_status, str(error)),
        WireError: lambda error: (error.http_status, error.text),
        StarletteHTTPException: lambda error: (error.status_code, str(error.detail)),
        RequestValidationError: lambda error: (
            400,
            "; ".join(f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg']}" for wrong in error.errors()),
        ),
    }

    async def refuse(request: Request, error: Exception) -> Response:
        status, text = next(kinds[kind](error) for kind in type(error).__mro__ if kind in kinds)
        headers = getattr(error, "headers", None)
        return Response(error_body(text), status, headers, media_type="application/json")

    for kind in kinds:
        app.add_exception_handler(kind, refuse)


def write_outputs(outputs: Mapping[str, NDArray[Any]], *, row: bool) -> bytes:
    """Return the response to a predict request, in row or column form."""
    values = {name: _nested(name, array) for name, array in outputs.items()}
    if not row:
        body = next(iter(values.values())) if len(values) == 1 else values
        return _pretty("outputs", [_json(body)], many=False)
    if len(values) == 1:
        rows = next(iter(values.values()))
    else:
        rows = [dict(zip(values, row_values, strict=True)) for row_values in zip(*values.values(), strict=True)]
    return _pretty("predictions", [_json(value) for value in rows], many=True)


def status_body(states: Sequence[tuple[int, str, str, str]]) -> bytes:
    """Return the status of versions, given as (version, state, error code, error message), highest first."""
    listed = [
        {"version": str(version), "state": state, "status": {"error_code": code, "error_message": message}}
        for version, state, code, message in states
    ]
    return json.dumps({"model_version_status": listed}, indent=1).encode()


def metadata_body(name: str, version: int, signatures: Mapping[str, Signature]) -> bytes:
    """Return the signatures of a version."""

    def tensor(info: TensorInfo) -> dict[str, Any]:
        sizes = [{"size": str(size), "name": ""} for size in info.shape or ()]
        shape = {"dim": sizes, "unknown_rank": info.shape is None}
        return {"dtype": info.dtype, "tensor_shape": shape, "name": info.name}

    described = {
        key: {
            "inputs": {name: tensor(info) for name, info in signature.inputs.items()},
            "outputs": {name: tensor(info) for name, info in signature.outputs.items()},
            "method_name": signature.method,
            "defaults": {},
        }
        for key, signature in signatures.items()
    }
    spec = {"name": name, "signature_name": "", "version": str(version)}
    body = {"model_spec": spec, "metadata": {"signature_def": {"signature_def": described}}}
    return json.dumps(body, indent=1).encode()


def _nested(name: str, array: NDArray[Any]) -> list[Any]:
    """Return an array as nested lists of what JSON can hold; numbers of floats are formatted already."""
    if array.dtype == object:
        if name.endswith("_bytes"):
            flat: list[Any] = [{"b64": base64.b64encode(value).decode()} for value in array.ravel()]
        else:
            flat = [value.decode("utf-8", "replace") for value in array.ravel()]
    elif array.dtype.kind == "f":
        flat = [_Number(value) for value in array.ravel()]
    else:
        flat = array.ravel().tolist()
    for size in reversed(array.shape[1:]):
        flat = [flat[start : start + size] for start in range(0, len(flat), size)]
    return flat


class _Number(float):
    """A float32 that prints with six significant digits, or nine where six would not bring it back."""

    def __repr__(self) -> str:
        value = np.float32(self)
        text = f"{float(value):.6g}"
        if np.float32(text) != value:
            text = f"{float(value):.9g}"
        return _NOT_FINITE.get(text) or (text if re.search("[.e]", text) else f"{text}.0")


def _json(value: Any) -> str:
    """Return JSON; the encoder of the standard library would print the full double of every number."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_json, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_json(item)}" for key, item in value.items()) + "}"
    return repr(value) if isinstance(value, _Number) else json.dumps(value, ensure_ascii=False)


def _pretty(key: str, parts: list[str], *, many: bool) -> bytes:
    inner = "[" + ", ".join(parts) + "\n    ]" if many else parts[0]
    return f'{{\n    "{key}": {inner}\n}}'.encode()
