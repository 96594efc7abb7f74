"""The embedded server: TF-Serving's REST, uploads with answers for people, a page, figures for Prometheus.

/                  the page
/v1/...            see `rest`
POST /files        photos as multipart form, answers as JSON
/metrics /healthz /readyz
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable
from importlib.resources import files as package_files
from typing import Any

import uvicorn
from fastapi import FastAPI, File, HTTPException, Query, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException

from multitask.errors import MultitaskError
from multitask.serving import answers, wire
from multitask.serving.guard import Guard
from multitask.serving.rest import Engine
from multitask.serving.telemetry import Telemetry

MAX_BODY_BYTES = 64 << 20
MAX_FILES = 256
GRACE_SECONDS = 30
METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"]

_ERROR = {"content": {"application/json": {"schema": {"type": "object", "required": ["error"]}}}}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"description": text, **_ERROR}
    for code, text in {
        400: "the request is wrong",
        401: "the token is missing or wrong",
        404: "no such model or version",
        413: "the body is too large",
        503: "no model is ready, or too many requests wait",
        504: "the answer took too long",
    }.items()
}
_PREDICT_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "signature_name": {"type": "string"},
                        "instances": {
                            "type": "array",
                            "items": {"type": "object", "properties": {"b64": {"type": "string"}}},
                        },
                    },
                }
            }
        },
    }
}


def make_app(
    engine: Engine,
    telemetry: Telemetry,
    *,
    token: str = "",
    max_body_bytes: int = MAX_BODY_BYTES,
    start: Callable[[], None] = lambda: None,
    stop: Callable[[], None] = lambda: None,
) -> FastAPI:
    """Return the application.

    Args:
        engine: what answers.
        telemetry: what counts.
        token: bearer token that every request but the page and the health checks must bear; "" for none.
        max_body_bytes: longer requests are answered with 413.
        start: called before the first request is taken.
        stop: called after the last one is answered.
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
    _add_errors(app)
    app.add_middleware(Guard, telemetry=telemetry, token=token, max_body_bytes=max_body_bytes)
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

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_SECONDS)
    Server(config).run(sockets=[listening])


def _add_operations(app: FastAPI, engine: Engine, telemetry: Telemetry) -> None:
    page = (package_files("multitask.serving") / "page.html").read_text(encoding="utf-8")

    @app.get("/", include_in_schema=False)
    async def show_page() -> HTMLResponse:
        # The page needs nothing from elsewhere, so it may load nothing from elsewhere.
        policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
        policy += "img-src 'self' data: blob:; connect-src 'self'"
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/healthz", summary="Is the process alive?")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", summary="Can it answer?", responses={503: _REFUSALS[503]})
    def readyz() -> JSONResponse:
        names = engine.names()
        return JSONResponse({"models": names} if names else {"error": "no model is ready"}, 200 if names else 503)

    @app.get("/metrics", summary="Figures for Prometheus", response_class=Response)
    async def metrics() -> Response:
        return Response(telemetry.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_models(app: FastAPI, engine: Engine) -> None:
    async def answer(request: Request) -> Response:
        if request.method == "OPTIONS":
            is_web = request.headers.get("origin", "").startswith(("http://", "https://"))
            return Response(status_code=200 if is_web else 400, media_type="text/html")
        target = request.scope["raw_path"].decode("latin-1")
        if request.url.query:
            target += "?" + request.scope["query_string"].decode("latin-1")
        found = await engine.answer(request.method, target, await request.body(), request.headers)
        body = b"" if request.method == "HEAD" else found.body
        return Response(body, found.status, dict(found.headers), media_type="application/json")

    refusals: Any = {"responses": {code: _REFUSALS[code] for code in (400, 401, 404, 413, 503, 504)}}
    model = "/v1/models/{name}"
    app.add_api_route(
        f"{model}:predict", answer, methods=["POST"], summary="Predict", openapi_extra=_PREDICT_BODY, **refusals
    )
    app.add_api_route(model, answer, methods=["GET"], summary="State of the versions", **refusals)
    app.add_api_route(f"{model}/metadata", answer, methods=["GET"], summary="Signatures", **refusals)
    for prefix in ("v1", "V1"):
        app.add_route(f"/{prefix}/{{rest:path}}", answer, methods=METHODS, include_in_schema=False)


def _add_files(app: FastAPI, engine: Engine) -> None:
    @app.post(
        "/files",
        summary="Answers for photos",
        responses={code: _REFUSALS[code] for code in (400, 401, 413, 503, 504)},
    )
    async def answer_files(
        files: list[UploadFile] = File(max_length=MAX_FILES),  # noqa: B008
        draw: bool = Query(default=False, description="add each picture with its answer drawn on it"),
    ) -> dict[str, Any]:
        """Return per file its label, confidence and tags, all scores, and why not where there are none."""
        started = time.perf_counter()
        images = [await file.read() for file in files]
        scored = await engine.score(images)
        described = answers.describe(scored.spec, images, scored.scores)
        results = []
        for file, data, found in zip(files, images, described, strict=True):
            picture = {}
            if draw and found["ok"]:
                drawn = await asyncio.to_thread(answers.draw, data, found, scored.spec.image.max_pixels)
                picture = {"picture": f"data:image/jpeg;base64,{base64.b64encode(drawn).decode()}"} if drawn else {}
            results.append({"file": file.filename or "", **found, **picture})
        seconds = time.perf_counter() - started
        return {"model_version": scored.version, "milliseconds": round(seconds * 1000, 1), "results": results}


def _add_errors(app: FastAPI) -> None:
    """Give every error the shape {"error": text}."""

    def refuse(status: int, text: str, headers: Any = None) -> Response:
        return Response(wire.error_body(text), status, headers, media_type="application/json")

    @app.exception_handler(MultitaskError)
    async def ours(request: Request, error: MultitaskError) -> Response:
        return refuse(error.http_status, str(error))

    @app.exception_handler(wire.WireError)
    async def of_the_model(request: Request, error: wire.WireError) -> Response:
        return refuse(error.http_status, error.text)

    @app.exception_handler(StarletteHTTPException)
    async def of_the_framework(request: Request, error: HTTPException) -> Response:
        return refuse(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def wrong_fields(request: Request, error: RequestValidationError) -> Response:
        problems = [f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}" for detail in error.errors()]
        return refuse(400, "; ".join(problems))
