"""What was compacted of a sweep: one Parquet file a table, a cache of the runs' own files, which stay the truth.

A file is called after the sha256 of its bytes, so that a changed byte is noticed and a file is there whole or not at
all. Its metadata lists the runs that it holds, each with the hash and the stamp of the file that it was read from: what
it holds of a run counts only as long as that is the run's file. One that is damaged, or that another version wrote, is
passed over, and the runs' own files are read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from mupcheck.results.checked import Piece, Stamp
from mupcheck.results.files import one_line, write_whole
from mupcheck.results.tables import SCHEMAS

FOLDER = "compact"  # of a sweep's folder
FORMAT = 1
KEY = b"mupcheck"  # of the metadata
SEAL = 32  # digits of a sha256 in a name


class Entry(NamedTuple):
    """What is known of one run's file: how many rows it has, the sha256 of its bytes, its stamp when it was read."""

    n_rows: int
    sha256: str
    stamp: Stamp


class Held:
    """What a compacted file holds of one table; nothing where there is none."""

    def __init__(self, table: pa.Table | None = None, entries: dict[str, Entry] | None = None) -> None:
        self.table = table
        self.entries = entries or {}
        self.starts: dict[str, int] = {}
        at = 0
        for run_id, entry in self.entries.items():
            self.starts[run_id] = at
            at += entry.n_rows

    def piece(self, run_id: str) -> Piece:
        """Return the rows of a run that is among the entries."""
        start = self.starts[run_id]
        return Piece(self.table, start, start + self.entries[run_id].n_rows)


def read_held(folder: Path, name: str, *, tell: Callable[[str], object], codes: Sequence[str] = ()) -> Held:
    """Return what was compacted of a sweep's table.

    Args:
        folder: the sweep's.
        name: "runs", "steps" or "coords".
        tell: called with what to say of a file that is passed over.
        codes: columns of text that are read as dictionaries.
    """
    for file in _files(folder, name):
        try:
            data = file.read_bytes()
            if hashlib.sha256(data).hexdigest()[:SEAL] != file.stem.removeprefix(f"{name}-"):
                tell(f"{file} is damaged and not used; mupcheck compact {folder} writes it anew")
                continue
            parquet = pq.ParquetFile(pa.BufferReader(data))
            about = json.loads(parquet.metadata.metadata[KEY])
            if about["format"] != FORMAT or not parquet.schema_arrow.equals(SCHEMAS[name]):
                continue  # of another version, whose files may have other columns
            entries = {run_id: Entry(n, sha256, Stamp(*stamp)) for run_id, n, sha256, *stamp in about["held"]}
            if sum(entry.n_rows for entry in entries.values()) == parquet.metadata.num_rows:
                if codes:
                    parquet = pq.ParquetFile(pa.BufferReader(data), read_dictionary=codes)
                return Held(parquet.read(), entries)
        except FileNotFoundError:
            continue  # compacted anew since it was listed
        except OSError as error:
            tell(f"cannot read {file} ({one_line(error)}), so the runs' own files are read")
        except (pa.ArrowException, ValueError, KeyError, TypeError):
            continue
    return Held()


def write_held(folder: Path, name: str, pieces: Sequence[Piece], entries: dict[str, Entry]) -> None:
    """Write what a sweep's table holds, in place of what was there; `entries` are in the order of `pieces`.

    Raises:
        StoreError: if it cannot be written; what was there stays.
    """
    before = _files(folder, name)
    about = {"format": FORMAT, "held": [[run_id, each[0], each[1], *each[2]] for run_id, each in entries.items()]}
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, SCHEMAS[name], compression="snappy", write_page_checksum=True) as writer:
        writer.write_table(pa.concat_tables(joined(pieces) or [SCHEMAS[name].empty_table()]))
        writer.add_key_value_metadata({KEY.decode(): json.dumps(about)})
    data = sink.getvalue().to_pybytes()
    file = folder / FOLDER / f"{name}-{hashlib.sha256(data).hexdigest()[:SEAL]}.parquet"
    write_whole([(file, data)], advice="it is only a cache, and the runs' own files are as they were")
    for other in before:
        if other != file:
            with suppress(OSError):  # a reader has it open, or another compaction was quicker
                other.unlink()


def joined(pieces: Iterable[Piece]) -> list[pa.Table]:
    """Return tables with the rows of pieces, in their order; what follows each other in a table stays in one."""
    whole: list[Piece] = []
    for piece in pieces:
        last = whole[-1] if whole else None
        if last is not None and last.table is piece.table and last.stop == piece.start:
            whole[-1] = last._replace(stop=piece.stop)
        else:
            whole.append(piece)
    return [
        table if stop - start == table.num_rows else table.slice(start, stop - start) for table, start, stop in whole
    ]


def _files(folder: Path, name: str) -> list[Path]:
    """The compacted files of a table, the newest first; more than one where two compactions met."""
    found = []
    for file in (folder / FOLDER).glob(f"{name}-*.parquet"):
        with suppress(FileNotFoundError):
            found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found, reverse=True)]
