"""Runs that could not be trained: what `sweep.json` says of them, and tracebacks of errors that nobody expected."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from mupcheck.results.files import StoreError, write_text
from mupcheck.results.reading import finished_runs, read_sweep
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import group_bytes
from mupcheck.sweep.provenance import provenance

FOLDER = "failed"  # of a sweep's folder: a file for each group, called as its first run


def failed_before(folder: Path) -> list[dict[str, Any]]:
    """Return what `sweep.json` says of runs that failed and are not there since; none where it cannot be read."""
    entries: Any = ()
    with suppress(ValueError):
        entries = read_sweep(folder).get("failed", ())
    there = finished_runs(folder)
    return [each for each in entries if isinstance(each, dict) and each.get("run_id") not in {None, *there}]


def failure_of(run: RunSpec, error: str) -> dict[str, Any]:
    """Return what `sweep.json` says of a run that could not be trained."""
    return {"run_id": run.run_id, "width": run.width, "estimated_bytes": group_bytes(run, 1), "reason": error}


def keep_traceback(folder: Path, run_ids: Sequence[str], error: str, traceback: str) -> str:
    """Write the traceback of a group's error into the sweep's folder, and return the error with what names the file.

    It holds what reading it later needs: the error, the runs, and the versions that trained them.
    """
    path = folder / FOLDER / f"{run_ids[0]}.txt"
    by = ", ".join(f"{name} {value}" for name, value in provenance().items() if value is not None)
    try:
        write_text(path, f"{error}\nruns: {' '.join(run_ids)}\n{by}\n\n{traceback}")
    except StoreError as fault:
        return f"{error}; its traceback is lost: {fault}"
    return f"{error}; its traceback is in {path}"


def forget_tracebacks(folder: Path) -> None:
    """Remove the tracebacks of runs that did not fail in the end, those that `sweep.json` does not name."""
    reasons = [str(each.get("reason")) for each in failed_before(folder)]
    for file in (folder / FOLDER).glob("*.txt"):
        if not any(file.name in reason for reason in reasons):
            with suppress(OSError):
                file.unlink()
    with suppress(OSError):
        (folder / FOLDER).rmdir()  # where none is left
