"""What the doors share: flags from a configuration file, one-line errors, exit codes, tables on the terminal."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import tyro
from pydantic import ValidationError

from multitask.config import Config, config_error, load_config
from multitask.errors import ConfigError, MultitaskError, install
from multitask.privacy import hide_secrets
from multitask.progress import Progress, muted_stderr
from multitask.spec import Frozen, ModelSpec
from multitask.workers import Nobody, Workers

if TYPE_CHECKING:
    from multitask.evaluation.tasks import Evaluation

Arguments = TypeVar("Arguments")

# No space left, over the quota, or over the largest size of a file.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A place that was named on the command line, or in the configuration, and cannot be used.
_PLACES = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG)

Flags = (tyro.conf.AvoidSubcommands,)

# The settings of a configuration become flags of the door itself: --fit.epochs, not --config.fit.epochs.
Settings = Annotated[Config, tyro.conf.arg(name="")]


On = Annotated[
    Literal["ray"] | None,
    tyro.conf.arg(help="Do the work on a cluster: ray joins that of $RAY_ADDRESS, or starts one on this machine."),
]


@contextlib.contextmanager
def workers(on: Literal["ray"] | None, progress: Progress) -> Iterator[Workers]:
    """Open what works beforehand, if anything does.

    Raises:
        ConfigError: the library for it is not installed.
    """
    if on is None:
        yield Nobody()
        return
    try:
        from multitask.integrations import ray
    except ImportError:
        raise ConfigError("ray is not installed", where="--on", fix=f"{install('ray>=2.60,<2.61')}.") from None
    with ray.open_workers(progress) as found:
        yield found


def run_door(main: Callable[[Sequence[str] | None], int]) -> None:
    """Run a door's main function as the program: exit with its code, print our own errors on one line."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        code = main(None)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, e.g. `head`, has seen enough; Python would say so once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except MultitaskError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except OSError as error:
        if error.errno not in _FULL + _PLACES:
            raise
        print(f"error: {_explain(error)}", file=sys.stderr)
        code = 4 if error.errno in _FULL else 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    # Threads of TensorFlow would otherwise be torn down one by one.
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


def _explain(error: OSError) -> str:
    where = hide_secrets(str(error.filename or ""))
    if error.errno in _FULL:
        place = f" ({where})" if where else ""
        return f"the disk is full{place}. Nothing half-written is kept; free some space and run the same command."
    return f"{where}: {error.strerror}. Choose another place, or change its permissions."


def parse(arguments: type[Arguments], module: str, text: str | None, argv: Sequence[str] | None) -> Arguments:
    """Parse a door's command line into a dataclass; help and wrong flags end the program, with code 0 or 2."""
    return tyro.cli(arguments, prog=f"python -m {module}", description=text, args=argv, config=Flags)


def parse_with_config(arguments: Any, module: str, text: str | None, argv: Sequence[str] | None) -> Any:
    """Parse a command line whose flags override the file named by `--config`, or the built-in defaults.

    Args:
        arguments: a dataclass with fields `config: Path | None` and `settings: Settings`.
        module: the door, for the usage line.
        text: description shown by --help.
        argv: the command line; None for the program's own.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    file = _config_flag(argv)
    default = arguments(config=file, settings=load_config(file))
    prog = f"python -m {module}"
    parsed = tyro.cli(
        arguments, prog=prog, description=text, args=argv, default=default, config=Flags, registry=_UNCHECKED
    )
    try:
        settings = Config.model_validate(parsed.settings.model_dump(warnings=False))
    except ValidationError as error:
        raise config_error(error, "command line") from None
    return replace(parsed, settings=settings)


_UNCHECKED = tyro.constructors.ConstructorRegistry()


@_UNCHECKED.struct_rule
def _without_checks(info: tyro.constructors.StructTypeInfo) -> tyro.constructors.StructConstructorSpec | None:
    """Let flags fill our records unchecked, so that the whole configuration is checked, and explained, at once."""
    if not (isinstance(info.type, type) and issubclass(info.type, Frozen)):
        return None
    record = info.type

    def construct(**values: Any) -> Frozen:
        return record.model_construct(**values)

    construct.__doc__ = record.__doc__
    hints = get_type_hints(record, include_extras=True)
    fields = tuple(
        tyro.constructors.StructFieldSpec(
            name=name, type=hints[name], default=getattr(info.default, name), helptext=field.description
        )
        for name, field in record.model_fields.items()
    )
    return tyro.constructors.StructConstructorSpec(instantiate=construct, fields=fields)


def _config_flag(argv: Sequence[str]) -> Path | None:
    """Find the value of --config before the other flags are known."""
    for position, word in enumerate(argv):
        if word.startswith("--config="):
            return Path(word.removeprefix("--config="))
        if word == "--config" and position + 1 < len(argv):
            return Path(argv[position + 1])
    return None


def load_tensorflow() -> None:
    """Import TensorFlow without what it writes to standard error about devices that are not there."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with muted_stderr():
        import tensorflow as tf

        tf.config.list_logical_devices()


def print_metrics(title: str, evaluation: Evaluation, spec: ModelSpec) -> None:
    """Print an evaluation as a table, and name the heads that are worth nothing."""
    from multitask.evaluation.tasks import weak_heads

    print_table(title, ("task", "metric", "value", "95% interval", "baseline"), evaluation.table())
    for task in evaluation.metrics:
        left_out = len(evaluation.metrics[task]) - len(evaluation.shown(task))
        if left_out:
            print(f"{task}: {left_out:,} figures of single answers are in details.csv and metrics.json")
    for line in weak_heads(spec, evaluation):
        print(line)


def print_next(*commands: str) -> None:
    """Print what a person would type next, as it can be pasted."""
    print("next:")
    for line in commands:
        print(f"  {line}")


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table on standard output, names to the left and figures to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for number, column in enumerate(columns):
        is_name = not any(row[number][:1].isdigit() for row in rows)
        table.add_column(column, justify="left" if is_name else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe or a log has no width of its own; a table that is cut there helps nobody.
        console = Console(highlight=False, width=200)
    console.print(title, style="bold", markup=False)
    console.print(table)
