"""Tables as people have them: parquet, CSV, Arrow, idx; one file, several, a folder of parts, a class per folder, SQL.

Where a table may lie says `locations`. Integers stay integers whatever is missing beside them; text stays as written.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

from multitask.data.folders import class_folders
from multitask.data.idx import idx_labels, is_idx
from multitask.data.locations import Location, Part
from multitask.data.text import read_text
from multitask.errors import TableError, install

# A column of bytes with more of them a row holds images; it is read where images are, see `columns`.
_IMAGE_BYTES = 1000
# Rows fetched from a database at once.
_SQL_ROWS = 50_000
# Where a frame says which of its table's columns hold images; they are not in the frame.
IMAGE_COLUMNS = "image_columns"


def read_frame(location: str | Path | pd.DataFrame, query: str = "") -> pd.DataFrame:
    """Read a table from wherever it is.

    Args:
        location: see `locations`; a frame is returned as it is.
        query: for a database: what to select.

    Raises:
        TableError: it is missing, cannot be read, is empty, or has two columns of one name.
    """
    if isinstance(location, pd.DataFrame):
        return location
    table = Location.of_table(str(location), query)
    with explaining_table(str(table)):
        frame = _query(table) if table.is_database else _stack([_read(part) for part in table.parts()])
    if not len(frame):
        raise TableError("has no rows", where=str(table))
    return frame


def parquet_parts(table: Location) -> list[Part]:
    """Return the parquet files that a location stands for; none if it is something else."""
    if table.is_database:
        return []
    parts = table.parts()
    is_parquet = [
        _READERS.get(part.suffix, _read_parquet) is _read_parquet
        and not (part.path and (part.path.is_dir() or is_idx(part.path)))
        for part in parts
    ]
    return parts if all(is_parquet) else []


def as_frame(table: pa.Table, where: str) -> pd.DataFrame:
    """Return Arrow's columns as pandas', integers that are missing somewhere as such and not as floats.

    Raises:
        TableError: two columns have one name.
    """
    _refuse_repeats(table.column_names, where)
    frame = table.to_pandas(ignore_metadata=True)
    for name, column in zip(table.column_names, table.columns, strict=True):
        if column.null_count and column.type in _NULLABLE:
            frame[name] = column.to_pandas(types_mapper=_NULLABLE.get)
    return frame[[name for name in frame if not re.fullmatch(r"__index_level_\d+__", str(name))]]


def _refuse_repeats(names: Sequence[str], where: str) -> None:
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise TableError(f'two columns are named "{repeated[0]}"', where=where, fix="Rename one of them.")


_NULLABLE = {
    getattr(pa, kind.lower())(): getattr(pd, f"{kind}Dtype")()
    for kind in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
}


def _read(part: Part) -> pd.DataFrame:
    if part.path is not None and part.path.is_dir():
        return class_folders(part.path)
    if part.path is not None and "idx" in part.path.name and is_idx(part.path):
        return idx_labels(part.path)
    with explaining_table(part.name), part.open() as file:
        return _READERS.get(part.suffix, _read_parquet)(file, part.name)


def _read_parquet(file: pa.NativeFile, where: str) -> pd.DataFrame:
    """Read a parquet file without its columns of images, which the frame names."""
    parquet = pq.ParquetFile(file)
    groups = [parquet.metadata.row_group(number) for number in range(parquet.num_row_groups)]
    sizes: dict[str, int] = {}
    for column in [group.column(number) for group in groups for number in range(group.num_columns)]:
        name = column.path_in_schema.split(".")[0]
        sizes[name] = sizes.get(name, 0) + column.total_uncompressed_size
    images = [
        field.name
        for field in parquet.schema_arrow
        if _holds_bytes(field.type) and sizes.get(field.name, 0) > _IMAGE_BYTES * parquet.metadata.num_rows
    ]
    kept = [name for name in parquet.schema_arrow.names if name not in images]
    frame = as_frame(parquet.read(columns=kept), where)
    frame.attrs[IMAGE_COLUMNS] = images
    return frame


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(number).type) for number in range(kind.num_fields))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.types.is_uint8(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _read_arrow(file: pa.NativeFile, where: str) -> pd.DataFrame:
    return as_frame(pyarrow.feather.read_table(file), where)


_READERS: dict[str, Callable[[pa.NativeFile, str], pd.DataFrame]] = {
    ".parquet": _read_parquet,
    ".pq": _read_parquet,
    ".csv": lambda file, where: as_frame(read_text(file.read(), where), where),
    ".tsv": lambda file, where: as_frame(read_text(file.read(), where, "\t"), where),
    ".arrow": _read_arrow,
    ".feather": _read_arrow,
}


def _stack(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Put parts below each other; what has one type in one part and another in the next keeps both."""
    if not parts:
        return pd.DataFrame()
    kinds: dict[Any, set[str]] = {}
    for part in parts:
        for name, kind in part.dtypes.items():
            kinds.setdefault(name, set()).add(str(kind))
    # A column that a part lacks is filled with missing values, which would turn integers into floats as well.
    mixed = {name for name, found in kinds.items() if len(found) > 1 or any(name not in part.columns for part in parts)}
    columns = [part.astype({name: object for name in mixed if name in part.columns}) for part in parts]
    frame = pd.concat(columns, ignore_index=True)
    frame.attrs = dict(parts[0].attrs)
    return frame


def _query(table: Location) -> pd.DataFrame:
    """Read the rows of a query, streamed."""
    try:
        import sqlalchemy
    except ImportError:
        fix = f"Install it: {install('sqlalchemy>=2.1,<3', 'psycopg[binary]>=3.3,<4')}"
        raise TableError("SQLAlchemy is not installed", where=str(table), fix=fix) from None
    if not table.query:
        raise TableError(
            "a database needs a query", where=str(table), fix="Set data.query, or name the table as ADDRESS::QUERY."
        )
    parts = []
    try:
        engine = sqlalchemy.create_engine(table.with_password())
        with engine.connect().execution_options(stream_results=True) as connection:
            result = connection.execute(sqlalchemy.text(table.query))
            names = list(result.keys())
            _refuse_repeats(names, str(table))
            while rows := result.fetchmany(_SQL_ROWS):
                parts.append(pd.DataFrame([tuple(row) for row in rows], columns=names, dtype=object))
        engine.dispose()
    except ImportError as error:
        raise TableError(f"needs {error.name}", where=str(table), fix=f"Install it: pip install {error.name}") from None
    except (sqlalchemy.exc.SQLAlchemyError, ValueError) as error:
        raise TableError(f"the query failed ({str(error).splitlines()[0]})", where=str(table)) from None
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    # A column of objects with nothing missing finds its type; in the others that would make integers floats.
    whole = [name for name in frame if not frame[name].isna().any()]
    return frame.astype({name: frame[name].infer_objects().dtype for name in whole})


@contextlib.contextmanager
def explaining_table(where: str) -> Iterator[None]:
    """Turn whatever a damaged table raises into a TableError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise TableError(f"cannot be read as a table ({text})", where=where) from None
