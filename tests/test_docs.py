"""The documents: their commands run, their paths exist, their tables are true."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from multitask.config import Config, GateConfig, load_config
from multitask.data.archives import open_archive
from multitask.runs import Run

ROOT = Path(__file__).parent.parent
DOCUMENTS = [path for path in ROOT.rglob("*.md") if ".venv" not in path.parts and "runs" not in path.parts]
RECIPES = sorted((ROOT / "model_training/recipes").glob("*.toml"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text(encoding="utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_names_a_door_that_exists_and_flags_that_it_has(document: Path) -> None:
    for module, flags in re.findall(r"python -m multitask\.(\w+)([^`\n]*)", document.read_text(encoding="utf-8")):
        assert (ROOT / "multitask" / f"{module}.py").exists(), module
        source = (ROOT / "multitask" / f"{module}.py").read_text(encoding="utf-8")
        has_settings = module in ("train", "tune", "explore")
        settings = (ROOT / "multitask/settings.py").read_text(encoding="utf-8") if has_settings else ""
        for flag in re.findall(r"--([a-z-]+)", flags.split("#")[0]):
            name = flag.replace("-", "_")
            assert flag == "help" or f"    {name}:" in source or f'"--{flag}"' in settings, flag


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_is_a_valid_configuration_that_opens_with_its_command(recipe: Path) -> None:
    assert isinstance(load_config(recipe), Config)
    head = recipe.read_text(encoding="utf-8").splitlines()[:3]
    assert any(f"--config model_training/recipes/{recipe.name}" in line for line in head)


def test_the_configurations_in_the_documents_are_valid(tmp_path: Path) -> None:
    found = 0
    for document in DOCUMENTS:
        for block in re.findall(r"```toml\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL):
            (tmp_path / "c.toml").write_text(block, encoding="utf-8")
            load_config(tmp_path / "c.toml")
            found += 1
    assert found


def test_make_has_the_targets_that_the_documents_name() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for document in DOCUMENTS:
        for target in re.findall(r"`make ([\w-]+)", document.read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name}: make {target}"


def test_requirements_pin_every_dependency_of_the_project_with_hashes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    for requirement in project["dependencies"]:
        name = re.match(r"[\w-]+", requirement)[0]
        assert re.search(rf"^{name}==", pinned, re.MULTILINE | re.IGNORECASE), name
    packages = len(re.findall(r"^\S+==", pinned, re.MULTILINE))
    assert pinned.count("--hash=sha256:") >= packages
    assert "://" not in pinned


@pytest.mark.tensor
def test_the_python_example_of_the_readme_runs_as_it_is_written(sample: Path, tmp_path: Path) -> None:
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    pd.read_parquet(sample / "data.parquet").to_csv(tmp_path / "labels.csv", index=False)
    with zipfile.ZipFile(sample / "images.zip") as photos:
        photos.extractall(tmp_path / "photos")
        (tmp_path / "photo.jpg").write_bytes(photos.read(photos.namelist()[0]))
    block += "\nassert set(run.metrics['task']) == {'category', 'size'}\n"
    block += "assert run.predict('photo.jpg')['status'].tolist() == ['ok']\n"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.tensor
def test_the_quickstart_notebook_runs(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    saved = nbformat.read(ROOT / "model_training/quickstart.ipynb", as_version=4)
    found = nbformat.from_dict(json.loads(json.dumps(saved)))
    # Fewer photos and epochs: what it shows is looked at where it is written.
    found.cells[1].source = found.cells[1].source.replace("images=400", "images=130")
    found.cells[3].source = found.cells[3].source.replace("epochs=20", "epochs=2")
    found.cells.insert(0, nbformat.v4.new_code_cell(f"import sys; sys.path.insert(0, {str(ROOT)!r})"))
    NotebookClient(found, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    for before, after in zip(saved.cells, found.cells[1:], strict=True):
        if before.cell_type == "code":
            assert [output.output_type for output in before.outputs] == [
                output.output_type for output in after.outputs if output.get("name") != "stderr"
            ]
    assert (tmp_path / "model_training/runs/quickstart/report.html").is_file()


def test_the_commands_of_production_run_as_the_readme_tells_them(trained: Run, tmp_path: Path) -> None:
    """Publish, serve, ask with curl, upload, predict by address: every line of the block, in a folder of its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## In production")[1]
    lines = [
        line.split("#")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    publish, serve, *questions = [line for line in lines[:6] if line]
    with open_archive(*trained.config.data.images) as archive:
        (tmp_path / "photo.jpg").write_bytes(archive[next(iter(archive))])
    data = Path(trained.config.data.labels).parent
    shutil.copy(data / "test.parquet", tmp_path)
    shutil.copy(data / "images.zip", tmp_path / "test.zip")
    run_folder = shutil.copytree(trained.folder.directory, tmp_path / "model_training/runs/latest")
    # So small a network beats nothing, which the gate would say.
    config = load_config(run_folder / "config.toml")
    config.model_copy(update={"gate": GateConfig(beats_baseline=False)}).save(run_folder / "config.toml")
    paths = [str(Path(sys.executable).parent), os.environ["PATH"]]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(paths)}

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, (line, done.stderr)
        return done.stdout

    assert "published: serving/models/multitask/1" in run(publish)
    server = subprocess.Popen(
        ["bash", "-c", f"exec {serve} --port 0"], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        url = next(line for line in server.stderr if line.startswith("serving on")).split()[-1]
        predict, upload, table = (run(line.replace("http://127.0.0.1:8501", url)) for line in questions)
    finally:
        server.terminate()
        server.communicate(timeout=30)
    assert '"category_top": [' in predict
    assert '"ok":true' in upload.replace(" ", "")
    assert "predictions.parquet" in table
    assert (tmp_path / "predictions.parquet").exists()
