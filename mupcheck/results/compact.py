"""Many files into few: a sweep's runs written once more, as one file a table, so that they load at once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mupcheck.results.cache import FOLDER, Entry, read_held, write_held
from mupcheck.results.checked import PARTS, Damaged, Piece, check_part
from mupcheck.results.files import StoreError
from mupcheck.results.gathering import gather_parts, gather_runs, part_holds, run_files
from mupcheck.results.tables import SCHEMAS

MANY = 2_000  # runs of a sweep above which its command compacts by itself
REST = 200  # and files that were not compacted yet, which take a third of a second to read


@dataclass(frozen=True)
class Compaction:
    """What became of a sweep's folder.

    Attributes:
        n_runs: whole runs that are compacted now.
        n_new: of these, those that were not before.
        n_bytes: size of the compacted files.
        damaged: what is wrong with the runs that were left out.
    """

    n_runs: int
    n_new: int
    n_bytes: int
    damaged: tuple[str, ...]


def compact(folder: str | Path) -> Compaction:
    """Write what a sweep's runs hold once more, as one file a table in `compact/`, which readers take instead.

    The runs' own files are checked, stay and remain the truth. A run that is damaged is left out.

    Raises:
        ValueError: if a file cannot be read, or is of a newer mupcheck.
        StoreError: if the files cannot be written; what was compacted before stays.
    """
    folder = Path(folder)
    held = {name: read_held(folder, name, tell=lambda _: None) for name in SCHEMAS}
    parts = {name: held[name] for name in PARTS}
    damaged: list[str] = []
    pieces: dict[str, list[Piece]] = {name: [] for name in SCHEMAS}
    entries: dict[str, dict[str, Entry]] = {name: {} for name in SCHEMAS}
    n_new = 0
    for run in gather_runs(folder, held["runs"], bad=lambda error: damaged.append(str(error))):
        try:
            found = gather_parts(run, parts)
            if found is None:
                continue
            run, of_parts = found
            for name, (piece, entry) in of_parts.items():
                if piece.table is parts[name].table and not part_holds(run, name, parts[name]):
                    stamp = check_part(run.file, name, entry.sha256)  # of a copy, or of a file that is damaged now
                    of_parts[name] = (piece, entry._replace(stamp=stamp))
        except Damaged as error:
            damaged.append(str(error))
            continue
        run_id = run.said["run_id"]
        n_new += run.row.table is not held["runs"].table
        for name, (piece, entry) in {"runs": (run.row, run.entry), **of_parts}.items():
            pieces[name].append(piece)
            entries[name][run_id] = entry
    # the runs last: they vouch for the others
    for name in (*PARTS, "runs"):
        if entries[name] != held[name].entries:
            write_held(folder, name, pieces[name], entries[name])
    n_bytes = sum(file.stat().st_size for file in (folder / FOLDER).glob("*.parquet"))
    return Compaction(len(entries["runs"]), n_new, n_bytes, tuple(damaged))


def compact_many(folder: str | Path) -> str:
    """Compact a sweep of more than MANY runs, more than REST of them new; return what to say of it, or "".

    What cannot be compacted is only slower to read, so that is no error.
    """
    folder = Path(folder)
    there = run_files(folder).keys()
    if len(there) <= MANY or len(there - read_held(folder, "runs", tell=lambda _: None).entries.keys()) <= REST:
        return ""
    try:
        done = compact(folder)
    except (StoreError, ValueError) as error:
        return f"{folder} is not compacted: {error}"
    return f"{folder}: {done.n_runs:,} runs compacted in {FOLDER}/, so that they load at once"
