"""The house as the code has it: packages and what each imports; `python -m tests.house` prints it as a table."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "multitask"


def rooms() -> dict[str, Path]:
    """Return every file of the package by its dotted name below `multitask`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.stem != "__init__"
    }


def doors() -> set[str]:
    """Return the rooms that a person runs: those on top that end in `cli.run_door`, and what lists them."""
    return {
        name
        for name, path in rooms().items()
        if "." not in name and "\n    cli.run_door(main)" in path.read_text(encoding="utf-8")
    } | {"__main__", "cli", "notebook"}


def package_of(room: str) -> str:
    """Return the package of a room; those on top are `doors` or `words`."""
    if "." in room:
        return room.split(".")[0]
    return "doors" if room in doors() else "words"


def imports(path: Path) -> tuple[set[str], set[str], set[str]]:
    """Return rooms, outside packages and private names that a file imports, inside functions as well."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(node)
        for test in ast.walk(tree)
        if isinstance(test, ast.If) and isinstance(test.test, ast.Name) and test.test.id == "TYPE_CHECKING"
        for node in ast.walk(test)
    }
    found, outside, private = set(), set(), set()
    known = rooms()
    for node in ast.walk(tree):
        if id(node) in typing_only or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for alias in node.names:
            name = f"{node.module}.{alias.name}" if isinstance(node, ast.ImportFrom) else alias.name
            first, *rest = name.split(".")
            if first != "multitask":
                outside.add(first)
                continue
            if rest and rest[-1].startswith("_") and rest[-1] != "__version__":
                private.add(name)
            longest = next((".".join(rest[:n]) for n in (3, 2, 1) if ".".join(rest[:n]) in known), None)
            found |= {longest} if longest else set()
    return found, outside, private


def packages() -> dict[str, set[str]]:
    """Return per package the other packages it imports."""
    found: dict[str, set[str]] = {}
    for room, path in rooms().items():
        package = package_of(room)
        found.setdefault(package, set()).update(package_of(other) for other in imports(path)[0])
    return {package: others - {package} for package, others in found.items()}


def in_order(graph: dict[str, set[str]]) -> list[str]:
    """Return the names so that each comes after all it imports; those of a circle are left out."""
    order: list[str] = []
    while ready := [name for name in sorted(graph) if name not in order and graph[name] <= set(order)]:
        order += ready
    return order


def main() -> None:
    """Print the packages in the order of their imports, a mark where a row imports a column."""
    graph = packages()
    order = in_order(graph)
    width = max(map(len, graph))
    for position, package in enumerate(order):
        marks = "".join(("●" if other in graph[package] else "·").center(4) for other in order[:position])
        count = sum(package_of(room) == package for room in rooms())
        print(f"{package:>{width}} {count:3} rooms  {marks} {package[:3]}")
    if circle := sorted(set(graph) - set(order)):
        print(f"in a circle: {', '.join(circle)}")


if __name__ == "__main__":
    main()
