"""Damaged files of a sweep, set aside and named, so that what they held is made anew and never believed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mupcheck.results.aside import EARLIER
from mupcheck.results.cache import read_held
from mupcheck.results.checked import PARTS, Damaged, Stamp, check_part
from mupcheck.results.files import StoreError
from mupcheck.results.gathering import Run, gather_runs, part_holds
from mupcheck.results.printing import counted
from mupcheck.results.reading import read_sweep
from mupcheck.results.tables import SCHEMAS

DAMAGED = "damaged"  # of a sweep's folder
MOST_NAMED = 10


def mend(folder: str | Path, *, runs: bool = True) -> list[str]:
    """Set aside what is damaged of a sweep: runs with all their files, and `sweep.json`; say what, line by line.

    Each run's files are checked against their hashes, but for those that were compacted and have not changed since.
    Afterwards such a run is not there, and the sweep trains it anew.

    Args:
        runs: look at runs too.
    Raises:
        ValueError: if a file cannot be read, or is of a newer mupcheck; nothing was moved.
        StoreError: if a file cannot be moved.
    """
    folder = Path(folder)
    wrong: list[tuple[Path, Damaged]] = []
    if (folder / "sweep.json").exists():
        try:
            read_sweep(folder)
        except Damaged as error:
            wrong.append((folder, error))
    for place in (folder, folder / EARLIER) if runs else ():
        wrong += [(place, each) for each in find_damaged(place)]
    for place, each in wrong:
        _set_aside(folder, place, each)
    lines = [_said(folder, each) for _, each in wrong[:MOST_NAMED]]
    more = len(wrong) - len(lines)
    return lines + [f"... and {counted(more, 'more file')}, likewise"] * (more > 0)


def find_damaged(folder: Path) -> list[Damaged]:
    """Return what is wrong with the runs in a folder, at most one file of each; raises ValueError as `mend`."""
    wrong: list[Damaged] = []
    held = {name: read_held(folder, name, tell=lambda _: None) for name in SCHEMAS}
    for run in gather_runs(folder, held["runs"], bad=wrong.append):
        for name in PARTS:
            sha256 = run.said[f"{name}_sha256"]
            if sha256 is None or part_holds(run, name, held[name]):
                continue
            try:
                check_part(run.file, name, sha256)
            except Damaged as error:
                if not _written_anew(run):
                    wrong.append(error)
                break
    return wrong


def _written_anew(run: Run) -> bool:
    """Say whether another process replaced a run since its row was read."""
    try:
        return Stamp.of(run.file.stat()) != run.entry.stamp
    except FileNotFoundError:
        return True


def _set_aside(folder: Path, place: Path, error: Damaged) -> None:
    """Move a damaged file to `damaged/`, of a run all its files, the row that vouches for the others first."""
    if error.file.name == "sweep.json":
        _move(error.file, folder / DAMAGED / error.file.name)
        return
    for name in ("runs", *PARTS):
        _move(place / name / error.file.name, folder / DAMAGED / f"{name}-{error.file.name}")


def _move(file: Path, target: Path) -> None:
    """Move a file where there is one, to a name that no other has: nothing that was set aside is lost."""
    at = target
    n = 1
    while at.exists():
        n += 1
        at = target.with_stem(f"{target.stem}-{n}")
    try:
        at.parent.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):
            file.replace(at)
    except OSError as error:
        raise StoreError(f"cannot move {file} to {at.parent}: {error.strerror or error}") from error


def _said(folder: Path, error: Damaged) -> str:
    then = "it is written anew" if error.file.name == "sweep.json" else "its run is trained anew"
    return f"{error.what}; it is set aside in {folder / DAMAGED}/ and {then}"
