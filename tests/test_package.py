"""The package as it is installed: whole outside the repository, with page, recipes, demo and a command."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository, unpacked; the sources are copied, since a build writes beside them."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "multitask", source / "multitask", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "model_training/recipes", source / "model_training/recipes")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(source), "."]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=240)
    with zipfile.ZipFile(next(source.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=240
    )


def test_every_room_recipe_and_page_is_in_the_package(installed: Path) -> None:
    for path in (ROOT / "multitask").rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert (installed / path.relative_to(ROOT)).is_file(), path
    for recipe in (ROOT / "model_training/recipes").glob("*.toml"):
        assert (installed / "multitask/recipes" / recipe.name).is_file()


def test_the_command_lists_the_doors_and_enters_them(installed: Path, tmp_path: Path) -> None:
    [metadata] = installed.glob("*.dist-info")
    assert "multitask = multitask.__main__:main" in (metadata / "entry_points.txt").read_text(encoding="utf-8")
    listed = run(installed, tmp_path, "-m", "multitask")
    assert listed.returncode == 0
    for door in ("explore", "train", "evaluate", "predict", "export", "publish", "serve"):
        assert any(line.startswith(f"{door} ") for line in listed.stdout.splitlines())
    assert "python -m multitask.predict" in run(installed, tmp_path, "-m", "multitask", "predict", "--help").stdout
    wrong = run(installed, tmp_path, "-m", "multitask", "trian")
    assert wrong.returncode == 2
    assert 'Did you mean "train"?' in wrong.stderr


@pytest.mark.slow
@pytest.mark.tensor
def test_a_recipe_trains_by_its_name_outside_the_repository_and_its_next_commands_run(
    installed: Path, tmp_path: Path
) -> None:
    script = "import multitask.demo.sample as sample\nsample.draw_sample('data/demo', images=130)"
    assert run(installed, tmp_path, "-c", script).returncode == 0
    small = ("--image-size", "32", "32", "--epochs", "2", "--weights", "random", "--backbone", "small_cnn")
    trained = run(installed, tmp_path, "-m", "multitask", "train", "--config", "demo", *small)
    assert trained.returncode == 0, trained.stderr
    assert "width_mae" in trained.stdout
    [predict] = [line for line in trained.stdout.splitlines() if "multitask.predict" in line]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        ["bash", "-c", predict], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "predictions.parquet").is_file()


def test_the_page_is_found_where_the_package_is(installed: Path, tmp_path: Path) -> None:
    script = "from multitask.serving.server import make_app\nfrom multitask.serving.telemetry import Telemetry\n"
    script += "make_app(None, Telemetry())"
    done = run(installed, tmp_path, "-c", script)
    assert done.returncode == 0, done.stderr
