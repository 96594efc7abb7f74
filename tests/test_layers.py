"""The laws of the house: who may import whom, what loads without TensorFlow, how long a room may be."""

from __future__ import annotations

import ast
import re
import subprocess
import sys

import pytest

from tests.house import ROOT, doors, imports, in_order, package_of, packages, rooms

ROOMS = rooms()
LONGEST, MOST_ROOMS = 300, 15


def law() -> dict[str, set[str]]:
    """Read the table of packages from CONTRIBUTING.md, the one place where it stands: what each may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.split("<!-- packages -->")[1].split("<!-- end packages -->")[0]
    lines = re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", table, re.MULTILINE)
    found = {package: set(re.findall(r"\w+", may)) - {"nothing"} for package, may in lines}
    return {package: set(found) - {"doors"} if may == {"all"} else may for package, may in found.items()}


def test_packages_import_what_the_law_says_and_no_more() -> None:
    found = packages()
    assert found.pop("doors") <= set(found)
    assert found == {package: may for package, may in law().items() if package != "doors"}


def test_packages_stand_in_the_order_of_their_imports_without_a_circle() -> None:
    order = list(law())
    for package, others in law().items():
        assert {order.index(other) < order.index(package) for other in others} <= {True}, package


def test_no_room_is_imported_in_a_circle() -> None:
    graph = {room: imports(path)[0] for room, path in ROOMS.items()}
    assert sorted(in_order(graph)) == sorted(graph)


def test_nobody_imports_a_door_or_a_private_name_of_another_room() -> None:
    for room, path in ROOMS.items():
        found, _, private = imports(path)
        assert not private, room
        if room != "__main__":
            assert not found & (doors() - {"cli"}), room


def test_a_room_neither_repeats_its_package_nor_differs_from_a_neighbour_by_a_suffix() -> None:
    for room in ROOMS:
        *package, name = room.split(".")
        assert not package or name[:5] != package[0][:5], room


def test_words_need_pydantic_and_tyro_alone() -> None:
    for room in (room for room in ROOMS if package_of(room) == "words"):
        outside = imports(ROOMS[room])[1] - set(sys.stdlib_module_names)
        assert outside <= {"pydantic", "pydantic_core", "tyro", "tomli_w", "rich", "matplotlib"}, room


def test_a_client_needs_the_protocol_alone() -> None:
    assert imports(ROOMS["serving.client"])[0] == {"errors", "prediction.protocol", "spec"}


def test_the_doors_and_half_of_the_packages_load_without_tensorflow() -> None:
    light = ("words", "doors", "data", "audit", "evaluation", "monitoring", "serving", "demo")
    chosen = [room for room in ROOMS if package_of(room) in light and room != "__main__"]
    code = "import sys\n" + "".join(f"import multitask.{room}\n" for room in chosen)
    code += "assert not {'tensorflow', 'keras'} & set(sys.modules), 'TensorFlow was imported'"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_rooms_functions_and_packages_keep_their_size() -> None:
    for room, path in ROOMS.items():
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= LONGEST, room
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{room}.{node.name}"
    # There are as many doors as things that a person does.
    for package in law().keys() - {"doors"}:
        assert sum(package_of(room) == package for room in ROOMS) < MOST_ROOMS, package


def test_every_room_and_package_opens_with_a_line_that_says_what_it_is() -> None:
    for path in [*ROOMS.values(), *(ROOT / "multitask").rglob("__init__.py")]:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
        assert docstring, path
        assert docstring.splitlines()[0].rstrip()[-1] in ".:", path


def test_every_package_says_what_goes_in_what_comes_out_and_what_to_read_first() -> None:
    for path in (ROOT / "multitask").glob("*/__init__.py"):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert re.search(r"^In: .* Out: .*\nRead `(\w+)` first", docstring, re.MULTILINE), path
        first = re.search(r"Read `(\w+)` first", docstring)
        assert first is not None, path
        assert (path.parent / f"{first[1]}.py").is_file(), path


def test_tests_mirror_the_packages() -> None:
    for path in (ROOT / "tests").glob("*/test_*.py"):
        assert (ROOT / "multitask" / path.parent.name).is_dir(), path


def test_the_front_door_costs_nothing_and_holds_what_it_lists() -> None:
    code = "import sys, multitask\nassert not {'tensorflow', 'pydantic', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    import multitask

    for name in multitask.__all__:
        assert getattr(multitask, name).__name__ == name
        assert name not in doors()
    with pytest.raises(AttributeError, match="nobody"):
        _ = multitask.nobody
