"""Does the server keep the network busy, and add little to one request? Prints both ratios, from one run.

    python benchmarks/serving.py [--images images.zip]      # 5 minutes on two cores; draws photos if none are given

Throughput: 16 clients, each with one photo a request, against `predict_table` with the same SavedModel on the same
photos, turn and turn about. Latency: the median of single requests to the idle server against direct calls of the
SavedModel in the C++ runtime, turn and turn about. Start: from `python -m multitask.serve` to the first answer.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import requests

from multitask.data.archives import open_archive
from multitask.demo.probe import probe_images
from multitask.demo.sample import draw_sample
from multitask.prediction.scoring import predict_table
from multitask.publishing.proving import serving
from multitask.serving.native import NativePredictor

ROUNDS, CLIENTS, CALLS = 3, 16, 15
# In a process of its own, so that TensorFlow's Python takes no memory or threads from what is measured.
EXPORT = """
from pathlib import Path
import sys
from multitask.config import Config, ModelConfig
from multitask.network.model import build_network
from multitask.publishing.saved_model import write_saved_model
classes = ("BLOUSES", "CASUAL_DRESSES", "MINI_DRESSES", "SHIRTS", "TANK_TOPS")
config = Config(model=ModelConfig(weights="random"))
spec = config.model_spec({"category": classes, "tags": config.tasks["tags"].columns})
write_saved_model(build_network(spec, heads="float64"), Path(sys.argv[1]), Path(sys.argv[2]).read_bytes())
"""


def main() -> None:
    """Measure throughput, latency and start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path)
    parser.add_argument("--rows", type=int, default=160, help="photos per round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = arguments.images or draw_sample(folder / "demo", images=arguments.rows) / "images.zip"
        photo = folder / "photo.jpg"
        photo.write_bytes(probe_images((400, 530))["jpeg_orientation_1"])
        model = folder / "models/multitask/1"
        model.parent.mkdir(parents=True)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(
            [sys.executable, "-c", EXPORT, str(model), str(photo)],
            check=True,
            env=environment,
            stderr=subprocess.DEVNULL,
        )
        started = time.perf_counter()
        with serving(folder / "models") as url, open_archive(images) as archive:
            ids = list(itertools.islice(archive, arguments.rows))
            bodies = [_body(archive[row]) for row in ids]
            _post(url, bodies[0])
            start = time.perf_counter() - started
            predictor = NativePredictor(model)
            photo_bytes = archive[ids[0]]
            predictor.predict([photo_bytes])
            rates = [
                (
                    len(ids) / _timed(lambda: predict_table(predictor, ids, archive, folder / "predictions.parquet")),
                    len(ids) / _timed(lambda: _clients(url, bodies)),
                )
                for _ in range(ROUNDS)
            ]
            times = [
                (_timed(lambda: predictor.predict([photo_bytes])), _timed(lambda: _post(url, bodies[0])))
                for _ in range(CALLS)
            ]
    batch, served = (statistics.median(column) for column in zip(*rates, strict=True))
    direct, asked = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
    print(f"VGG16, 224x224, float32, {len(ids)} photos, {ROUNDS} rounds, {CALLS} single calls, medians")
    print(f"predict_table:                     {batch:8.1f} images/s")
    print(f"server, {CLIENTS} clients, 1 photo each:    {served:8.1f} images/s")
    print(f"throughput ratio:                  {statistics.median(b / a for a, b in rates):8.2f}")
    print(f"direct call of the SavedModel:     {direct:8.1f} ms")
    print(f"single request to the server:      {asked:8.1f} ms")
    print(f"latency ratio:                     {asked / direct:8.2f}")
    print(f"start of the server to first answer: {start:6.1f} s")


def _body(data: bytes) -> str:
    return json.dumps({"instances": [{"b64": base64.b64encode(data).decode()}]})


def _post(url: str, body: str, session: requests.Session | None = None) -> None:
    found = (session or requests).post(f"{url}/v1/models/multitask:predict", data=body, timeout=120)
    assert found.status_code == 200, found.text[:300]
    assert found.json()["predictions"][0]["image_ok"]


def _clients(url: str, bodies: list[str]) -> None:
    """Ask with 16 clients at once, each taking the next photo when it has its answer."""
    waiting, lock = iter(bodies), threading.Lock()

    def ask() -> None:
        with requests.Session() as session:
            while True:
                with lock:
                    body = next(waiting, None)
                if body is None:
                    return
                _post(url, body, session)

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
