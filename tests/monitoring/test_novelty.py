"""novelty: what the network sees in images tells windows from the reference, and finds the images that are new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask import monitor
from multitask.data.archives import open_archive
from multitask.monitoring.drift import moved
from multitask.monitoring.novelty import LIMIT, NAME, PREFIX, distances, tell_apart
from multitask.monitoring.variation import Groups
from multitask.prediction.scoring import predict_table
from multitask.prediction.trained import KerasPredictor
from multitask.runs import Run
from tests.conftest import photo, write_zip

SIZES = np.repeat([1, 3, 10, 40], [60, 20, 6, 2])


def seen(seed: int, rows: int, shift: float = 0.0) -> pd.DataFrame:
    """Draw what a network might see, of which two of 32 numbers may have moved."""
    values = np.random.default_rng(seed).normal(0, 1, (rows, 32))
    values[:, :2] += shift
    return pd.DataFrame(values, columns=[f"{PREFIX}{at:02}" for at in range(32)])


def of_senders(seed: int) -> pd.DataFrame:
    """Draw what it sees in the photos of senders, who differ more than their photos do."""
    random = np.random.default_rng(seed)
    numbers = np.repeat(np.arange(len(SIZES)), random.permutation(SIZES))
    return seen(seed, len(numbers)) + random.normal(0, 1.5, (len(SIZES), 32))[numbers]


def test_a_classifier_tells_what_has_moved_and_nothing_else() -> None:
    reference = seen(0, 300)
    same = [tell_apart(reference, seen(seed, 300), None) for seed in range(1, 41)]
    assert sum(bool(shift and moved([shift])) for shift in same) <= 1
    other = tell_apart(reference, seen(1, 300, shift=0.8), None)
    assert other is not None
    assert moved([other]) == [NAME]
    assert 0.15 < other.effect < 0.35
    assert other.window > other.reference


def test_photos_of_other_senders_are_no_change_where_senders_are_known() -> None:
    reference, numbers = of_senders(0), np.repeat(np.arange(len(SIZES)), np.random.default_rng(0).permutation(SIZES))
    groups = Groups.of(numbers)
    found = [(tell_apart(reference, of_senders(seed), to), to) for seed in range(1, 11) for to in (None, groups)]
    alarms = {bool(to): sum(bool(shift and moved([shift])) for shift, given in found if given is to) for _, to in found}
    assert alarms[False] > 5
    assert alarms[True] <= 1
    changed = tell_apart(reference, of_senders(1) + 4, groups)
    assert changed is not None
    assert changed.moved
    assert changed.limit > LIMIT


def test_few_or_unseen_images_say_nothing() -> None:
    reference = seen(0, 300)
    unseen = pd.DataFrame({"id": ["a", "b"]})
    assert tell_apart(reference, seen(1, 5), None) is None
    assert tell_apart(reference, unseen, None) is None
    assert tell_apart(unseen, reference, None) is None
    assert distances(unseen, reference) is None


def test_what_is_like_nothing_in_the_reference_is_the_most_novel() -> None:
    window = seen(1, 50)
    window.iloc[7] += 5
    window.iloc[9] = np.nan
    far = distances(seen(0, 300), window)
    assert far is not None
    assert int(np.nanargmax(far)) == 7
    assert np.flatnonzero(np.isnan(far)).tolist() == [9]


@pytest.mark.tensor
def test_images_of_something_else_are_seen_by_the_network_of_the_run(trained: Run, tmp_path: Path) -> None:
    names = [f"n{seed}" for seed in range(60)]
    images = write_zip(tmp_path / "n.zip", {f"{name}.jpg": photo(at, (64, 64)) for at, name in enumerate(names)})
    with open_archive(images) as archive:
        predict_table(KerasPredictor.of_run(trained, "float32"), names, archive, tmp_path / "n.parquet")
    words = (tmp_path / "n.parquet", "--images", images, "--reference", trained.folder.directory, "--out", tmp_path)
    assert monitor.main([*map(str, words)]) == monitor.ALARM
    assert NAME in json.loads((tmp_path / "monitor.json").read_text(encoding="utf-8"))["moved"]
    assert "Most novel" in (tmp_path / "monitor.html").read_text(encoding="utf-8")


@pytest.mark.tensor
def test_a_profile_of_before_leaves_it_out(trained: Run, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained.folder.directory, tmp_path / "run"))
    frame = pd.read_parquet(run / "profile.parquet")
    frame[[name for name in frame if not name.startswith(PREFIX)]].to_parquet(run / "profile.parquet")
    facts = json.loads((run / "profile.json").read_text(encoding="utf-8"))
    del facts["group_sizes"]
    (run / "profile.json").write_text(json.dumps(facts), encoding="utf-8")
    ids = frame["id"].tolist()
    with open_archive(*trained.config.data.images) as archive:
        predict_table(KerasPredictor.of_run(trained, "float32"), ids, archive, tmp_path / "same.parquet")
    images = trained.config.data.images[0]
    words = (tmp_path / "same.parquet", "--images", images, "--reference", run, "--out", tmp_path)
    assert monitor.main([*map(str, words)]) == 0
    text = (tmp_path / "monitor.json").read_text(encoding="utf-8")
    assert NAME not in text
