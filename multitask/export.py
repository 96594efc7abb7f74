"""Export a run as a proven SavedModel: `python -m multitask.export [--run RUN] [--out DIR]`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from multitask import cli
from multitask.errors import command
from multitask.progress import Lines


@dataclass(frozen=True)
class Arguments:
    """Flags of this door."""

    run: str = "latest"
    """Run to export."""
    out: Path | None = None
    """Directory to write; by default export in the run's folder."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """float32 runs everywhere; bfloat16 is for processors with AMX or AVX512-BF16 and for GPUs."""


def main(argv: Sequence[str] | None = None) -> int:
    """Export, print what was proven and the next commands."""
    arguments = cli.parse(Arguments, "multitask.export", __doc__, argv)
    from multitask.runs import open_run

    run = open_run(arguments.run)
    cli.load_tensorflow()
    from multitask.publishing.exporting import export_run

    out, proof = export_run(run, arguments.out, arguments.precision, Lines())
    rows = [
        [name, f"{proof.images}", f"{difference:.1e}", f"{proof.tolerance:.0e}"]
        for name, difference in proof.differences.items()
    ]
    cli.print_table("Proven against the trained network", ["way", "images", "largest difference", "allowed"], rows)
    print(f"SavedModel: {out}")
    cli.print_next(
        command("publish", "--run", run.folder.name),
        command("predict", "TEST.parquet", "--images", "IMAGES", "--model", out),
    )
    return 0


if __name__ == "__main__":
    cli.run_door(main)
