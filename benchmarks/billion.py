"""How long would a billion images take on many machines? Plays the scheduler, since there is no such cluster here.

    python benchmarks/billion.py                                    # 10 seconds
    python benchmarks/billion.py --images 100000000 --nodes 50      # another one

What is played is what `integrations/ray.py` does: shares of equal size, each done again elsewhere when its machine
goes. The rate is the one measured here (README of this folder); machines go at random, as spot machines do, and come
back. The ratio is the ideal time, all cores always busy with work that counts, by the time that it takes.
"""

from __future__ import annotations

import argparse
import heapq
from dataclasses import dataclass

import numpy as np

# Measured: images a second and core of VGG16 in bfloat16 at 224 pixels; the driver's milliseconds for a share of Ray.
RATE, DRIVER_MS = 16.0, 0.7
# How much the time of a share differs from machine to machine: taken, not measured.
SPREAD = 0.1
HOUR = 3600.0
WIDTHS = (10, 13, 19, 8, 8, 8, 10, 8)
# Processes that may die of a share before it is given up.
TRIES = 4


@dataclass(frozen=True)
class Cluster:
    """Machines, their cores, how often each of them goes (hours) and how long it stays away (seconds)."""

    nodes: int
    cores: int
    hours: float
    away: float


@dataclass(frozen=True)
class Played:
    """What came of it: seconds, share of the work that was done twice, and shares that were given up."""

    seconds: float
    again: float
    given_up: int


def main() -> None:
    """Play some sizes of shares and rates of failure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000_000)
    parser.add_argument("--nodes", type=int, default=200)
    parser.add_argument("--cores", type=int, default=64)
    parser.add_argument("--rate", type=float, default=RATE, help="images a second and core")
    arguments = parser.parse_args()
    nodes, cores = arguments.nodes, arguments.cores
    ideal = arguments.images / (nodes * cores * arguments.rate)
    print(f"{arguments.images:,} images, {nodes} nodes of {cores} cores, {arguments.rate:g} a second each")
    print(f"ideal: {ideal / HOUR:.2f} h\n")
    names = ("shares", "images each", "a node goes every", "hours", "ratio", "twice", "given up", "driver")
    print("".join(f"{name:>{width}}" for name, width in zip(names, WIDTHS, strict=True)))
    for shares in (30_000, 100_000, 300_000, 1_000_000):
        for hours in (1e9, 24.0, 4.0):
            cluster = Cluster(nodes, cores, hours, 300.0)
            found = play(arguments.images, shares, cluster, arguments.rate)
            busy = shares * DRIVER_MS / 1000 / found.seconds
            every = "never" if hours > 1e6 else f"{hours:g} h"
            print(
                f"{shares:10,}{arguments.images // shares:13,}{every:>19}{found.seconds / HOUR:8.2f}"
                f"{ideal / found.seconds:8.2f}{found.again:8.1%}{found.given_up:10,}{busy:8.1%}",
                flush=True,
            )


def play(images: int, shares: int, cluster: Cluster, rate: float) -> Played:
    """Hand shares to cores until all are done; what a machine was at when it went is handed out again."""
    random = np.random.default_rng(0)
    each = images / shares / rate
    todo: list[int] = []
    left, tries = shares, np.zeros(shares, np.int8)
    # (time, kind, node, share, life): a core is done, a node goes, a node comes.
    done, goes, comes = 0, 1, 2
    life = np.zeros(cluster.nodes, int)
    events: list[tuple[float, int, int, int, int]] = []
    coming = iter(range(shares))
    at_work: list[set[int]] = [set() for _ in range(cluster.nodes)]
    idle: list[tuple[int, int]] = []
    driver = lost = 0.0
    given_up = 0

    def hand_out(now: float, node: int) -> None:
        nonlocal driver
        share = todo.pop() if todo else next(coming, None)
        if share is None:
            idle.append((node, life[node]))
            return
        # The driver hands out one after the other.
        driver = max(driver, now) + DRIVER_MS / 1000
        took = each * max(random.normal(1.0, SPREAD), 0.5)
        at_work[node].add(share)
        heapq.heappush(events, (driver + took, done, node, share, life[node]))

    for node in range(cluster.nodes):
        heapq.heappush(events, (random.exponential(cluster.hours * HOUR), goes, node, 0, 0))
        for _ in range(cluster.cores):
            hand_out(0.0, node)
    now = 0.0
    while left:
        now, kind, node, share, lived = heapq.heappop(events)
        if kind == done and lived == life[node]:
            at_work[node].discard(share)
            left -= 1
            hand_out(now, node)
        elif kind == goes:
            life[node] += 1
            heapq.heappush(events, (now + cluster.away, comes, node, 0, 0))
            # On the average half of a share is lost.
            lost += 0.5 * each * len(at_work[node])
            for broken in at_work[node]:
                tries[broken] += 1
                given_up += tries[broken] == TRIES
                todo.append(broken)
            at_work[node].clear()
            waiting = [free for free in idle if free[1] == life[free[0]]]
            idle.clear()
            for free, _ in waiting:
                hand_out(now, free)
        elif kind == comes:
            heapq.heappush(events, (now + random.exponential(cluster.hours * HOUR), goes, node, 0, 0))
            for _ in range(cluster.cores):
                hand_out(now, node)
    return Played(now, lost / (shares * each), int(given_up))


if __name__ == "__main__":
    main()
