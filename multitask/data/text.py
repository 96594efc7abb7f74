"""CSV and TSV files, in which text stays text: every cell as it is written, an empty one missing.

No type is guessed, for a guess loses what it does not understand: `000123` and `123` would be one id, `01` the class 1.
Columns of numbers are read as numbers where numbers are asked for.
"""

from __future__ import annotations

import codecs
import csv
import io

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from multitask.errors import TableError

_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
# How a program that keeps a column of integers as floats, because one cell is empty, writes each of them.
_FLOATED = r"^-?(0|[1-9][0-9]{0,15})\.0$"


def read_text(data: bytes, where: str, delimiter: str = ",") -> pa.Table:
    """Read a table of text columns.

    Args:
        data: the file: UTF-8, or UTF-16 with its mark.
        where: for errors.
        delimiter: between cells; a header without any is looked through for the semicolons and tabs of spreadsheets.

    Raises:
        TableError: it is in another encoding.
        pyarrow.ArrowInvalid: rows differ in their number of cells.
    """
    data = _as_utf8(data, where)
    head = (data.splitlines() or [b""])[0].decode()
    if delimiter not in head:
        delimiter = max(";\t", key=head.count) if set(head) & set(";\t") else delimiter
    names = next(csv.reader(io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""), delimiter=delimiter), [])
    parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        quoted_strings_can_be_null=True,
        null_values=[""],
    )
    table = pyarrow.csv.read_csv(pa.BufferReader(data), parse_options=parse, convert_options=convert)
    return pa.table([_without_floated(column) for column in table.columns], names=table.column_names)


def _as_utf8(data: bytes, where: str) -> bytes:
    mark, encoding = next((known for known in _MARKS if data.startswith(known[0])), (b"", "utf-8"))
    data = data[len(mark) :]
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        start = data.rfind(b"\n", 0, error.start) + 1
        line, number = data[start : error.start + 20].split(b"\n")[0], data.count(b"\n", 0, error.start) + 1
        raise TableError(
            f"is not {encoding.upper()} text",
            where=f"{where} line {number}",
            received=repr(line[-60:])[1:],
            fix="Save it as UTF-8, or convert it: iconv -f latin1 -t utf-8 FILE > NEW (latin1, or what it is in).",
        ) from None
    return data if encoding == "utf-8" else text.encode()


def _without_floated(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Take `.0` off a column whose cells all bear it beside empty ones: integers that a program held as floats."""
    if column.type != pa.string() or not 0 < column.null_count < len(column):
        return column
    if not pc.all(pc.match_substring_regex(column, _FLOATED)).as_py():
        return column
    return pc.utf8_slice_codeunits(column, 0, stop=-2)
