"""Text and integers as they are written: ids, classes and groups of CSV files, parts, Arrow and databases."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from multitask.audit.division import divide
from multitask.data.archives import open_archive
from multitask.data.frames import read_frame
from multitask.data.labels import settle_classes
from multitask.data.sources import open_images
from multitask.data.tables import as_table, read_table
from multitask.errors import ArchiveError, TableError
from multitask.settings import DataConfig
from multitask.spec import Task, TaskConfig
from tests.conftest import write_zip

LARGE = [9007199254740992, 9007199254740993]  # one float, 2**53
KIND = Task(name="kind", kind="multiclass", columns=("kind",), classes=("01", "02", "1"))
SIZE = Task(name="size", kind="regression", columns=("size",), classes=("size",))


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize("ids", [["000123", "123", "0123"], ["12e3", "1_000", "1.10"], ["007", "1e400", "-0"]])
def test_ids_in_text_are_as_written(ids: list[str], tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "\n".join(["uuid,kind", *(f"{name},1" for name in ids)]))
    assert read_table(path, "uuid").ids.tolist() == ids
    with open_archive(f"{path}::uuid::kind") as archive:
        assert list(archive) == ids


def test_a_row_does_not_get_the_picture_of_another_number(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "t.csv", "uuid,kind\n000007,01\n"), "uuid")
    with open_archive(write_zip(tmp_path / "a.zip", {"7.jpg": b"7"})) as archive:
        assert table.ids[0] not in archive


def test_class_codes_keep_their_zeros_and_empty_cells_are_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", 'uuid,kind,sender\na,01,x\nb,02,\nc,1,""\n,,x\n')
    found = settle_classes(read_frame(path), {"kind": TaskConfig(kind="multiclass", columns=("kind",))}, "t")
    assert found == {"kind": ("01", "1", "02")}
    table = read_table(path, "uuid", [KIND])
    assert table.ids.tolist() == ["a", "b", "c", ""]
    np.testing.assert_array_equal(table.labels["kind"], np.array([0, 1, 2, np.nan], np.float32))
    assert table.extra["sender"].isna().tolist() == [False, True, True, False]


@pytest.mark.parametrize("numbers", [["1.5", "", "2e3", "NaN", "-7"] * 4, ["1", "n/a", "3", "null", "4"] * 4])
def test_numbers_in_text_are_numbers_where_numbers_are_asked_for(numbers: list[str], tmp_path: Path) -> None:
    rows = [f"p{row},{number},{row}" for row, number in enumerate(numbers)]
    table = read_table(write(tmp_path / "t.csv", "\n".join(["uuid,size,when", *rows])), "uuid", [SIZE])
    expected = pd.to_numeric(pd.Series(numbers), errors="coerce").to_numpy(np.float32)
    np.testing.assert_array_equal(table.labels["size"][:, 0], expected)
    parts = divide(table, [SIZE], table.ids, np.full(20, -1), DataConfig(time_column="when", test=0.2))[1]
    assert (parts[0], parts[-1]) == ("train", "test")


def test_tags_of_a_program_that_wrote_floats_are_tags(tmp_path: Path) -> None:
    task = Task(name="tags", kind="multilabel", columns=("t", "u"), classes=("t", "u"))
    frame = pd.DataFrame({"uuid": [*"abc"], "t": [1, 0, None], "u": [True, False, True]})
    frame.to_csv(tmp_path / "t.csv", index=False)
    labels = read_table(tmp_path / "t.csv", "uuid", [task]).labels["tags"]
    np.testing.assert_array_equal(labels, np.array([[1, 1], [0, 0], [np.nan, 1]], np.float32))


def test_integers_that_a_program_wrote_as_floats_beside_an_empty_cell_are_integers(tmp_path: Path) -> None:
    pd.DataFrame({"uuid": [7, None, 12], "x": [1.0, 2.0, 3.5]}).to_csv(tmp_path / "t.csv", index=False)
    assert read_table(tmp_path / "t.csv", "uuid").ids.tolist() == ["7", "", "12"]
    assert read_frame(tmp_path / "t.csv")["x"].tolist() == ["1.0", "2.0", "3.5"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_unicode_is_read(encoding: str, tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "uuid,kind\nRöckchen,花\n", encoding)
    assert read_frame(path).to_dict("list") == {"uuid": ["Röckchen"], "kind": ["花"]}


def test_text_in_another_encoding_is_refused_by_line_with_the_cure(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "uuid,kind\na,SHIRTS\nb,Röcke\n", "latin-1")
    with pytest.raises(TableError, match=r"t\.csv line 3: is not UTF-8 text.*R\\xf6.*iconv"):
        read_frame(path)


def test_bytes_in_a_column_are_text_or_refused(tmp_path: Path) -> None:
    for cell, words in ((b"SHIRTS", None), (b"R\xf6cke", "column kind: is not UTF-8 text")):
        pq.write_table(pa.table({"uuid": ["a", "b"], "kind": [cell, b"other"]}), tmp_path / "t.parquet")
        tasks = {"kind": TaskConfig(kind="multiclass", columns=("kind",))}
        if words is None:
            assert settle_classes(read_frame(tmp_path / "t.parquet"), tasks, "t") == {"kind": ("SHIRTS", "other")}
        else:
            with pytest.raises(TableError, match=words):
                settle_classes(read_frame(tmp_path / "t.parquet"), tasks, "t")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_may_use_semicolons_and_lines_may_break_within_a_cell(delimiter: str, tmp_path: Path) -> None:
    text = delimiter.join(["uuid", "note"]) + "\n" + delimiter.join(["a", '"two\nlines"']) + "\n"
    assert read_frame(write(tmp_path / "t.csv", text)).to_dict("list") == {"uuid": ["a"], "note": ["two\nlines"]}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table([["a"], ["b"]], names=["uuid", "uuid"]), tmp_path / "t.parquet")
    for path in (write(tmp_path / "t.csv", "uuid,uuid\na,b\n"), tmp_path / "t.parquet"):
        with pytest.raises(TableError, match='two columns are named "uuid"'):
            read_frame(path)


def _arrow(folder: Path, ids: pa.Array) -> str:
    pyarrow.feather.write_feather(pa.table({"uuid": ids}), str(folder / "t.arrow"))
    return str(folder / "t.arrow")


def _parquet(folder: Path, ids: pa.Array) -> str:
    pq.write_table(pa.table({"uuid": ids}), folder / "t.parquet")
    return str(folder / "t.parquet")


def _parts(folder: Path, ids: pa.Array) -> str:
    (folder / "parts").mkdir()
    for number, rows in enumerate((ids[:2], ids[2:])):
        pq.write_table(pa.table({"uuid": rows}), folder / f"parts/{number}.parquet")
    return str(folder / "parts")


def _text(folder: Path, ids: pa.Array) -> str:
    return str(write(folder / "t.csv", "uuid,x\n" + "".join(f"{'' if i is None else i},1\n" for i in ids.to_pylist())))


def _database(folder: Path, ids: pa.Array) -> str:
    with sqlite3.connect(folder / "t.db") as database:
        database.execute("CREATE TABLE t (uuid INTEGER)")
        database.executemany("INSERT INTO t VALUES (?)", [(value,) for value in ids.to_pylist()])
    return f"sqlite:///{folder / 't.db'}::SELECT uuid FROM t"


@pytest.mark.parametrize("make", [_arrow, _parquet, _parts, _text, _database])
def test_large_integer_ids_beside_a_missing_one_stay_apart(make: object, tmp_path: Path) -> None:
    place = make(tmp_path, pa.array([*LARGE, None, 7], pa.int64()))  # type: ignore[operator]
    assert read_table(place, "uuid").ids.tolist() == [*map(str, LARGE), "", "7"]


def test_parts_that_lack_a_column_or_hold_floats_leave_integers_alone(tmp_path: Path) -> None:
    pq.write_table(pa.table({"uuid": LARGE, "n": LARGE}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"uuid": [1.0, None]}), tmp_path / "1.parquet")
    frame = read_frame(tmp_path)
    table = as_table(frame, "uuid", [], "t")
    assert table.ids.tolist() == [*map(str, LARGE), "1", ""]
    assert frame["n"].tolist()[:2] == LARGE


def test_an_index_that_pandas_stored_is_a_column(tmp_path: Path) -> None:
    pd.DataFrame({"x": [1, 2]}, index=pd.Index(["a", "b"], name="uuid")).to_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet", "uuid").ids.tolist() == ["a", "b"]
    pd.DataFrame({"uuid": ["a", "b"]}, index=[5, 3]).to_parquet(tmp_path / "t.parquet")
    assert read_frame(tmp_path / "t.parquet").columns.tolist() == ["uuid"]


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string(), pa.large_string(), pa.binary()])
def test_table_and_image_column_name_a_row_alike(kind: pa.DataType, tmp_path: Path) -> None:
    ids = pa.array(["7", None, "12"]).cast(kind) if not pa.types.is_floating(kind) else pa.array([7.0, None, 12.0])
    pq.write_table(pa.table({"uuid": ids, "image": [b"a" * 2000, b"b" * 2000, b"c" * 2000]}), tmp_path / "t.parquet")
    table = read_table(tmp_path / "t.parquet", "uuid")
    with open_archive(f"{tmp_path / 't.parquet'}::uuid::image") as archive:
        assert table.ids.tolist() == ["7", "", "12"]
        assert list(archive) == ["7", "12"]
    pyarrow.feather.write_feather(pa.table({"uuid": ids, "image": [b"a", b"b", b"c"]}), str(tmp_path / "t.arrow"))
    with open_archive(f"{tmp_path / 't.arrow'}::uuid::image") as archive:
        assert list(archive) == ["7", "12"]


def test_a_frame_is_a_table(tmp_path: Path) -> None:
    frame = pd.DataFrame({"uuid": ["a", 3], "size": [1, 2]})
    table = read_table(frame, "uuid", [SIZE])
    assert (table.ids.tolist(), table.labels["size"].tolist()) == (["a", "3"], [[1], [2]])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"path": ["tree/Pants/x.jpg"]}, r"--data\.id-column path --images labels::path::path"),
        ({"link": ["https://shop/x"]}, r"--data\.id-column link --images labels::link::link"),
        ({"image": [b"x" * 2000]}, r"--data\.id-column row --images labels::row::image"),
        ({"image": [{"bytes": b"x" * 2000, "path": None}]}, r"--data\.id-column row --images labels::row::image"),
    ],
)
def test_a_table_without_ids_is_told_the_words_to_type(columns: dict[str, object], words: str, tmp_path: Path) -> None:
    pd.DataFrame(columns).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(TableError, match=words):
        read_table(tmp_path / "t.parquet", "uuid")
    assert read_table(tmp_path / "t.parquet", "row").ids.tolist() == ["0"]


def test_images_that_are_not_there_lead_to_those_that_the_table_names(tmp_path: Path) -> None:
    frame = read_frame(write(tmp_path / "t.csv", "path,kind\ntree/Pants/x.jpg,01\n"))
    data = DataConfig(labels=str(tmp_path / "t.csv"), images=(str(tmp_path / "data.zip"),), id_column="path")
    with pytest.raises(ArchiveError, match=r"no such file or folder.*--images labels::path::path"):
        open_images(data, frame)
