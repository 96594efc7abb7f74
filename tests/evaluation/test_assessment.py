"""assessment: rows that took part in a training are told from new ones, by picture, by id and by group."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from multitask.config import Config
from multitask.data.archives import open_archive
from multitask.evaluation.assessment import Assessment, evaluate_run, seen_line
from multitask.evaluation.tasks import Evaluation
from multitask.prediction.trained import KerasPredictor
from multitask.runs import Run
from tests.conftest import write_zip

pytestmark = pytest.mark.tensor


@pytest.fixture(scope="module")
def grouped(make_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Run:
    from multitask.training.fitting import fit

    config = make_config(group_columns=("sender_id",), epochs=1)
    return fit(config, "grouped", root=tmp_path_factory.mktemp("runs"))


def assess(run: Run, frame: pd.DataFrame, folder: Path, images: str | Path | None = None) -> Assessment:
    folder.mkdir(exist_ok=True)
    frame.to_parquet(folder / "labels.parquet", index=False)
    with open_archive(*([images] if images else run.config.data.images)) as archive:
        return evaluate_run(run, KerasPredictor.of_run(run), folder / "labels.parquet", archive, folder / "out")


def rows_of(run: Run, *parts: str) -> pd.DataFrame:
    frame, splits = pd.read_parquet(run.config.data.labels), pd.read_parquet(run.folder / "splits.parquet")
    return frame[frame["uuid"].isin(splits.loc[splits["split"].isin(parts), "id"])]


def test_the_training_table_has_figures_for_its_test_rows_and_others_for_the_rest(grouped: Run, tmp_path: Path) -> None:
    frame = rows_of(grouped, "train", "validation", "test")
    found = assess(grouped, frame, tmp_path)
    splits = pd.read_parquet(grouped.folder / "splits.parquet")
    assert found.rows == (int((splits["split"] == "test").sum()), int((splits["split"] != "test").sum()))
    assert found.new is not None
    assert found.seen is not None
    trained = Evaluation.from_dict(grouped.folder.read_json("metrics.json"))
    same = found.new.metrics["category"]["accuracy"]
    assert same.value == pytest.approx(trained.metrics["category"]["accuracy"].value, abs=0.06)
    assert "left out" in seen_line(found)
    assert (tmp_path / "out/metrics_of_seen_rows.json").is_file()
    assert "took part in the training" in (tmp_path / "out/report.html").read_text(encoding="utf-8")


def test_rows_that_were_all_trained_on_are_no_result(grouped: Run, tmp_path: Path) -> None:
    found = assess(grouped, rows_of(grouped, "train"), tmp_path)
    assert found.new is None
    assert "no result" in seen_line(found)


def test_a_copy_under_another_name_and_another_photo_of_a_known_group_are_seen(grouped: Run, tmp_path: Path) -> None:
    train, test = rows_of(grouped, "train").iloc[:3], rows_of(grouped, "test").iloc[:2]
    with open_archive(*grouped.config.data.images) as archive:
        files = {f"copy{number}.jpg": archive[name] for number, name in enumerate(train["uuid"])}
        files |= {f"other{number}.jpg": archive[name] for number, name in enumerate(test["uuid"])}
    renamed = pd.concat([train, test]).assign(uuid=[name.removesuffix(".jpg") for name in files])
    strangers = renamed.assign(sender_id=[f"new{row}" for row in range(5)])
    images = write_zip(tmp_path / "renamed.zip", files)
    assert assess(grouped, strangers, tmp_path / "a", images).rows == (2, 3)
    known = strangers.assign(sender_id=[*strangers["sender_id"][:4], train["sender_id"].iloc[0]])
    assert assess(grouped, known, tmp_path / "b", images).rows == (1, 4)


def test_copies_of_rows_say_nothing_new(grouped: Run, tmp_path: Path) -> None:
    test = rows_of(grouped, "test")
    once = assess(grouped, test, tmp_path / "a").new
    often = assess(grouped, pd.concat([test] * 4, ignore_index=True), tmp_path / "b").new
    assert once is not None
    assert often is not None
    one, other = (found.metrics["category"]["accuracy"] for found in (once, often))
    assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high))
