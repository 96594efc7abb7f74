"""The documents: their commands run, their paths exist, their tables are true."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from multitask.config import Config, load_config

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
        settings = (ROOT / "multitask/config.py").read_text(encoding="utf-8") if module == "train" else ""
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
