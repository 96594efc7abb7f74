"""Does the audit keep up with plain decoding? Prints the ratio, from one run.

    python benchmarks/audit.py [--images images.zip]      # 2 minutes on two cores; draws photos if none are given

10,000 JPEGs of 400x530 in a zip, photos given or drawn, each made different. Rate: `audit_rows` (read, digest, decode,
measure, compare all with all) against reading and fully decoding the same files with Pillow in as many threads as there
are cores, turn and turn about. Then the audit again, on unchanged data; and the peak of memory while it ran.
"""

from __future__ import annotations

import argparse
import io
import itertools
import os
import resource
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np
import pandas as pd
from PIL import Image

from multitask.audit.rows import audit_rows
from multitask.data.archives import Archive, open_archive
from multitask.data.tables import Table
from multitask.demo.sample import draw_sample
from multitask.parallel import bounded_map
from multitask.spec import Task

ROUNDS = 3


def main() -> None:
    """Measure the rate, the second audit and memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--files", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = arguments.images or draw_sample(folder / "demo", images=300) / "images.zip"
        ids = _write(folder / "photos.zip", source, arguments.files)
        labels = np.arange(len(ids), dtype=np.float32) % 2
        table = Table(np.array(ids, object), {"tag": labels[:, None]}, pd.DataFrame(index=range(len(ids))))
        task = Task(name="tag", kind="multilabel", columns=("tag",), classes=("tag",))
        with open_archive(folder / "photos.zip") as archive:

            def audit(cache: Path | None = None) -> None:
                assert not (audit_rows(table, [task], archive, 64_000_000, cache).reasons != "").any()

            seconds = []
            for _ in range(ROUNDS):
                used = time.process_time()
                seconds.append((_timed(lambda: _decode(archive)), _timed(audit)))
                used = time.process_time() - used
            audit(folder / "cache")
            again = _timed(lambda: audit(folder / "cache"))
    bare, ours = (statistics.median(column) for column in zip(*seconds, strict=True))
    print(f"{len(ids):,} JPEGs of 400x530, {os.cpu_count()} cores, {ROUNDS} rounds, medians")
    print(f"read and decode:    {len(ids) / bare:8.0f} images/s")
    print(f"audit:              {len(ids) / ours:8.0f} images/s")
    print(f"ratio:              {statistics.median(a / b for a, b in seconds):8.2f}")
    print(f"cores busy in the last round: {used / sum(seconds[-1]):5.2f}")
    print(f"second audit:       {again:8.2f} s")
    print(f"peak memory:        {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:8.0f} MB")


def _write(path: Path, source: Path, count: int) -> list[str]:
    """Write photos of one size, each with a corner of its own, so that no two files are equal."""
    with open_archive(source) as archive, zipfile.ZipFile(path, "w") as out:
        pictures = []
        for name in itertools.islice(archive, 300):
            try:
                pictures.append(Image.open(io.BytesIO(archive[name])).convert("RGB").resize((400, 530)))
            except OSError:
                continue
        for number in range(count):
            picture = pictures[number % len(pictures)]
            picture.paste((number % 256, number // 256 % 256, 128), (0, 0, 16, 16))
            stream = io.BytesIO()
            picture.save(stream, "JPEG", quality=85)
            out.writestr(f"{number:06}.jpg", stream.getvalue())
    return [f"{number:06}" for number in range(count)]


def _decode(archive: Archive) -> None:
    def decode(data: bytes) -> None:
        Image.open(io.BytesIO(data)).load()

    for _ in bounded_map(decode, (archive[name] for name in archive), 2 * (os.cpu_count() or 1)):
        pass


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
