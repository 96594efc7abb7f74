"""Does a cluster give the same answers, and how much of each core? Prints the throughput per core against one process.

    python benchmarks/cluster.py --run RUN --images images.zip --labels labels.parquet     # 10 minutes on two cores

Two nodes of Ray with one core each, on this machine, predict 20,000 rows; in the middle a working process is killed.
The file must be, byte for byte, that of a single process on one core. Starting up is left out of both: the time is that
between the first and the last answered block.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
BLOCK = 1024


def main() -> None:
    """Predict alone and together, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--labels", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=20_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "rows.parquet"
        ids = pd.read_parquet(arguments.labels)["uuid"].tolist()
        pd.DataFrame({"uuid": (ids * (arguments.rows // len(ids) + 1))[: arguments.rows]}).to_parquet(table)
        flags = [str(table), "--run", str(arguments.run.resolve()), "--images", str(arguments.images.resolve())]
        alone = _predict(Path(folder), [*flags, "--out", "alone.parquet"], {}, cores="0")
        together = _together(Path(folder), [*flags, "--out", "shared.parquet", "--on", "ray"])
        same = (Path(folder) / "alone.parquet").read_bytes() == (Path(folder) / "shared.parquet").read_bytes()
        print(f"one process on one core: {alone:,.1f} rows/s between the first and the last block")
        print(f"two nodes of one core each, a process killed: {together:,.1f} rows/s, the same file: {same}")
        print(f"ratio per core: {together / 2 / alone:.2f}")


def _predict(folder: Path, flags: list[str], environment: dict[str, str], cores: str = "0,1") -> float:
    """Predict; return rows a second, from the times at which parts of the answer appear."""
    command = ["taskset", "-c", cores, sys.executable, "-m", "multitask.predict", *flags]
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), **environment}, stderr=subprocess.DEVNULL
    )
    times: dict[str, float] = {}
    while process.poll() is None:
        for path in folder.glob(".*.parts/[0-9]*.npz"):
            times.setdefault(f"{path.parent.name}/{path.name}", time.monotonic())
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seen = sorted(times.values())
    return BLOCK * (len(seen) - 2) / (seen[-2] - seen[0])


def _together(folder: Path, flags: list[str]) -> float:
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    threading.Thread(target=_kill_one, args=(folder,), daemon=True).start()
    try:
        return _predict(folder, flags, {"RAY_ADDRESS": cluster.address})
    finally:
        cluster.shutdown()


def _kill_one(folder: Path) -> None:
    """Kill a working process when a third of the blocks is answered."""
    while len(list(folder.glob(".shared*.parts/[0-9]*.npz"))) < 6:
        time.sleep(0.1)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cmdline").read_bytes().startswith(b"ray::_in_place"):
                os.kill(int(process.name), signal.SIGKILL)
                print(f"killed process {process.name}", flush=True)
                return
        except OSError:
            continue


if __name__ == "__main__":
    main()
