"""The folder of models under two publishers, kills and several models: one at a time, whole, and no litter."""

from __future__ import annotations

import multiprocessing
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multitask.errors import ConfigError, GateError, RunError
from multitask.serving.model_folder import ModelFolder
from multitask.storage import locked


@pytest.fixture
def saved_model(tmp_path: Path) -> Path:
    """Something of the form of a SavedModel; nobody loads it here."""
    source = tmp_path / "export"
    (source / "variables").mkdir(parents=True)
    (source / "saved_model.pb").write_bytes(b"graph")
    (source / "variables/data").write_bytes(b"x" * 1_000_000)
    return source


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path / "models/multitask")


def config(folder: ModelFolder) -> dict[str, dict[str, int]]:
    """Return the labels of every model that TF-Serving is told of."""
    text = (folder.directory.parent / "models.config").read_text()
    labels = r'version_labels \{ key: "(\w+)" value: (\d+) \}'
    models = re.split(r'    name: "', text)[1:]
    return {part.split('"')[0]: {name: int(version) for name, version in re.findall(labels, part)} for part in models}


def add_some(directory: Path, saved_model: Path, count: int) -> None:
    for _ in range(count):
        ModelFolder(directory).add(saved_model, {"run": "r"})


def test_publishers_at_once_wait_for_each_other(folder: ModelFolder, saved_model: Path) -> None:
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=add_some, args=(folder.directory, saved_model, 5)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join(120)
        assert other.exitcode == 0
    assert folder.versions() == list(range(1, 16))
    assert sorted(entry["version"] for entry in folder.ledger()) == list(range(1, 16))


def test_a_lock_that_is_held_for_too_long_is_refused_with_a_word(tmp_path: Path) -> None:
    refused = pytest.raises(RunError, match="in use by another process")
    with locked(tmp_path), refused, locked(tmp_path, patience_s=0.1):
        pass
    with locked(tmp_path, patience_s=0.1):
        pass


def test_what_killed_publishers_left_is_swept_by_the_next(folder: ModelFolder, saved_model: Path) -> None:
    code = "import os, shutil, sys, pathlib\nfrom multitask.serving import model_folder as room\n"
    code += "room.sync = lambda path: os.kill(os.getpid(), 9)\n"
    code += "room.ModelFolder(pathlib.Path(sys.argv[1])).add(pathlib.Path(sys.argv[2]), {})"
    for _ in range(3):
        subprocess.run([sys.executable, "-c", code, str(folder.directory), str(saved_model)], check=False)
    assert list(folder.directory.glob(".adding-*"))
    folder.add(saved_model, {})
    names = {path.name for path in [*folder.directory.iterdir(), *folder.directory.parent.iterdir()]}
    assert names == {"1", "ledger.json", "multitask", "models.config"}


def test_models_beside_each_other_stay_in_the_configuration(folder: ModelFolder, saved_model: Path) -> None:
    folder.add(saved_model, {})
    second = ModelFolder(folder.directory.parent / "second")
    second.add(saved_model, {})
    folder.add(saved_model, {})
    assert config(folder) == {"multitask": {"stable": 2, "previous": 1}, "second": {"stable": 1}}


def test_labels_leave_a_version_before_it_goes(folder: ModelFolder, saved_model: Path) -> None:
    for _ in range(3):
        folder.add(saved_model, {})
    code = "import sys, pathlib\nfrom multitask.serving.model_folder import ModelFolder\n"
    code += "ModelFolder(pathlib.Path(sys.argv[1])).roll_back(3)"
    going = subprocess.Popen([sys.executable, "-c", code, str(folder.directory)])
    end = time.monotonic() + 60
    while config(folder)["multitask"]["stable"] == 3:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert folder.versions() == [1, 2, 3], "the version goes later than the label"
    assert config(folder)["multitask"] == {"stable": 2, "previous": 1}
    assert going.wait(60) == 0
    assert folder.versions() == [1, 2]


def test_a_version_that_came_meanwhile_is_not_passed_over(folder: ModelFolder, saved_model: Path) -> None:
    folder.add(saved_model, {}, after=None)
    folder.add(saved_model, {}, after=1)
    with pytest.raises(GateError, match="version 2 was published meanwhile"):
        folder.add(saved_model, {}, after=1)
    assert folder.versions() == [1, 2]


@pytest.mark.parametrize("name", ["..", ".hidden", 'a"b', "a b", "ä"])
def test_a_name_that_no_server_could_serve_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a model"):
        ModelFolder(tmp_path / name)
