"""The laws of the house: who may import whom, what loads without TensorFlow, how long a room may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {path.stem: path for path in (ROOT / "multitask").glob("*.py") if path.stem != "__init__"}


def layers() -> dict[str, list[str]]:
    """Read the table of layers from the README, the one place where it stands."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("<!-- layers -->")[1].split("<!-- end layers -->")[0]
    found = {}
    for line in table.splitlines():
        match = re.match(r"\| ([a-z ]+) \|[^|]*\| (.*) \|", line)
        if match and match[1] != "layer":
            found[match[1]] = re.findall(r"`(\w+)`", match[2])
    return found


LAYERS = layers()
LEVEL = {room: level for level, rooms in enumerate(LAYERS.values()) for room in rooms}


def imports(path: Path) -> tuple[set[str], set[str]]:
    """Return the rooms and the outside packages that a file imports, inside functions as well."""
    rooms, packages = set(), set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            first, *rest = name.split(".")
            rooms.add(rest[0]) if first == "multitask" else packages.add(first)
    return rooms & set(ROOMS), packages


def test_every_room_stands_in_exactly_one_layer_of_the_readme() -> None:
    named = [room for rooms in LAYERS.values() for room in rooms]
    assert sorted(named) == sorted(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_from_layers_above_it_or_its_own(room: str) -> None:
    for other in imports(ROOMS[room])[0]:
        assert LEVEL[other] <= LEVEL[room], f"{room} imports {other}"
        between = {list(LAYERS)[LEVEL[room]], list(LAYERS)[LEVEL[other]]}
        assert between != {"scores", "tensors"}, f"{room} and {other} meet only in jobs"


def test_no_room_is_imported_in_a_circle() -> None:
    graph = {room: imports(path)[0] for room, path in ROOMS.items()}
    order: list[str] = []
    while len(order) < len(graph):
        ready = [room for room, needs in graph.items() if room not in order and needs <= set(order)]
        assert ready, f"circle among {sorted(set(graph) - set(order))}"
        order += ready


def test_nobody_imports_a_door() -> None:
    doors = set(LAYERS["doors"]) - {"cli"}
    for room, path in ROOMS.items():
        assert not imports(path)[0] & doors, room


def test_the_first_layer_needs_pydantic_and_tyro_alone() -> None:
    for room in LAYERS["words"]:
        outside = imports(ROOMS[room])[1] - set(sys.stdlib_module_names)
        assert outside <= {"pydantic", "pydantic_core", "tyro", "tomli_w"}, room


def test_four_layers_and_all_doors_load_without_tensorflow() -> None:
    rooms = [room for layer in ("words", "files", "scores", "wire", "doors") for room in LAYERS[layer]]
    code = "import sys\n" + "".join(f"import multitask.{room}\n" for room in rooms)
    code += "assert not {'tensorflow', 'keras'} & set(sys.modules), 'TensorFlow was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_rooms_and_functions_keep_their_size() -> None:
    for room, path in ROOMS.items():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 300, room
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{room}.{node.name}"


def test_every_room_opens_with_one_line_that_says_what_it_is() -> None:
    for room, path in ROOMS.items():
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, room
        assert docstring.splitlines()[0].rstrip()[-1] in ".:", room


def test_the_front_door_costs_nothing_and_holds_what_it_lists() -> None:
    code = "import sys, multitask\nassert not {'tensorflow', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    import multitask

    for name in multitask.__all__:
        assert getattr(multitask, name).__name__ == name
        assert name not in LAYERS["doors"]
    with pytest.raises(AttributeError, match="nobody"):
        _ = multitask.nobody
