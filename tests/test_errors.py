"""The tree of errors."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from multitask.errors import ModelFailed, MultitaskError, RequestRefused, command, install


@pytest.mark.parametrize(
    "error", [RequestRefused("no", where="there", fix="Go."), ModelFailed("bad rank", code="INVALID_ARGUMENT")]
)
def test_an_error_crosses_processes_whole(error: MultitaskError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_a_command_names_the_interpreter_that_runs_unless_it_is_plain_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interpreter = tmp_path / "some env/bin/python"
    interpreter.parent.mkdir(parents=True)
    interpreter.touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert command("train", "--resume", "a b") == f"'{interpreter}' -m multitask.train --resume 'a b'"
    monkeypatch.chdir(tmp_path)
    assert command("train") == "'some env/bin/python' -m multitask.train"
    monkeypatch.setenv("PATH", str(interpreter.parent))
    assert command("train") == "python -m multitask.train"
    assert install("cleanlab>=2") == "python -m pip install 'cleanlab>=2'"
