"""A client of a model server, TF-Serving's or ours: image files in, scores out, like any predictor.

Needs `requests` and the spec alone, not TensorFlow. The model describes itself (its signature `spec`), so an address is
all a client has to know. One client stays with one version of the model, so that no table mixes two.
"""

from __future__ import annotations

import base64
import json
import random
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import requests

from multitask.errors import ConfigError, RequestRefused, ServerUnavailable, command
from multitask.prediction.protocol import Scores
from multitask.spec import ModelSpec

# What a request may hold: rows as in serving/batching.config, bytes so that a server keeps several in memory.
REQUEST_ROWS = 32
REQUEST_BYTES = 8_000_000
# Worth asking again: too many requests, a server that starts or stops, a gateway in front of one.
_TEMPORARY = (429, 502, 503, 504)


class Client:
    """Predicts by asking a server over HTTP; may be used from several threads.

    Args:
        url: e.g. http://localhost:8501.
        model: name of the model.
        token: bearer token, if the server demands one.
        timeout: seconds to wait for one answer.
        patience: seconds over which a request is tried again while the server is absent or too busy.

    Raises:
        ConfigError: the address is none.
        ServerUnavailable: nobody answers.
        RequestRefused: the server has no such model.
    """

    # A server batches what arrives together; so many requests under way keep it from waiting for us.
    workers = 4

    def __init__(
        self, url: str, model: str = "multitask", *, token: str = "", timeout: float = 60.0, patience: float = 60.0
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError("no address of a server", expected="http://HOST:PORT", received=f'"{url}"')
        self.url, self.model = url.rstrip("/"), model
        self._timeout, self._patience = timeout, patience
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.mount("http", requests.adapters.HTTPAdapter(pool_maxsize=64))
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self.version = self._newest_version()
        [row] = self._predict("spec", [b""])
        self.spec = ModelSpec.model_validate_json(row)

    def predict(self, images: Sequence[bytes]) -> Scores:
        """Score image files; see `Predictor`.

        Raises:
            ServerUnavailable: the server stays absent or too busy for longer than our patience.
            RequestRefused: it refuses the request, or has unloaded the version this client started with.
        """
        ok = np.zeros(len(images), np.bool_)
        values = {task.name: np.zeros((len(images), len(task.classes)), np.float32) for task in self.spec.tasks}
        reasons: dict[int, str] = {}
        waiting = deque(_requests(images))
        while waiting:
            rows = waiting.popleft()
            try:
                answers = self._predict("serving_default", [images[row] for row in rows])
            except _TooLarge as error:
                if len(rows) == 1:
                    reasons[rows[0]] = str(error)
                else:
                    waiting.extendleft([[row] for row in reversed(rows)])
                continue
            for row, answer in zip(rows, answers, strict=True):
                ok[row] = answer["image_ok"]
                for name, scores in values.items():
                    scores[row] = answer[name]
        return Scores(ok, values, reasons)

    def feedback(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Send labels of images that were answered before: per row the id and some label columns; return how many.

        Raises:
            ServerUnavailable: the server stays absent or too busy for longer than our patience.
            RequestRefused: a row is wrong, or the server takes no labels; then none is kept.
        """
        kept: int = self._ask("POST", "/feedback", json.dumps({"rows": [dict(row) for row in rows]}))["kept"]
        return kept

    def _newest_version(self) -> int:
        states = self._ask("GET", f"/v1/models/{self.model}")["model_version_status"]
        available = [int(state["version"]) for state in states if state["state"] == "AVAILABLE"]
        if not available:
            raise ServerUnavailable(f'no version of "{self.model}" is ready', where=self.url)
        return max(available)

    def _predict(self, signature: str, values: Sequence[bytes]) -> list[Any]:
        body = json.dumps(
            {
                "signature_name": signature,
                "instances": [{"b64": base64.b64encode(value).decode("ascii")} for value in values],
            }
        )
        return self._ask("POST", f"/v1/models/{self.model}/versions/{self.version}:predict", body)["predictions"]

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        """Ask until there is an answer, waiting longer each time."""
        started, wait = time.monotonic(), 0.1
        while True:
            try:
                response = self._session.request(method, self.url + path, data=body, timeout=self._timeout)
                if response.status_code not in _TEMPORARY:
                    return self._read(response)
                problem = f"status {response.status_code}: {_error_text(response)}"
                asked = response.headers.get("Retry-After", "")
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise ConfigError("no address of a server", received=f'"{self.url}" ({error})') from None
            except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
                problem, asked = type(error).__name__, ""
            # Half of the wait is random, so that many clients do not come back all at once.
            pause = max(wait * random.uniform(0.5, 1.0), float(asked) if asked.isdigit() else 0.0)
            if time.monotonic() + pause - started > self._patience:
                raise ServerUnavailable(
                    "does not answer",
                    where=self.url,
                    received=problem,
                    fix=f"Start one ({command('serve')}) or check the address.",
                )
            time.sleep(pause)
            wait = min(2 * wait, 5.0)

    def _read(self, response: requests.Response) -> Any:
        if response.status_code == 413:
            raise _TooLarge("larger than the server accepts")
        if response.status_code == 404 and f"/versions/{getattr(self, 'version', '')}" in response.url:
            raise RequestRefused(
                f"version {self.version} is no longer served",
                where=self.url,
                fix="Run the same command again: it predicts with the version served now.",
            )
        if response.status_code != 200:
            raise RequestRefused(f"status {response.status_code}: {_error_text(response)}", where=response.url)
        try:
            return response.json()
        except ValueError:
            raise RequestRefused("the answer is not JSON", where=response.url, fix="Is this a model server?") from None


class _TooLarge(RequestRefused):
    """The body is larger than the server accepts."""


def _requests(images: Sequence[bytes]) -> Iterator[list[int]]:
    """Yield row numbers for one request each."""
    rows: list[int] = []
    size = 0
    for row, data in enumerate(images):
        if rows and (len(rows) == REQUEST_ROWS or size + len(data) > REQUEST_BYTES):
            yield rows
            rows, size = [], 0
        rows.append(row)
        size += len(data)
    if rows:
        yield rows


def _error_text(response: requests.Response) -> str:
    """Return the server's own words, shortened: TF-Serving echoes whole images."""
    try:
        text = str(response.json()["error"])
    except (ValueError, KeyError, TypeError):
        text = response.text or response.reason
    return text if len(text) <= 300 else f"{text[:300]}..."
