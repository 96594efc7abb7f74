"""What stands around the whole server: the token, the limit on bodies, the count of requests."""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from multitask.serving import wire
from multitask.serving.telemetry import Telemetry

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """Around the whole application: the token, the body limit, and the count of requests."""

    OPEN = ("/", "/healthz", "/readyz")
    ROUTES = ("/v1", "/files", "/metrics", "/healthz", "/readyz")

    def __init__(self, app: Any, telemetry: Telemetry, token: str, max_body_bytes: int) -> None:
        self._app, self._telemetry = app, telemetry
        self._token, self._max_body_bytes = token, max_body_bytes

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, or let the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        route = next((known for known in self.ROUTES if path.startswith(known)), "/")
        status, sent = 500, False

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status, sent = message["status"], True
            await send(message)

        try:
            refusal = self._refusal(scope)
            if refusal:
                await _send(watched, *refusal)
            else:
                await self._app(scope, self._counted(receive), watched)
        except _TooLong:
            if not sent:
                await _send(watched, 413, self._too_long())
        finally:
            self._telemetry.requests.labels(route, str(status)).inc()
            self._telemetry.seconds.labels(route).observe(time.perf_counter() - started)

    def _refusal(self, scope: Any) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if self._token and scope["path"] not in self.OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return 401, "this server demands a token: Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._max_body_bytes:
            return 413, self._too_long()
        return None

    def _too_long(self) -> str:
        return f"the body is longer than {self._max_body_bytes} bytes; send fewer images in one request"

    def _counted(self, receive: Receive) -> Receive:
        """Count bytes as they come: a chunked body does not say how long it is."""
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_bytes:
                raise _TooLong
            return message

        return counted


class _TooLong(Exception):
    """The body is longer than allowed."""


async def _send(send: Send, status: int, text: str) -> None:
    body = wire.error_body(text)
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    else:
        # What is left of the body is not read, so the connection cannot be used again.
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
