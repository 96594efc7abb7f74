"""The doors, as a person runs them: help, flags, errors on one line, exit codes, tables, the demo from nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from multitask.config import Config
from multitask.runs import Run
from tests.conftest import write_table

ROOT = Path(__file__).parent.parent
DOORS = ("explore", "train", "tune", "predict", "evaluate", "export", "publish", "serve", "monitor")


def run(door: str, *flags: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a door in a folder of its own."""
    return subprocess.run(
        [sys.executable, "-m", f"multitask.{door}", *map(str, flags)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100", **environment},
    )


@pytest.mark.parametrize("door", DOORS)
def test_help_answers_at_once_and_names_the_command(door: str, tmp_path: Path) -> None:
    run(door, "--help", cwd=tmp_path)  # compiles the byte code
    started = time.monotonic()
    done = run(door, "--help", cwd=tmp_path)
    assert time.monotonic() - started < 2.5  # a second where nothing else runs; TensorFlow alone takes three and more
    assert done.returncode == 0
    assert f"python -m multitask.{door}" in done.stdout
    code = f"import sys\nimport multitask.{door} as door\ntry:\n    door.main(['--help'])\nexcept SystemExit:\n    "
    code += "assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path: Path) -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "multitask"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.wait(30) == 141
    assert listing.stderr is not None
    assert listing.stderr.read() == b""


def test_every_setting_is_a_flag_and_a_dozen_have_short_names(tmp_path: Path) -> None:
    text = run("train", "--help", cwd=tmp_path).stdout
    for section, model in (("data", "data"), ("model", "model"), ("fit", "fit")):
        for field in type(getattr(Config(), model)).model_fields:
            assert f"--{section}.{field.replace('_', '-')}" in text
    for short in ("--labels", "--images", "--epochs", "--batch-size", "--weights", "--seed", "--backbone", "--freeze"):
        assert f"{short} " in text
    assert "--tasks.tags.loss-weight" in text


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--epoch", "3"], "--epochs"),
        (["--fit.batch-size", "many"], "batch-size"),
        (["--fit.epochs", "0"], "fit.epochs: expected greater than 0"),
        (["--fit.epochs", "0", "--freeze", "none", "--model.dropout", "7"], "model.dropout: expected less than 1"),
        (["--resume", "latest", "--epochs", "3"], "a resumed run keeps its own name and settings"),
        (["--backbone", "vgg61"], 'Did you mean "vgg1'),
    ],
)
def test_wrong_flags_are_explained_and_exit_with_2(flags: list[str], expected: str, tmp_path: Path) -> None:
    done = run("train", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert expected in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_a_wrong_file_names_all_its_mistakes_and_exits_with_2(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[fit]\nepoch = 3\nseed = -1\n")
    done = run("train", "--config", "c.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "c.toml" in done.stderr
    assert 'fit.epoch: unknown key. Did you mean "epochs"?' in done.stderr
    assert "fit.seed: expected greater than or equal to 0, received -1" in done.stderr


def test_data_that_is_not_there_exits_with_3_in_one_line(tmp_path: Path) -> None:
    done = run("train", "--labels", "none.parquet", "--weights", "random", cwd=tmp_path)
    assert done.returncode == 3
    assert done.stderr.strip().splitlines()[-1].startswith("error: none.parquet: no such file")
    assert "Traceback" not in done.stderr


def test_labels_without_their_archive_say_what_is_missing(tmp_path: Path) -> None:
    write_table(
        tmp_path / "t.parquet", "ab", cc3=["p", "q"], **{"polka dot": [0, 1], "floral": [0, 1], "checker": [1, 0]}
    )
    done = run("train", "--labels", "t.parquet", "--weights", "random", cwd=tmp_path)
    assert done.returncode == 3
    assert "data/data.zip: no such file or folder" in done.stderr


def test_an_address_without_a_scheme_is_explained(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", "ab")
    done = run("predict", "t.parquet", "--url", "localhost:8501", "--images", "x.zip", cwd=tmp_path)
    assert done.returncode == 2
    assert "--url: is no address of a server; expected http://HOST:PORT, such as http://localhost:8501" in done.stderr


@pytest.mark.parametrize(
    ("place", "flags"),
    [
        ("none.parquet", []),
        ("folder", []),
        ("t.parquet", ["--images", "none.zip"]),
        ("t.parquet", ["--images", "t.parquet"]),
        ("t.parquet", ["--images", "t.parquet::uuid"]),
        ("t.parquet", ["--images", "none*.jpg"]),
        ("t.parquet", ["--images", "https://shop/photos.zip"]),
        ("https://shop/t.parquet", ["--images", "x.zip"]),
        ("s3://", ["--images", "x.zip"]),
        ("sqlite:///none/none.db::SELECT 1", ["--images", "x.zip"]),
        ("t.parquet/below", []),
    ],
)
def test_places_that_are_none_are_explained_in_one_line(
    place: str, flags: list[str], trained: Run, tmp_path: Path
) -> None:
    write_table(tmp_path / "t.parquet", "ab")
    (tmp_path / "folder").mkdir()
    done = run("predict", place, *flags, "--run", trained.folder.directory, cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.tensor
def test_a_place_that_cannot_be_written_is_explained(trained: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    flags = ["--run", trained.folder.directory, "--out", "file/below/p.parquet"]
    done = run("predict", trained.config.data.labels, *flags, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr
    labels = ["--labels", trained.config.data.labels, "--images", *trained.config.data.images, "--weights", "random"]
    done = run("train", *labels, "--image-size", 32, 32, "--data.features", "file/below", cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


def test_no_run_to_predict_with_exits_with_4(tmp_path: Path) -> None:
    write_table(tmp_path / "t.parquet", "ab")
    done = run("predict", "t.parquet", cwd=tmp_path)
    assert done.returncode == 4
    assert "python -m multitask.train" in done.stderr


@pytest.mark.tensor
def test_own_data_never_falls_back_to_random_weights(sample: Path, tmp_path: Path) -> None:
    flags = ["--labels", sample / "data.parquet", "--images", sample / "images.zip", "--image-size", 32, 32]
    done = run("train", *flags, cwd=tmp_path, KERAS_HOME=str(tmp_path), HTTPS_PROXY="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "--weights random" in done.stderr
    assert not list((tmp_path / "model_training").rglob("config.toml"))


@pytest.mark.tensor
def test_the_demo_goes_from_nothing_to_predictions(tmp_path: Path) -> None:
    environment = {"KERAS_HOME": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    script = "from multitask import train, cli\nfrom multitask.demo import sample\n"
    script += "sample.draw_sample = (lambda draw: lambda folder: draw(folder, images=130))(sample.draw_sample)\n"
    script += "cli.run_door(train.main)"
    done = subprocess.run(
        [sys.executable, "-c", script, "--image-size", "32", "32", "--epochs", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    assert "training on the demo dataset" in done.stderr
    assert "The demo goes on with random weights" in done.stderr
    assert "epoch 2/2" in done.stderr
    for expected in (
        "top_2_accuracy",
        "floral_f1",
        "95% interval",
        "baseline",
        "report.html",
        "python -m multitask.predict",
    ):
        assert expected in done.stdout
    assert "oneDNN" not in done.stderr
    predicted = run("predict", "data/demo/test.parquet", cwd=tmp_path)
    assert predicted.returncode == 0, predicted.stderr
    assert "no image with this id" in predicted.stdout
    test, answers = (pd.read_parquet(tmp_path / name) for name in ("data/demo/test.parquet", "predictions.parquet"))
    assert answers["uuid"].tolist() == test["uuid"].tolist()
    evaluated = run("evaluate", "data/demo/data.parquet", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "category" in evaluated.stdout
    assert (tmp_path / "model_training/runs/latest/evaluations/data/report.html").exists()


@pytest.mark.tensor
def test_predict_takes_other_archives_and_another_place(trained: Run, tmp_path: Path) -> None:
    ids = pd.read_parquet(trained.config.data.labels)["uuid"].iloc[:5]
    pd.DataFrame({"photo": ids}).to_parquet(tmp_path / "t.parquet")
    flags = ["--run", trained.folder.directory, "--id-column", "photo", "--images", *trained.config.data.images]
    done = run("predict", "t.parquet", *flags, "--out", "deep/er/p.parquet", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pd.read_parquet(tmp_path / "deep/er/p.parquet")["photo"].tolist() == ids.tolist()


@pytest.mark.tensor
def test_resume_of_a_finished_run_shows_its_results(trained: Run, tmp_path: Path) -> None:
    done = run("train", "--resume", trained.folder.directory, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "is finished already" in done.stderr
    assert "balanced_accuracy" in done.stdout
