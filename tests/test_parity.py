"""One suite over every way to predict: Keras, the SavedModel in Python and in C++, the server, the client."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests

from multitask.data.archives import open_archive
from multitask.demo.probe import probe_images
from multitask.prediction.decisions import differences
from multitask.prediction.protocol import Scores
from multitask.prediction.scoring import predict_table
from multitask.publishing.proving import TOLERANCE
from multitask.runs import Run
from multitask.serving.client import Client
from multitask.serving.native import NativeModel, NativePredictor

PROBES = probe_images()
WAYS = ["saved_model_in_python", "native", "client", "upload"]


def keras_scores(run: Run, images: Sequence[bytes]) -> Scores:
    from multitask.prediction.trained import KerasPredictor

    return KerasPredictor.of_run(run, "float32").predict(images)


def python_scores(exported: Path, run: Run, images: Sequence[bytes]) -> Scores:
    import tensorflow as tf

    found = tf.saved_model.load(str(exported)).signatures["serving_default"](image_bytes=tf.constant(list(images)))
    return Scores(found["image_ok"].numpy(), {task.name: found[task.name].numpy() for task in run.spec.tasks})


def uploaded_scores(server: str, run: Run, images: Sequence[bytes]) -> Scores:
    files = [("files", (f"{number}.jpg", data)) for number, data in enumerate(images)]
    results = requests.post(f"{server}/files", files=files, timeout=60).json()["results"]
    ok = np.array([result["ok"] for result in results])
    values = {task.name: np.zeros((len(images), len(task.classes)), np.float32) for task in run.spec.tasks}
    for row in np.flatnonzero(ok):
        for task in run.spec.tasks:
            answer = results[row]["tasks"][task.name]
            for entry in answer.get("classes", answer.get("numbers")):
                values[task.name][row, task.classes.index(entry["name"])] = entry.get("score", entry.get("value"))
    return Scores(ok, values)


@pytest.fixture(scope="session")
def ways(trained: Run, exported: Path, server: str) -> dict[str, Callable[[Sequence[bytes]], Scores]]:
    return {
        "saved_model_in_python": lambda images: python_scores(exported, trained, images),
        "native": NativePredictor(exported).predict,
        "client": Client(server).predict,
        "upload": lambda images: uploaded_scores(server, trained, images),
    }


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_scores_of_the_trained_network(way: str, trained: Run, ways) -> None:
    expected, found = keras_scores(trained, list(PROBES.values())), ways[way](list(PROBES.values()))
    assert found.ok.tolist() == expected.ok.tolist()
    assert expected.ok.tolist() == [not name.startswith("broken") for name in PROBES]
    for task in trained.spec.tasks:
        apart = differences(task, expected.values[task.name], found.values[task.name])[expected.ok]
        assert apart.max() <= TOLERANCE["float32"], task.name


@pytest.mark.parametrize("way", WAYS)
def test_a_broken_image_leaves_the_others_as_they_are(way: str, ways) -> None:
    good = [PROBES["jpeg_orientation_1"], PROBES["png"]]
    alone = ways[way](good)
    among = ways[way]([good[0], b"broken", good[1], b""])
    assert among.ok.tolist() == [True, False, True, False]
    for task, values in alone.values.items():
        assert np.allclose(values, among.values[task][[0, 2]], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_orientations_are_turned_upright_everywhere(way: str, ways) -> None:
    """The eight files hold the same pixels and say how to turn them: eight different pictures to the network."""
    found = ways[way]([PROBES[f"jpeg_orientation_{code}"] for code in range(1, 9)])
    rows = np.concatenate(list(found.values.values()), axis=1)
    assert len(np.unique(rows.round(6), axis=0)) == 8


def test_predictions_are_the_same_table_by_every_predictor(
    trained: Run, exported: Path, server: str, tmp_path: Path
) -> None:
    from multitask.prediction.trained import KerasPredictor

    table = Path(trained.config.data.labels).parent / "test.parquet"
    ids = list(pd.read_parquet(table)["uuid"])
    predictors = {
        "keras": KerasPredictor.of_run(trained, "float32"),
        "native": NativePredictor(exported),
        "client": Client(server),
    }
    frames = {}
    with open_archive(*trained.config.data.images) as archive:
        for name, predictor in predictors.items():
            predict_table(predictor, ids, archive, tmp_path / f"{name}.parquet")
            frames[name] = pd.read_parquet(tmp_path / f"{name}.parquet")
    scores = list(frames["keras"].select_dtypes("float32").columns)
    for name in ("native", "client"):
        assert frames[name].drop(columns=scores).equals(frames["keras"].drop(columns=scores)), name
        assert np.nanmax(np.abs(frames[name][scores] - frames["keras"][scores])) <= TOLERANCE["float32"]


def test_a_program_without_tensorflows_python_gives_the_same_scores(
    trained: Run, exported: Path, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(PROBES["webp"])
    code = f"""
import sys
from pathlib import Path
from multitask.serving.native import NativePredictor
scores = NativePredictor({str(exported)!r}).predict([Path({str(image)!r}).read_bytes()])
assert not {{"tensorflow", "keras"}} & set(sys.modules)
print(repr({{name: values[0].tolist() for name, values in scores.values.items()}}))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    expected = keras_scores(trained, [PROBES["webp"]])
    for task, values in eval(found).items():
        assert np.allclose(values, expected.values[task][0], atol=TOLERANCE["float32"])


def test_pixels_and_bytes_get_the_same_answer(trained: Run, exported: Path) -> None:
    from multitask.network.preprocessing import preprocess

    model = NativeModel(exported)
    pixels = preprocess(PROBES["png"], trained.spec.image).numpy()[None]
    of_bytes = model.run("serving_default", {"image_bytes": [PROBES["png"]]})
    of_pixels = model.run("from_pixels", {"pixels": pixels})
    for name, values in of_bytes.items():
        if values.dtype == np.float32:
            assert np.allclose(values, of_pixels[name], atol=1e-6)
        else:
            assert (values == of_pixels[name]).all()


def test_the_real_vgg16_answers_alike_in_python_and_in_cpp(vgg16: Path) -> None:
    import tensorflow as tf

    images = list(PROBES.values())
    native = NativeModel(vgg16).run("serving_default", {"image_bytes": images})
    python = tf.saved_model.load(str(vgg16)).signatures["serving_default"](image_bytes=tf.constant(images))
    # Probabilities of 0 and 1 would agree by chance.
    assert 0.01 < native["category"][0].max() < 0.99
    for name, values in native.items():
        other = python[name].numpy()
        assert np.allclose(values, other, atol=1e-6) if values.dtype == np.float32 else (values == other).all()
