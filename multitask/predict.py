"""Predict a table: `python -m multitask.predict TEST.parquet [--images A ...] [--run R | --model DIR | --url URL]`.

In place of the table may stand a picture, or a folder or an archive of pictures; no --images is needed then.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import tyro

from multitask import cli
from multitask.errors import ConfigError
from multitask.privacy import hide_secrets
from multitask.progress import Lines

if TYPE_CHECKING:
    from multitask.prediction.protocol import Predictor
    from multitask.settings import DataConfig


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    table: tyro.conf.Positional[str]
    """Table with the ids to predict: parquet, CSV or Arrow, ADDRESS::QUERY of a database; or pictures themselves."""
    images: tuple[str, ...] = ()
    """Zip or tar archives, folders, or a column: TABLE::ID_COLUMN::IMAGE_COLUMN, where `labels` is the table that is
    predicted; by default those the run was trained on."""
    run: str | None = None
    """Run whose model predicts; by default the latest."""
    model: Path | None = None
    """Exported SavedModel that predicts instead."""
    url: str | None = None
    """Model server that predicts instead, e.g. http://localhost:8501."""
    token: str = ""
    """Bearer token for --url; by default $MULTITASK_TOKEN."""
    out: str = "predictions.parquet"
    """File to write; with / at its end a folder of parts of 65,536 rows. Also in an object store: s3://bucket/new/."""
    id_column: str | None = None
    """Column of the table that holds the image id; by default that of the run, else uuid."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Arithmetic of the network of a run."""
    log: Path | None = None
    """Folder of the prediction log to which the answers are appended, with measures of the images, for `monitor`."""
    log_gb: float = 1.0
    """Largest size of the log in gigabytes; its oldest parts are deleted beyond."""
    on: cli.On = None


@dataclass(frozen=True)
class _Source:
    """What predicts, made when it is needed: rows are read and checked first."""

    name: str
    id_column: str
    trained_on: DataConfig | None
    make: Callable[[], tuple[Predictor, dict[str, str]]]
    again: Callable[[], partial[Any]]
    """Returns what makes the same predictor in another process."""


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print how many rows got which status."""
    arguments = cli.parse(Arguments, "multitask.predict", __doc__, argv)
    if arguments.log and arguments.on:
        raise ConfigError("--log and --on exclude each other", where="command line", fix="Log where images are read.")
    from multitask.data.sources import open_rows
    from multitask.prediction.log import PredictionLog
    from multitask.prediction.scoring import block_key, blocks_of, fill_blocks, predict_table
    from multitask.prediction.writing import deliver

    source = _source(arguments)
    id_column = arguments.id_column or source.id_column
    progress, out = Lines(), _local(arguments.out)
    ids, archive = open_rows(arguments.table, id_column, arguments.images, source.trained_on)
    with archive, contextlib.ExitStack() as stack:
        log = stack.enter_context(PredictionLog(arguments.log, arguments.log_gb)) if arguments.log else None
        predictor, metadata = source.make()
        progress.say(f"predicting {len(ids):,} rows with {source.name}")
        state = archive.fingerprint(ids)
        with cli.workers(arguments.on, progress) as workers:
            if arguments.on:
                key = block_key(predictor.spec, ids, metadata, state)
                fill = partial(fill_blocks, source.again(), archive, out, key)
                workers.share(fill, blocks_of(ids), "predicting blocks", 1)
        statuses = predict_table(
            predictor,
            ids,
            archive,
            out,
            id_column=id_column,
            in_parts=arguments.out.endswith("/"),
            metadata=metadata,
            resume=state,
            progress=progress,
            log=log,
        )
    if "://" in arguments.out:
        deliver(out, arguments.out)
    rows = [[status, f"{count:,}"] for status, count in statuses.most_common()]
    cli.print_table(f"{hide_secrets(arguments.out)}: {len(ids):,} rows", ["status", "rows"], rows)
    return 0


def _local(out: str) -> Path:
    """Return where the table is written; one for an object store is written here first.

    Raises:
        ConfigError: a folder of parts would replace a file, or a folder that is none of parts.
    """
    if "://" in out:
        return Path(f".predictions-{hashlib.sha256(out.encode()).hexdigest()[:16]}.parquet")
    place = Path(out)
    is_ours = not place.exists() or (place.is_dir() and ((place / "_SUCCESS").is_file() or not any(place.iterdir())))
    if out.endswith("/") and not is_ours:
        raise ConfigError(
            "is not a folder of predictions, and would be replaced", where=f"--out {out}", fix="Choose another folder."
        )
    return place


def _source(arguments: Arguments) -> _Source:
    """Return what predicts.

    Raises:
        ConfigError: more than one is named, or an address is none.
    """
    named = [flag for flag in ("run", "model", "url") if getattr(arguments, flag) is not None]
    if len(named) > 1:
        raise ConfigError(f"--{named[0]} and --{named[1]} exclude each other", where="command line", fix="Give one.")
    if arguments.model is None and arguments.url is None:
        return _of_run(arguments)
    if arguments.model is not None:
        return _of_export(arguments.model)
    return _of_server(arguments, _checked(arguments.url or ""))


def _checked(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "is no address of a server",
            where="--url",
            expected=f"http://HOST:PORT, such as http://{url.rpartition('://')[2] or 'localhost:8501'}",
            received=f'"{url}"',
        )
    return url


def _of_run(arguments: Arguments) -> _Source:
    from multitask.runs import open_run

    run = open_run(arguments.run or "latest")

    def make() -> tuple[Predictor, dict[str, str]]:
        cli.load_tensorflow()
        from multitask.prediction.trained import KerasPredictor

        return KerasPredictor.of_run(run, arguments.precision), {"multitask.run": run.folder.name}

    def again() -> partial[Any]:
        from multitask.network import hardware
        from multitask.prediction.trained import KerasPredictor

        # Machines of a cluster that differ would each take another.
        precision = hardware.fastest_precision() if arguments.precision == "auto" else arguments.precision
        return partial(KerasPredictor.of_folder, str(run.folder.directory), precision)

    return _Source(f"run {run.folder.name}", run.config.data.id_column, run.config.data, make, again)


def _of_export(model: Path) -> _Source:
    def make() -> tuple[Predictor, dict[str, str]]:
        from multitask.serving.native import NativePredictor

        return NativePredictor(str(model)), {"multitask.model": str(model)}

    def again() -> partial[Any]:
        from multitask.serving.native import NativePredictor

        return partial(NativePredictor, str(model.resolve()))

    return _Source(f"model {model}", "uuid", None, make, again)


def _of_server(arguments: Arguments, url: str) -> _Source:
    def make() -> tuple[Predictor, dict[str, str]]:
        from multitask.serving.client import Client

        client = Client(url, token=arguments.token or os.environ.get("MULTITASK_TOKEN", ""))
        return client, {"multitask.url": hide_secrets(client.url), "multitask.version": str(client.version)}

    def again() -> partial[Any]:
        raise ConfigError("a server is asked from here", where="--on", fix="Leave --on out, or name --run or --model.")

    return _Source(f"the server at {url}", "uuid", None, make, again)


if __name__ == "__main__":
    cli.run_door(main)
