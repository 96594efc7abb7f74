"""What stands around the whole server: who may ask, how much may wait, how long it may take, the count of requests.

Every body has to keep coming, all bodies together have a limit, and an answer that nobody waits for is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from multitask.serving import replies
from multitask.serving.telemetry import Telemetry

# A body must bring so many bytes in so many seconds, until its end.
BODY_BYTES, BODY_SECONDS = 64 << 10, 10.0
# All bodies that are arriving or being answered, and all answers that are on their way to their clients.
HELD_BYTES = 128 << 20
# A long answer is sent in parts, each once the client has taken most of those before.
PART_BYTES = 256 << 10
# A body that is still arriving after this time gives way to others.
PATIENCE_SECONDS = 5.0

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Refusal = tuple[int, str]


class Hosts:
    """Names under which the server may be asked.

    A page on the web can give its own name the address 127.0.0.1 and then read what a server on this machine answers
    (DNS rebinding); its requests bear that name as Host. So a server that listens on this machine alone answers to
    names of this machine, and to those it was told.
    """

    def __init__(self, bound: str = "127.0.0.1", told: Sequence[str] = ()) -> None:
        self._told = {name.lower() for name in told}
        self._is_strict = _is_loopback(bound) or bool(told)

    def refusal(self, method: str, headers: dict[bytes, bytes]) -> Refusal | None:
        """Say why a request that bears these headers is not answered."""
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = _hostname(host)
        if self._is_strict and host and not (_is_loopback(name) or name in self._told):
            return 403, f'this server does not answer to the name "{name}"; tell it: --hosts {name}'
        origin = headers.get(b"origin")
        if origin is None or method in ("GET", "HEAD", "OPTIONS"):
            return None
        sender = urlsplit(origin.decode("latin-1").lower()).netloc
        if sender and (sender == host or _hostname(sender) in self._told):
            return None
        return 403, "a page of another origin may not post here"


def _hostname(host: str) -> str:
    """Return a host without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name in ("localhost", "localhost.")


class Guard:
    """Around the whole application.

    Args:
        app: what answers.
        telemetry: what counts.
        token: that every request but the page and the health checks must bear; "" for none.
        max_body_bytes: of one request.
        hosts: names under which the server may be asked.
    """

    OPEN = ("/", "/healthz", "/readyz")
    ROUTES = ("/v1", "/files", "/model", "/metrics", "/healthz", "/readyz")

    def __init__(self, app: Any, telemetry: Telemetry, token: str, max_body_bytes: int, hosts: Hosts) -> None:
        self._app, self._telemetry, self._hosts = app, telemetry, hosts
        self._token, self._bodies = token, _Bodies(max_body_bytes)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, or let the application answer it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, path = time.perf_counter(), scope["path"]
        route = next((known for known in self.ROUTES if path.startswith(known)), "/")
        body = _Body(self._bodies, receive)
        reply = _Reply(send, body)
        try:
            body.refusal = self._refusal(scope)
            if not body.refusal:
                await self._answer(scope, body, reply)
        finally:
            self._bodies.release(body)
            if body.refusal and not reply.status:
                await reply.refuse(*body.refusal)
            self._telemetry.requests.labels(route, str(reply.status or 499)).inc()
            self._telemetry.seconds.labels(route).observe(time.perf_counter() - started)

    async def _answer(self, scope: Any, body: _Body, reply: _Reply) -> None:
        """Let the application answer, until it has or the client has gone."""
        answering = asyncio.ensure_future(self._app(scope, body.receive, reply.send))
        gone = asyncio.ensure_future(body.wait_until_gone())
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and not reply.is_complete:
                answering.cancel()
            await answering
        except asyncio.CancelledError:
            answering.cancel()
            if not gone.done():
                raise
        except Exception:
            if not body.refusal:
                logging.getLogger(__name__).exception("a request failed")
                body.refusal = 500, "internal error; the server's log says more"
        finally:
            gone.cancel()

    def _refusal(self, scope: Any) -> Refusal | None:
        headers = dict(scope["headers"])
        refused = self._hosts.refusal(scope["method"], headers)
        if refused:
            return refused
        if self._token and scope["path"] not in self.OPEN:
            given = headers.get(b"authorization", b"")
            if not hmac.compare_digest(given, f"Bearer {self._token}".encode()):
                return 401, "this server demands a token: Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._bodies.max_body_bytes:
            return self._bodies.too_long()
        return None


class _Bodies:
    """All bodies that are arriving or being answered, the oldest first; each with its answer."""

    TOO_MANY = 503, "too many requests at once; send the request again"

    def __init__(self, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        self._limit = max(HELD_BYTES, 2 * max_body_bytes)
        self._held: dict[_Body, int] = {}

    def too_long(self) -> Refusal:
        return 413, f"the body is longer than {self.max_body_bytes} bytes; send fewer images in one request"

    def take(self, body: _Body, count: int) -> Refusal | None:
        """Make room for some more bytes of a body; one that has been arriving for long gives way."""
        own = self._held.get(body, 0) + count
        if own > self.max_body_bytes:
            return self.too_long()
        others = sum(self._held.values()) - self._held.get(body, 0)
        for other in list(self._held):
            if others + own <= self._limit:
                break
            if other is not body and other.is_arriving and time.monotonic() - other.started > PATIENCE_SECONDS:
                others -= self.release(other)
                other.give_way((503, "the server needed the room for others; send the request again"))
        if others + own > self._limit:
            return self.TOO_MANY
        self._held[body] = own
        return None

    def add_answer(self, body: _Body, count: int) -> Refusal | None:
        """Make room for the answer to a body."""
        if sum(self._held.values()) + count > self._limit + self.max_body_bytes:
            return self.TOO_MANY
        self._held[body] = self._held.get(body, 0) + count
        return None

    def release(self, body: _Body) -> int:
        return self._held.pop(body, 0)


class _Body:
    """The body of one request on its way in."""

    def __init__(self, bodies: _Bodies, receive: Receive) -> None:
        self._bodies, self._receive = bodies, receive
        self.started = time.monotonic()
        self.refusal: Refusal | None = None
        self.is_arriving = True
        self._ended, self._gone = asyncio.Event(), asyncio.Event()
        self._waited, self._recent = 0.0, 0
        self._reading: asyncio.Future[Message] | None = None

    async def receive(self) -> Message:
        """Return the next part; once all have come, wait until the client goes away."""
        if not self.is_arriving:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        self._reading = asyncio.ensure_future(self._receive())
        since = time.monotonic()
        done, _ = await asyncio.wait({self._reading}, timeout=max(BODY_SECONDS - self._waited, 0.01))
        # Only waiting counts: the application may have been busy with what came before.
        self._waited += time.monotonic() - since
        if not done or self._reading.cancelled():
            self._reading.cancel()
            self._refuse((408, f"the body comes too slowly: less than {BODY_BYTES} bytes in {BODY_SECONDS:g} s"))
        message = self._reading.result()
        count = len(message.get("body", b""))
        refused = self._bodies.take(self, count) if count else None
        if refused:
            self._refuse(refused)
        self._recent += count
        if self._recent >= BODY_BYTES:
            self._waited, self._recent = 0.0, 0
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.is_arriving = False
            self._ended.set()
        if message["type"] == "http.disconnect":
            self._gone.set()
        return message

    async def wait_until_gone(self) -> None:
        """Wait until the whole body is here and the client has gone away, or has its answer."""
        await self._ended.wait()
        while not self._gone.is_set():
            if (await self._receive())["type"] == "http.disconnect":
                self._gone.set()

    def hold_answer(self, count: int) -> Refusal | None:
        """Count an answer with this body until it is sent."""
        return self._bodies.add_answer(self, count)

    def give_way(self, refusal: Refusal) -> None:
        """End this request with an answer."""
        self.refusal = refusal
        if self._reading:
            self._reading.cancel()

    def _refuse(self, refusal: Refusal) -> None:
        self.is_arriving = False
        self.refusal = self.refusal or refusal
        raise _RefusedError


class _RefusedError(Exception):
    """The body is not accepted; the answer is known."""


class _Reply:
    """What goes back to the client; nothing of the application once the request is refused."""

    def __init__(self, send: Send, body: _Body) -> None:
        self._send, self._body = send, body
        self._start: Message | None = None
        self.status, self.is_complete = 0, False

    async def send(self, message: Message) -> None:
        """Send a part of the application's answer; its head goes with the first part of the body."""
        if self._body.refusal and not self.status:
            return
        if message["type"] == "http.response.start":
            self._start = message
            return
        data, more = message.get("body", b""), message.get("more_body", False)
        refusal = self._body.hold_answer(len(data))
        if refusal and self._start:
            self._body.refusal = refusal
            return
        if self._start:
            start, self._start = self._start, None
            self.status = start["status"]
            await self._send(start)
        for at in range(0, max(len(data), 1), PART_BYTES):
            is_last = at + PART_BYTES >= len(data)
            part = {"type": "http.response.body", "body": data[at : at + PART_BYTES], "more_body": more or not is_last}
            self.is_complete = is_last and not more
            await self._send(part)

    async def refuse(self, status: int, text: str) -> None:
        body = replies.error_body(text)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        headers += [(b"retry-after", b"1")] * (status == 503)
        # What is left of a body is not read, so the connection cannot be used again.
        headers.append((b"www-authenticate", b"Bearer") if status == 401 else (b"connection", b"close"))
        self.status = status
        with contextlib.suppress(Exception):
            await self._send({"type": "http.response.start", "status": status, "headers": headers})
            await self._send({"type": "http.response.body", "body": body})
