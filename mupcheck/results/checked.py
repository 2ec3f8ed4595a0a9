"""Files of runs, read and checked against what vouches for them: what comes back is what was written.

A run file's row carries a hash of its own values and of the run's other files, so a changed byte is noticed before it
is a changed number.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mupcheck.results.files import one_line
from mupcheck.results.tables import ADDED, SCHEMA_VERSION, SCHEMAS
from mupcheck.results.writing import row_sha256_of

PARTS = ("steps", "coords")  # the files of a run that its row vouches for
# A file of 400 kB can expand to 800 MB, so the footer is asked first. A run has one row; the largest honest coords, of
# a run that records every step, has some 2,000 rows a step.
MAX_ROWS = {"runs": 1_000, "steps": 10_000_000, "coords": 20_000_000}
MAX_BYTES = 2**30
MOVE = "move it away"
AT_ONCE = 250  # run files whose rows become Python values together, which is far quicker than one by one


class Damaged(ValueError):
    """A file is not what was written: `what` names it and what is wrong, the message says what to do too."""

    def __init__(self, file: Path, what: str, advice: str = "") -> None:
        run_file = file.parents[1] / "runs" / file.name
        again = "run the sweep again, which trains that run anew"
        super().__init__(f"{what}; {advice or f'{again}, or delete {run_file} and rerun the sweep'}")
        self.file = file
        self.what = what


class Stamp(NamedTuple):
    """What tells without reading that a file is still the one it was: no file here is changed in place."""

    size: int  # bytes
    mtime: int  # ns
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a file by its status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


class Piece(NamedTuple):
    """Rows of a table, from `start` to before `stop`."""

    table: pa.Table
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class RunFile:
    """A run file that was read and is as it was written.

    Attributes:
        file: its path.
        piece: its row, with the columns of SCHEMAS["runs"].
        row: the values of that row, columns that a later version added included.
        stamp: of the file that was read.
        sha256: of its bytes.
    """

    file: Path
    piece: Piece
    row: dict[str, Any]
    stamp: Stamp
    sha256: str


def read_runs(files: Sequence[Path], *, bad: Callable[[Damaged], object] | None = None) -> Iterator[RunFile]:
    """Yield what run files hold, in their order; one that is gone since it was listed is passed over.

    Args:
        bad: called with what is wrong with each file that is not what was written, which is passed over then.
    Raises:
        Damaged: if a file is not what was written, and `bad` is not given.
        ValueError: if it cannot be read, or is of a newer mupcheck.
    """
    for start in range(0, len(files), AT_ONCE):
        opened = []
        for file in files[start : start + AT_ONCE]:
            try:
                data, stamp = read_bytes(file)
                opened.append((file, _unpack(file, "runs", data), stamp, hashlib.sha256(data).hexdigest()))
            except FileNotFoundError:
                continue
            except Damaged as error:
                if bad is None:
                    raise
                bad(error)
        whole, rows = _together([table for _, table, _, _ in opened])
        for i, (file, table, stamp, sha256) in enumerate(opened):
            try:
                known, row = _checked_row(file, table, rows[i] if rows else None)
            except Damaged as error:
                if bad is None:
                    raise
                bad(error)
            else:
                yield RunFile(file, Piece(whole, i, i + 1) if rows else Piece(known, 0, 1), row, stamp, sha256)


def read_run(file: Path) -> RunFile:
    """Return what one run file holds; raises as `read_runs` does, and FileNotFoundError where it is gone."""
    for found in read_runs([file]):
        return found
    raise FileNotFoundError(file)


def read_part(run_file: Path, name: str, sha256: str) -> tuple[pa.Table, Stamp]:
    """Return the steps or coords that a run file vouches for, and the stamp of their file.

    Raises:
        Damaged: if they are missing or not what was written.
        ValueError: if the file cannot be read.
    """
    file, data, stamp = _vouched_bytes(run_file, name, sha256)
    with _as_damaged(file):
        return _known_columns(file, name, _unpack(file, name, data)), stamp


def check_part(run_file: Path, name: str, sha256: str) -> Stamp:
    """Return the stamp of a file that a run file vouches for; raises as `read_part` does, and unpacks nothing."""
    return _vouched_bytes(run_file, name, sha256)[2]


def part_of(run_file: Path, name: str) -> Path:
    """Return the path of a run's steps or coords."""
    return run_file.parents[1] / name / run_file.name


def read_bytes(file: Path) -> tuple[bytes, Stamp]:
    """Return what a file holds, and its stamp.

    Raises:
        FileNotFoundError: if it is not there.
        Damaged: if it is empty or no file.
        ValueError: if it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            stamp = Stamp.of(os.fstat(opened.fileno()))
            data = opened.read()
    except FileNotFoundError:
        raise
    except IsADirectoryError as error:
        raise Damaged(file, f"cannot read {file}: {error.strerror}") from error
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    if not data:
        raise Damaged(file, f"{file} is empty (0 bytes)")
    return data, stamp


def _vouched_bytes(run_file: Path, name: str, sha256: str) -> tuple[Path, bytes, Stamp]:
    file = part_of(run_file, name)
    try:
        data, stamp = read_bytes(file)
    except FileNotFoundError as error:
        raise Damaged(file, f"{file} is missing") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        wrong = f"it does not match its hash in {run_file}"
        raise Damaged(file, f"{file} is not as it was written: {wrong}")
    return file, data, stamp


def _together(tables: Sequence[pa.Table]) -> tuple[pa.Table | None, list[dict[str, Any]]]:
    """Return tables of one row each as one, and its rows' values; none where one is not like the others, or no text."""
    if not tables or not all(table.num_rows == 1 and table.schema.equals(SCHEMAS["runs"]) for table in tables):
        return None, []
    try:
        whole = pa.concat_tables(tables).combine_chunks()
        return whole, whole.to_pylist()
    except (pa.ArrowException, UnicodeDecodeError):
        return None, []


def _checked_row(file: Path, table: pa.Table, row: dict[str, Any] | None) -> tuple[pa.Table, dict[str, Any]]:
    """Return the row of a run file, as a table and as values, checked; `row` are its values where they are known."""
    if row is None:
        with _as_damaged(file):
            row = table.to_pylist()[0] if table.num_rows == 1 else {}
    version = row.get("schema_version")
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ValueError(f"{file} has schema version {version}, this mupcheck reads {SCHEMA_VERSION}; update it")
    with _as_damaged(file):
        known = _known_columns(file, "runs", table)
    if not row:
        raise Damaged(file, f"{file} has {table.num_rows} rows, a run file has one")
    if row["row_sha256"] != row_sha256_of(row) or row["run_id"] != file.stem:
        wrong = "its row does not match its hash or name"
        raise Damaged(file, f"{file} is not as it was written: {wrong}")
    return known, row


def _unpack(file: Path, name: str, data: bytes) -> pa.Table:
    """All columns of a Parquet file, once its footer promises a size that can be held; page checksums are checked."""
    with _as_damaged(file):
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        footer = parquet.metadata
        n_bytes = sum(footer.row_group(group).total_byte_size for group in range(footer.num_row_groups))
        if footer.num_rows > MAX_ROWS[name] or n_bytes > MAX_BYTES:
            given = f"{footer.num_rows} rows and {n_bytes} bytes when unpacked"
            known = f"at most {MAX_ROWS[name]} and {MAX_BYTES}"
            raise Damaged(file, f"{file} is not a {name} file: {given}, expected {known}", MOVE)
        return parquet.read(use_threads=False)


@contextmanager
def _as_damaged(file: Path) -> Iterator[None]:
    """Name the file in what pyarrow raises for bytes that are not what a Parquet file should hold."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise Damaged(file, f"{file} is damaged or not Parquet ({one_line(error)})") from error


def _known_columns(file: Path, name: str, table: pa.Table) -> pa.Table:
    """The columns of SCHEMAS[name], with its types: later versions may add others, earlier ones lack those of ADDED."""
    schema = SCHEMAS[name]
    if table.schema.equals(schema):
        return table
    given = dict(zip(table.schema.names, table.schema.types, strict=True))
    later = [field for field in schema if name == "runs" and field.name in ADDED and field.name not in given]
    missing = [field.name for field in schema if field.name not in given and field not in later]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        lacking = f"columns missing: {', '.join(missing[:5])}{more}"
        raise Damaged(file, f"{file} is not a {name} file: {lacking}", MOVE)
    for field in schema:
        if given.get(field.name, field.type) != field.type:
            wrong = f"{field.name} is {given[field.name]}, not {field.type}"
            raise Damaged(file, f"{file} is not a {name} file: {wrong}", MOVE)
    columns = dict(zip(table.column_names, table.columns, strict=True))
    columns |= {field.name: pa.nulls(table.num_rows, field.type) for field in later}
    return pa.Table.from_arrays([columns[column] for column in schema.names], schema=schema)
