"""The doors, each with its line: `python -m multitask`, and `multitask DOOR ...` where the package is installed."""

from __future__ import annotations

import ast
import importlib
import sys
from importlib.resources import files

from multitask import cli
from multitask.errors import ConfigError, nearest

# In the order in which a person comes by them.
DOORS = (
    "explore",
    "train",
    "tune",
    "compare",
    "evaluate",
    "thresholds",
    "ensemble",
    "predict",
    "export",
    "publish",
    "serve",
    "monitor",
    "retrain",
)


def main(argv: list[str] | None = None) -> None:
    """Run the door that the first word names; without one, list them."""
    argv = sys.argv[1:] if argv is None else argv
    is_help = not argv or argv[0] in ("-h", "--help")
    cli.run_door(lambda _: _list() if is_help else _enter(argv[0], argv[1:]))


def _list() -> int:
    print("\n".join(f"{door:10} {_line(door)}" for door in DOORS))
    print("\nEach explains its settings: multitask DOOR --help, or python -m multitask.DOOR --help.")
    return 0


def _enter(door: str, argv: list[str]) -> int:
    if door not in DOORS:
        raise ConfigError(f'there is no door "{door}"', where="command line", fix=nearest(door, DOORS))
    return importlib.import_module(f"multitask.{door}").main(argv)


def _line(door: str) -> str:
    """Return what a door says of itself, without importing it."""
    source = (files("multitask") / f"{door}.py").read_text(encoding="utf-8")
    text = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
    return text.split(":")[0]


if __name__ == "__main__":
    main()
