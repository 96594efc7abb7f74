"""fetching: downloads end, only images are kept, nothing failed is remembered, nobody is led inside."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from multitask.audit.rows import audit_rows
from multitask.data import fetching
from multitask.data.archives import open_archive, read_image
from multitask.data.fetching import Fetcher
from multitask.data.tables import as_table
from multitask.spec import Task
from tests.conftest import photo

TASK = Task(name="tags", kind="multilabel", columns=("t",), classes=("t",))
Answer = Callable[[BaseHTTPRequestHandler], None]


class Web(ThreadingHTTPServer):
    """A real web server; what it answers to a path can be exchanged."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers: dict[str, Answer] = {}
        super().__init__(("127.0.0.1", 0), _Page)
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Page(BaseHTTPRequestHandler):
    server: Web

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.server.answers.get(self.path, send(photo(len(self.path))))(self)


def send(body: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with a body."""

    def answer(page: BaseHTTPRequestHandler) -> None:
        page.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            page.send_header(name, value)
        page.end_headers()
        page.wfile.write(body)

    return answer


def drip(start: bytes) -> Answer:
    """Begin an answer, then send a byte every now and then, for ever."""

    def answer(page: BaseHTTPRequestHandler) -> None:
        with contextlib.suppress(OSError):  # until whoever asked has gone
            page.wfile.write(start)
            while True:
                page.wfile.write(b"x")
                page.wfile.flush()
                time.sleep(0.05)

    return answer


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.chdir(tmp_path)
    server = Web()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def table_of(folder: Path, links: list[object]) -> pd.DataFrame:
    """Write a table of addresses; return it without them."""
    frame = pd.DataFrame({"uuid": [f"p{row}" for row in range(len(links))], "t": 1, "image": links})
    frame.to_parquet(folder / "t.parquet", index=False)
    return frame[["uuid", "t"]]


def reasons(folder: Path, frame: pd.DataFrame) -> list[str]:
    """Look at the images as a training does, remembering what is remembered between runs."""
    with open_archive(f"{folder / 't.parquet'}::uuid::image") as archive:
        found = audit_rows(as_table(frame, "uuid", [TASK], "t"), [TASK], archive, 10**8, folder / "audits")
    return [str(reason) for reason in found.reasons]


def test_what_failed_is_asked_for_again_at_the_next_run(web: Web, tmp_path: Path) -> None:
    frame = table_of(tmp_path, [f"{web.url}/a.jpg", f"{web.url}/b.jpg"])
    web.answers["/a.jpg"] = send(b"no", 404)
    first = reasons(tmp_path, frame)
    assert "status 404" in first[0]
    assert first[1] == ""
    del web.answers["/a.jpg"]
    assert reasons(tmp_path, frame) == ["", ""]
    assert sorted(web.asked) == ["/a.jpg", "/a.jpg", "/b.jpg"]


def test_a_page_in_place_of_a_picture_is_refused_and_not_kept(web: Web, tmp_path: Path) -> None:
    web.answers["/a.jpg"] = send(b"<!DOCTYPE html><title>Please log in</title>", **{"Content-Type": "image/jpeg"})
    frame = table_of(tmp_path, [f"{web.url}/a.jpg"])
    assert "is no image: it begins with b'<!DOCTYPE" in reasons(tmp_path, frame)[0]
    assert not list((tmp_path / "model_training").rglob("fetched/*"))
    del web.answers["/a.jpg"]
    assert reasons(tmp_path, frame) == [""]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_images_of_every_kind_are_kept(kind: str, web: Web, tmp_path: Path) -> None:
    web.answers["/a"] = send(photo(kind=kind))
    assert Fetcher(tmp_path / "cache").get(f"{web.url}/a") == photo(kind=kind)


@pytest.mark.parametrize(
    "start",
    [
        b"HTTP/1.1 200 OK\r\nX-Slow: ",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n\xff\xd8\xff",
        b"HTTP/1.1 200 OK\r\n\r\n\xff\xd8\xff",
    ],
)
def test_a_server_that_drips_is_given_up_at_the_deadline(start: bytes, web: Web, tmp_path: Path) -> None:
    web.answers["/a.jpg"] = drip(start)
    begun = time.monotonic()
    with pytest.raises(OSError, match="not done after 1 s"):
        Fetcher(tmp_path / "cache", deadline=1.0).get(f"{web.url}/a.jpg")
    assert time.monotonic() - begun < 20
    assert not list(tmp_path.glob("cache/*"))


def test_a_host_that_fails_again_and_again_is_asked_no_more(web: Web, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    links = [f"http://127.0.0.1:{port}/{row}.jpg" for row in range(40)]
    found = reasons(tmp_path, table_of(tmp_path, [*links, f"{web.url}/other.jpg"]))
    assert found[-1] == ""
    assert sum("ConnectionError" in reason and "was not asked for" not in reason for reason in found) < 10
    assert f"127.0.0.1:{port} gave no answer for 3 files in a row (ConnectionError)" in found[-2]


def test_missing_pictures_do_not_make_a_host_dead(web: Web, tmp_path: Path) -> None:
    links = [f"{web.url}/{row}.jpg" for row in range(12)]
    web.answers = {f"/{row}.jpg": send(b"no", 404) for row in range(11)}
    found = reasons(tmp_path, table_of(tmp_path, links))
    assert found[-1] == ""
    assert all("status 404" in reason for reason in found[:-1])


def test_a_file_too_large_or_a_silent_server_is_given_up(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "LARGEST_BYTES", 10)
    with pytest.raises(OSError, match="larger than 10 bytes"):
        Fetcher(tmp_path / "cache").get(f"{web.url}/a.jpg")
    monkeypatch.setattr(fetching, "_TRIES", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError, match="Timeout"):
        Fetcher(tmp_path / "cache", timeout=0.2).get(f"http://127.0.0.1:{silent.getsockname()[1]}/a.jpg")
    assert not list(tmp_path.glob("cache/*"))


def test_a_redirect_is_followed_but_not_from_the_outside_in(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No host here is outside; the first one is taken for one."""
    web.answers["/moved.jpg"] = send(b"", 302, Location="/a.jpg")
    assert Fetcher(tmp_path / "one").get(f"{web.url}/moved.jpg") == photo(len("/a.jpg"))
    inside = web.url.replace("127.0.0.1", "localhost")
    web.answers["/in.jpg"] = send(b"", 302, Location=f"{inside}/a.jpg")
    assert Fetcher(tmp_path / "one").get(f"{web.url}/in.jpg") == photo(len("/a.jpg"))

    judge = fetching._is_inside
    monkeypatch.setattr(fetching, "_is_inside", lambda url: False if "127.0.0.1" in url else judge(url))
    with pytest.raises(OSError, match="which is an address inside this network"):
        Fetcher(tmp_path / "two").get(f"{web.url}/in.jpg")
    web.answers["/file.jpg"] = send(b"", 302, Location="file:///etc/passwd")
    with pytest.raises(OSError, match="which is no http address"):
        Fetcher(tmp_path / "two").get(f"{web.url}/file.jpg")
    web.answers["/round.jpg"] = send(b"", 302, Location="/round.jpg")
    with pytest.raises(OSError, match="redirected more than"):
        Fetcher(tmp_path / "two").get(f"{web.url}/round.jpg")


@pytest.mark.parametrize(
    ("address", "inside"),
    [
        ("http://127.0.0.1/a", True),
        ("http://10.1.2.3/a", True),
        ("http://169.254.169.254/latest", True),
        ("http://[::1]/a", True),
        ("http://[::ffff:127.0.0.1]/a", True),
        ("http://8.8.8.8/a", False),
    ],
)
def test_addresses_of_this_network_are_told(address: str, inside: bool) -> None:
    assert fetching._is_inside(address) is inside


def test_a_malformed_cell_costs_its_row_alone(web: Web, tmp_path: Path) -> None:
    bad = ["http://[oops", "http://", "http://a b/c.jpg", "https://\x00/", "a\0b.jpg", "no/such/file.jpg", "/"]
    bad.append("\\xffd8ff" * 1000)
    found = reasons(tmp_path, table_of(tmp_path, [*bad, f"{web.url}/fine.jpg"]))
    assert found[-1] == ""
    assert all(found[:-1])


def test_a_cell_that_is_a_list_costs_its_row_alone(tmp_path: Path) -> None:
    cells = pa.array([[255, 216, 255], None], pa.list_(pa.uint8()))
    pq.write_table(pa.table({"uuid": ["a", "b"], "image": cells}), tmp_path / "t.parquet")
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        assert "the cell is of type list; expected bytes, a file name or an address" in read_image(archive, "a")[1]
        assert read_image(archive, "b") == (b"", "no image with this id")
        assert archive.identity("a")
