"""The runs of a sweep's folder, from what was compacted of them where that still holds, else from their own files."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mupcheck.results.cache import Entry, Held
from mupcheck.results.checked import PARTS, Damaged, Piece, RunFile, Stamp, part_of, read_part, read_run, read_runs

SAID_OF_RUN = ("run_id", "sweep", *(f"{name}_sha256" for name in PARTS))
SUFFIX = ".parquet"
ATTEMPTS = 3  # at a run that others write anew meanwhile


@dataclass(frozen=True, eq=False)
class Run:
    """A whole run: its file, SAID_OF_RUN of its row, the row itself, and what is known of its file."""

    file: Path
    said: Mapping[str, Any]
    row: Piece
    entry: Entry

    @classmethod
    def of(cls, read: RunFile) -> Run:
        """Return the run whose file was read."""
        said = {name: read.row[name] for name in SAID_OF_RUN}
        return cls(read.file, said, read.piece, Entry(1, read.sha256, read.stamp))


def run_files(folder: Path) -> dict[str, os.DirEntry[str]]:
    """Return the run files of a sweep's folder by run_id, in order; dotted ones are still being written."""
    try:
        with os.scandir(folder / "runs") as entries:
            found = [each for each in entries if each.name.endswith(SUFFIX) and each.name[0] != "."]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found.sort(key=lambda each: each.name)
    return {each.name.removesuffix(SUFFIX): each for each in found}


def gather_runs(
    folder: Path,
    held: Held,
    *,
    wanted: Collection[str] | None = None,
    bad: Callable[[Damaged], object] | None = None,
) -> list[Run]:
    """Return the whole runs of a sweep's folder, by run_id.

    Args:
        held: what was compacted of its runs.
        wanted: run_ids that count (default: all).
        bad: as of `read_runs`, whose errors are raised.
    """
    files = {run_id: each for run_id, each in run_files(folder).items() if wanted is None or run_id in wanted}
    said = _said_of_held(held)
    runs: dict[str, Run] = {}
    rest = []
    for run_id, listed in files.items():
        entry = held.entries.get(run_id)
        if entry is None or (stamp := _still(entry, listed)) is None:
            rest.append(Path(listed.path))
        else:
            entry = entry if stamp == entry.stamp else entry._replace(stamp=stamp)
            runs[run_id] = Run(Path(listed.path), said[run_id], held.piece(run_id), entry)
    for read in read_runs(rest, bad=bad):
        runs[read.file.stem] = Run.of(read)
    return [runs[run_id] for run_id in files if run_id in runs]


def gather_parts(run: Run, held: Mapping[str, Held]) -> tuple[Run, dict[str, tuple[Piece, Entry]]] | None:
    """Return the steps and coords of a run, and the run, which may have been written anew since; None where it is gone.

    Args:
        held: what was compacted of the tables that are asked for.
    Raises:
        Damaged, ValueError: as `read_part`.
    """
    for attempt in range(ATTEMPTS):
        try:
            return run, {name: _part(run, name, of) for name, of in held.items() if run.said[f"{name}_sha256"]}
        except Damaged:
            try:
                if Stamp.of(run.file.stat()) == run.entry.stamp or attempt == ATTEMPTS - 1:
                    raise
                run = Run.of(read_run(run.file))
            except FileNotFoundError:
                return None
    return None


def _part(run: Run, name: str, held: Held) -> tuple[Piece, Entry]:
    run_id, sha256 = run.said["run_id"], run.said[f"{name}_sha256"]
    entry = held.entries.get(run_id)
    if entry is not None and entry.sha256 == sha256:
        return held.piece(run_id), entry
    table, stamp = read_part(run.file, name, sha256)
    return Piece(table, 0, table.num_rows), Entry(table.num_rows, sha256, stamp)


def _said_of_held(held: Held) -> dict[str, dict[str, Any]]:
    if held.table is None:
        return {}
    rows = held.table.select(list(SAID_OF_RUN)).to_pylist()
    return {row["run_id"]: row for row in rows}


def _still(entry: Entry, listed: os.DirEntry[str]) -> Stamp | None:
    """Return the stamp of a file that is what an entry was read from, a copy of it included; None where it is not."""
    try:
        stamp = Stamp.of(listed.stat())
        if stamp == entry.stamp:
            return stamp
        if stamp.size != entry.stamp.size:
            return None
        with open(listed.path, "rb") as file:
            return stamp if hashlib.sha256(file.read()).hexdigest() == entry.sha256 else None
    except OSError:
        return None


def part_holds(run: Run, name: str, held: Held) -> bool:
    """Say whether a run's steps or coords were compacted from the file that is there."""
    entry = held.entries.get(run.said["run_id"])
    if entry is None or entry.sha256 != run.said[f"{name}_sha256"]:
        return False
    try:
        return Stamp.of(part_of(run.file, name).stat()) == entry.stamp
    except OSError:
        return False
