"""Tables as people have them: parquet, CSV, Arrow, idx; one file, several, a folder of parts, a class per folder, SQL.

data.parquet  data.csv  data.tsv  data.arrow  data.feather        one file
parts/  "parts/*.parquet"                                         several, in the order of their names
xray/   with train/NORMAL/1.jpeg, train/SICK/7.jpeg ...           columns uuid (path), folder (class), split
train-labels-idx1-ubyte.gz                                        columns uuid, label, split
s3://bucket/data.parquet  gs://...  abfs://...                    through pyarrow.fs
sqlite:///shop.db  postgresql+psycopg://host/shop                 with a query; through SQLAlchemy
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.fs
import pyarrow.parquet as pq

from multitask.data.idx import idx_labels, is_idx
from multitask.errors import TableError, install

# A column of bytes with more of them a row holds images; it is read where images are, see `columns`.
_IMAGE_BYTES = 1000


def _read_parquet(file: pa.NativeFile) -> pa.Table:
    """Read a parquet file without its columns of images."""
    parquet = pq.ParquetFile(file)
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    sizes: dict[str, int] = {}
    for column in [group.column(number) for group in groups for number in range(group.num_columns)]:
        name = column.path_in_schema.split(".")[0]
        sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
    kept = [
        field.name
        for field in parquet.schema_arrow
        if not (_holds_bytes(field.type) and sizes.get(field.name, 0) > _IMAGE_BYTES * parquet.metadata.num_rows)
    ]
    return parquet.read(columns=kept)


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


_READERS: dict[str, Callable[[pa.NativeFile], pa.Table]] = {
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".csv": pyarrow.csv.read_csv,
    ".tsv": lambda file: pyarrow.csv.read_csv(file, parse_options=pyarrow.csv.ParseOptions(delimiter="\t")),
    ".arrow": pyarrow.feather.read_table,
    ".feather": pyarrow.feather.read_table,
}
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
_SPLITS |= {"test": "test", "testing": "test"}
_PICTURES = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".webp")
# Rows fetched from a database at once.
_SQL_ROWS = 50_000


def read_frame(location: str | Path, query: str = "") -> pd.DataFrame:
    """Read a table from wherever it is.

    Args:
        location: see the top of this file.
        query: for a database: what to select.

    Raises:
        TableError: it is missing, cannot be read, or is empty.
    """
    place = str(location)
    if "://" in place and not place.startswith(("s3:", "gs:", "gcs:", "abfs:", "abfss:", "file:", "http:", "https:")):
        frame = _query(place, query)
    elif "://" in place:
        frame = _remote(place)
    else:
        frame = pd.concat([_local(path) for path in _files(place)], ignore_index=True)
    if frame.empty:
        raise TableError("has no rows", where=place)
    return frame


def _files(place: str) -> list[Path]:
    """Return the files of a location; a folder of pictures stands for itself."""
    path = Path(place)
    if path.is_dir():
        parts = sorted(part for part in path.iterdir() if part.suffix.lower() in _READERS or is_idx_labels(part))
        return parts or [path]
    if path.is_file():
        return [path]
    found = sorted(map(Path, glob.glob(place)))
    if not found:
        raise TableError(
            "no such file", where=place, expected="a table", fix="Name the table with --labels, or set data.labels."
        )
    return found


def parquet_files(place: str) -> list[Path]:
    """Return the parquet files on disk that a location stands for; none if it is something else."""
    if "://" in place:
        return []
    files = _files(place)
    return (
        files
        if all(path.is_file() and _reader(path.name) is _read_parquet and not is_idx(path) for path in files)
        else []
    )


def is_idx_labels(path: Path) -> bool:
    """Tell a file of idx labels."""
    return "idx1" in path.name and path.is_file() and is_idx(path)


def _local(path: Path) -> pd.DataFrame:
    if path.is_dir():
        return _class_folders(path)
    if "idx" in path.name and is_idx(path):
        return idx_labels(path)
    with explaining_table(str(path)):
        return _reader(path.name)(pa.OSFile(str(path))).to_pandas()


def _remote(place: str) -> pd.DataFrame:
    with explaining_table(place):
        filesystem, path = pyarrow.fs.FileSystem.from_uri(place)
        info = filesystem.get_file_info(path)
        if info.type == pyarrow.fs.FileType.NotFound:
            raise TableError("no such file", where=place)
        names = [path]
        if info.type == pyarrow.fs.FileType.Directory:
            listed = filesystem.get_file_info(pyarrow.fs.FileSelector(path))
            names = sorted(entry.path for entry in listed if PurePosixPath(entry.path).suffix.lower() in _READERS)
        tables = []
        for name in names:
            with filesystem.open_input_file(name) as file:
                tables.append(_reader(name)(file).to_pandas())
        return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _reader(name: str) -> Callable[[pa.NativeFile], pa.Table]:
    """Return what reads a file of this name; parquet where the name says nothing."""
    return _READERS.get(PurePosixPath(name).suffix.lower(), _read_parquet)


def _class_folders(root: Path) -> pd.DataFrame:
    """Make a table of pictures in folders that bear the names of their classes, with or without folders of splits."""
    rows = []
    for directory, subdirectories, files in os.walk(root):
        subdirectories.sort()
        parents = Path(directory).relative_to(root).parts
        split = _SPLITS.get(parents[0].lower(), "") if parents else ""
        if not parents or (split and len(parents) < 2):
            continue
        stems = [Path(name).stem for name in sorted(files) if Path(name).suffix.lower() in _PICTURES]
        label = parents[1] if split else parents[0]
        rows += [("/".join([*parents, stem]), label, split) for stem in stems]
    if not rows:
        raise TableError(
            "is a folder without tables and without pictures in folders",
            where=str(root),
            expected="parts of a table, or a folder per class",
        )
    frame = pd.DataFrame(rows, columns=["uuid", "folder", "split"])
    return frame if frame["split"].any() else frame.drop(columns="split")


def _query(url: str, query: str) -> pd.DataFrame:
    """Read the rows of a query, streamed."""
    try:
        import sqlalchemy
    except ImportError:
        fix = f"Install it: {install('sqlalchemy>=2.1,<3', 'psycopg[binary]>=3.3,<4')}"
        raise TableError("SQLAlchemy is not installed", where=url, fix=fix) from None
    if not query:
        raise TableError("a database needs a query", where=url, fix="Set data.query.")
    try:
        engine = sqlalchemy.create_engine(url)
        with engine.connect().execution_options(stream_results=True) as connection:
            parts = list(pd.read_sql(sqlalchemy.text(query), connection, chunksize=_SQL_ROWS))
        engine.dispose()
    except (sqlalchemy.exc.SQLAlchemyError, pd.errors.DatabaseError) as error:
        shown = sqlalchemy.engine.make_url(url).render_as_string(hide_password=True) if "://" in url else url
        raise TableError(f"the query failed ({str(error).splitlines()[0]})", where=shown) from None
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


@contextlib.contextmanager
def explaining_table(where: str) -> Iterator[None]:
    """Turn whatever a damaged table raises into a TableError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(f"cannot be read as a table ({text})", where=where) from None
