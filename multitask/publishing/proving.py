"""The proof of an export: the trained network, the SavedModel in the C++ runtime and a live server answer alike.

The C++ runtime runs in a process that never imports TensorFlow's Python, and so does the server. A model that loads in
Python and fails every request in a model server is found here, and one that ends the server's process as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from multitask.errors import MultitaskError, PredictionError, ProofError
from multitask.prediction.decisions import DECISIONS, differences
from multitask.prediction.protocol import Predictor, Scores
from multitask.progress import Progress, Quiet
from multitask.serving.client import Client
from multitask.serving.model_folder import NAME
from multitask.serving.native import SPEC_FILE, NativePredictor
from multitask.spec import ModelSpec

# Largest difference of a score. float32: order of summation, seen up to 1e-6. bfloat16 has 8 significant bits.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
PROOF_FILE = "assets.extra/proof.json"


@dataclass(frozen=True)
class Proof:
    """What was compared: largest difference of any score by the way it was computed, and the digest of the model."""

    images: int
    readable: int
    tolerance: float
    differences: Mapping[str, float]
    model: str

    def as_dict(self) -> dict[str, Any]:
        """Return the proof ready for JSON."""
        return asdict(self)


def prove(
    trained: Predictor,
    saved_model: Path,
    images: Sequence[bytes],
    tolerance: float,
    progress: Progress = Quiet(),  # noqa: B008
) -> Proof:
    """Compare the trained network with its SavedModel, in the C++ runtime and behind HTTP.

    Args:
        trained: the network in Keras.
        saved_model: directory of the SavedModel.
        images: image files, broken ones among them.
        tolerance: largest difference of a score.
        progress: where to report.

    Raises:
        ProofError: an answer differs, or there is none.
    """
    expected = trained.predict(images)
    progress.say(f"proof: {len(images)} images in the C++ runtime")
    with _in_new_process() as pool:
        try:
            found, outputs = pool.submit(native_answers, saved_model, list(images)).result()
        except BrokenProcessPool:
            raise ProofError("the C++ runtime crashed", where=str(saved_model)) from None
        except MultitaskError as error:
            raise ProofError(f"the C++ runtime fails: {error}", where=str(saved_model)) from None
    _check_decoded(trained.spec, outputs)
    differences = {"C++ runtime": _difference(trained.spec, expected, found, "the C++ runtime", tolerance)}
    progress.say("proof: the same images through a server")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).mkdir()
        (Path(folder) / NAME / "1").symlink_to(saved_model.resolve(), target_is_directory=True)
        try:
            with serving(Path(folder)) as url:
                answered = Client(url, patience=5).predict(images)
        except MultitaskError as error:
            raise ProofError(f"the server fails: {error}", where=str(saved_model)) from None
    differences["HTTP server"] = _difference(trained.spec, expected, answered, "the server", tolerance)
    return Proof(len(images), int(expected.ok.sum()), tolerance, differences, digest(saved_model))


def native_answers(saved_model: Path, images: list[bytes]) -> tuple[Scores, dict[str, NDArray[Any]]]:
    """Answer in the C++ runtime: scores as a predictor, and all outputs as they are; runs in a process of its own."""
    predictor = NativePredictor(saved_model)
    scores = predictor.predict(images)
    outputs = predictor.model.run("serving_default", {"image_bytes": images})
    if "tensorflow" in sys.modules:
        raise PredictionError("TensorFlow's Python was imported, so this proves nothing")
    return scores, outputs


# The server, which ends with the process that started it, however that ends: its standard input ends then.
_SERVE = """
import os, runpy, signal, threading
def end_with_parent():
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end_with_parent, daemon=True).start()
runpy.run_module("multitask.serve", run_name="__main__", alter_sys=True)
"""


@contextlib.contextmanager
def serving(models: Path, *flags: str) -> Iterator[str]:
    """Run a server in a process of its own while the block runs; yield its address.

    It computes as the model says, without the rewrite to bfloat16 that a server may choose by itself: what is compared
    with it is the model, not the processor.

    Raises:
        PredictionError: it does not start.
    """
    command = [sys.executable, "-c", _SERVE, "--models", str(models), "--port", "0"]
    command += ["--precision", "float32", *flags]
    # The child finds this package wherever the parent did, installed or not.
    paths = [str(Path(__file__).resolve().parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stderr is not None
    try:
        said: list[str] = []
        for line in server.stderr:
            said.append(line.strip())
            if line.startswith("serving on "):
                break
        else:
            raise PredictionError("the server did not start", received=" / ".join(said[-3:]))
        yield said[-1].removeprefix("serving on ")
    finally:
        server.terminate()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stderr.close()


def digest(saved_model: Path) -> str:
    """Return a digest of everything in a SavedModel that computes, and of what says what the numbers mean."""
    found = hashlib.sha256()
    extra = [saved_model / SPEC_FILE, saved_model / "assets.extra/labels.json"]
    for path in [saved_model / "saved_model.pb", *sorted((saved_model / "variables").glob("*")), *extra]:
        found.update(path.name.encode())
        with open(path, "rb") as stream:
            found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()


def _in_new_process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def _difference(spec: ModelSpec, expected: Scores, found: Scores, name: str, tolerance: float) -> float:
    """Return the largest difference of a score, see `differences`.

    Raises:
        ProofError: it is too large, or an image is readable for one and not for the other.
    """
    if not np.array_equal(expected.ok, found.ok):
        wrong = np.flatnonzero(expected.ok != found.ok)
        raise ProofError(f"{name} disagrees on which images are readable", where=f"images {wrong.tolist()}")
    largest = 0.0
    for task in spec.tasks:
        difference = differences(task, expected.values[task.name], found.values[task.name])[expected.ok]
        # numpy's maximum keeps NaN, and a comparison with NaN is false: it fails.
        largest = float(np.maximum(largest, difference.max(initial=0.0)))
        if not largest <= tolerance:
            raise ProofError(
                f"{name} gives other scores than the trained network",
                where=f'task "{task.name}"',
                expected=f"a difference of at most {tolerance:g}",
                received=f"{largest:g}",
            )
    return largest


def _check_decoded(spec: ModelSpec, outputs: Mapping[str, NDArray[Any]]) -> None:
    """Check that the answers decoded in the graph are those that the prediction table would hold for these scores."""
    ok = outputs["image_ok"]
    for task in spec.tasks:
        expected = DECISIONS[task.kind].outputs(task, outputs[task.name][ok])
        if not all(np.array_equal(outputs[name][ok], values) for name, values in expected.items()):
            raise ProofError("the served answers do not follow from the served scores", where=f'task "{task.name}"')
