"""What do a large archive and a large column of images cost to open? Prints ratios, each from one run.

    python benchmarks/opening.py                           # 2 minutes on two cores, 1.5 GB of disk

A zip of 300,000 members: CPU seconds and memory held by `open_archive` against zipfile's own `ZipFile`. Parquet files
of 350 and 700 MB of images in one row group: how much more memory reading all of the second takes than the first. Each
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_MEASURE = """
import json, time, zipfile
from multitask.data.archives import open_archive
def memory(kind):
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith(kind))) / 1024
before, peak, started = memory("VmRSS"), memory("VmHWM"), time.process_time()
{work}
print(json.dumps([time.process_time() - started, memory("VmRSS") - before, memory("VmHWM") - peak]))
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=300_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "photos.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(arguments.members):
                archive.writestr(f"photos/{number % 1000:03}/image-{number:07}.jpg", b"x")
        plain, ours = (
            _measure(f"file = zipfile.ZipFile({str(path)!r})"),
            _measure(f"file = open_archive({str(path)!r})"),
        )
        print(f"zip of {arguments.members:,} members: zipfile {plain[0]:.1f} CPU s, {plain[1]:.0f} MB held; ours "
              f"{ours[0]:.1f} s, {ours[1]:.0f} MB: {ours[0] / plain[0]:.1f} times the time, "
              f"{ours[1] / plain[1]:.2f} times the memory")  # fmt: skip
        peaks = [_column(Path(name) / "t.parquet", rows)[2] for rows in (3000, 6000)]
        print(f"column of images in one row group: 350 MB at a peak of +{peaks[0]:.0f} MB, 700 MB at +{peaks[1]:.0f}: "
              f"{peaks[1] / peaks[0]:.2f} times the memory for twice the file")  # fmt: skip


def _column(path: Path, rows: int) -> list[float]:
    random = np.random.default_rng(0)
    images = [random.bytes(120_000) for _ in range(rows)]
    pq.write_table(pa.table({"uuid": [f"p{row}" for row in range(rows)], "image": images}), path, row_group_size=rows)
    return _measure(
        f"archive = open_archive('{path}::uuid::image')\nassert sum(map(len, archive.values())) == 120_000 * {rows}"
    )


def _measure(work: str) -> list[float]:
    """Return CPU seconds, megabytes held and megabytes at the peak."""
    code = _MEASURE.format(work=work)
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return [float(value) for value in json.loads(done.stdout)]


if __name__ == "__main__":
    main()
