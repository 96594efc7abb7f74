"""A siege of a real server: everything hostile at once, and good clients beside it who must not notice.

Some minutes; `python -m pytest -m siege`.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests

from multitask.demo.probe import probe_images
from multitask.publishing.proving import serving
from multitask.serving.native import NativePredictor
from tests import hostile
from tests.serving.test_fuzz import memory_mb

pytestmark = [pytest.mark.siege, pytest.mark.timeout(900)]

SECONDS = 60
PREDICT = "/v1/models/multitask:predict"
GOOD = {name: data for name, data in probe_images().items() if not name.startswith("broken")}


def body(*images: bytes) -> bytes:
    return json.dumps({"instances": [{"b64": base64.b64encode(data).decode()} for data in images]}).encode()


def watch(url: str, seconds: float) -> tuple[list[float], list[float]]:
    """Return how long the health check took and how large the server was, again and again; in a process of its own.

    The clients of the siege share one interpreter, and would be measured with it.
    """
    waits, sizes, end = [], [], time.monotonic() + seconds
    while time.monotonic() < end:
        started = time.monotonic()
        requests.get(f"{url}/healthz", timeout=30)
        waits.append(time.monotonic() - started)
        sizes.append(memory_mb(url))
        time.sleep(0.2)
    return waits, sizes


class Siege:
    """Clients that keep asking one server until the end."""

    def __init__(self, url: str, expected: np.ndarray) -> None:
        self.url, self.expected = url, expected
        self.address = urlsplit(url).hostname, urlsplit(url).port
        self.done = threading.Event()
        self.wrong: list[str] = []
        self.answered = 0

    def be_good(self, seed: int) -> None:
        """Ask for a photo with scores that are known; a busy server may be asked again."""
        chance = random.Random(seed)
        while not self.done.is_set():
            number = chance.randrange(len(self.expected))
            try:
                reply = requests.post(self.url + PREDICT, data=body(list(GOOD.values())[number]), timeout=60)
            except requests.RequestException as error:
                self.wrong.append(f"no answer: {error}")
                continue
            if reply.status_code == 503:
                time.sleep(0.2)
            elif reply.status_code != 200:
                self.wrong.append(f"{reply.status_code} {reply.text[:200]}")
            elif not np.allclose(reply.json()["predictions"][0]["category"], self.expected[number], atol=1e-3):
                self.wrong.append(f"wrong scores for photo {number}")
            else:
                self.answered += 1

    def keep(self, attack: Callable[[], None]) -> None:
        while not self.done.is_set():
            with contextlib.suppress(requests.RequestException, OSError):
                attack()
            self.done.wait(0.2)

    def post(self, data: bytes, path: str = PREDICT, **headers: str) -> None:
        reply = requests.post(self.url + path, data=data, headers=headers, timeout=60)
        if reply.status_code >= 500 and reply.status_code not in (503, 504):
            self.wrong.append(f"{reply.status_code} {reply.text[:200]}")

    def upload(self, images: list[bytes], draw: bool) -> None:
        files = [("files", (f"{number}.jpg", data)) for number, data in enumerate(images)]
        requests.post(f"{self.url}/files", files=files, params={"draw": draw}, timeout=60)

    def stall(self, sent: int, count: int) -> None:
        """Begin some long bodies and then send a byte a second."""
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000000\r\n\r\n".encode()
        self.drip([head + b" " * sent] * count)

    def drip(self, starts: list[bytes]) -> None:
        connections = []
        for start in starts:
            connections.append(socket.create_connection(self.address, timeout=5))
            with contextlib.suppress(OSError):
                connections[-1].sendall(start)
        for _ in range(20):
            if self.done.wait(1):
                break
            for connection in connections:
                with contextlib.suppress(OSError):
                    connection.sendall(b"X")
        for connection in connections:
            connection.close()

    def ask_and_go(self) -> None:
        """Ask for much and do not wait for the answer."""
        data = body(*[GOOD["jpeg_large"]] * 64)
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        for _ in range(20):
            with socket.create_connection(self.address, timeout=10) as connection:
                connection.sendall(head + data)

    def never_read(self) -> None:
        """Ask for a long answer and take none of it."""
        data = json.dumps({"signature_name": "spec", "instances": [""] * 1000}).encode()
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n".encode()
        connections = [socket.create_connection(self.address, timeout=10) for _ in range(10)]
        for connection in connections:
            connection.sendall(head + data)
        self.done.wait(15)
        for connection in connections:
            connection.close()

    def attacks(self) -> Iterator[Callable[[], None]]:
        rgba, frames, scans = hostile.png(7900), hostile.gif(5000, 60), hostile.jpeg_in_scans(1200, 1000)
        photo = GOOD["jpeg_large"]
        yield lambda: self.post(b'{"' + b'\\"' * 2_000_000 + b" Inf")
        yield lambda: self.post(body(*[rgba] * 8))
        yield lambda: self.post(body(*[frames] * 8, *[scans] * 8, *[hostile.jpeg_in_scans(7000, 16)]))
        yield lambda: self.upload([rgba, frames, scans, rgba[: len(rgba) // 2]] * 4, draw=True)
        yield lambda: self.upload([photo] * 24, draw=True)
        bomb = gzip.compress(b'{"instances": [' + b"[]," * 33_000_000 + b"[]]}")
        yield lambda: self.post(bomb, **{"Content-Encoding": "gzip"})
        yield lambda: self.post(json.dumps({"instances": ["a"] * 100_000}).encode())
        yield lambda: self.post(json.dumps({"signature_name": "spec", "instances": [""] * 100_000}).encode())
        yield lambda: self.post(b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}")
        yield lambda: self.post(body(*[photo] * 1000))
        yield lambda: self.stall(50_000_000, 10)
        yield lambda: self.drip([b"POST / HTTP/1.1\r\nHo"] * 200)
        yield self.ask_and_go
        yield self.never_read


def test_good_clients_do_not_notice_a_siege(published: Path, exported: Path) -> None:
    expected = NativePredictor(exported).predict(list(GOOD.values())).values["category"]
    with serving(published, "--timeout", "60") as url:
        siege = Siege(url, expected)
        for photo in GOOD.values():
            siege.post(body(photo))
        before = memory_mb(url)
        attacks = list(siege.attacks())
        work = [lambda seed=seed: siege.be_good(seed) for seed in range(4)]
        work += [lambda attack=attack: siege.keep(attack) for attack in attacks]
        spawn = multiprocessing.get_context("spawn")
        with ThreadPoolExecutor(len(work)) as pool, ProcessPoolExecutor(1, mp_context=spawn) as apart:
            running = [pool.submit(part) for part in work]
            waits, sizes = apart.submit(watch, url, SECONDS).result()
            siege.done.set()
        for part in running:
            part.result()
        end = time.monotonic() + 60
        while memory_mb(url) > before + 300 and time.monotonic() < end:
            time.sleep(1)
        after = memory_mb(url)
    print(
        f"\nanswered {siege.answered}, slowest health {max(waits):.2f} s, "
        f"memory {before:.0f} MB, at most {max(sizes):.0f}, after {after:.0f}"
    )
    assert not siege.wrong, siege.wrong[:5]
    assert siege.answered > 20
    assert max(waits) < 1, sorted(waits)[-5:]
    assert max(sizes) < 1500
    assert after < before + 300


def test_twenty_thousand_requests_with_bad_ones_leave_nothing_behind(published: Path, exported: Path) -> None:
    expected = NativePredictor(exported).predict(list(GOOD.values())).values["category"]
    bodies = [body(data) for data in GOOD.values()]
    bad = [
        b"{",
        b'{"instances": [{"b64": "!"}]}',
        b'{"inputs": []}',
        body(hostile.gif(5000, 60)),
        body(b"x" * 200_000),
        b'{"instances": ' + b"[" * 100 + b"]" * 100 + b"}",
    ]
    wrong: list[str] = []

    def ask(seed: int) -> None:
        chance = random.Random(seed)
        with requests.Session() as session:
            for _ in range(1250):
                is_bad, number = chance.random() < 0.05, chance.randrange(len(bodies))
                reply = session.post(url + PREDICT, data=chance.choice(bad) if is_bad else bodies[number], timeout=60)
                if is_bad:
                    fine = reply.status_code == 400 or not reply.json()["predictions"][0]["image_ok"]
                else:
                    fine = reply.status_code == 200 and np.allclose(
                        reply.json()["predictions"][0]["category"], expected[number], atol=1e-3
                    )
                if not fine:
                    wrong.append(f"{reply.status_code} {reply.text[:200]}")

    sizes = []
    with serving(published) as url:
        for part in range(2):
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(ask, range(8 * part, 8 * part + 8)))
            sizes.append(memory_mb(url))
    print(f"\nmemory after 10,000 requests {sizes[0]:.0f} MB, after 20,000 {sizes[1]:.0f} MB")
    assert not wrong, wrong[:3]
    assert sizes[1] - sizes[0] < 60, sizes
