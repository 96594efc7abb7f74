"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from multitask.errors import ModelFailed, MultitaskError, RequestRefused


@pytest.mark.parametrize(
    "error", [RequestRefused("no", where="there", fix="Go."), ModelFailed("bad rank", code="INVALID_ARGUMENT")]
)
def test_an_error_crosses_processes_whole(error: MultitaskError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))
