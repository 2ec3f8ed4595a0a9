"""Where a sweep stands, by its folder alone: while it runs, from any machine, and ever after; reads only."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mupcheck.results.claims import held
from mupcheck.results.files import EARLIER, STALE_SECONDS, StoreError
from mupcheck.results.owners import BEAT, Owner, is_gone, living, owners, written
from mupcheck.results.reading import (
    SAME_COMMAND,
    TO_COMPLETE,
    finished_runs,
    load_results,
    read_sweep,
    say_missing,
)

RUNNING, COMPLETE, FAILED, INTERRUPTED, DAMAGED = STATES = ("running", "complete", "failed", "interrupted", "damaged")


@dataclass(frozen=True)
class Failure:
    """A run that could not be trained: why, and the file that has the traceback, "" where there is none."""

    run_id: str
    width: int | None
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class AtWidth:
    """How many runs of one width there are of each kind; width None is of runs that were never said to have one.

    Attributes:
        done: runs that are there, those that diverged included.
        diverged: None where the runs were not read.
        running: claimed by a living process.
        waiting: neither there nor running nor failed.
    """

    width: int | None
    planned: int = 0
    done: int = 0
    diverged: int | None = None
    running: int = 0
    waiting: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Status:
    """Where a sweep stands.

    Attributes:
        folder: the sweep's.
        name: as its runs have it.
        kind: "coord" or "lr", "" where nothing says it.
        state: one of STATES.
        widths: counts at each width, the smallest first.
        failures: runs that failed and are not there since.
        owners: living processes that drive it.
        silent: processes of other machines that may drive it too: they were not watched for a sign of life.
        seconds_left: by their own estimate; None where nothing runs or nothing is known.
        command: that goes on with it, "" where it is not known.
        age_seconds: since the newest run was written, by the clock of who looks; None where there is none.
        damaged: what is wrong with the folder's files, "" where all can be read.
    """

    folder: Path
    name: str
    kind: str
    state: str
    widths: tuple[AtWidth, ...]
    failures: tuple[Failure, ...] = ()
    owners: tuple[Owner, ...] = ()
    silent: tuple[Owner, ...] = ()
    seconds_left: float | None = None
    command: str = ""
    age_seconds: float | None = None
    damaged: str = ""

    @property
    def total(self) -> AtWidth:
        """Return the counts of all widths together."""
        names = ("planned", "done", "running", "waiting", "failed")
        diverged = [each.diverged for each in self.widths if each.diverged is not None]
        counts = {name: sum(getattr(each, name) for each in self.widths) for name in names}
        return AtWidth(None, diverged=sum(diverged) if diverged or not self.widths else None, **counts)

    @property
    def incomplete(self) -> str:
        """Say how many runs are missing and what completes the sweep, "" where all are there."""
        lacking = self.total.planned - self.total.done
        if not lacking:
            return ""
        missing = say_missing(lacking, self.name, planned=self.total.planned)
        if self.owners:
            return f"{missing}; {' and '.join(map(str, self.owners))} train{'s' * (len(self.owners) == 1)} them"
        if self.silent:
            missing += (
                f"; {' and '.join(map(str, self.silent))} may be training them, which mupcheck status tells; if not,"
            )
            return f"{missing}{TO_COMPLETE.removeprefix(';')}{self.command or SAME_COMMAND}"
        return missing + TO_COMPLETE + (self.command or SAME_COMMAND)


def status_of(
    folder: str | Path, *, patience: float = 2 * BEAT, read: bool = True, elsewhere: Sequence[Owner] = ()
) -> Status:
    """Return where a sweep stands.

    Args:
        folder: the sweep's.
        patience: seconds to wait for a sign of life of processes of other machines; with 0 they may live.
        elsewhere: living processes that drive it and that the folder does not know: those of the store it mirrors.
        read: whether to read the runs, which tells what diverged; without it only the files' names are.
    Raises:
        ValueError: if there is no sweep in the folder.
    """
    folder = Path(folder)
    if not is_sweep(folder):
        raise ValueError(f"there is no sweep in {folder}: no sweep.json and no runs; give the folder of one")
    damaged, resolved = "", {}
    try:
        resolved = read_sweep(folder) if (folder / "sweep.json").exists() else {}
    except ValueError as error:
        damaged = str(error)
    alive, silent = _living(folder, patience)
    alive += [owner for owner in elsewhere if owner.pid not in {each.pid for each in alive if each.host == owner.host}]
    claimed = {run_id for run_id, (_, token) in _held(folder).items() if token in {owner.token for owner in alive}}
    there = finished_runs(folder)
    run_ids = [str(each) for each in resolved.get("run_ids", ())] or sorted(there)
    widths: dict[str, int | None] = dict.fromkeys(run_ids)
    widths |= dict(zip(run_ids, _whole(resolved.get("widths")), strict=False))
    rows: dict[str, tuple[int, str]] = {}
    if read and there & widths.keys():
        try:
            rows = _rows(folder, there & widths.keys())
        except (ValueError, OSError) as error:
            damaged = damaged or str(error)
    widths |= {run_id: width for run_id, (width, _) in rows.items()}
    failures = _failures(folder, resolved, widths, there)
    by_run = _kinds(run_ids, there, claimed, {each.run_id for each in failures})
    known = bool(rows) or not there
    counts = [
        _at(width, [run_id for run_id in run_ids if widths[run_id] == width], by_run, rows, known=known)
        for width in sorted(set(widths.values()), key=lambda width: (width is None, width or 0))
    ]
    n_missing = sum(each.planned - each.done for each in counts)
    spec = resolved.get("spec") if isinstance(resolved.get("spec"), dict) else {}
    return Status(
        folder,
        str((spec or {}).get("name") or folder.name),
        str((spec or {}).get("kind") or ""),
        _state(alive, unknown=bool(damaged) and not resolved, missing=n_missing, failed=len(failures)),
        tuple(counts),
        tuple(failures),
        tuple(alive),
        tuple(silent),
        _together(owner.said.get("seconds_left") for owner in alive) if n_missing else None,
        str(resolved.get("command") or next((owner.command for owner in alive if owner.command), "")),
        _age(folder),
        damaged,
    )


def sweeps_in(path: str | Path) -> list[Path]:
    """Return the folders of sweeps at a path: itself, or those directly in it.

    Raises:
        ValueError: if there are none.
    """
    path = Path(path)
    if is_sweep(path):
        return [path]
    if not path.is_dir():
        what = "is not a folder" if path.exists() else "does not exist"
        raise ValueError(f"{path} {what}; give the folder that --out named, or one in it")
    try:
        folders = [each for each in sorted(path.iterdir()) if is_sweep(each)]
    except OSError as error:
        raise ValueError(f"cannot read {error.filename}: {error.strerror}") from error
    if not folders:
        raise ValueError(f"there is no sweep in {path}: no sweep.json and no runs; run a sweep first")
    return folders


def is_sweep(folder: Path) -> bool:
    """Say whether a folder is one sweep's."""
    return folder.name != EARLIER and ((folder / "sweep.json").is_file() or (folder / "runs").is_dir())


def say_first(path: str | Path) -> list[str]:
    """Say of each sweep at a path that is not complete what is missing and what completes it; none where all are.

    Nobody is waited for: who may be training it on another machine is named as one who may.
    """
    said = []
    with suppress(ValueError):
        for folder in sweeps_in(path):
            with suppress(ValueError):
                said.append(status_of(folder, patience=0.0, read=False).incomplete)
    return list(filter(None, said))


def _state(alive: list[Owner], *, unknown: bool, missing: int, failed: int) -> str:
    """Return one of STATES; of a sweep of which nobody can read what it is, that it is damaged."""
    if alive:
        return RUNNING
    if unknown:
        return DAMAGED
    return COMPLETE if not missing else FAILED if failed else INTERRUPTED


def _living(folder: Path, patience: float) -> tuple[list[Owner], list[Owner]]:
    """Return owners that are alive, and without patience those that may be: they gave a sign not long ago."""
    with suppress(StoreError):
        alive = living(folder, patience=patience)
        if patience:
            return alive, []
        tokens, young = {owner.token for owner in alive}, time.time() - STALE_SECONDS
        others = [owner for owner in owners(folder) if owner.token not in tokens and not is_gone(owner)]
        return alive, [owner for owner in others if written(folder, owner.token) > young]
    return [], []


def _held(folder: Path) -> dict[str, tuple[int, str]]:
    with suppress(StoreError):
        return held(folder)
    return {}


def _whole(values: Any) -> list[int | None]:
    """Return a list of whole numbers, None for what is none."""
    return [each if isinstance(each, int) else None for each in values] if isinstance(values, list) else []


def _rows(folder: Path, run_ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return width and status of runs."""
    runs = load_results(folder, tables=("runs",), run_ids=set(run_ids)).runs
    return {row.run_id: (int(row.width), str(row.status)) for row in runs.itertuples()}


def _failures(
    folder: Path, resolved: Mapping[str, Any], widths: Mapping[str, int | None], there: set[str]
) -> list[Failure]:
    """Return what `sweep.json` says of runs that failed and are not there since."""
    found = []
    entries = resolved.get("failed")
    for each in entries if isinstance(entries, list) else ():
        if not isinstance(each, dict) or (run_id := str(each.get("run_id"))) in there or run_id not in widths:
            continue
        reason = str(each.get("reason", ""))
        kept = (file for file in sorted((folder / "failed").glob("*.txt")) if file.name in reason)
        found.append(Failure(run_id, widths[run_id], reason, str(next(kept, ""))))
    return found


def _kinds(run_ids: Iterable[str], there: set[str], claimed: set[str], failed: set[str]) -> dict[str, str]:
    """Return which of the counts each run is in."""
    kinds = (("done", there), ("running", claimed), ("failed", failed))
    return {run_id: next((kind for kind, of in kinds if run_id in of), "waiting") for run_id in run_ids}


def _at(
    width: int | None,
    run_ids: list[str],
    by_run: Mapping[str, str],
    rows: Mapping[str, tuple[int, str]],
    *,
    known: bool,
) -> AtWidth:
    diverged = sum(rows[run_id][1] == "diverged" for run_id in run_ids if run_id in rows) if known else None
    return AtWidth(width, len(run_ids), diverged=diverged, **Counter(by_run[run_id] for run_id in run_ids))


def _together(seconds: Iterable[Any]) -> float | None:
    """Return how long several take together, each of which would take so long alone."""
    known = [each for each in seconds if isinstance(each, int | float) and each > 0]
    return 1 / sum(1 / each for each in known) if known else None


def _age(folder: Path) -> float | None:
    """Return the seconds since the last run was written."""
    times = []
    for name in ("runs", "sweep.json"):
        with suppress(OSError):  # a folder's time is that of the last file that came into it
            times.append((folder / name).stat().st_mtime)
    return max(time.time() - times[0], 0.0) if times else None
