"""Serve published models: `python -m multitask.serve [--models DIR] [--host 127.0.0.1] [--port 8501]`."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import tyro

from multitask import cli
from multitask.errors import ConfigError, PredictionError, command
from multitask.progress import Lines
from multitask.serving.model_folder import MODELS


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    models: Path = MODELS
    """Folder of models, each with numbered versions in it; new ones are taken up while the server runs."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every network this machine is in."""
    port: int = 8501
    """Port to listen on; 0 takes a free one."""
    backend: str = ""
    """Answer with the model server at this address, e.g. http://localhost:8501, instead of loading models."""
    model: str = "multitask"
    """Name of the model behind --backend."""
    hosts: tuple[str, ...] = ()
    """Further names under which browsers may reach this server, e.g. that of a proxy in front of it."""
    token: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: $MULTITASK_TOKEN)")] = ""
    """Bearer token that clients must send."""
    max_body_mb: int = 64
    """Longest request in megabytes."""
    timeout: float = 30.0
    """Seconds after which a request is given up."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto: bfloat16 where the processor has units for it and the model answers alike, else float32."""
    log: Path | None = None
    """Folder of the prediction log to which answers are appended, with measures of the images, for `monitor`; never the
    images."""
    log_gb: float = 1.0
    """Largest size of the log in gigabytes; its oldest parts are deleted beyond."""
    feedback: Path | None = None
    """Folder for labels that clients send to /feedback, which `monitor --labels` and `retrain` read; needs a token."""
    id_column: str = "uuid"
    """Name of the id in them, as in the label table of the model."""


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until interrupted."""
    arguments = cli.parse(Arguments, "multitask.serve", __doc__, argv)
    _check(arguments)
    from multitask.prediction.feedback import Feedback
    from multitask.prediction.log import PredictionLog
    from multitask.prediction.recording import Recorder
    from multitask.serving.backend import BackendEngine
    from multitask.serving.guard import Hosts
    from multitask.serving.rest import LocalEngine
    from multitask.serving.servables import Servables, agrees_in_bfloat16
    from multitask.serving.server import make_app, serve_app
    from multitask.serving.telemetry import Telemetry

    progress, telemetry = Lines(), Telemetry()
    listening = _listen(arguments.host, arguments.port)
    token = _token(arguments)

    def choose_bfloat16(directory: Path) -> bool:
        return arguments.precision == "bfloat16" or (arguments.precision == "auto" and agrees_in_bfloat16(directory))

    servables = Servables(
        arguments.models,
        watch=lambda name, rows: telemetry.batch_rows.labels(name).observe(rows),
        bfloat16=choose_bfloat16,
        say=progress.say,
    )
    is_local = not arguments.backend
    recorder = None
    if arguments.log:
        log = PredictionLog(arguments.log, arguments.log_gb)
        recorder = Recorder(log, lambda what, rows: telemetry.unlogged.labels(what).inc(rows))
    local = LocalEngine(servables, telemetry, arguments.timeout, recorder)

    def stop() -> None:
        servables.stop()
        if recorder:
            recorder.close()

    app = make_app(
        local if is_local else BackendEngine(arguments.backend, arguments.model, arguments.timeout),
        telemetry,
        token=token,
        hosts=Hosts(arguments.host, arguments.hosts),
        feedback=Feedback(arguments.feedback, arguments.id_column) if arguments.feedback else None,
        max_body_bytes=arguments.max_body_mb << 20,
        start=servables.start if is_local else lambda: None,
        stop=stop if is_local else lambda: None,
    )

    def ready() -> None:
        for line in _warnings(arguments.host, token):
            progress.say(line)
        if is_local and not servables.names():
            progress.say(f"no model in {arguments.models} yet; publish one: {command('publish')}")
        progress.say(f"serving on {_address(listening)}")

    serve_app(app, listening, ready)
    return 0


def _token(arguments: Arguments) -> str:
    return arguments.token or os.environ.get("MULTITASK_TOKEN", "")


def _check(arguments: Arguments) -> None:
    """Refuse settings that cannot be meant.

    Raises:
        ConfigError: naming the first of them.
    """
    for flag, value, is_right, expected in (
        ("--port", arguments.port, 0 <= arguments.port <= 65535, "0 to 65535"),
        ("--max-body-mb", arguments.max_body_mb, 1 <= arguments.max_body_mb <= 1024, "1 to 1024"),
        ("--timeout", arguments.timeout, 0 < arguments.timeout < float("inf"), "seconds, more than 0"),
        ("--backend", arguments.backend, _is_address(arguments.backend or "http://none"), "http://HOST:PORT"),
    ):
        if not is_right:
            raise ConfigError("wrong value", where=flag, expected=expected, received=str(value))
    if arguments.feedback and not _token(arguments):
        raise ConfigError(
            "whoever may send labels can spoil a model", where="--feedback", fix="Demand a token: --token TOKEN."
        )
    if arguments.log and arguments.backend:
        raise ConfigError("--log and --backend exclude each other", where="command line", fix="Log where models are.")


def _is_address(url: str) -> bool:
    """Return whether this is the address of a server."""
    try:
        found = urlsplit(url)
        return found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        return False


def _warnings(host: str, token: str) -> list[str]:
    """Say what listening beyond this machine means."""
    if host in ("127.0.0.1", "::1", "localhost"):
        return []
    said = [] if token else [f"listening on {host} without a token: whoever reaches this port can use it (--token)"]
    return [*said, "the connection is not encrypted: photos and token can be read on the way; put TLS in front of it"]


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listen(host: str, port: int) -> socket.socket:
    """Bind before models are loaded, so that a port in use is an error at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        raise PredictionError(
            f"cannot listen ({error.strerror})", where=f"{host}:{port}", fix="Choose another --port."
        ) from None
    return listening


if __name__ == "__main__":
    cli.run_door(main)
