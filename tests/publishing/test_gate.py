"""The gate: what passes becomes the next version in one step, what fails changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from multitask import publish
from multitask.config import Config, GateConfig
from multitask.errors import GateError
from multitask.evaluation.comparison import compare_task
from multitask.publishing.gate import publish_run
from multitask.publishing.proving import digest
from multitask.runs import Run, RunFolder
from multitask.serving.model_folder import ModelFolder
from multitask.spec import Task

# What is trained here for seconds need not beat anything.
OPEN = GateConfig(beats_baseline=False)


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    return ModelFolder(tmp_path / "models/multitask")


def files(folder: ModelFolder) -> list[str]:
    root = folder.directory.parent
    return sorted(str(path.relative_to(root)) for path in root.rglob("*")) if root.exists() else []


def test_a_run_becomes_the_next_version_with_its_figures_on_record(
    trained: Run, exported: Path, folder: ModelFolder
) -> None:
    for expected in (1, 2):
        version, checks = publish_run(trained, folder, OPEN)
        assert version == expected
        assert all(check.passed for check in checks)
        assert digest(folder.path(version)) == digest(exported)
    assert any("against version 1" in check.name for check in checks)
    first, second = folder.ledger()
    assert (first["before"], second["before"], second["run"]) == (None, 1, "trained")
    metrics = trained.folder.read_json("metrics.json")
    found = metrics["category"]["metrics"]["accuracy"]["value"]
    # The training may have computed its features in bfloat16; a row or two may then be answered otherwise.
    assert second["figures"]["category"]["accuracy"] == pytest.approx(found, abs=0.1)


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        (
            GateConfig(floors={"category.accuracy": 1.1}, beats_baseline=False),
            r"category\.accuracy is 0\.\d+, required at least 1\.1",
        ),
        (GateConfig(max_size_mb=0.001, beats_baseline=False), "size is .* MB, required at most 0.001 MB"),
        (GateConfig(max_latency_ms=0.001, beats_baseline=False), "latency of one photo is .* ms"),
        (GateConfig(floors={"category.acuracy": 0.1}, beats_baseline=False), 'Did you mean "category.accuracy"'),
    ],
)
def test_a_refused_model_changes_nothing_and_names_the_line(
    trained: Run, exported: Path, folder: ModelFolder, gate: GateConfig, words: str
) -> None:
    publish_run(trained, folder, OPEN)
    before = files(folder), folder.ledger()
    with pytest.raises(GateError, match=words) as error:
        publish_run(trained, folder, gate)
    assert error.value.exit_code == 5
    assert (files(folder), folder.ledger()) == before


@pytest.mark.slow
def test_a_model_worse_than_the_published_one_is_refused(
    make_config: Callable[..., Config], folder: ModelFolder, tmp_path: Path
) -> None:
    """The candidate is the published network after it has forgotten everything but one class."""
    from multitask.network.model import load_network
    from multitask.publishing.exporting import export_run
    from multitask.training.fitting import fit

    config = make_config(freeze="none", image_size=(48, 48), epochs=120, precision="float32")
    good = fit(config, "good", root=tmp_path)
    publish_run(good, folder, OPEN)
    shutil.copytree(good.folder.directory, tmp_path / "worse")
    worse = Run(RunFolder(tmp_path / "worse"), good.config, good.spec)
    network = load_network(worse.folder / "model.keras", worse.spec)
    layer = network.trainable.get_layer("category_logits")
    layer.kernel.assign(np.zeros(layer.kernel.shape))
    layer.bias.assign([9, 0, 0, 0, 0])
    network.whole.save(worse.folder / "model.keras")
    export_run(worse)
    with pytest.raises(GateError, match=r"category\.balanced_accuracy against version 1 is 0\.200"):
        publish_run(worse, folder, OPEN)
    version, _ = publish_run(worse, folder, GateConfig(not_worse=False, beats_baseline=False))
    assert version == 2


def test_an_export_that_was_changed_after_its_proof_is_made_again(
    trained: Run, folder: ModelFolder, tmp_path: Path
) -> None:
    from multitask.publishing.exporting import export_run

    shutil.copytree(trained.folder.directory, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    run = Run(RunFolder(tmp_path / "run"), trained.config, trained.spec)
    export, _ = export_run(run)
    proven = digest(export)
    with open(export / "variables/variables.data-00000-of-00001", "r+b") as stream:
        stream.write(b"\x00\x00\x80\x3f")
    assert digest(export) != proven
    version, _ = publish_run(run, folder, OPEN)
    proof = json.loads((folder.path(version) / "assets.extra/proof.json").read_text())
    assert proof["model"] == digest(folder.path(version))


def test_rolling_back_needs_a_version_to_go_back_to_and_no_tensorflow(
    exported: Path, folder: ModelFolder, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.add(exported)
    with pytest.raises(GateError, match="no earlier version"):
        publish.main(["--rollback", "--models", str(folder.directory.parent)])
    folder.add(exported)
    monkeypatch.setattr(ModelFolder.roll_back, "__defaults__", (0.0,))
    assert publish.main(["--rollback", "--models", str(folder.directory.parent)]) == 0
    assert "version 2 is withdrawn, version 1 answers" in capsys.readouterr().out
    folder.add(exported)
    command = [sys.executable, "-X", "importtime", "-m", "multitask.publish", "--rollback"]
    found = subprocess.run(
        [*command, "--models", str(folder.directory.parent)], capture_output=True, text=True, check=True
    )
    assert "tensorflow" not in found.stderr


def test_floors_name_tasks_of_the_configuration() -> None:
    assert Config(gate=GateConfig(floors={"tags.macro_f1": 0.5})).gate.floors
    for name in ("tag.macro_f1", "tags", "tags."):
        with pytest.raises(ValueError, match=r"gate\.floors"):
            Config(gate=GateConfig(floors={name: 0.5}))


def test_a_difference_counts_only_beyond_chance() -> None:
    rng = np.random.default_rng(0)
    task = Task(name="c", kind="multiclass", columns=("c",), classes=("a", "b"))
    labels = rng.integers(0, 2, 200).astype(np.float32)
    right = np.stack([1 - labels, labels], axis=1)
    flipped = right.copy()
    flipped[:60] = 1 - flipped[:60]
    slightly = right.copy()
    slightly[0] = 1 - slightly[0]
    worse = compare_task((task, task), labels, (flipped, right), labels)
    assert worse.is_worse
    assert worse.low < worse.candidate - worse.published < worse.high < 0
    assert not compare_task((task, task), labels, (right, flipped), labels).is_worse
    assert not compare_task((task, task), labels, (right, right), labels).is_worse
    assert not compare_task((task, task), labels, (slightly, right), labels).is_worse


def test_other_tasks_or_classes_take_the_place_only_when_told(
    trained: Run, exported: Path, folder: ModelFolder, tmp_path: Path
) -> None:
    """The published version is the same network that calls two classes otherwise, and has a task less."""
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    category, tags, _ = trained.spec.tasks
    classes = ("BLOUSES", "COATS", *category.classes[2:])
    renamed = trained.spec.model_copy(update={"tasks": (category.model_copy(update={"classes": classes}), tags)})
    renamed.save(other / "assets.extra/spec.json")
    folder.add(other)
    with pytest.raises(
        GateError, match="tasks against version 1 is a task size more; category without COATS and with CASUAL_DRESSES"
    ):
        publish_run(trained, folder, OPEN)
    assert folder.versions() == [1]
    version, checks = publish_run(trained, folder, OPEN, replace_tasks=True)
    assert version == 2
    [line] = [check for check in checks if check.name == "tasks against version 1"]
    assert (line.passed, "COATS" in line.found) == (True, True)


def test_a_head_that_beats_nothing_is_refused(
    make_config: Callable[..., Config], folder: ModelFolder, tmp_path: Path
) -> None:
    from multitask.network.model import load_network
    from multitask.training.fitting import fit

    run = fit(make_config(epochs=1), "blind", root=tmp_path)
    network = load_network(run.folder / "model.keras", run.spec)
    for name in ("category_logits", "tags_logits"):
        layer = network.trainable.get_layer(name)
        layer.kernel.assign(np.zeros(layer.kernel.shape))
    network.whole.save(run.folder / "model.keras")
    with pytest.raises(GateError, match=r"balanced_accuracy against its baseline is 0\.200, required above 0\.200"):
        publish_run(run, folder)
    assert not folder.versions()


def test_the_spec_is_part_of_what_is_proven(exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "copy")
    before = digest(tmp_path / "copy")
    assert before == digest(exported)
    path = tmp_path / "copy/assets.extra/spec.json"
    path.write_text(path.read_text().replace("TANK_TOPS", "BLOUSES_"))
    assert digest(tmp_path / "copy") != before


def test_litter_of_killed_exports_is_swept(trained: Run, tmp_path: Path) -> None:
    from multitask.publishing.exporting import export_run

    shutil.copytree(trained.folder.directory, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    (tmp_path / "run/.export-killed/export").mkdir(parents=True)
    export_run(Run(RunFolder(tmp_path / "run"), trained.config, trained.spec))
    assert not (tmp_path / "run/.export-killed").exists()
