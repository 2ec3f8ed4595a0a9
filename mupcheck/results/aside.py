"""Runs of an earlier spec of the same name, kept where no reader of a sweep's own tables meets them.

A folder's `runs`, `steps` and `coords` are one table each to pandas, DuckDB and whoever else reads all files in them.
So runs that a sweep does not ask for go to `earlier/`, in folders of the same names, and come back when they are.
"""

from collections.abc import Collection, Iterable
from contextlib import suppress
from pathlib import Path

from mupcheck.results.files import EARLIER, StoreError
from mupcheck.results.reading import finished_runs

TABLES = ("steps", "coords", "runs")  # the last one vouches for the others


def kept_runs(folder: str | Path) -> set[str]:
    """Return the run_ids of all whole runs in a sweep's folder, of those that were set aside too."""
    return finished_runs(folder) | finished_runs(Path(folder) / EARLIER)


def set_aside(folder: str | Path, *, keep: Collection[str]) -> int:
    """Move all runs but some to `earlier/`; return how many.

    Raises:
        StoreError: if a file cannot be moved; no run is lost.
    """
    folder = Path(folder)
    others = finished_runs(folder).difference(keep)
    _move(folder, folder / EARLIER, others, reversed(TABLES))
    return len(others)


def bring_back(folder: str | Path, wanted: Collection[str]) -> int:
    """Move runs that were set aside back to where they count, but none that is there again; return how many.

    Raises:
        StoreError: if a file cannot be moved; no run is lost.
    """
    folder = Path(folder)
    back = finished_runs(folder / EARLIER).intersection(wanted) - finished_runs(folder)
    _move(folder / EARLIER, folder, back, TABLES)
    for emptied in (*(folder / EARLIER / table for table in TABLES), folder / EARLIER):
        with suppress(OSError):
            emptied.rmdir()  # where nothing is left
    return len(back)


def _move(source: Path, target: Path, run_ids: Collection[str], tables: Iterable[str]) -> None:
    """Move the files of runs, table by table: a run that a crash leaves half moved has lost nothing, and goes on."""
    for table in tables:
        for run_id in sorted(run_ids):
            file = source / table / f"{run_id}.parquet"
            try:
                if file.exists():  # else there is none, or a crash came after it
                    (target / table).mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # another process was quicker
                        file.replace(target / table / file.name)
            except OSError as error:
                raise StoreError(f"cannot move {file} to {target / table}: {error.strerror or error}") from error
