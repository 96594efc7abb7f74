"""Ray: the cores of many machines, or of this one, work beforehand; tasks of processes that were killed are done again.

All of them see the same files at the same places. The cluster is that of $RAY_ADDRESS; without it one is started here.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ray

from multitask.errors import RunError
from multitask.progress import Progress

# A share is given up when so many processes in turn died of it.
_TRIES = 3
# Shares that wait for each core beside the one it works on: enough that none is idle, few to hold and to lose.
_WAITING = 3
# More items than make so many shares go into larger ones: the driver starts some hundreds a second. With fewer, many
# cores would wait for the last ones; see `benchmarks/billion.py`.
MOST_SHARES = 300_000
# How long a cluster may take to let somebody in.
_PATIENCE_S = 10.0


@contextlib.contextmanager
def open_workers(progress: Progress) -> Iterator[RayWorkers]:
    """Join the cluster, or start one; leave it at the end."""
    # One thread per process: as many processes work as there are cores.
    variables = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGES), os.environ.get("PYTHONPATH", "")])),
        "TF_NUM_INTRAOP_THREADS": "1",
        "TF_NUM_INTEROP_THREADS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "OMP_NUM_THREADS": "1",
    }
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS", "")
    try:
        _knock(address)
        ray.init(log_to_driver=False, logging_level=logging.ERROR, runtime_env={"env_vars": variables})
    except (OSError, RuntimeError, ValueError) as error:
        raise RunError(
            f"no cluster of Ray to be reached ({str(error).strip().splitlines()[0]})",
            where=f"RAY_ADDRESS={address}",
            fix="Check the address, or unset it to use the cores of this machine.",
        ) from None
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]
        progress.say(f"Ray: {len(nodes)} nodes, {ray.cluster_resources().get('CPU', 0):.0f} cores")
        yield RayWorkers(progress)
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody listens there: Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()


class RayWorkers:
    """Work beforehand on a cluster of Ray; see `workers.Workers`."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def share(self, function: Callable[[list[Any]], Any], items: Sequence[Any], title: str, size: int) -> list[Any]:
        """Do all items on the cluster; a share whose process was killed is done again elsewhere."""
        size = max(size, -(-len(items) // MOST_SHARES))
        starts = range(0, len(items), size)
        task = ray.remote(num_cpus=1, num_gpus=self._gpus(), max_retries=_TRIES)(_in_place)
        function_ref, folder = ray.put(function), os.getcwd()
        waiting: dict[Any, int] = {}
        found: list[Any] = [None] * len(starts)
        coming = iter(enumerate(starts))
        with self._progress.track(f"{title} on the cluster", len(items)) as advance:
            while True:
                # A cluster may grow meanwhile.
                for at, start in itertools.islice(coming, max(self._room() - len(waiting), 0)):
                    waiting[task.remote(folder, function_ref, list(items[start : start + size]))] = at
                if not waiting:
                    return found
                done, _ = ray.wait(list(waiting), num_returns=1)
                for share in done:
                    at = waiting.pop(share)
                    found[at] = self._result(share)
                    advance(min(size, len(items) - starts[at]))

    def _room(self) -> int:
        return (1 + _WAITING) * max(int(ray.cluster_resources().get("CPU", 1)), 1)

    def _gpus(self) -> int:
        return int(ray.cluster_resources().get("GPU", 0) > 0)

    def _result(self, done: Any) -> Any:
        try:
            return ray.get(done)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise RunError(
                f"{_TRIES + 1} processes of the cluster died of the same work ({str(error).strip().splitlines()[0]})",
                where="Ray",
                fix="Look into the logs of Ray for why; often memory. The same command goes on.",
            ) from None


_PACKAGES = Path(__file__).resolve().parent.parent.parent


def _in_place(folder: str, function: Callable[[list[Any]], Any], part: list[Any]) -> Any:
    """Call the function in the folder of the driver, in a process that outlives the call."""
    os.chdir(folder)
    if str(_PACKAGES) not in sys.path:
        sys.path.insert(0, str(_PACKAGES))
    return function(part)
