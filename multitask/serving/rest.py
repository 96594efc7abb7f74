"""TF-Serving's REST endpoints, answered by the models that are loaded here or by a server behind this one.

POST /v1/models/NAME[/versions/N | /labels/L]:predict
GET  /v1/models/NAME[/versions/N | /labels/L]             state of the versions
GET  /v1/models/NAME[/versions/N | /labels/L]/metadata    signatures
"""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

import numpy as np
import requests
from numpy.typing import NDArray

from multitask.errors import ModelFailed, ServerUnavailable, command
from multitask.prediction.protocol import Scores
from multitask.serving import replies, wire
from multitask.serving.client import Client
from multitask.serving.servables import Servable, Servables
from multitask.serving.telemetry import Telemetry
from multitask.serving.wire import WireError
from multitask.spec import ModelSpec

# TF-Serving inflates bodies up to this size; longer or broken ones count as empty.
INFLATED_BYTES = 100 << 20

_NAME = r"(?P<name>[^/:]+)"
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/{_NAME}{_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models(?:/{_NAME})?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A response: HTTP status, JSON body, headers."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scored:
    """Scores of some images, and by what they were given."""

    spec: ModelSpec
    version: int
    scores: Scores


class Engine(Protocol):
    """What stands behind a server's addresses."""

    def names(self) -> list[str]:
        """Return the models that can answer."""

    async def answer(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answer a request below /v1; `target` is its path and query as sent."""

    async def score(self, images: Sequence[bytes]) -> Scored:
        """Score image files with the newest version of the one model there is, or of the first."""


class LocalEngine:
    """Answers with the models loaded here."""

    def __init__(self, servables: Servables, telemetry: Telemetry, timeout: float) -> None:
        self._servables, self._telemetry, self._timeout = servables, telemetry, timeout

    def names(self) -> list[str]:
        """Return the models that can answer."""
        return self._servables.names()

    async def answer(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Answer a request below /v1."""
        try:
            if headers.get("content-encoding") == "gzip":
                body = await asyncio.to_thread(_inflate, body)
            return await self._route(method, target, body)
        except (WireError, ModelFailed) as error:
            refusal = error if isinstance(error, WireError) else WireError(error.text, error.code)
            return Answer(refusal.http_status, wire.error_body(refusal.text) if refusal.text else b"")
        except ServerUnavailable as error:
            return Answer(503, wire.error_body(error.problem), {"Retry-After": "1"})

    async def score(self, images: Sequence[bytes]) -> Scored:
        """Score image files."""
        names = self.names()
        if not names:
            raise ServerUnavailable("no model is loaded", fix=f"Publish one: {command('publish')}")
        with self._servables.use(names[0]) as servable:
            array = np.empty(len(images), object)
            array[:] = images
            outputs = await self._run(servable, "serving_default", {"image_bytes": array})
            values = {task.name: outputs[task.name] for task in servable.spec.tasks}
            return Scored(servable.spec, servable.version, Scores(outputs["image_ok"], values))

    async def _route(self, method: str, target: str, body: bytes) -> Answer:
        malformed = WireError(f"Malformed request: {method} {target}")
        predict, status = _PREDICT.fullmatch(target), _STATUS.fullmatch(target)
        if method == "POST" and predict and predict["verb"] in ("predict", "classify", "regress"):
            return await self._predict(*_who(predict), predict["verb"], body)
        if method == "GET" and status:
            if status["name"] is None:
                raise WireError("Missing model name in request.")
            name, version, label = _who(status)
            if not status["metadata"]:
                return Answer(200, replies.status_body(self._servables.states(name, version)))
            with self._servables.use(name, version, label) as servable:
                return Answer(200, replies.metadata_body(name, servable.version, servable.model.signatures))
        raise malformed

    async def _predict(self, name: str, version: int | None, label: str | None, verb: str, body: bytes) -> Answer:
        call = await asyncio.to_thread(wire.read_call, body)
        with self._servables.use(name, version, label) as servable:
            if call.signature not in servable.model.signatures:
                raise WireError(f'Serving signature name: "{call.signature}" not found in signature def')
            signature = servable.model.signatures[call.signature]
            if verb != "predict":
                raise WireError(
                    f"Expected {verb} signature method_name to be tensorflow/serving/{verb}. Was: {signature.method}"
                )
            inputs, row = await asyncio.to_thread(wire.read_inputs, call, signature)
            outputs = await self._run(servable, call.signature, inputs)
            written = await asyncio.to_thread(replies.write_outputs, outputs, row=row)
            return Answer(200, written, {"X-Model-Version": str(servable.version)})

    async def _run(
        self, servable: Servable, signature: str, inputs: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        parts = [asyncio.wrap_future(part) for part in servable.batcher.submit(signature, inputs)]
        try:
            found = await asyncio.wait_for(asyncio.gather(*parts), self._timeout)
        except TimeoutError:
            raise WireError("Timed out waiting for notification", "DEADLINE_EXCEEDED") from None
        outputs = found[0]
        if len(found) > 1:
            outputs = {name: np.concatenate([part[name] for part in found]) for name in outputs}
        self._telemetry.count_answers(servable.name, servable.spec, outputs)
        return outputs


class BackendEngine:
    """Passes everything on to a model server, e.g. TF-Serving in its container.

    Args:
        url: of the server.
        model: its model.
        timeout: seconds for one answer.
    """

    def __init__(self, url: str, model: str, timeout: float) -> None:
        self._url, self._model, self._timeout = url.rstrip("/"), model, timeout
        self._session = requests.Session()
        self._session.trust_env = False

    def names(self) -> list[str]:
        """Return the model if the server behind can answer."""
        try:
            return [self._model] if self._client() else []
        except Exception:
            return []

    async def answer(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Pass a request on, and its answer back."""
        return await asyncio.to_thread(self._forward, method, target, body, headers)

    async def score(self, images: Sequence[bytes]) -> Scored:
        """Score image files."""

        def ask() -> Scored:
            client = self._client()
            return Scored(client.spec, client.version, client.predict(images))

        return await asyncio.to_thread(ask)

    def _client(self) -> Client:
        return Client(self._url, self._model, timeout=self._timeout, patience=2.0)

    def _forward(self, method: str, target: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        kept = {name: value for name, value in headers.items() if name in ("content-encoding", "origin")}
        try:
            # TF-Serving may crash on a GET with a body (tensorflow/serving#1925).
            content = body if method != "GET" else None
            found = self._session.request(method, self._url + target, data=content, headers=kept, timeout=self._timeout)
        except requests.RequestException as error:
            return Answer(503, wire.error_body(f"{self._url} does not answer: {type(error).__name__}"))
        return Answer(found.status_code, found.content)


def _who(match: re.Match[str]) -> tuple[str, int | None, str | None]:
    """Return model name, version and label of an address.

    Raises:
        WireError: without text, for a version beyond int64, as TF-Serving answers it.
    """
    version = match["version"]
    if version is not None and (len(version) > 19 or int(version) >= 1 << 63):
        raise WireError("")
    label = None if match["label"] is None else unquote(match["label"])
    return unquote(match["name"]), None if version is None else int(version), label


def _inflate(body: bytes) -> bytes:
    """Inflate a gzip body; nothing for one that is broken, cut, has several members or is too large."""
    stream = zlib.decompressobj(wbits=31)
    try:
        inflated = stream.decompress(body, INFLATED_BYTES)
    except zlib.error:
        return b""
    return inflated if stream.eof and not stream.unused_data else b""
