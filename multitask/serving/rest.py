"""TF-Serving's REST endpoints, answered by the models that are loaded here.

POST /v1/models/NAME[/versions/N | /labels/L]:predict
GET  /v1/models/NAME[/versions/N | /labels/L]             state of the versions
GET  /v1/models/NAME[/versions/N | /labels/L]/metadata    signatures

What a request will cost is known before it is queued: its rows, the shapes of its inputs, the pixels of its images.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import quote, unquote

import numpy as np
from numpy.typing import NDArray

from multitask.errors import ModelFailed, ServerUnavailable, command
from multitask.parallel import Desk
from multitask.prediction.protocol import Scores
from multitask.prediction.recording import Answered, Recorder
from multitask.serving import replies, wire
from multitask.serving.batching import Prepared, prepare, screen
from multitask.serving.replies import WireError
from multitask.serving.servables import Servable, Servables
from multitask.serving.signatures import Signature
from multitask.serving.telemetry import Telemetry
from multitask.spec import ModelSpec

# TF-Serving inflates bodies up to this size; longer or broken ones count as empty.
INFLATED_BYTES = 100 << 20
REPLY_BYTES = 32 << 20
# Memory for an answer per byte of its text: the values as Python's objects, the parts, the whole.
_WRITING = 8

_NAME = r"(?P<name>[^/:]+)"
_VERSION = r"(?:/versions/(?P<version>\d+)|/labels/(?P<label>[^/:]+))?"
_PREDICT = re.compile(rf"/v1/models/{_NAME}{_VERSION}:(?P<verb>classify|regress|predict)", re.IGNORECASE)
_STATUS = re.compile(rf"/v1/models(?:/{_NAME})?{_VERSION}(?P<metadata>/metadata)?", re.IGNORECASE)

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Asked:
    """A request below /v1: path and query as sent, headers, how to read its body, and who sent it."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Callable[[], Awaitable[bytes]]
    client: str


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

    desk: Desk

    def names(self) -> list[str]:
        """Return the models that can answer."""

    async def answer(self, asked: Asked) -> Answer:
        """Answer a request below /v1."""

    async def score(self, images: Sequence[bytes], client: str = "") -> Scored:
        """Score image files with the newest version of the first model; without any, say what it is."""


@dataclass(frozen=True)
class Address:
    """What a path below /v1 names; without a verb it asks for the state or, with `metadata`, for the signatures."""

    name: str
    version: int | None
    label: str | None
    verb: str
    metadata: bool

    @classmethod
    def read(cls, method: str, target: str) -> Address:
        """Read method and path.

        Raises:
            WireError: the path is none of ours; without text, for a version beyond int64, as TF-Serving answers it.
        """
        predict, status = _PREDICT.fullmatch(target), _STATUS.fullmatch(target)
        found = predict if method == "POST" else status if method == "GET" else None
        if not found or (predict and predict["verb"] not in ("predict", "classify", "regress")):
            raise WireError(f"Malformed request: {method} {target}")
        if found["name"] is None:
            raise WireError("Missing model name in request.")
        version = found["version"]
        if version is not None and (len(version) > 19 or int(version) >= 1 << 63):
            raise WireError("")
        label = None if found["label"] is None else unquote(found["label"])
        name, number = unquote(found["name"]), None if version is None else int(version)
        if name in (".", ".."):
            raise WireError(f"Malformed request: {method} {target}")
        is_predict = found is predict
        return cls(name, number, label, found["verb"] if is_predict else "", not is_predict and bool(found["metadata"]))

    def path(self, verb: str = "", metadata: bool = False) -> str:
        """Return the path of this model and version, every part of it quoted."""
        which = "" if self.version is None else f"/versions/{self.version}"
        which = which if self.label is None else f"/labels/{quote(self.label, safe='')}"
        end = "/metadata" if metadata else f":{verb}" if verb else ""
        return f"/v1/models/{quote(self.name, safe='')}{which}{end}"


class LocalEngine:
    """Answers with the models loaded here."""

    def __init__(
        self, servables: Servables, telemetry: Telemetry, timeout: float, recorder: Recorder | None = None
    ) -> None:
        self._servables, self._telemetry, self._timeout, self._recorder = servables, telemetry, timeout, recorder
        self.desk = Desk(servables.memory)

    def names(self) -> list[str]:
        """Return the models that can answer."""
        return self._servables.names()

    async def answer(self, asked: Asked) -> Answer:
        """Answer a request below /v1."""
        try:
            return await self._route(asked)
        except (WireError, ModelFailed) as error:
            return refusal(error)
        except ServerUnavailable as error:
            return Answer(503, replies.error_body(error.problem), {"Retry-After": "1"})

    async def score(self, images: Sequence[bytes], client: str = "") -> Scored:
        """Score image files."""
        names = self.names()
        if not names:
            raise ServerUnavailable("no model is loaded", fix=f"Publish one: {command('publish')}")
        with self._servables.use(names[0]) as servable:
            spec = servable.spec
            if not images:
                return Scored(spec, servable.version, Scores(np.zeros(0, np.bool_), {}))
            array = np.empty(len(images), object)
            array[:] = images
            array, works, refused = await self.desk(screen, array, spec.image.max_pixels)
            prepared = Prepared({"image_bytes": array}, False, works, refused)
            outputs = await self._run(servable, "serving_default", prepared, client)
            values = {task.name: outputs[task.name] for task in spec.tasks}
            return Scored(spec, servable.version, Scores(outputs["image_ok"], values, refused))

    async def _route(self, asked: Asked) -> Answer:
        address = Address.read(asked.method, asked.target)
        if address.verb:
            return await self._predict(address, asked)
        name = address.name
        if not address.metadata:
            return Answer(200, replies.status_body(self._servables.states(name, address.version)))
        with self._servables.use(name, address.version, address.label) as servable:
            return Answer(200, replies.metadata_body(name, servable.version, servable.model.signatures))

    async def _predict(self, address: Address, asked: Asked) -> Answer:
        body = await asked.body()
        with contextlib.ExitStack() as stack:
            found: Servable | WireError
            try:
                found = stack.enter_context(self._servables.use(address.name, address.version, address.label))
            except WireError as error:
                found = error
            takes = parsing_bytes(body, asked.headers)
            servable, name, prepared = await self.desk(_prepare, body, asked.headers, address.verb, found, takes=takes)
            del body  # not needed while the images wait
            outputs = await self._run(servable, name, prepared, asked.client)
            size = await self.desk(_text_bytes, outputs)
            write = functools.partial(replies.write_outputs, row=prepared.row)
            written = await self.desk(write, outputs, takes=_WRITING * size)
            return Answer(200, written, {"X-Model-Version": str(servable.version)})

    async def _run(self, servable: Servable, signature: str, prepared: Prepared, client: str) -> Arrays:
        started = time.perf_counter()
        queued = servable.batcher.submit(signature, prepared.inputs, prepared.works, client)
        parts = [asyncio.wrap_future(part) for part in queued]
        try:
            found = await asyncio.wait_for(asyncio.gather(*parts), self._timeout)
        except TimeoutError:
            raise WireError("Timed out waiting for notification", "DEADLINE_EXCEEDED") from None
        finally:
            # What nobody waits for any more is not computed.
            for part in parts:
                part.cancel()
        outputs = await self.desk(self._join, servable, found)
        if self._recorder and "image_ok" in outputs:
            model, images = f"{servable.name} {servable.version}", prepared.inputs.get("image_bytes")
            took_ms = 1000 * (time.perf_counter() - started)
            self._recorder.take(Answered(servable.spec, model, images, outputs, prepared.refused, took_ms))
        return outputs

    def _join(self, servable: Servable, found: Sequence[Arrays]) -> Arrays:
        outputs = found[0]
        if len(found) > 1:
            outputs = {name: np.concatenate([part[name] for part in found]) for name in outputs}
        self._telemetry.count_answers(servable.name, servable.spec, outputs)
        return outputs


def read_call(body: bytes, headers: Mapping[str, str]) -> wire.Call:
    """Read the body of a predict request as far as that needs no model.

    Raises:
        WireError: it cannot be read.
    """
    return wire.read_call(_inflate(body) if headers.get("content-encoding") == "gzip" else body)


def parsing_bytes(body: bytes, headers: Mapping[str, str]) -> int:
    """Return the memory that reading a body takes: its text, the values in it, and the images in those."""
    length = INFLATED_BYTES if headers.get("content-encoding") == "gzip" else len(body)
    # Python keeps a text in which one character is beyond ASCII with four bytes for each.
    per_byte = 3 if body.isascii() else 9
    return per_byte * length + min(length, wire.MAX_TOKENS) * wire.BYTES_PER_TOKEN


def find_signature(signatures: Mapping[str, Signature], name: str, verb: str) -> Signature:
    """Return the signature that a request names.

    Raises:
        WireError: there is none, or it is for another verb.
    """
    if name not in signatures:
        raise WireError(f'Serving signature name: "{name}" not found in signature def')
    if verb != "predict":
        method = signatures[name].method
        raise WireError(f"Expected {verb} signature method_name to be tensorflow/serving/{verb}. Was: {method}")
    return signatures[name]


def refusal(error: WireError | ModelFailed) -> Answer:
    """Return the answer to a request that cannot be answered otherwise."""
    found = error if isinstance(error, WireError) else WireError(error.text, error.code)
    return Answer(found.http_status, replies.error_body(found.text) if found.text else b"")


def _prepare(
    body: bytes, headers: Mapping[str, str], verb: str, found: Servable | WireError
) -> tuple[Servable, str, Prepared]:
    """Read a request whole; whether the model is there counts only for one that is sound, as with TF-Serving."""
    call = read_call(body, headers)
    if isinstance(found, WireError):
        raise found
    signature = find_signature(found.model.signatures, call.signature, verb)
    return found, call.signature, prepare(call, signature, found.spec.image.max_pixels)


def _text_bytes(outputs: Arrays) -> int:
    """Return the length of the answer as text, about; the longest are strings, e.g. of the signature `spec`.

    Raises:
        WireError: it is too long.
    """
    parts = (sum(map(len, array.ravel())) if array.dtype == object else 12 * array.size for array in outputs.values())
    size = sum(parts)
    if size > REPLY_BYTES:
        raise WireError(f"the answer is longer than {REPLY_BYTES} bytes; send fewer rows in one request", "TOO_LARGE")
    return size


def _inflate(body: bytes) -> bytes:
    """Inflate a gzip body; nothing for one that is broken, cut, has several members or is too large."""
    stream = zlib.decompressobj(wbits=31)
    try:
        inflated = stream.decompress(body, INFLATED_BYTES)
    except zlib.error:
        return b""
    return inflated if stream.eof and not stream.unused_data else b""
