"""prediction, predictors and audit: every row of the test table comes back, in order, answered or with its reason."""

from __future__ import annotations

import io
import tarfile
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from multitask.audit.inspection import explain_unreadable
from multitask.audit.rows import audit_rows
from multitask.data.archives import open_archive
from multitask.data.tables import read_table
from multitask.errors import ArchiveError
from multitask.network.model import load_network
from multitask.network.preprocessing import preprocess
from multitask.prediction import scoring as prediction
from multitask.prediction import writing
from multitask.prediction.protocol import Predictor, Scores
from multitask.prediction.scoring import predict_table
from multitask.prediction.trained import KerasPredictor
from multitask.prediction.writing import deliver
from multitask.runs import Run
from multitask.spec import ModelSpec, Task
from tests.conftest import photo, write_table, write_zip


class BrightnessPredictor:
    """Scores a picture by its mean colour; a real predictor without a network."""

    workers = 2

    def __init__(self, spec: ModelSpec) -> None:
        self.spec, self.batches, self._lock = spec, 0, threading.Lock()

    def predict(self, images: Sequence[bytes]) -> Scores:
        with self._lock:
            self.batches += 1
        ok = np.zeros(len(images), bool)
        values = {task.name: np.zeros((len(images), len(task.classes)), np.float32) for task in self.spec.tasks}
        for row, data in enumerate(images):
            try:
                mean = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float).mean() / 255
            except OSError:
                continue
            ok[row] = True
            for scores in values.values():
                scores[row] = mean
        return Scores(ok, values)


@pytest.fixture
def predictor(clothing_spec: ModelSpec) -> Predictor:
    return BrightnessPredictor(clothing_spec)


def brightness(data: bytes) -> float:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float).mean() / 255


def test_rows_come_back_in_order_with_repeats_and_reasons(tmp_path: Path, predictor: Predictor) -> None:
    members = {f"x/{number}.jpg": photo(number) for number in range(100)}
    members |= {
        "x/bad.jpg": members["x/1.jpg"][:100],
        "x/text.jpg": b"hello",
        "x/twin.jpg": b"",
        "x/twin.png": b"",
        "x/empty.jpg": b"",
    }
    ids = [str(number) for number in np.random.default_rng(0).permutation(100)] + [
        "bad",
        "nowhere",
        "text",
        "",
        "twin",
        "empty",
        "7",
        "7",
    ]
    with open_archive(write_zip(tmp_path / "a.zip", members)) as archive:
        statuses = predict_table(predictor, ids, archive, tmp_path / "p.parquet")
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert frame["uuid"].tolist() == ids
    ok = frame["status"] == "ok"
    assert statuses["ok"] == ok.sum() == 102
    for name, score in zip(frame["uuid"][ok], frame["tags_score_floral"][ok], strict=True):
        assert score == pytest.approx(brightness(members[f"x/{name}.jpg"]))
    reasons = frame[~ok].set_index("uuid")["status"]
    assert "damaged" in reasons["bad"]
    assert reasons["text"] == "not an image"
    assert reasons["nowhere"] == "no image with this id"
    assert reasons[""] == "no id"
    assert reasons["empty"] == "empty file"
    assert reasons["twin"] == "several files bear this id: a.zip:x/twin.jpg, a.zip:x/twin.png"


def test_blocks_do_not_change_the_answers(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = {f"{number}.jpg": photo(number) for number in range(50)}
    ids = [str(number % 50) for number in range(120)][::-1]
    with open_archive(write_zip(tmp_path / "a.zip", members)) as archive:
        predict_table(predictor, ids, archive, tmp_path / "one.parquet")
        monkeypatch.setattr(prediction, "BLOCK_ROWS", 7)
        monkeypatch.setattr(prediction, "BATCH_ROWS", 3)
        predict_table(predictor, ids, archive, tmp_path / "many.parquet")
    one, many = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "many"))
    pd.testing.assert_frame_equal(one, many)


def test_parts_together_are_the_file_and_replace_earlier_ones_whole(
    tmp_path: Path, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "BLOCK_ROWS", 8)
    monkeypatch.setattr(writing, "PART_ROWS", 16)
    members = {f"{number}.jpg": photo(number) for number in range(20)}
    ids = [str(number % 20) for number in range(50)][::-1]
    with open_archive(write_zip(tmp_path / "a.zip", members)) as archive:
        predict_table(predictor, ids, archive, tmp_path / "one.parquet")
        predict_table(predictor, [*ids, *ids], archive, tmp_path / "parts", in_parts=True)
        assert len(list((tmp_path / "parts").glob("part-*.parquet"))) == 7
        predict_table(predictor, ids, archive, tmp_path / "parts", in_parts=True)
        with pytest.raises(Broken):
            predict_table(BreakingPredictor(predictor.spec, 2), ids, archive, tmp_path / "parts", in_parts=True)
    names = sorted(path.name for path in (tmp_path / "parts").iterdir())
    assert names == ["_SUCCESS", *(f"part-{number:06d}.parquet" for number in range(4))]
    frames = [pd.read_parquet(tmp_path / "parts" / name) for name in names[1:]]
    assert [len(frame) for frame in frames] == [16, 16, 16, 2]
    pd.testing.assert_frame_equal(pd.concat(frames, ignore_index=True), pd.read_parquet(tmp_path / "one.parquet"))
    assert pq.read_schema(tmp_path / "parts" / names[1]).metadata == pq.read_schema(tmp_path / "one.parquet").metadata


def test_a_table_is_delivered_whole_and_stays_where_it_is_if_nobody_takes_it(
    tmp_path: Path, predictor: Predictor
) -> None:
    with open_archive(write_zip(tmp_path / "a.zip", {"a.jpg": photo(0)})) as archive:
        predict_table(predictor, ["a"], archive, tmp_path / "one.parquet")
        predict_table(predictor, ["a"], archive, tmp_path / "parts", in_parts=True)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/part-000009.parquet").write_text("old")
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveError, match="place for"):
        deliver(tmp_path / "one.parquet", f"file://{tmp_path}/file/one.parquet")
    deliver(tmp_path / "one.parquet", f"file://{tmp_path}/there.parquet")
    deliver(tmp_path / "parts", f"file://{tmp_path}/taken/")
    assert pd.read_parquet(tmp_path / "there.parquet")["uuid"].tolist() == ["a"]
    assert sorted(path.name for path in (tmp_path / "taken").iterdir()) == ["_SUCCESS", "part-000000.parquet"]
    assert not (tmp_path / "one.parquet").exists()
    assert not (tmp_path / "parts").exists()


def test_a_compressed_tar_is_read_once_per_block(tmp_path: Path, predictor: Predictor) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for number in range(60):
            info, data = tarfile.TarInfo(f"{number}.jpg"), photo(number)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    ids = [str(number) for number in np.random.default_rng(0).permutation(60)]
    with open_archive(tmp_path / "a.tar.gz") as archive:
        assert predict_table(predictor, ids, archive, tmp_path / "p.parquet") == {"ok": 60}
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert frame["uuid"].tolist() == ids
    assert frame["tags_score_floral"].iloc[0] == pytest.approx(brightness(photo(int(ids[0]))))


def test_a_failing_predictor_leaves_no_file(tmp_path: Path, clothing_spec: ModelSpec) -> None:
    class Broken(BrightnessPredictor):
        def predict(self, images: Sequence[bytes]) -> Scores:
            if self.batches == 2:
                raise ConnectionError("gone")
            return super().predict(images)

    members = {f"{number}.jpg": photo(number) for number in range(200)}
    with open_archive(write_zip(tmp_path / "a.zip", members)) as archive, pytest.raises(ConnectionError):
        predict_table(Broken(clothing_spec), list(archive), archive, tmp_path / "p.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


@pytest.mark.tensor
def test_a_run_predicts_what_its_network_says_of_the_pixels(trained: Run, tmp_path: Path) -> None:
    archive = open_archive(*trained.config.data.images)
    ids = list(read_table(Path(trained.config.data.labels).parent / "test.parquet", "uuid").ids)
    predict_table(KerasPredictor.of_run(trained, "float32"), ids, archive, tmp_path / "p.parquet")
    frame = pd.read_parquet(tmp_path / "p.parquet")
    assert frame["uuid"].tolist() == ids
    assert frame["status"].value_counts().to_dict()["ok"] == len(ids) - 2
    network = load_network(trained.folder / "model.keras", trained.spec)
    for row in (0, 3, len(ids) - 1):
        pixels = preprocess(archive[ids[row]], trained.spec.image)[None]
        expected = np.asarray(network.whole(pixels)["category"])[0]
        columns = [f"category_score_{name}" for name in trained.spec.task("category").classes]
        np.testing.assert_allclose(frame.loc[row, columns].to_numpy(float), expected, atol=1e-5)
        assert frame.loc[row, "category1"] == expected.argmax()


@pytest.mark.tensor
def test_a_run_scores_its_own_test_split_as_its_metrics_say(trained: Run) -> None:
    used = pd.read_parquet(trained.folder / "splits.parquet")
    test = used[used["split"] == "test"]
    archive = open_archive(*trained.config.data.images)
    scores = KerasPredictor.of_run(trained).predict([archive[name] for name in test["id"]]).values["category"]
    known = test["category"].notna().to_numpy()
    accuracy = (scores.argmax(axis=1)[known] == test["category"][known]).mean()
    assert accuracy == pytest.approx(
        trained.folder.read_json("metrics.json")["category"]["metrics"]["accuracy"]["value"]
    )


def bomb() -> bytes:
    data = photo(kind="PNG")
    header = b"IHDR" + (60_000).to_bytes(4, "big") * 2 + data[24:29]
    return data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (photo(size=(100, 100)), "too large: 100x100 is more than 0.005 Mpx"),
        (bomb(), "too large"),
        (photo(kind="TIFF"), "TIFF is not supported; convert it to JPEG or PNG"),
        (photo()[:200], "damaged image"),
        (photo(kind="PNG")[:-30], "damaged image"),
    ],
)
def test_an_unreadable_image_gets_its_reason(data: bytes, reason: str) -> None:
    assert explain_unreadable(data, 5000).startswith(reason)


@pytest.mark.tensor
def test_what_preprocessing_refuses_is_never_called_readable() -> None:
    animated = io.BytesIO()
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    first.save(animated, "WEBP", save_all=True, append_images=[second])
    assert explain_unreadable(animated.getvalue(), 10**6) == "animated WebP is not supported; convert it to JPEG or PNG"


def test_the_audit_finds_contradictions_between_rows_of_one_picture(tmp_path: Path) -> None:
    members = {"a.jpg": photo(1), "b.jpg": photo(1), "c.jpg": photo(2), "d.jpg": photo(3)}
    table = write_table(
        tmp_path / "t.parquet",
        ["a", "b", "c", "c", "d", "d", "e"],
        x=[0, 1, 1, 1, 1, None, 1],
        y=[0, 0, 1, 1, None, 0, None],
    )
    task = Task(name="tags", kind="multilabel", columns=("x", "y"), classes=("x", "y"))
    with open_archive(write_zip(tmp_path / "a.zip", members)) as archive:
        audit = audit_rows(read_table(table, "uuid", [task]), [task], archive, 10**8)
    assert [reason.split(":")[0] for reason in audit.reasons] == [
        'contradictory labels of "tags" for one picture',
        'contradictory labels of "tags" for one picture',
        "",
        "",
        "",
        "",
        "no image with this id",
    ]
    assert audit.digests[0] == audit.digests[1] != audit.digests[2]
    assert "row 0 (a), row 1 (b)" in audit.reasons[0]


def test_a_row_without_any_label_is_set_aside(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.parquet", ["a", "b"], x=[1, None])
    task = Task(name="tags", kind="multilabel", columns=("x",), classes=("x",))
    with open_archive(write_zip(tmp_path / "a.zip", {"a.jpg": photo(1), "b.jpg": photo(2)})) as archive:
        audit = audit_rows(read_table(table, "uuid", [task]), [task], archive, 10**8)
    assert audit.reasons.tolist() == ["", "no label for any task"]


class Broken(Exception):
    pass


class BreakingPredictor(BrightnessPredictor):
    """Fails after some batches."""

    def __init__(self, spec: ModelSpec, batches: int) -> None:
        super().__init__(spec)
        self._left = batches

    def predict(self, images: Sequence[bytes]) -> Scores:
        self._left -= 1
        if self._left < 0:
            raise Broken
        return super().predict(images)


def test_a_broken_run_goes_on_where_it_stopped(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prediction, "BLOCK_ROWS", 4)
    ids = [f"p{number}" for number in range(12)]
    images = {f"{name}.jpg": photo(seed) for seed, name in enumerate(ids[:-1])}
    out = tmp_path / "predictions.parquet"
    with open_archive(write_zip(tmp_path / "a.zip", images)) as archive:
        with pytest.raises(Broken):
            predict_table(BreakingPredictor(clothing_spec, 2), ids, archive, out, resume="a", workers=1)
        assert not out.exists()
        rest = BrightnessPredictor(clothing_spec)
        predict_table(rest, ids, archive, out, resume="a")
        whole = BrightnessPredictor(clothing_spec)
        predict_table(whole, ids, archive, tmp_path / "whole.parquet")
    assert 0 < rest.batches < whole.batches == 3
    assert pd.read_parquet(out).equals(pd.read_parquet(tmp_path / "whole.parquet"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "predictions.parquet", "whole.parquet"]


@pytest.mark.parametrize("change", ["images", "ids", "metadata", "no resume"])
def test_a_run_on_something_else_starts_anew(
    tmp_path: Path, clothing_spec: ModelSpec, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    monkeypatch.setattr(prediction, "BLOCK_ROWS", 1)
    ids = ["x", "y", "z"]
    first = {"resume": "images 1", "metadata": {"version": "1"}}
    second = dict(first)
    if change == "images":
        second["resume"] = "images 2"
    elif change == "metadata":
        second["metadata"] = {"version": "2"}
    elif change == "no resume":
        second["resume"] = ""
    with open_archive(write_zip(tmp_path / "a.zip", {f"{name}.jpg": photo() for name in ids})) as archive:
        with pytest.raises(Broken):
            predict_table(BreakingPredictor(clothing_spec, 2), ids, archive, tmp_path / "o", workers=1, **first)
        again = BrightnessPredictor(clothing_spec)
        predict_table(again, ids[::-1] if change == "ids" else ids, archive, tmp_path / "o", **second)
    assert again.batches == 3
