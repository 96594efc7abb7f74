"""A disk that is full: one clear line, nothing half-written is taken for whole, and the same command finishes later."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from multitask.config import Config
from multitask.runs import Run

ROOT = Path(__file__).parents[2]
# The kernel refuses to let any file grow beyond this, as a full disk would.
LIMITED = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = sys.argv[2:]
runpy.run_module("multitask." + sys.argv[0], run_name="__main__", alter_sys=True)
"""


def run(limit: int, door: str, *flags: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), door, *map(str, flags)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


ENOUGH = 1 << 32


def test_predictions_are_whole_or_not_there(trained: Run, tmp_path: Path) -> None:
    frame = pd.DataFrame({"uuid": list(pd.read_parquet(trained.config.data.labels)["uuid"]) * 8})
    frame.to_parquet(tmp_path / "t.parquet")
    flags = ["t.parquet", "--run", trained.folder.directory]
    (tmp_path / "predictions.parquet").write_bytes(b"the one before")
    done = run(10_000, "predict", *flags, cwd=tmp_path)
    assert done.returncode == 4
    assert "error: the disk is full" in done.stderr
    assert (tmp_path / "predictions.parquet").read_bytes() == b"the one before"
    assert run(ENOUGH, "predict", *flags, cwd=tmp_path).returncode == 0
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) == len(frame)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.parquet", "t.parquet"]


@pytest.mark.slow
def test_a_training_on_a_full_disk_goes_on_later(make_config: Callable[..., Config], tmp_path: Path) -> None:
    """First there is no room for the features, then none for the model, then there is."""
    config = make_config(epochs=2)
    data = config.data.model_copy(update={"features": str(tmp_path / "features")})
    config.model_copy(update={"data": data}).save(tmp_path / "c.toml")
    folder = tmp_path / "model_training/runs"
    for limit, flags in ((30_000, ["--config", "c.toml", "--name", "full"]), (300_000, ["--resume", "full"])):
        done = run(limit, "train", *flags, cwd=tmp_path)
        assert done.returncode == 4, done.stderr
        assert "error: the disk is full" in done.stderr
        assert not (folder / "full/metrics.json").exists()
        assert not (folder / "latest").exists()
    for flags in (["--resume", "full"], ["--config", "c.toml", "--name", "clean"]):
        done = run(ENOUGH, "train", *flags, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert (folder / "full/metrics.json").read_text() == (folder / "clean/metrics.json").read_text()
