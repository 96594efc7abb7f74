"""Data as people have it: every kind of table, images in columns, at addresses, in class folders, in idx files, SQL."""

from __future__ import annotations

import glob
import gzip
import io
import os
import pwd
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.feather
import pyarrow.fs
import pytest
import requests
from PIL import Image

from multitask.audit.rows import audit_rows
from multitask.config import Config, DataConfig, FitConfig, ModelConfig, TaskConfig, load_config
from multitask.data import fetching
from multitask.data.archives import open_archive
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.tables import as_table, read_table
from multitask.demo.probe import encode
from multitask.errors import ArchiveError, TableError
from multitask.exploration.survey import survey
from multitask.prediction.writing import deliver
from multitask.progress import Lines
from multitask.spec import Task
from multitask.training.fitting import fit
from tests.conftest import photo, write_zip

FRAME = pd.DataFrame({"uuid": ["a", "b", "c"], "kind": ["x", "y", "x"], "tag": [0, 1, 0]})
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "arrow", "feather"])
def test_a_table_of_every_kind_reads_the_same(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{kind}"
    if kind == "parquet":
        FRAME.to_parquet(path)
    elif kind in ("csv", "tsv"):
        FRAME.to_csv(path, index=False, sep="\t" if kind == "tsv" else ",")
    else:
        pyarrow.feather.write_feather(FRAME, path)
    task = Task(name="tags", kind="multilabel", columns=("tag",), classes=("tag",))
    for place in (path, f"file://{path}"):
        table = read_table(place, "uuid", [task])
        assert table.ids.tolist() == ["a", "b", "c"]
        assert table.labels["tags"].tolist() == [[0], [1], [0]]
        assert table.extra["kind"].tolist() == ["x", "y", "x"]


def test_parts_are_one_table_in_the_order_of_their_names(tmp_path: Path) -> None:
    for number in range(3):
        FRAME.iloc[number : number + 1].to_parquet(tmp_path / f"part-{number}.parquet")
    for place in (tmp_path, str(tmp_path / "part-*.parquet"), f"file://{tmp_path}"):
        assert read_frame(place)["uuid"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.write_bytes(b"PAR1 but not really"), "cannot be read as a table"),
        (lambda path: path.write_bytes(b""), "cannot be read as a table"),
        (lambda path: path.mkdir(), "folder without tables"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_table_is_explained(make: Callable[[Path], object], words: str, tmp_path: Path) -> None:
    make(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=words):
        read_frame(tmp_path / "t.parquet")


@pytest.mark.parametrize("kind", ["bytes", "hugging face", "path in hugging face", "file"])
def test_images_may_lie_in_a_column(kind: str, tmp_path: Path) -> None:
    images = [photo(number) for number in range(3)]
    for number, data in enumerate(images):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    columns = {
        "bytes": images,
        "hugging face": [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(images)],
        "path in hugging face": [{"bytes": None, "path": f"{number}.jpg"} for number in range(3)],
        "file": [f"{number}.jpg" for number in range(3)],
    }
    frame = pd.DataFrame({"uuid": ["a.1", "b/2", "c", "none"], "image": [*columns[kind], None]})
    frame.to_parquet(tmp_path / "t.parquet")
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        assert list(archive) == ["a.1", "b/2", "c"]
        assert [archive[name] for name in archive] == images
        before = [archive.identity(name) for name in archive]
    frame["image"] = [frame["image"].iloc[1], *frame["image"].iloc[1:]]
    frame.to_parquet(tmp_path / "t.parquet")
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        after = [archive.identity(name) for name in archive]
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True, True]


@pytest.mark.parametrize("rows_a_group", [7, 1000])
def test_a_large_column_is_streamed_and_never_held(rows_a_group: int, tmp_path: Path) -> None:
    """Two hundred images of a megabyte each: reads in any order, and all of them in flat memory."""
    rng = np.random.default_rng(0)
    images = [rng.bytes(1 << 20) for _ in range(40)]
    frame = pd.DataFrame({"uuid": [f"p{number}" for number in range(40)], "t": 1, "image": images})
    frame.iloc[:25].to_parquet(tmp_path / "part-0.parquet", row_group_size=rows_a_group)
    frame.iloc[25:].to_parquet(tmp_path / "part-1.parquet", row_group_size=rows_a_group)
    assert read_frame(tmp_path).columns.tolist() == ["uuid", "t"], "labels are read without the images"
    with open_archive(f"{tmp_path}::uuid::image") as archive:
        for row in [0, 1, 39, 38, 5, 24, 25, 26, 3, 3]:
            assert archive[f"p{row}"] == images[row]
    code = f"""
from multitask.data.archives import open_archive
from tests.conftest import peak_kilobytes
base = peak_kilobytes()
with open_archive({f"{tmp_path / 'many'}::uuid::image"!r}) as archive:
    assert sum(len(archive[name]) for name in archive) == 200 << 20
assert peak_kilobytes() - base < 170 << 10
"""
    (tmp_path / "many").mkdir()
    for part in range(5):
        copy = frame.assign(uuid=[f"{part}-{name}" for name in frame["uuid"]])
        # A page is held as it is stored and as it is read, so is a dictionary; a page here is a row group, 40 MB or 7.
        copy.to_parquet(tmp_path / f"many/{part}.parquet", row_group_size=rows_a_group, use_dictionary=False)
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_two_pictures_for_one_id_are_ambiguous_and_one_picture_twice_is_not(tmp_path: Path) -> None:
    images = [photo(1), photo(1), photo(2), photo(3)]
    pd.DataFrame({"uuid": ["same", "same", "two", "two"], "image": images}).to_parquet(tmp_path / "t.parquet")
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        assert list(archive) == ["same"]
        assert list(archive.ambiguous) == ["two"]


@pytest.mark.parametrize(
    "location", ["t.parquet::uuid", "t.parquet::uuid::picture", "t.parquet::id::image", "no.parquet::a::b"]
)
def test_a_wrong_column_is_explained(location: str, tmp_path: Path) -> None:
    pd.DataFrame({"uuid": ["a"], "image": [b"x"]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ArchiveError):
        open_archive(str(tmp_path / location))


class Web(ThreadingHTTPServer):
    """A real web server with pictures, a busy page and a missing one."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.busy, self.delay, self.now, self.most = 2, 0.0, 0, 0
        super().__init__(("127.0.0.1", 0), _Page)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.now += 1
        self.server.most = max(self.server.most, self.server.now)
        time.sleep(self.server.delay)
        self.server.now -= 1
        status, body = 200, photo(len(self.path))
        if self.path == "/busy.jpg" and self.server.busy:
            self.server.busy -= 1
            status, body = 503, b"busy"
        if self.path == "/missing.jpg":
            status, body = 404, b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Web]:
    monkeypatch.chdir(tmp_path)
    server = Web()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_images_behind_addresses_are_fetched_once(web: Web, tmp_path: Path) -> None:
    names = ["one", "busy", "missing"]
    frame = pd.DataFrame({"uuid": names, "image": [f"{web.url}/{name}.jpg" for name in names]})
    frame.to_parquet(tmp_path / "t.parquet")
    for _ in range(2):
        with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
            assert archive["one"] == photo(len("/one.jpg"))
            assert archive["busy"] == photo(len("/busy.jpg"))
            with pytest.raises(ArchiveError, match=r"missing\.jpg cannot be fetched: status 404"):
                _ = archive["missing"]
    assert sorted(web.asked) == ["/busy.jpg"] * 3 + ["/missing.jpg"] * 2 + ["/one.jpg"]


def test_the_audit_fetches_several_at_once_and_no_more_than_is_polite(web: Web, tmp_path: Path) -> None:
    web.delay = 0.05
    names = [f"n{number:02}" for number in range(24)]
    frame = pd.DataFrame({"uuid": names, "t": [1] * 24, "image": [f"{web.url}/{name}.jpg" for name in names]})
    frame.to_parquet(tmp_path / "t.parquet")
    task = Task(name="tags", kind="multilabel", columns=("t",), classes=("t",))
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        found = audit_rows(as_table(frame, "uuid", [task], "t"), [task], archive, 10**8)
    assert (found.reasons == "").all()
    assert 1 < web.most <= fetching.AT_ONCE_PER_HOST


def class_folders(root: Path, per_class: int = 12) -> Path:
    """Write train, val and test folders with a folder per class, the same file names in each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", 4), ("test", 4)):
        for name, level in (("NORMAL", 90), ("PNEUMONIA", 170)):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.normal(level, 25, (48, 40)).clip(0, 255).astype(np.uint8)
                (folder / f"IM-{number:04}.jpeg").write_bytes(encode(Image.fromarray(pixels), "JPEG"))
    return root


def test_folders_of_classes_are_a_table_and_its_images(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "xray")
    frame = read_frame(root)
    assert frame["folder"].value_counts().to_dict() == {"NORMAL": 20, "PNEUMONIA": 20}
    assert frame["split"].value_counts().to_dict() == {"train": 24, "validation": 8, "test": 8}
    with open_archive(root) as archive:
        for row in frame.itertuples():
            place = row.uuid.replace("validation", "val")
            assert archive[row.uuid] == (root / f"{place}.jpeg").read_bytes()
    (tmp_path / "flat").mkdir()
    for name in ("a", "b"):
        shutil.copytree(root / "train/NORMAL", tmp_path / "flat" / name)
    assert read_frame(tmp_path / "flat").columns.tolist() == ["uuid", "folder"]


def test_folders_of_classes_hold_what_the_archive_holds_and_no_litter(tmp_path: Path) -> None:
    suffixes = (".jpg", ".JPEG", ".jfif", ".jpe", ".tif", ".tiff", ".png", ".webp", ".heic", ".txt")
    for folder in ("hat", "shoe", ".ipynb_checkpoints", "__MACOSX", ".git/x", "hat/.ipynb_checkpoints"):
        for number, suffix in enumerate(suffixes):
            path = tmp_path / f"root/{folder}/{number}{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(photo(number))
        (path.parent / "._5.jpg").write_bytes(b"litter")
    frame = read_frame(tmp_path / "root")
    assert frame["folder"].value_counts().to_dict() == {"hat": 9, "shoe": 9}
    with open_archive(tmp_path / "root") as archive:
        assert sorted(archive) == sorted(frame["uuid"])
        assert archive.without_row(frame["uuid"]) == []


def write_idx(path: Path, values: np.ndarray) -> Path:
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    data = head + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def fashion(root: Path, rows: int = 60, suffix: str = ".gz") -> Path:
    """Write Fashion-MNIST's four files with drawn squares: the class says how bright."""
    root.mkdir()
    rng = np.random.default_rng(0)
    for prefix, count in (("train", rows), ("t10k", rows // 3)):
        labels = np.arange(count) % 10
        images = rng.normal(20 + 20 * labels[:, None, None], 12, (count, 28, 28)).clip(0, 255)
        write_idx(root / f"{prefix}-images-idx3-ubyte{suffix}", images)
        write_idx(root / f"{prefix}-labels-idx1-ubyte{suffix}", labels)
    return root


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_files_are_images_and_labels(suffix: str, tmp_path: Path) -> None:
    root = fashion(tmp_path / "fashion", suffix=suffix)
    frame = read_frame(str(root / f"*-labels-idx1-ubyte{suffix}"))
    assert frame.equals(read_frame(root))
    assert frame["split"].value_counts().to_dict() == {"train": 60, "test": 20}
    with open_archive(str(root / f"*-images-idx3-ubyte{suffix}")) as archive:
        assert set(archive) == set(frame["uuid"])
        image = Image.open(io.BytesIO(archive["t10k-000007"]))
        assert (image.size, image.mode) == ((28, 28), "L")
        assert archive["t10k-000007"] == archive["t10k-000007"]
    with pytest.raises(ArchiveError, match="holds labels, not images"):
        open_archive(str(root / f"train-labels-idx1-ubyte{suffix}"))
    with pytest.raises(TableError, match="holds images, not labels"):
        read_frame(str(root / f"train-images-idx3-ubyte{suffix}"))


@pytest.mark.parametrize("prefix", ["emnist-letters-{}", "qmnist.{}", "{}"])
def test_idx_files_of_one_folder_bear_distinct_ids_and_their_split(prefix: str, tmp_path: Path) -> None:
    for part, rows in (("train", 5), ("test", 3)):
        name = prefix.format(part)
        write_idx(tmp_path / f"{name}-images-idx3-ubyte", np.full((rows, 4, 4), len(name)))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte", np.arange(rows) % 2)
    frame = read_frame(tmp_path)
    assert frame["uuid"].is_unique
    assert frame["uuid"].tolist()[0] == f"{prefix.format('test')}-000000"
    assert frame["split"].value_counts().to_dict() == {"train": 5, "test": 3}
    with open_archive(str(tmp_path / "*-images-idx3-ubyte")) as archive:
        assert set(archive) == set(frame["uuid"])


def test_an_idx_file_that_holds_more_than_it_says_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "train-images-idx3-ubyte.gz", np.zeros((3, 4, 4)))
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 20)))
    with pytest.raises(ArchiveError, match="holds more than 48 bytes where its header says 3x4x4"):
        open_archive(path)


def test_a_cut_idx_file_is_explained(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "train-images-idx3-ubyte", np.zeros((3, 4, 4)))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ArchiveError, match="holds 43 bytes where its header says 3x4x4"):
        open_archive(path)


def test_classes_can_be_merged() -> None:
    task = TaskConfig(kind="multiclass", columns=("kind",), merge={"top": ("0", "2"), "shoe": ("9",)})
    frame = pd.DataFrame({"uuid": list("abcd"), "kind": [0, 2, 9, 1]})
    classes = settle_classes(frame, {"kind": task}, "t")
    assert classes == {"kind": ("1", "shoe", "top")}
    spec = Config(tasks={"kind": task}).model_spec(classes)
    assert as_table(frame, "uuid", spec.tasks, "t").labels["kind"].tolist() == [2, 2, 1, 0]
    with pytest.raises(ValueError, match="merged into one other only"):
        TaskConfig(kind="multiclass", columns=("kind",), merge={"a": ("0",), "b": ("0",)})


def write_shop(path: Path) -> str:
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE photos (id TEXT, category TEXT, wool INTEGER)")
        database.executemany("INSERT INTO photos VALUES (?, ?, ?)", [("a", "x", 0), ("b", "y", 1), ("c", None, None)])
    return f"sqlite:///{path}"


def test_a_query_is_a_table(tmp_path: Path) -> None:
    url = write_shop(tmp_path / "shop.db")
    frame = read_frame(url, "SELECT id AS uuid, category, wool FROM photos ORDER BY id")
    assert frame["uuid"].tolist() == ["a", "b", "c"]
    tasks = {
        "category": TaskConfig(kind="multiclass", columns=("category",)),
        "tags": TaskConfig(kind="multilabel", columns=("wool",)),
    }
    spec = Config(tasks=tasks).model_spec(settle_classes(frame, tasks, url))
    table = as_table(frame, "uuid", spec.tasks, url)
    assert np.array_equal(table.labels["tags"][:, 0], [0, 1, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("", "needs a query"),
        ("SELECT nothing FROM photos", "the query failed"),
        ("SELECT * FROM photos WHERE id = 'z'", "has no rows"),
    ],
)
def test_a_wrong_query_is_explained(query: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(TableError, match=words):
        read_frame(write_shop(tmp_path / "shop.db"), query)


@pytest.mark.parametrize("place", ["postgresql+psycopg://me:tell@127.0.0.1:9/shop", "none://me:tell@h/s", "pg://:x/y"])
def test_a_database_that_cannot_be_reached_is_explained_without_its_password(place: str) -> None:
    for read in (lambda: read_frame(place, "SELECT 1"), lambda: open_archive(f"{place}::SELECT 1::id::image")):
        with pytest.raises((TableError, ArchiveError)) as error:
            read()
        assert "tell" not in str(error.value)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL on loopback, as Debian packages it."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found or (os.geteuid() == 0 and "postgres" not in [entry.pw_name for entry in pwd.getpwall()]):
        pytest.skip("Debian's postgresql is not installed")
    # The server refuses to run as root.
    user = {"user": "postgres"} if os.geteuid() == 0 else {}
    folder = Path("/tmp") / f"multitask-postgres-{os.getpid()}"
    folder.mkdir()
    if user:
        shutil.chown(folder, "postgres")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    run = {"check": True, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, **user}
    subprocess.run([f"{found[-1]}/initdb", "-D", "data", "-U", "me", "-A", "trust"], **run)
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
    subprocess.run([f"{found[-1]}/pg_ctl", "-D", "data", "-w", "-o", options, "start"], **run)
    try:
        yield f"postgresql+psycopg://me@127.0.0.1:{port}/postgres"
    finally:
        subprocess.run([f"{found[-1]}/pg_ctl", "-D", "data", "-m", "fast", "stop"], **run)
        shutil.rmtree(folder)


def test_a_real_postgresql_gives_rows_and_streams_them(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("multitask.data.frames._SQL_ROWS", 100)
    query = "SELECT 'p' || n AS uuid, CASE WHEN n % 2 = 0 THEN 'x' ELSE 'y' END AS kind, (n % 3 = 0)::int AS tag "
    frame = read_frame(postgres, query + "FROM generate_series(1, 1050) AS n ORDER BY n")
    assert len(frame) == 1050
    assert frame["uuid"].iloc[-1] == "p1050"
    assert frame["tag"].sum() == 350
    with pytest.raises(TableError, match="the query failed"):
        read_frame(postgres, "SELECT nothing FROM nowhere")


def test_a_run_on_a_database_shows_its_password_nowhere(
    postgres: str,
    sample: Path,
    make_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sqlalchemy

    frame = pd.read_parquet(sample / "data.parquet").iloc[:80]
    with open_archive(sample / "images.zip") as archive:
        frame["image"] = [archive.get(name) for name in frame["uuid"]]
    frame.loc[frame.index[:3], "image"] = pd.Series([b"broken"] * 3, frame.index[:3])
    kinds = {"image": sqlalchemy.LargeBinary}
    frame.to_sql("clothes", sqlalchemy.create_engine(postgres), index=False, dtype=kinds, if_exists="replace")
    place = postgres.replace("me@", "me:tellnoone@")
    config = make_config(epochs=1, labels=place, query="SELECT * FROM clothes", images=("labels::uuid::image",))
    run = fit(config, "run", Lines(), root=tmp_path)
    survey(config, tmp_path / "survey", Lines())
    shown = capsys.readouterr().err
    assert "in postgresql+psycopg://me:***@" in shown
    texts = [shown, *map(str, pd.read_parquet(run.folder / "quarantine.parquet")["reason"])]
    kept = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".toml", ".json", ".txt", ".csv")]
    texts += [path.read_text() for path in kept]
    assert len(kept) > 5
    assert not [text for text in texts if "tellnoone" in text]
    # The password is taken from the environment where the run has none.
    monkeypatch.setenv("MULTITASK_DATABASE_PASSWORD", "tellnoone")
    assert len(read_frame(load_config(run.folder.config_file).data.labels, "SELECT uuid FROM clothes")) == 80


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """A bucket on an S3-compatible server on loopback; moto's packages clash with ours, so it runs by itself."""
    uv = shutil.which("uv", path=str(Path(sys.executable).parent))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    if uv is None:
        pytest.skip("uv is not installed")
    server = subprocess.Popen(
        [uv, "tool", "run", "--from", "moto[server]", "moto_server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    patch = pytest.MonkeyPatch()
    try:
        end = time.monotonic() + 60
        while True:
            try:
                requests.put(f"http://127.0.0.1:{port}/photos", timeout=5).raise_for_status()
                break
            except requests.RequestException:
                if server.poll() is not None or time.monotonic() > end:
                    pytest.skip("moto cannot be fetched from the package registry")
                time.sleep(0.5)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        options = f"endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"
        yield lambda path: f"s3://photos/{path}?{options}"
    finally:
        patch.undo()
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(20)


def put(url: str, data: bytes) -> None:
    filesystem, path = pyarrow.fs.FileSystem.from_uri(url)
    with filesystem.open_output_stream(path) as stream:
        stream.write(data)


def test_tables_are_delivered_to_an_object_store(bucket: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(2):
        FRAME.to_parquet(tmp_path / f"parts/part-{number:06d}.parquet")
    FRAME.to_parquet(tmp_path / "one.parquet")
    deliver(tmp_path / "parts", bucket("told/"))
    deliver(tmp_path / "one.parquet", bucket("one.parquet"))
    assert read_frame(bucket("told"))["uuid"].tolist() == 2 * FRAME["uuid"].tolist()
    assert read_frame(bucket("one.parquet"))["uuid"].tolist() == FRAME["uuid"].tolist()


def test_tables_and_archives_are_read_from_an_object_store(bucket: Callable[[str], str], tmp_path: Path) -> None:
    for number in range(3):
        FRAME.iloc[number : number + 1].to_parquet(tmp_path / "part.parquet")
        put(bucket(f"parts/{number}.parquet"), (tmp_path / "part.parquet").read_bytes())
    assert read_frame(bucket("parts"))["uuid"].tolist() == ["a", "b", "c"]
    assert read_frame(bucket("parts/1.parquet"))["uuid"].tolist() == ["b"]
    images = {f"{name}.jpg": photo(seed) for seed, name in enumerate("abc")}
    put(bucket("photos.zip"), write_zip(tmp_path / "a.zip", images).read_bytes())
    with open_archive(bucket("photos.zip")) as archive:
        assert [archive[name] for name in "abc"] == list(images.values())
        assert archive.identity("a") != archive.identity("b")
    with pytest.raises(TableError, match="no such file"):
        read_frame(bucket("none.parquet"))
    with pytest.raises(ArchiveError, match="no such file"):
        open_archive(bucket("none.zip"))


def small(config: Config, folder: Path, **data: object) -> Config:
    """Make a recipe train in seconds."""
    places = {"features": str(folder / "features")} | data
    return config.model_copy(
        update={
            "data": DataConfig(**config.data.model_dump() | places),
            "model": ModelConfig(
                **config.model.model_dump() | {"backbone": "small_cnn", "weights": "random", "image_size": (32, 32)}
            ),
            "fit": FitConfig(**config.fit.model_dump() | {"epochs": 3}),
        }
    )


def test_the_x_ray_recipe_runs_end_to_end(tmp_path: Path) -> None:
    root = str(class_folders(tmp_path / "xray"))
    config = small(load_config(ROOT / "model_training/recipes/xray.toml"), tmp_path, labels=root, images=(root,))
    run = fit(config, "run", root=tmp_path)
    splits = pd.read_parquet(run.folder / "splits.parquet")
    assert splits["split"].value_counts().to_dict() == {"train": 24, "validation": 8, "test": 8}
    assert (splits["split"] == splits["id"].str.split("/").str[0].replace("val", "validation")).all()
    assert run.spec.tasks[0].classes == ("NORMAL", "PNEUMONIA")


def test_the_fashion_recipe_runs_end_to_end(tmp_path: Path) -> None:
    root = fashion(tmp_path / "fashion", rows=120)
    places = {"labels": str(root), "images": (str(root / "*-images-idx3-ubyte.gz"),)}
    config = small(load_config(ROOT / "model_training/recipes/fashion.toml"), tmp_path, **places)
    run = fit(config, "run", root=tmp_path)
    assert len(run.spec.tasks[0].classes) == 5
    splits = pd.read_parquet(run.folder / "splits.parquet")
    assert (splits["split"] == "test").equals(splits["id"].str.startswith("t10k"))


def test_a_column_of_images_trains_like_an_archive(
    sample: Path, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    with open_archive(sample / "images.zip") as archive:
        frame = pd.read_parquet(sample / "data.parquet")
        frame["image"] = [archive.get(name) for name in frame["uuid"]]
    frame.to_parquet(tmp_path / "t.parquet")
    one = fit(make_config(epochs=2), "one", root=tmp_path)
    place = str(tmp_path / "t.parquet")
    other = fit(make_config(epochs=2, labels=place, images=(f"{place}::uuid::image",)), "other", root=tmp_path)
    assert one.folder.read_json("metrics.json") == other.folder.read_json("metrics.json")


def write_catalogue(path: Path, web: str, products: int) -> str:
    """Write a shop: product 0 has no picture, product 1 no description, product 2 a translated one."""
    with sqlite3.connect(path) as database:
        database.executescript(
            "CREATE TABLE Products (ProductId TEXT, Title TEXT, Category TEXT);"
            "CREATE TABLE Images (ProductId TEXT, ImageIndex INTEGER, Url TEXT);"
            "CREATE TABLE Descriptions (ProductId TEXT, Country TEXT, Text TEXT, TranslatedText TEXT);"
        )
        for number in range(products):
            name = f"p{number:03}"
            database.execute("INSERT INTO Products VALUES (?, ?, ?)", (name, f"title {number}", "ab"[number % 2]))
            for index in (1, 0) if number else ():
                database.execute(
                    "INSERT INTO Images VALUES (?, ?, ?)", (name, index, f"{web}/{'x' * number}{index}.jpg")
                )
            for country in ("fr", "us") if number != 1 else ("fr",):
                translated = "translated" if number == 2 else ""
                database.execute(
                    "INSERT INTO Descriptions VALUES (?, ?, ?, ?)", (name, country, f"text {country}", translated)
                )
    return f"sqlite:///{path}"


def test_the_catalogue_keeps_every_product_and_takes_the_first_picture(web: Web, tmp_path: Path) -> None:
    config = load_config(ROOT / "model_training/recipes/catalogue.toml")
    frame = read_frame(write_catalogue(tmp_path / "shop.db", web.url, 5), config.data.query)
    assert frame["uuid"].tolist() == [f"p{number:03}" for number in range(5)]
    assert frame["image"].fillna("").tolist() == ["", *[f"{web.url}/{'x' * number}0.jpg" for number in range(1, 5)]]
    assert frame["description"].fillna("").tolist() == ["text us", "", "translated", "text us", "text us"]


def test_the_catalogue_recipe_runs_end_to_end(web: Web, tmp_path: Path) -> None:
    config = load_config(ROOT / "model_training/recipes/catalogue.toml")
    config = small(config, tmp_path, labels=write_catalogue(tmp_path / "shop.db", web.url, 40))
    run = fit(config, "run", root=tmp_path)
    quarantine = pd.read_parquet(run.folder / "quarantine.parquet")
    assert quarantine.to_dict("records") == [{"id": "p000", "row": 0, "reason": "no image with this id"}]
    assert len(pd.read_parquet(run.folder / "splits.parquet")) == 39
    assert len(web.asked) == 39
