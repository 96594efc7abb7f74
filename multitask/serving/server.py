"""The embedded server: TF-Serving's REST, uploads with answers for people, a page, figures for Prometheus.

/                  the page
/v1/...            see `rest`
POST /files        photos as multipart form, answers as JSON
POST /feedback     labels that come later
/model             what the model can tell
/metrics /healthz /readyz
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI, File, Query, Request, Response, UploadFile
from fastapi.responses import HTMLResponse, JSONResponse
from uvicorn.protocols.http.h11_impl import H11Protocol

from multitask.prediction.feedback import Feedback
from multitask.serving import answers, replies
from multitask.serving.guard import Guard, Hosts
from multitask.serving.replies import PREDICT_BODY, REFUSALS
from multitask.serving.rest import Asked, Engine
from multitask.serving.telemetry import Telemetry

MAX_BODY_BYTES = 64 << 20
MAX_FILES = 256
GRACE_SECONDS = 30
# A connection says what it wants within this time, and takes so much of its answer, or the rest, in each such time.
CONNECTION_SECONDS, PROGRESS_BYTES = 10.0, 64 << 10
# Bytes that are read from a connection at once: what the event loop does between two looks at the others.
READ_BYTES = 64 << 10
# Memory of parsed JSON, in terms of its text.
_PARSED = 8
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]


def make_app(
    engine: Engine,
    telemetry: Telemetry,
    *,
    token: str = "",
    max_body_bytes: int = MAX_BODY_BYTES,
    hosts: Hosts = Hosts(),  # noqa: B008
    feedback: Feedback | None = None,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the application.

    Args:
        engine: what answers.
        telemetry: what counts.
        token: bearer token that every request but the page and the health checks must bear; "" for none.
        max_body_bytes: longer requests are answered with 413.
        hosts: names under which the server may be asked.
        feedback: where labels go that come after the answers; None takes none.
        start, stop: called before the first request is taken, and after the last one is answered.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        start()
        yield
        stop()

    app = FastAPI(title="multitask", docs_url=None, redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    _add_operations(app, engine, telemetry)
    _add_models(app, engine)
    _add_files(app, engine)
    _add_feedback(app, engine, feedback)
    replies.add_errors(app)
    app.add_middleware(Guard, telemetry=telemetry, token=token, max_body_bytes=max_body_bytes, hosts=hosts)
    return app


def serve_app(app: FastAPI, listening: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are answered before the end.

    Args:
        app: what `make_app` returned.
        listening: a bound socket.
        ready: called once requests are taken.
    """

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready()

    settings: Any = {"http": _Connection, "log_level": "error", "access_log": False}
    config = uvicorn.Config(app, timeout_graceful_shutdown=GRACE_SECONDS, **settings)
    Server(config).run(sockets=[listening])


class _Connection(H11Protocol):
    """A connection that ends when its client stalls: before a request is whole, or while its answer is sent."""

    _timer: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        read = self.conn.next_event
        vars(self.conn)["next_event"] = lambda: _whole_target(read())

    def connection_made(self, transport: Any) -> None:
        transport.max_size = READ_BYTES
        super().connection_made(transport)
        self._expect_request()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_taking()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._watch_taking()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch_taking()

    def send_400_response(self, msg: str) -> None:
        body = replies.error_body(msg)
        head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self.transport.write(f"{head}Connection: close\r\n\r\n".encode() + body)
        self.transport.close()

    def timeout_keep_alive_handler(self) -> None:
        # An answer that is still being sent is watched by `_expect_progress`.
        if not self.transport.get_write_buffer_size():
            super().timeout_keep_alive_handler()

    def _expect_request(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()
        elif self._timer is None:
            self._timer = self.loop.call_later(CONNECTION_SECONDS, self._give_up)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        is_idle = self.cycle is None or self.cycle.response_complete
        if is_idle and not self.transport.get_write_buffer_size():
            self.transport.abort()

    def _watch_taking(self) -> None:
        if self._taking:
            self._taking.cancel()
        left = self.transport.get_write_buffer_size()
        if left:
            self._taking = self.loop.call_later(CONNECTION_SECONDS, self._expect_progress, left)

    def _expect_progress(self, before: int) -> None:
        if self.transport.get_write_buffer_size() > max(before - PROGRESS_BYTES, 0):
            self.transport.abort()
        else:
            self._watch_taking()


def _whole_target(event: Any) -> Any:
    """Keep a question mark that no query follows: TF-Serving's addresses end before one, and ASGI drops it."""
    if isinstance(event, h11.Request) and event.target.startswith(b"/v1/") and event.target.endswith(b"?"):
        target = event.target[:-1] + b"%3F"
        return h11.Request(method=event.method, target=target, headers=event.headers, http_version=event.http_version)
    return event


def _add_operations(app: FastAPI, engine: Engine, telemetry: Telemetry) -> None:
    page = answers.read_page()

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        # The page needs nothing from elsewhere, so it may load nothing from elsewhere.
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        policy += "img-src 'self' data: blob:; connect-src 'self'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Can it answer?", responses={503: REFUSALS[503]})
    def readyz() -> JSONResponse:
        names = engine.names()
        return JSONResponse({"models": names} if names else {"error": "no model is ready"}, 200 if names else 503)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    def metrics() -> Response:
        return Response(telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_models(app: FastAPI, engine: Engine) -> None:
    async def answer(request: Request) -> Response:
        if request.method == "OPTIONS":
            is_web = request.headers.get("origin", "").startswith(("http://", "https://"))
            return Response(status_code=200 if is_web else 400, media_type="text/html")
        target = request.scope["raw_path"].decode("latin-1")
        if request.scope["query_string"]:
            target += "?" + request.scope["query_string"].decode("latin-1")
        asked = Asked(request.method, target, request.headers, lambda: _read(request), _client(request))
        found = await engine.answer(asked)
        body = b"" if request.method == "HEAD" else found.body
        return Response(body, found.status, dict(found.headers), media_type="application/json")

    refusals: Any = {"responses": {code: REFUSALS[code] for code in (400, 401, 404, 413, 503, 504)}}
    model = "/v1/models/{name}"
    app.add_api_route(
        f"{model}:predict", answer, methods=["POST"], summary="Predict", openapi_extra=PREDICT_BODY, **refusals
    )
    app.add_api_route(model, answer, methods=["GET"], summary="State of the versions", **refusals)
    app.add_api_route(f"{model}/metadata", answer, methods=["GET"], summary="Signatures", **refusals)
    for prefix in ("v1", "V1"):
        app.add_route(f"/{prefix}/{{rest:path}}", answer, methods=METHODS, include_in_schema=False)


def _add_files(app: FastAPI, engine: Engine) -> None:
    @app.post(
        "/files",
        summary="Answers for photos",
        responses={code: REFUSALS[code] for code in (400, 401, 413, 503, 504)},
    )
    async def answer_files(
        request: Request,
        files: list[UploadFile] = File(max_length=MAX_FILES),  # noqa: B008
        draw: bool = Query(default=False, description="add each picture with its answer drawn on it"),
    ) -> Response:
        """Return per file its label, confidence and tags, all scores, and why not where there are none."""
        started = time.perf_counter()
        images = [await file.read() for file in files]
        scored = await engine.score(images, _client(request))
        names = [file.filename or "" for file in files]
        results = []
        for row, data in enumerate(images):
            takes = await engine.desk(answers.decoding_bytes, scored.scores, data, row, draw)
            work = answers.describe_one, scored.spec, data, scored.scores, row, draw
            results.append(await engine.desk(*work, takes=takes))
        body = await engine.desk(answers.written, scored.version, names, results, time.perf_counter() - started)
        return Response(body, media_type="application/json")

    @app.get("/model", summary="What the model can tell", responses={code: REFUSALS[code] for code in (401, 503)})
    async def model() -> Response:
        """Return the version and, per task, its name, kind and classes."""
        scored = await engine.score([])
        tasks = [task.model_dump(include={"name", "kind", "classes"}) for task in scored.spec.tasks]
        return JSONResponse({"model_version": scored.version, "tasks": tasks})


def _add_feedback(app: FastAPI, engine: Engine, feedback: Feedback | None) -> None:
    @app.post(
        "/feedback",
        summary="Labels for what was answered before",
        openapi_extra=replies.FEEDBACK_BODY,
        responses={code: REFUSALS[code] for code in (400, 401, 404, 413, 503)},
    )
    async def keep_labels(request: Request) -> JSONResponse:
        """Keep all rows or none; they are on the disk when the answer comes."""
        if feedback is None:
            raise replies.WireError("this server takes no labels; start it with --feedback DIR", "NOT_FOUND")
        body = await _read(request)
        scored = await engine.score([])
        kept = await engine.desk(feedback.keep, scored.spec, body, takes=_PARSED * len(body))
        return JSONResponse({"kept": kept})


async def _read(request: Request) -> bytes:
    """Return the body; a request would keep a copy until it is answered."""
    return b"".join([part async for part in request.stream()])


def _client(request: Request) -> str:
    """Return who asks, for a queue that is fair to all."""
    return request.client.host if request.client else ""
