"""Every error we raise, as one tree: what happened, where, what was expected, what was received, what to do next.

MultitaskError
├── ConfigError          exit 2   the configuration or the command line
├── TableError           exit 3   a label, test or prediction table
├── ArchiveError         exit 3   an image archive or an image in it
├── RunError             exit 4   training and its run folder
└── PredictionError      exit 6   a predictor did not answer
    ├── ServerUnavailable         nobody there, or too busy for longer than we wait
    └── RequestRefused            the server understood and said no
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MultitaskError(Exception):
    """Base of all our errors; its text is one readable line.

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
        super().__init__(f"{text.rstrip('.')}. {fix}".strip())


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


class PredictionError(MultitaskError):
    """A predictor gave no answer."""

    exit_code = 6


class ServerUnavailable(PredictionError):
    """The model server cannot be reached or stays overloaded."""

    http_status = 503


class RequestRefused(PredictionError):
    """The model server refused the request as wrong."""

    http_status = 400


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant.

    >>> nearest("SHIRT", ["BLOUSES", "SHIRTS"])
    'Did you mean "SHIRTS"?'
    """
    known = sorted(known)
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f'Did you mean "{found[0]}"?' if found else f"Known: {', '.join(known)}."
