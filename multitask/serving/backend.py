"""A model server behind this one, e.g. TF-Serving in its container: requests are checked here, then passed on.

What would harm a server that merges requests into batches never reaches it: an empty batch, which it keeps waiting for
ever, a wrong shape, which fails everybody in the batch, and images that cost too much to decode. Nothing but model
addresses is passed on, each written anew.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import requests

from multitask.parallel import Desk, Memory
from multitask.prediction.protocol import Scores
from multitask.serving import replies, wire
from multitask.serving.batching import WORK_BYTES, Prepared, prepare, screen
from multitask.serving.client import Client
from multitask.serving.replies import WireError
from multitask.serving.rest import Address, Answer, Asked, Scored, find_signature, parsing_bytes, read_call
from multitask.serving.rest import refusal as refused
from multitask.serving.signatures import Signature, TensorInfo
from multitask.spec import ImageSpec

# How long it is believed what the server behind says of its models.
REMEMBERED_SECONDS = 5.0


class BackendEngine:
    """Checks what is asked and passes it on to a model server.

    Args:
        url: of the server.
        model: its model.
        timeout: seconds for one answer.
    """

    def __init__(self, url: str, model: str, timeout: float) -> None:
        self._url, self._model, self._timeout = url.rstrip("/"), model, timeout
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=64))
        self._known: dict[object, tuple[float, Any]] = {}
        # Requests wait here for the server behind, which has a queue of its own.
        self.desk = Desk(Memory(WORK_BYTES), threads=16)

    def names(self) -> list[str]:
        """Return the model if the server behind can answer."""
        try:
            return [self._model] if self._client() else []
        except Exception:
            return []

    async def answer(self, asked: Asked) -> Answer:
        """Check a request, pass it on, and its answer back."""
        try:
            address = Address.read(asked.method, asked.target)
            if not address.verb:
                return await self.desk(self._forward, "GET", address.path(metadata=address.metadata))
            body = await asked.body()
            found = await self.desk(self._described, address)
            takes = parsing_bytes(body, asked.headers)
            checked = await self.desk(self._checked, address, asked, body, found, takes=takes)
            if isinstance(checked, Answer):
                return checked
            return await self.desk(self._forward, "POST", address.path(address.verb), checked)
        except WireError as error:
            return refused(error)

    async def score(self, images: Sequence[bytes], client: str = "") -> Scored:
        """Score image files."""
        return await self.desk(self._score, images)

    def _described(self, address: Address) -> dict[str, Signature] | Answer:
        """Return the signatures of a model, or the refusal of the server behind."""
        return self._remember(address.path(metadata=True), lambda: self._signatures(address))

    def _checked(
        self, address: Address, asked: Asked, body: bytes, found: dict[str, Signature] | Answer
    ) -> bytes | Answer:
        """Return a request as it is passed on; a model that is not there counts only for one that is sound."""
        call = read_call(body, asked.headers)
        if isinstance(found, Answer):
            return found
        signature = find_signature(found, call.signature, address.verb)
        prepared = prepare(call, signature, self._max_pixels(address.name))
        return _rewritten(call.signature, prepared, call)

    def _score(self, images: Sequence[bytes]) -> Scored:
        client = self._client()
        array = np.empty(len(images), object)
        array[:] = images
        kept, _, reasons = screen(array, client.spec.image.max_pixels)
        found = client.predict(list(kept))
        return Scored(client.spec, client.version, Scores(found.ok, found.values, {**found.reasons, **reasons}))

    def _client(self) -> Client:
        """Return a client of the newest version; one that no longer answers is not asked again."""
        return self._remember("client", lambda: Client(self._url, self._model, timeout=self._timeout, patience=2.0))

    def _max_pixels(self, name: str) -> int:
        """Return the limit of a model; another model than ours may not describe itself."""
        return self._client().spec.image.max_pixels if name == self._model else ImageSpec().max_pixels

    def _signatures(self, address: Address) -> dict[str, Signature] | Answer:
        """Return the signatures of a model, or the server's own refusal."""
        found = self._forward("GET", address.path(metadata=True))
        if found.status != 200:
            return found
        described = json.loads(found.body)["metadata"]["signature_def"]["signature_def"]
        return {
            name: Signature(_tensors(entry["inputs"]), _tensors(entry["outputs"]), entry["method_name"])
            for name, entry in described.items()
        }

    def _remember(self, key: object, find: Callable[[], Any]) -> Any:
        """Return what was found some seconds ago, or find it again; refusals are not remembered."""
        until, value = self._known.get(key, (0.0, None))
        if time.monotonic() >= until:
            value = find()
            if not isinstance(value, Answer):
                # Addresses come from clients, so there is no end to them.
                self._known = dict(list(self._known.items())[-63:])
                self._known[key] = time.monotonic() + REMEMBERED_SECONDS, value
        return value

    def _forward(self, method: str, path: str, body: bytes | None = None) -> Answer:
        # TF-Serving may crash on a GET with a body (tensorflow/serving#1925).
        try:
            found = self._session.request(
                method, self._url + path, data=body, timeout=self._timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            return Answer(503, replies.error_body(f"{self._url} does not answer: {type(error).__name__}"))
        return Answer(found.status_code, found.content)


def _tensors(described: dict[str, Any]) -> dict[str, TensorInfo]:
    """Read inputs or outputs of a signature as REST describes them."""
    found = {}
    for name, entry in described.items():
        shape = entry["tensor_shape"]
        sizes = tuple(int(size["size"]) for size in shape.get("dim", ()))
        found[name] = TensorInfo(entry["name"], entry["dtype"], None if shape.get("unknown_rank") else sizes)
    return found


def _rewritten(signature: str, prepared: Prepared, call: wire.Call) -> bytes:
    """Return the request as it was, but for images that must not be decoded."""
    kept = {key: value for key, value in call.document.items() if key in ("instances", "inputs")}
    if prepared.refused:
        rows = [{"b64": base64.b64encode(data).decode()} for data in prepared.inputs["image_bytes"]]
        kept = {"instances": rows} if prepared.row else {"inputs": rows}
    return json.dumps({"signature_name": signature, **kept}).encode()
