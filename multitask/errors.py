"""Every error we raise, as one tree: what happened, where, what was expected, what was received, what to do next.

MultitaskError
├── ConfigError          exit 2   the configuration or the command line
├── TableError           exit 3   a label, test or prediction table
├── ArchiveError         exit 3   an image archive or an image in it
├── RunError             exit 4   training and its run folder
├── ProofError           exit 5   an exported model does not answer like the trained one
├── GateError            exit 5   a model is not good enough to be published
└── PredictionError      exit 6   a predictor did not answer
    ├── ServerUnavailable         nobody there, or too busy for longer than we wait
    ├── RequestRefused            the server understood and said no
    └── ModelFailed               TensorFlow's runtime refused an input, or failed

Exit 7 is no error: `monitor` has found that something moved.
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import sys
from collections.abc import Iterable
from typing import Any

from multitask.privacy import hide_secrets


class MultitaskError(Exception):
    """Base of all our errors; its text is one readable line, without passwords.

    Args:
        problem: what is wrong, in a few words.
        where: file, column, row, id: whatever leads to the spot.
        expected: what would have been right.
        received: what was there instead.
        fix: the next step for the reader.
    """

    exit_code = 1
    http_status = 500

    def __init__(self, problem: str, *, where: str = "", expected: str = "", received: str = "", fix: str = "") -> None:
        self.problem, self.where, self.expected, self.received, self.fix = problem, where, expected, received, fix
        text = f"{where}: {problem}" if where else problem
        text += f"; expected {expected}" if expected else ""
        text += f"; received {received}" if received else ""
        super().__init__(hide_secrets(f"{text.rstrip('.')}. {fix}".strip()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error cross processes, which its keyword arguments would not."""
        return _restored, (type(self), self.args, self.__dict__)


class ConfigError(MultitaskError):
    """A setting is unknown, wrong, or contradicts another."""

    exit_code = 2
    http_status = 400


class TableError(MultitaskError):
    """A table lacks a column, holds a wrong value, or cannot be read."""

    exit_code = 3
    http_status = 400


class ArchiveError(MultitaskError):
    """An archive cannot be opened, or an image in it cannot be read."""

    exit_code = 3
    http_status = 400


class RunError(MultitaskError):
    """A training cannot start, go on, or be found."""

    exit_code = 4


class ProofError(MultitaskError):
    """An exported model answers otherwise than the trained one, or does not load."""

    exit_code = 5


class GateError(MultitaskError):
    """A model does not pass the gate in front of serving."""

    exit_code = 5


class PredictionError(MultitaskError):
    """A predictor gave no answer."""

    exit_code = 6


class ServerUnavailable(PredictionError):
    """The model server cannot be reached or stays overloaded."""

    http_status = 503


class RequestRefused(PredictionError):
    """The model server refused the request as wrong."""

    http_status = 400


class ModelFailed(PredictionError):
    """The runtime answered with an error.

    Args:
        text: the runtime's words.
        code: its status code, e.g. INVALID_ARGUMENT.
    """

    def __init__(self, text: str, *, code: str) -> None:
        super().__init__(text)
        self.text, self.code = text, code


def _restored(kind: type[MultitaskError], args: tuple[Any, ...], facts: dict[str, Any]) -> MultitaskError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(facts)
    return error


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant.

    >>> nearest("SHIRT", ["BLOUSES", "SHIRTS"])
    'Did you mean "SHIRTS"?'
    """
    known = sorted(known)
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'Did you mean "{found[0]}"?' if found else f"Known: {', '.join(known)}."


def command(door: str, *words: object) -> str:
    """Return the command line of a door, to be pasted into the shell that this program was started from."""
    return shlex.join([_interpreter(), "-m", f"multitask.{door}", *map(str, words)])


def install(*packages: str) -> str:
    """Return the command line that installs packages for the interpreter in use."""
    return shlex.join([_interpreter(), "-m", "pip", "install", *packages])


def _interpreter() -> str:
    """Return `python` where that is this interpreter, else its path, from the working directory if it lies below."""
    found = shutil.which("python")
    here = os.path.dirname(os.path.abspath(sys.executable))
    if found and os.path.dirname(os.path.abspath(found)) == here:
        return "python"
    below = os.path.relpath(sys.executable)
    return sys.executable if below.startswith(os.pardir) else below
