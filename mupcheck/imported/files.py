"""Tables in files as people have them: CSV in its dialects, JSON lines, Parquet, or what comes down a pipe.

What a file is, is read off its bytes and not off its name. Only the columns that are asked for are read.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from mupcheck.imported.values import Column
from mupcheck.results.files import one_line

DELIMITERS = (",", ";", "\t", "|")
RULE = re.compile(rb"^[ \t]*\|?[ \t:|+-]*-[ \t:|+-]*$")  # the line below the head of a Markdown table
UTF16 = (b"\xff\xfe", b"\xfe\xff")
HEAD = 1 << 20  # bytes in which a first line ends


@dataclass(frozen=True)
class Source:
    """A table that can be read: its columns, what its rows are called, and a function that reads some columns.

    Attributes:
        label: the file, as messages name it.
        stem: the file's name without its ending.
        where: how a row, counted from 0, is named: "runs.csv row 7".
        note: what a row of it was made of, "" where it was one already.
    """

    label: str
    stem: str
    names: tuple[str, ...]
    where: Callable[[int], str]
    load: Callable[[Sequence[str]], dict[str, Column]]
    note: str = ""


def open_table(path: str | Path) -> Source:
    """Find out what a file is and which columns it has; "-" is standard input.

    Raises:
        ValueError: if it cannot be read, is empty, or is no table; one line that names the file and the row.
    """
    label = "standard input" if str(path) == "-" else str(path)
    if str(path) != "-" and Path(path).is_dir():
        raise ValueError(f"{label} is a folder; give files, or judge what mupcheck stored: mupcheck check {label}")
    try:
        data = sys.stdin.buffer.read() if str(path) == "-" else Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {label}: {error.strerror or error}") from None
    stem = "stdin" if str(path) == "-" else Path(path).name.split(".")[0] or "table"
    return table_of_bytes(data, label, stem)


def table_of_bytes(data: bytes, label: str, stem: str) -> Source:
    """Return the table that bytes are; errors as of `open_table`."""
    if data[:4] == b"PAR1":
        return _parquet(data, label, stem)
    data = _as_utf8(data, label)
    start = data[:HEAD].lstrip()
    if not start:
        raise ValueError(f"{label} is empty; give a table with a line of column names and a row a run")
    if start[:1] in b"{[":
        return _json(data, label, stem)
    return _csv(data, label, stem)


def source_of(
    table: pa.Table, label: str, stem: str, *, first: int = 1, where: Callable[[int], str] | None = None
) -> Source:
    """Return a table in memory as a source; `first` is what its first row is called, unless `where` says it."""
    names = tuple(map(str, table.column_names))

    def numbered(row: int) -> str:
        return f"{label} row {row + first}"

    named = where or numbered

    def load(columns: Sequence[str]) -> dict[str, Column]:
        return {name: Column(name, table.column(names.index(name)), named) for name in columns}

    return Source(label, stem, names, named, load)


def _as_utf8(data: bytes, label: str) -> bytes:
    """Return text as UTF-8 without a mark of its order."""
    if data.startswith(UTF16):
        try:
            return data.decode("utf-16").encode()
        except UnicodeDecodeError:
            raise ValueError(f"{label} begins as UTF-16 text and is none; save it as UTF-8") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        row = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{label} row {row} is not UTF-8 text (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from None
    if b"\0" in data[:HEAD]:
        raise ValueError(f"{label} is not text: it holds zero bytes; give CSV, JSON lines or Parquet")
    return data


# --- CSV --------------------------------------------------------------------------------------------------------------


def _csv(data: bytes, label: str, stem: str) -> Source:
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    skipped = len(data) - len(data.lstrip(b"\r\n"))
    first = 2 + data[:skipped].count(b"\n")  # as a spreadsheet counts: the names are row 1
    head, _, body = data[skipped:].partition(b"\n")
    if _is_open(head):  # a name that goes over a line's end
        raise ValueError(f"{label} row 1: a quoted column name has no end on its line; write each name on one line")
    head = re.sub(rb"^#\s*", b"", head.rstrip(b"\r"))
    line, _, rest = body.partition(b"\n")
    delimiter = _delimiter(head.decode())
    if RULE.match(line.rstrip(b"\r")) and (b"|" in head or b"|" in line):
        body, first, delimiter = rest, first + 1, "|"
    if delimiter == "|" and head.lstrip().startswith(b"|"):
        head, body = (re.sub(rb"(?m)^[ \t]*\||\|[ \t]*\r?$", b"", part) for part in (head, body))
    if delimiter == "":  # columns parted by blanks
        head, body = (re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+\r?$", b"", part)) for part in (head, body))
        delimiter = "\t"
    try:
        names = [name.strip() for name in next(csv.reader([head.decode()], delimiter=delimiter))]
    except csv.Error as error:  # such as a name of more than csv.field_size_limit() characters
        raise ValueError(
            f"{label} row 1 holds no column names: {error}; write names there, parted by commas"
        ) from error
    if names and names[-1] == "" and names.count("") == 1 and len(names) > 1:
        names[-1] = "(no name)"
    if not body.strip():
        raise ValueError(f"{label} has column names and no rows; give a row a run")
    if twice := next((name for name in names if names.count(name) > 1 and name), None):
        raise ValueError(f"{label} has the column {twice!r} twice; rename one")
    if all(_is_number(name) for name in names):
        raise ValueError(f"{label} has no line of column names: its first is {head.decode()[:60]!r}; add one")

    def where(row: int) -> str:
        return f"{label} row {row + first}"

    def load(columns: Sequence[str]) -> dict[str, Column]:
        table = _parse(body, names, columns, delimiter, label, first)
        return {name: Column(name, table.column(name), where, delimiter != ",") for name in columns}

    return Source(label, stem, tuple(name for name in names if name), where, load)


def _parse(
    body: bytes, names: Sequence[str], columns: Sequence[str], delimiter: str, label: str, first: int
) -> pa.Table:
    wrong: list[Any] = []

    def refuse(row: Any) -> str:
        wrong.append(row)
        return "error"

    codes = [f"{i}" for i in range(len(names))]  # a name may be missing
    chosen = [codes[names.index(name)] for name in columns]
    quoted = b'"' in body
    try:
        table = pacsv.read_csv(
            pa.BufferReader(body),
            pacsv.ReadOptions(use_threads=False, column_names=codes, block_size=max(1 << 20, len(body) // 64)),
            pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=quoted, invalid_row_handler=refuse),
            pacsv.ConvertOptions(
                include_columns=chosen, column_types=dict.fromkeys(chosen, pa.string()), strings_can_be_null=False
            ),
        )
    except pa.ArrowException as error:
        if wrong:
            row = wrong[0]
            number = f"row {row.number + first - 1}" if row.number else f"the row {str(row.text)[:50]!r}"
            raise ValueError(
                f"{label} {number} has {row.actual_columns} columns where its names are {row.expected_columns}; "
                "put text that holds a separator in quotes"
            ) from None
        raise ValueError(f"{label} is no table that can be read ({one_line(error)[:200]}); save it as CSV") from None
    return table.rename_columns(list(columns))


def _is_open(head: bytes) -> bool:
    return head.count(b'"') % 2 == 1


def _delimiter(head: str) -> str:
    """Return what parts the columns: the mark that is there most outside quotes, "" for blanks."""
    bare = re.sub(r'"[^"]*"', "", head)
    counts = {mark: bare.count(mark) for mark in DELIMITERS}
    best = max(counts, key=lambda mark: counts[mark])
    if counts[best]:
        return best
    return "" if len(bare.split()) > 1 else ","


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- JSON, Parquet ----------------------------------------------------------------------------------------------------


def _json(data: bytes, label: str, stem: str) -> Source:
    if data.lstrip()[:1] == b"[":
        try:
            rows = json.loads(data)
        except ValueError as error:
            raise ValueError(f"{label} is not JSON ({one_line(error)}); give one object a line") from None
        return source_of(flat_rows(rows, label), label, stem)
    try:
        table = pajson.read_json(pa.BufferReader(data), pajson.ReadOptions(block_size=max(1 << 20, len(data) // 16)))
    except pa.ArrowException:  # a line that is no JSON, or a value that is a number here and text there
        table = flat_rows(_rows(data, label), label)
    while any(pa.types.is_struct(kind) for kind in table.schema.types):
        table = table.flatten()  # {"config": {"lr": 1}} is the column config.lr
    return source_of(table, label, stem)


def _rows(data: bytes, label: str) -> list[Any]:
    rows = []
    for i, line in enumerate(io.BytesIO(data), 1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{label} row {i} is not JSON ({one_line(error)}); give one object a line") from None
    return rows


def flat_rows(rows: Any, label: str) -> pa.Table:
    """Return rows of JSON as a table, values of one column that are not all of a type as text."""
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{label} is JSON, and no list of objects; give one object a row")
    flat = [_flat(row) for row in rows]
    columns = {}
    for name in dict.fromkeys(name for row in flat for name in row):
        values = [row.get(name) for row in flat]
        try:
            columns[name] = pa.array(values)
        except pa.ArrowException:
            columns[name] = pa.array([None if v is None else v if isinstance(v, str) else repr(v) for v in values])
    if not columns:
        raise ValueError(f"{label} is empty; give a row a run")
    return pa.table(columns)


def _flat(row: dict[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{before}{name}.")
        else:
            flat[before + name] = value
    return flat


def _parquet(data: bytes, label: str, stem: str) -> Source:
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        names = tuple(file.schema_arrow.names)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{label} is damaged or not Parquet ({one_line(error)[:200]})") from None
    if not file.metadata.num_rows:
        raise ValueError(f"{label} has no rows; give a row a run")

    def where(row: int) -> str:
        return f"{label} row {row + 1}"

    def load(columns: Sequence[str]) -> dict[str, Column]:
        try:
            table = file.read(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{label} is damaged or not Parquet ({one_line(error)[:200]})") from None
        return {name: Column(name, table.column(name), where) for name in columns}

    return Source(label, stem, names, where, load)
