"""Does a cluster give the same answers, and how much of each core? Prints the throughput per core against one process.

    python benchmarks/cluster.py --run RUN --images images.zip --labels labels.parquet     # 10 minutes on two cores

Two nodes of Ray with one core each, on this machine, predict 20,000 rows, once undisturbed and once with a working
process killed on the way. The files must be, byte for byte, that of a single process. The measure is a process on one
core while another does the same on the other: two threads of one processor share its units, whoever runs on them.
Starting up is left out: the time is that from the fourth answered block to the last but one.
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
from concurrent.futures import ThreadPoolExecutor
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
        out = {core: Path(folder) / core for core in ("0", "1")}
        for place in out.values():
            place.mkdir()
        with ThreadPoolExecutor() as pool:
            rates = [
                pool.submit(_predict, place, [*flags, "--out", "alone.parquet"], {}, core)
                for core, place in out.items()
            ]
            alone = sum(rate.result() for rate in rates) / len(rates)
        print(f"one process on one core, beside another: {alone:,.1f} rows/s")
        for name, kills in (("undisturbed", False), ("a process killed", True)):
            shared = Path(folder) / f"shared{int(kills)}.parquet"
            together = _together(Path(folder), [*flags, "--out", shared.name, "--on", "ray"], kills)
            same = (out["0"] / "alone.parquet").read_bytes() == shared.read_bytes()
            print(f"two nodes of one core each, {name}: {together:,.1f} rows/s, the same file: {same}")
            print(f"ratio per core, {name}: {together / 2 / alone:.2f}", flush=True)


def _predict(folder: Path, flags: list[str], environment: dict[str, str], cores: str = "0,1") -> float:
    """Predict; return rows a second, from the times at which parts of the answer appear."""
    command = ["taskset", "-c", cores, sys.executable, "-m", "multitask.predict", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    times: dict[str, float] = {}
    while process.poll() is None:
        for path in folder.glob(".*.parts/[0-9]*.npz"):
            times.setdefault(f"{path.parent.name}/{path.name}", time.monotonic())
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    seen = sorted(times.values())
    return BLOCK * (len(seen) - 5) / (seen[-2] - seen[3])


def _together(folder: Path, flags: list[str], kills: bool) -> float:
    from ray.cluster_utils import Cluster

    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    if kills:
        threading.Thread(target=_kill_one, args=(folder,), daemon=True).start()
    try:
        return _predict(folder, flags, {"RAY_ADDRESS": cluster.address})
    finally:
        cluster.shutdown()


def _kill_one(folder: Path) -> None:
    """Kill a working process when a third of the blocks is answered."""
    while len(list(folder.glob(".shared1*.parts/[0-9]*.npz"))) < 6:
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
