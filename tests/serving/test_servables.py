"""Versions come and go while clients ask: nothing fails, nothing is mixed."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import requests

from multitask.demo.probe import probe_images
from multitask.publishing.proving import serving
from multitask.runs import Run
from multitask.serving import servables as room
from multitask.serving.model_folder import ModelFolder
from multitask.serving.native import NativePredictor
from multitask.serving.replies import WireError
from multitask.serving.servables import Servables

PHOTO = probe_images()["png"]
BODY = json.dumps({"instances": [{"b64": base64.b64encode(PHOTO).decode()}]})


@pytest.fixture(scope="module")
def two_models(trained: Run, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two exports that answer differently."""
    from multitask.network.model import load_network
    from multitask.publishing.saved_model import write_saved_model

    network = load_network(trained.folder / "model.keras", trained.spec, heads="float64")
    network.trainable.get_layer("category_logits").bias.assign([3, 2, 1, 0, -1])
    other = tmp_path_factory.mktemp("other") / "export"
    write_saved_model(network, other, PHOTO)
    return [exported, other]


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path / "models/multitask")


def available(servables: Servables) -> dict[int, str]:
    return {version: state for version, state, _, _ in servables.states("multitask")}


def test_versions_are_numbered_withdrawn_and_never_reused(folder: ModelFolder, exported: Path) -> None:
    assert [folder.add(exported) for _ in range(3)] == [1, 2, 3]
    assert folder.labels() == {"stable": 3, "previous": 2}
    assert folder.roll_back(0) == (3, 2)
    assert folder.versions() == [1, 2]
    assert folder.add(exported) == 4
    assert [(entry["event"], entry["version"]) for entry in folder.ledger()] == [("rollback", 2)]


def test_only_whole_numbers_are_versions(folder: ModelFolder, exported: Path) -> None:
    folder.add(exported)
    for name in ("v2", "2.0", ".adding-3", "²"):
        (folder.directory / name).mkdir()
    assert folder.versions() == [1]


def test_a_new_version_answers_once_it_is_ready_and_old_ones_go(folder: ModelFolder, two_models: list[Path]) -> None:
    folder.add(two_models[0])
    servables = Servables(folder.directory.parent)
    servables.look()
    with servables.use("multitask") as first:
        for _ in range(2):
            folder.add(two_models[1])
            with servables.use("multitask") as still:
                assert still is first or still.version == 2
        unloading = threading.Thread(target=servables.look)
        unloading.start()
        wait_for(lambda: available(servables).get(3) == "AVAILABLE")
        with servables.use("multitask") as newest:
            assert newest.version == 3
        # The version in use is still there.
        assert first.model.run("serving_default", {"image_bytes": [PHOTO]})["image_ok"].all()
    unloading.join(10)
    assert available(servables) == {3: "AVAILABLE", 2: "AVAILABLE", 1: "END"}
    with pytest.raises(WireError, match=r"Specific\(multitask, 1\)"), servables.use("multitask", 1):
        pass
    with servables.use("multitask", label="previous") as previous:
        assert previous.version == 2
    servables.stop()


def test_a_version_that_does_not_load_leaves_the_old_one(folder: ModelFolder, exported: Path, tmp_path: Path) -> None:
    folder.add(exported)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"no")
    said: list[str] = []
    servables = Servables(folder.directory.parent, say=said.append)
    servables.look()
    folder.add(broken)
    for _ in range(2):
        servables.look()
    assert available(servables) == {2: "END", 1: "AVAILABLE"}
    assert sum("cannot be loaded" in text for text in said) == 1
    with servables.use("multitask") as servable:
        assert servable.version == 1
    servables.stop()


def test_the_bfloat16_rewrite_is_taken_only_where_it_helps_and_agrees(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room.processor, "has_bfloat16_units", lambda: False)
    assert not room.agrees_in_bfloat16(exported)
    monkeypatch.setattr(room.processor, "has_bfloat16_units", lambda: True)
    assert room.agrees_in_bfloat16(exported)
    monkeypatch.setattr(room, "BFLOAT16_TOLERANCE", -1.0)
    assert not room.agrees_in_bfloat16(exported)


@pytest.mark.slow
def test_fifty_publishes_and_rollbacks_fail_and_mix_no_answer(folder: ModelFolder, two_models: list[Path]) -> None:
    """16 clients keep asking; every answer is whole, and is that of the version it says it is of."""
    expected = [NativePredictor(model).predict([PHOTO]).values["category"][0] for model in two_models]
    assert np.abs(expected[0] - expected[1]).max() > 0.05
    folder.add(two_models[0])
    kinds = {1: 0}
    answers: list[tuple[int, int, list[float]]] = []
    done = threading.Event()

    def ask(url: str) -> None:
        with requests.Session() as session:
            while not done.is_set():
                found = session.post(f"{url}/v1/models/multitask:predict", data=BODY, timeout=30)
                scores = found.json()["predictions"][0]["category"] if found.ok else []
                answers.append((found.status_code, int(found.headers.get("X-Model-Version", 0)), scores))

    with serving(folder.directory.parent) as url:
        clients = [threading.Thread(target=ask, args=(url,)) for _ in range(16)]
        for client in clients:
            client.start()
        for turn in range(50):
            if turn % 3 == 2:
                folder.roll_back(0)
            else:
                kinds[folder.add(two_models[turn % 2])] = turn % 2
            time.sleep(0.5)
        last = folder.versions()[-1]
        wait_for(lambda: answers[-1][1] == last)
        done.set()
        for client in clients:
            client.join()
    assert {status for status, _, _ in answers} == {200}
    assert len({version for _, version, _ in answers}) > 5
    for _, version, scores in answers:
        assert np.allclose(scores, expected[kinds[version]], atol=1e-4)


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


def test_the_server_of_a_proof_ends_with_the_process_that_was_killed(published: Path) -> None:
    script = f"""
import time
from pathlib import Path
from multitask.publishing.proving import serving
with serving(Path("{published}")) as url:
    print(url, flush=True)
    time.sleep(600)
"""
    proof = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert proof.stdout is not None
    url = proof.stdout.readline().strip()
    assert requests.get(f"{url}/healthz", timeout=10).ok
    proof.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            requests.get(f"{url}/healthz", timeout=10)
        except requests.ConnectionError:
            return
        time.sleep(0.1)
    pytest.fail("it still answers")
