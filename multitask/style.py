"""How everything looks that people see: colours and type of plots, the style sheet of reports."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multitask.storage import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, GRID = "#1f2933", "#7b8794", "#e4e7eb"
RIGHT, WRONG, FROZEN, TRAINED = "#2f8f5b", "#c8443c", "#9fb3c8", "#e0913a"
SERIES = ("#2b6cb0", "#d9762b", "#2f8f5b", "#8e5ea2", "#c8443c", "#3a9ca6", "#8a6d3b", "#d1508f", "#5b6770", "#7a9a01")
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.titlesize": 11,
    "grid.color": GRID,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "white",
    "savefig.dpi": 150,
}

CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --faint: #66727f; --line: #e1e5ea; --paper: #fff; --card: #f6f8fa;
  --bar: #2b6cb0; --base: #c3ccd6; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --faint: #9aa7b4; --line: #2f3943; --paper: #14181d;
  --card: #1c232b; --bar: #63a4e6; --base: #465361; } img { filter: brightness(.92); } }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; } h2 { font-size: 1.15rem; margin: 2.4rem 0 .6rem; }
h3 { font-size: 1rem; margin: 1.2rem 0 .3rem; } p { margin: .3rem 0; } .faint { color: var(--faint); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th { text-align: left; font-weight: 600; color: var(--faint); } th, td { padding: .32rem .6rem .32rem 0;
  border-bottom: 1px solid var(--line); } .number { text-align: right; font-variant-numeric: tabular-nums; }
.track { position: relative; height: .7rem; min-width: 9rem; background: var(--card); border-radius: .35rem; }
.track i { position: absolute; height: 100%; border-radius: .35rem; } .fill { background: var(--bar); opacity: .35; }
.range { background: var(--bar); min-width: 3px; } .mark { background: var(--faint); width: 2px; }
figure { margin: 1rem 0; } img { max-width: 100%; border-radius: .4rem; background: #fff; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem; }
pre { background: var(--card); padding: .8rem 1rem; border-radius: .4rem; overflow-x: auto; }
ul { padding-left: 1.2rem; }
"""


def data_address(content: bytes, kind: str) -> str:
    """Return a picture as an address that holds it, for a page that opens without a network; kind is png or jpeg."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def save_plots(figures: Mapping[str, Figure], directory: Path) -> dict[str, Path]:
    """Write each figure as a PNG and return where they are."""
    from matplotlib import rc_context

    paths = {}
    for name, figure in figures.items():
        paths[name] = directory / f"{name}.png"
        with replacing(paths[name]) as path, rc_context(STYLE):
            figure.savefig(path)
    return paths
