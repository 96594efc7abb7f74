"""Sources times doors: wherever tables and images lie, every door takes them."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import struct
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from multitask import evaluate, predict
from multitask.config import Config
from multitask.data.archives import open_archive
from multitask.errors import TableError
from multitask.exploration.survey import survey
from multitask.features.preparation import prepare
from multitask.prediction.trained import KerasPredictor
from multitask.progress import Quiet
from multitask.publishing import exporting
from multitask.runs import Run, RunFolder
from tests.conftest import write_zip

pytestmark = pytest.mark.tensor
ROWS = 24


@dataclass
class World:
    """Some rows of the demo dataset: a folder to write into, their labels, and the bytes of their images by id."""

    folder: Path
    labels: pd.DataFrame
    images: dict[str, bytes]
    web: str
    settings: dict[str, object] = field(default_factory=dict)

    def write(self, **columns: object) -> str:
        """Write the label table as parquet; return its place."""
        self.labels.assign(**columns).to_parquet(self.folder / "t.parquet", index=False)
        return str(self.folder / "t.parquet")

    def files(self) -> Path:
        """Write the images as files below a folder."""
        for name, data in self.images.items():
            path = self.folder / f"photos/{name[:2]}/{name}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return self.folder / "photos"

    def in_order(self) -> list[bytes]:
        """The image of each row."""
        return [self.images[name] for name in self.labels["uuid"]]


class _Quietly(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def world(sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    with open_archive(sample / "images.zip") as archive:
        labels = pd.read_parquet(sample / "data.parquet").drop_duplicates("uuid")
        labels = labels[[name in archive for name in labels["uuid"]]].iloc[:ROWS].reset_index(drop=True)
        images = {name: archive[name] for name in labels["uuid"]}
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quietly, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield World(tmp_path, labels, images, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def _tar(world: World, mode: str) -> tuple[str, str]:
    path = world.folder / "photos.tar"
    with tarfile.open(path, mode) as tar:
        for name, data in world.images.items():
            info = tarfile.TarInfo(f"./{name}.jpg")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return world.write(), str(path)


def _zip(world: World) -> tuple[str, str]:
    names = {f"{name}.jpg": data for name, data in world.images.items()}
    return world.write(), str(write_zip(world.folder / "photos.zip", names))


def _files_in_csv(world: World) -> tuple[str, str]:
    world.files()
    paths = [f"photos/{name[:2]}/{name}.jpg" for name in world.labels["uuid"]]
    world.labels.assign(uuid=paths).to_csv(world.folder / "t.csv", index=False)
    return str(world.folder / "t.csv"), "labels::uuid::uuid"


def _names_with_extension(world: World) -> tuple[str, str]:
    place, _ = _files_in_csv(world)
    return place, str(world.folder / "photos")


def _addresses(world: World) -> tuple[str, str]:
    world.files()
    return world.write(link=[f"{world.web}/photos/{n[:2]}/{n}.jpg" for n in world.labels["uuid"]]), "labels::uuid::link"


def _hugging_face(world: World) -> tuple[str, str]:
    cells = [{"bytes": data, "path": None} for data in world.in_order()]
    world.labels = world.labels.drop(columns="uuid")
    world.settings["id_column"] = "row"
    return world.write(image=cells), "labels::row::image"


def _database(world: World) -> tuple[str, str]:
    with sqlite3.connect(world.folder / "shop.db") as database:
        world.labels.assign(image=world.in_order()).to_sql("photos", database, index=False)
    world.settings["query"] = "SELECT * FROM photos"
    return f"sqlite:///{world.folder / 'shop.db'}", "labels::uuid::image"


def _idx(world: World) -> tuple[str, str]:
    pixels = np.stack(
        [np.asarray(Image.open(io.BytesIO(data)).convert("L").resize((28, 28))) for data in world.in_order()]
    )
    head = struct.pack(">HBB3I", 0, 8, 3, *pixels.shape)
    (world.folder / "shop-test-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
    world.labels["uuid"] = [f"shop-test-{row:06}" for row in range(ROWS)]
    return world.write(), str(world.folder / "shop-test-images-idx3-ubyte")


SOURCES: dict[str, Callable[[World], tuple[str, str]]] = {
    "zip": _zip,
    "tar": lambda world: _tar(world, "w"),
    "compressed tar": lambda world: _tar(world, "w:gz"),
    "folder": lambda world: (world.write(), str(world.files())),
    "pattern": lambda world: (world.write(), str(world.files() / "*/*.jpg")),
    "idx": _idx,
    "column of bytes": lambda world: (world.write(image=world.in_order()), f"{world.folder}/t.parquet::uuid::image"),
    "column of the label table": lambda world: (world.write(image=world.in_order()), "labels::uuid::image"),
    "column in a store": lambda world: (f"file://{world.write(image=world.in_order())}", "labels::uuid::image"),
    "zip in a store": lambda world: (_zip(world)[0], f"file://{world.folder}/photos.zip"),
    "Hugging Face without ids": _hugging_face,
    "file names in CSV": _files_in_csv,
    "a folder and names with extension": _names_with_extension,
    "addresses": _addresses,
    "database": _database,
}


@pytest.fixture(scope="module")
def predictor(trained: Run) -> KerasPredictor:
    return KerasPredictor.of_run(trained)


@pytest.fixture(autouse=True)
def one_network(predictor: KerasPredictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Load the network once: all runs here have the same."""
    monkeypatch.setattr(KerasPredictor, "of_run", lambda run, precision="auto": predictor)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_works_in_every_door(
    source: str, world: World, trained: Run, make_config: Callable[..., Config], capsys: pytest.CaptureFixture[str]
) -> None:
    labels, images = SOURCES[source](world)
    config = make_config(labels=labels, images=(images,), **world.settings)
    prepared = prepare(config, Quiet())
    assert len(prepared.table) + len(prepared.quarantine) == ROWS
    assert not prepared.quarantine["reason"].str.contains("no image|cannot|several").any()
    found = survey(config, world.folder / "survey").facts
    assert found["images"]["readable"] + found["images"]["broken"] == len({*world.images.values()})
    assert found["table"]["images_without_row"] == 0

    run = Run(_copy(trained, config, world.folder / "run"), config, trained.spec)
    table = f"{labels}::{world.settings['query']}" if "query" in world.settings else labels
    assert predict.main([table, "--run", str(run.folder.directory)]) == 0
    answers = pd.read_parquet("predictions.parquet")
    assert len(answers) == ROWS
    assert set(answers["status"]) <= {"ok", *found["table"]["reasons"]}
    assert evaluate.main([table, "--run", str(run.folder.directory), "--out", str(world.folder / "figures")]) == 0
    assert json.loads((world.folder / "figures/metrics.json").read_text())
    assert "Traceback" not in capsys.readouterr().err


def _copy(trained: Run, config: Config, directory: Path) -> RunFolder:
    """Copy a finished run, as if it had been trained on other data."""
    shutil.copytree(trained.folder.directory, directory, symlinks=True)
    config.save(directory / "config.toml")
    return RunFolder(directory)


def test_a_run_on_a_column_is_proven_gated_and_used_without_another_word(
    world: World, trained: Run, make_config: Callable[..., Config]
) -> None:
    """The photos of its test split come from the column that it was trained on, new ones from that of the new table."""
    labels = world.write(image=world.in_order())
    config = make_config(labels=labels, images=("labels::uuid::image",))
    run = Run(_copy(trained, config, world.folder / "run"), config, trained.spec)
    splits = pd.read_parquet(run.folder / "splits.parquet")
    wanted = [name for name in splits["id"][splits["split"] == "test"][:16] if name in world.images]
    assert exporting._photos(run, Quiet()) == [world.images[name] for name in wanted]

    new = {f"new-{row}": data for row, data in enumerate(world.in_order()[:3])}
    pd.DataFrame({"uuid": list(new), "image": list(new.values())}).to_parquet("new.parquet")
    assert predict.main(["new.parquet", "--run", str(run.folder.directory), "--out", "new.out.parquet"]) == 0
    assert pd.read_parquet("new.out.parquet")["status"].tolist() == ["ok"] * 3

    pd.DataFrame({"uuid": [*world.labels["uuid"][:2]]}).to_parquet("known.parquet")
    assert predict.main(["known.parquet", "--run", str(run.folder.directory), "--out", "known.out.parquet"]) == 0
    assert pd.read_parquet("known.out.parquet")["status"].tolist() == ["ok"] * 2


def test_pictures_are_predicted_without_a_table(world: World, trained: Run) -> None:
    folder = world.files()
    for place, rows in ((folder, ROWS), (next(folder.rglob("*.jpg")), 1)):
        assert predict.main([str(place), "--run", str(trained.folder.directory)]) == 0
        assert pd.read_parquet("predictions.parquet")["status"].tolist() == ["ok"] * rows


def test_a_table_without_any_image_is_refused_and_earlier_answers_are_kept(world: World, trained: Run) -> None:
    pd.DataFrame({"uuid": ["x", "y"]}).to_parquet("t.parquet")
    Path("predictions.parquet").write_bytes(b"earlier")
    with pytest.raises(TableError, match=r"no row has an image.*received ids such as x, y.*--images"):
        predict.main(["t.parquet", "--run", str(trained.folder.directory)])
    assert Path("predictions.parquet").read_bytes() == b"earlier"


def test_a_broken_prediction_goes_on_only_with_the_same_images(world: World) -> None:
    place = world.write(image=world.in_order())
    ids = list(world.images)
    with open_archive(f"{place}::uuid::image") as archive:
        before, again = archive.fingerprint(ids), archive.fingerprint(ids)
    world.images[ids[3]] = world.images[ids[4]]
    world.write(image=world.in_order())
    with open_archive(f"{place}::uuid::image") as archive:
        assert before == again != archive.fingerprint(ids)
        assert archive.fingerprint([*ids, "nobody"]) != archive.fingerprint(ids)
