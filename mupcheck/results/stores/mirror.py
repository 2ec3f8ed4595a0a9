"""A folder here that mirrors results in a store: brought up to date before it is read, and sent on as runs end.

The store is the truth. What it has, the mirror gets; what is gone from it, and was in it, goes from the mirror; what
the mirror has and never could send stays, and is sent. A run is believed by the hashes in its row, wherever it comes
from: an object that is cut or foreign is named and does not get here, so that the run is trained again.

`.store.json` in each sweep's folder says what was in the store when they were last alike.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mupcheck.results.files import one_line, write_text
from mupcheck.results.stores.address import mirror_of
from mupcheck.results.stores.objects import Store, open_store
from mupcheck.results.writing import row_sha256_of

STATE = ".store.json"
SWEEP = "sweep.json"
PARTS = ("steps", "coords")
TABLES = (*PARTS, "runs")  # the last one vouches for the others
PICTURES = "figures"


@dataclass(frozen=True)
class Known:
    """A file when here and there were alike: its bytes and time here, its mark there."""

    size: int
    mtime: int
    mark: str


@dataclass(frozen=True)
class Mirror:
    """One sweep's folder and the store that it is kept in.

    Attributes:
        store: at the address of the sweep.
        folder: here.
        known: by name below the folder, what was alike; changed as files are fetched and sent.
    """

    store: Store
    folder: Path
    known: dict[str, Known] = field(default_factory=dict)

    def same_here(self, name: str) -> bool:
        """Say whether a file here is as it was when both were alike."""
        known = self.known.get(name)
        return known is not None and stamp_of(self.folder / name) == (known.size, known.mtime)

    def note(self, name: str, stamp: tuple[int, int] | None, mark: str) -> None:
        """Take down that a file is alike here and there."""
        if stamp is not None:
            self.known[name] = Known(*stamp, mark)

    def save(self) -> None:
        """Write down what is alike; without that the next call compares bytes."""
        rows = {name: [each.size, each.mtime, each.mark] for name, each in sorted(self.known.items())}
        write_text(self.folder / STATE, json.dumps({"address": self.store.address, "files": rows}))


def open_mirror(address: str) -> Mirror:
    """Return the mirror of one sweep's address; raises as `open_store` does."""
    mirror = Mirror(open_store(address), mirror_of(address))
    with suppress(OSError, ValueError, TypeError, KeyError):  # without it, or where it is damaged, bytes are compared
        entries = json.loads((mirror.folder / STATE).read_bytes())["files"]
        mirror.known.update({name: Known(*row) for name, row in entries.items()})
    return mirror


def unsealed(run_id: str, files: Mapping[str, bytes]) -> tuple[str, str] | None:
    """Return which of a run's files is not what its row vouches for, and why; None if all are.

    Args:
        run_id: the run.
        files: bytes of `runs/<run_id>.parquet`, the last one, and of its parts, by name.
    """
    *parts, row_name = files
    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(files[row_name])).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        return row_name, one_line(error)[:100]
    if len(rows) != 1 or rows[0].get("row_sha256") != row_sha256_of(rows[0]) or rows[0].get("run_id") != run_id:
        return row_name, "it does not match its hash or name"
    for table in PARTS:
        if (sha256 := rows[0].get(f"{table}_sha256")) is None:
            continue
        name = row_name.replace("runs/", f"{table}/")
        if name not in parts:
            return name, "it is missing"
        if hashlib.sha256(files[name]).hexdigest() != sha256:
            return name, "it does not match its hash in the run's row"
    return None


def read_bytes(file: Path) -> bytes | None:
    """Return a file's bytes, None where there is none."""
    with suppress(OSError):
        return file.read_bytes()
    return None


def stamp_of(file: Path) -> tuple[int, int] | None:
    """Return a file's bytes and time of change, None where there is none."""
    with suppress(OSError):
        status = file.stat()
        return status.st_size, status.st_mtime_ns
    return None
