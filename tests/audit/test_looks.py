"""looks: what was seen of a file is known from then on, whatever table or archive asks for it."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from multitask.audit import looking as room
from multitask.audit import looks as store_room
from multitask.audit.inspection import Look, look_at
from multitask.audit.looks import Looks, LookStore
from multitask.audit.rows import Audit, audit_rows
from multitask.data.archives import open_archive
from multitask.data.tables import Table
from multitask.spec import Task
from tests.conftest import photo, write_zip

LIMIT = 64_000_000
TASK = Task(name="tags", kind="multilabel", columns=("t",), classes=("t",))


def table_of(ids: list[str]) -> Table:
    return Table(
        np.array(ids, object), {"tags": np.zeros((len(ids), 1), np.float32)}, pd.DataFrame(index=range(len(ids)))
    )


def audit(ids: list[str], images: Path | str, cache: Path) -> Audit:
    with open_archive(images) as archive:
        return audit_rows(table_of(ids), [TASK], archive, LIMIT, cache)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_zip(tmp_path / "photos.zip", {f"p{number}.jpg": photo(number) for number in range(30)})


def test_columns_come_back_from_arrow_as_they_were() -> None:
    looks = Looks.of([look_at(photo(1), LIMIT), look_at(b"x", LIMIT), look_at(photo(2, kind="PNG"), LIMIT)])
    back = Looks.from_arrow(looks.as_arrow())
    for name in store_room.COLUMNS:
        assert getattr(back, name).tolist() == getattr(looks, name).tolist(), name
        assert getattr(back, name).dtype == getattr(looks, name).dtype, name
    assert len(Looks.from_arrow(Looks.of([]).as_arrow())) == 0


def test_one_more_row_and_another_table_look_only_at_what_is_unknown(photos: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    assert audit(["p0", "p1", "p2"], photos, cache).looked == 3
    assert audit(["p0", "p1", "p2", "p3"], photos, cache).looked == 1
    assert audit(["p9", "p2"], photos, cache).looked == 1
    assert audit(["p0", "p1", "p2", "p3", "p9"], photos, cache).looked == 0


def test_another_archive_beside_it_evicts_nothing(photos: Path, tmp_path: Path) -> None:
    cache, other = tmp_path / "cache", write_zip(tmp_path / "b.zip", {"q.jpg": photo(77)})
    audit(["p0"], photos, cache)
    audit(["q"], other, cache)
    assert audit(["p0"], photos, cache).looked == audit(["q"], other, cache).looked == 0


def test_an_interruption_loses_little(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids, seen = [f"p{number}" for number in range(30)], []

    def look(data: bytes, limit: int) -> Look:
        seen.append(1)
        if len(seen) == 25:
            raise KeyboardInterrupt
        return look_at(data, limit)

    monkeypatch.setattr(room, "_SAVED_LOOKS", 5)
    monkeypatch.setattr(room, "_BATCH_FILES", 5)
    monkeypatch.setattr(room, "look_at", look)
    with pytest.raises(KeyboardInterrupt):
        audit(ids, photos, tmp_path / "cache")
    monkeypatch.setattr(room, "look_at", look_at)
    assert audit(ids, photos, tmp_path / "cache").looked <= 15


def test_many_small_files_become_one_and_know_the_same(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        audit([f"p{number}"], photos, tmp_path / "cache")
    assert len(list((tmp_path / "cache").rglob("*.parquet"))) < 18
    found = audit([f"p{number}" for number in range(20)], photos, tmp_path / "cache")
    assert found.looked == 0
    assert found.digests.tolist() == [look_at(photo(number), LIMIT).digest for number in range(20)]


def test_a_damaged_file_of_looks_is_looked_at_anew(photos: Path, tmp_path: Path) -> None:
    audit(["p0"], photos, tmp_path / "cache")
    for path in (tmp_path / "cache").rglob("*.parquet"):
        path.write_bytes(path.read_bytes()[:100])
    found = audit(["p0"], photos, tmp_path / "cache")
    assert (found.looked, found.reasons.tolist()) == (1, [""])


@pytest.fixture
def shaky_server() -> Iterator[tuple[str, list[int]]]:
    """A server that answers with the status that is set, and counts who asks."""
    state = [404, 0]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state[1] += 1
            data = photo(5)
            self.send_response(state[0])
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", state
    server.shutdown()
    server.server_close()


def test_a_failed_download_is_not_remembered(
    shaky_server: tuple[str, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, state = shaky_server
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"uuid": ["a"], "image": [f"{address}/a.jpg"]}).to_parquet(tmp_path / "t.parquet")
    images = f"{tmp_path / 't.parquet'}::uuid::image"
    assert "cannot be fetched" in audit(["a"], images, tmp_path / "cache").reasons[0]
    state[0] = 200
    asked = state[1]
    assert audit(["a"], images, tmp_path / "cache").reasons.tolist() == [""]
    assert state[1] == asked + 1


def test_a_hundred_thousand_looks_are_found_quickly(tmp_path: Path) -> None:
    count = 100_000
    look = look_at(photo(1), LIMIT)
    looks = Looks.of([look] * 1000).take(np.arange(count) % 1000)
    keys = [number.to_bytes(16, "big") for number in range(count)]
    store = LookStore(tmp_path)
    started = time.process_time()
    for at in range(0, count, 10_000):
        store.add(keys[at : at + 10_000], looks.take(np.arange(10_000)))
    found, rows = store.find([*keys[::-1], b"x" * 16])
    assert (rows[:-1] >= 0).all()
    assert rows[-1] == -1
    assert len(found) == count
    # Half a second; a Python object per row and file took longer than that for each.
    assert time.process_time() - started < 20


def test_a_placeholder_with_differing_labels_has_short_reasons(tmp_path: Path) -> None:
    rows = 20_000
    images = write_zip(tmp_path / "a.zip", {"same.jpg": photo(1)})
    labels = (np.arange(rows) % 2).astype(np.float32)[:, None]
    table = Table(np.full(rows, "same", object), {"tags": labels}, pd.DataFrame(index=range(rows)))
    started = time.process_time()
    with open_archive(images) as archive:
        found = audit_rows(table, [TASK], archive, LIMIT)
    assert set(found.reasons) == {
        'contradictory labels of "tags" for one picture: row 0 (same), row 1 (same), row 2 (same) and 19,997 more rows'
    }
    assert time.process_time() - started < 10


def test_a_group_beyond_reason_is_warned_of(tmp_path: Path) -> None:
    seeds = [photo(number, (120, 90)) for number in range(20)]
    copies = {f"c{number}.jpg": photo(99, (120 + number, 90)) for number in range(60)}
    images = write_zip(tmp_path / "a.zip", {f"s{n}.jpg": data for n, data in enumerate(seeds)} | copies)
    ids = [f"s{number}" for number in range(20)] + [f"c{number}" for number in range(60)]
    with open_archive(images) as archive:
        found = audit_rows(table_of(ids), [TASK], archive, LIMIT)
        apart = audit_rows(table_of(ids), [TASK], archive, LIMIT, near=False)
    assert len(found.warnings) == 1
    assert "data.near_duplicates = false" in found.warnings[0]
    assert (apart.alike == -1).all()
    assert apart.warnings == ()
