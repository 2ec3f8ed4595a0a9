"""What nobody expects of a folder or a clock while a sweep trains: one line, exit 2 or 4, and nothing damaged."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from commands import Answer
from lines import Line
from processes import start
from scenes import JUDGED
from tables import differences, write_sweep_file

from mupcheck.results.reading import Results, load_results

JOBS = 2
LONGEST = 120.0  # seconds
OTHER_CLOCK = 600  # seconds that a machine's clock may be off
ASKED = "one line, exit 2 or 4; complete when called again"
Happens = Callable[[Path], None]


def measure(place: Path, *, names: tuple[str, ...] = (), seeds: int = 3, steps: int = 40) -> Iterator[Line]:
    """Let each of them happen, or those named; yield a line for each.

    Args:
        names: of EVENTS, and "mounts".
        seeds: of the sweep, three runs each.
        steps: of a run.
    """
    file = write_sweep_file(place / "s.toml", lrs="[0.01, 0.02, 0.03]", seeds=seeds, steps=steps)
    done = _ran(place, file, place / "whole")
    if done.code not in JUDGED:
        raise RuntimeError(f"the undisturbed sweep failed: {done.err}")
    whole = load_results(place / "whole" / "s")
    for name, happens in EVENTS.items():
        if names and name not in names:
            continue
        faults = _faults(place, file, whole, happens)
        yield Line(name, ASKED, f"{len(faults)} faults", not faults, tuple(faults))
    with suppress(PermissionError):
        if names and "mounts" not in names:
            return
        faults = list(_on_mounts(place, file, whole))
        yield Line("a full and a read-only mount", ASKED, f"{len(faults)} faults", not faults, tuple(faults))


def _folder_deleted(folder: Path) -> None:
    for _ in range(50):  # what a worker just made comes in between
        with suppress(OSError):
            shutil.rmtree(folder)
        if not folder.exists():
            break


def _replaced_by_a_file(folder: Path) -> None:
    os.replace(folder, folder.with_name("moved"))
    folder.write_text("")


def _tables_deleted(folder: Path) -> None:
    for table in ("runs", "steps"):
        shutil.rmtree(folder / table, ignore_errors=True)


def _description_deleted(folder: Path) -> None:
    (folder / "sweep.json").unlink()


def _description_emptied(folder: Path) -> None:
    (folder / "sweep.json").write_bytes(b"")


def _clock(seconds: float, folder: Path) -> None:
    """Let all that is there be of another time, as a machine whose clock is off writes it."""
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            os.utime(file, times=(time.time() + seconds,) * 2)


EVENTS: dict[str, Happens] = {
    "the results folder is deleted": _folder_deleted,
    "a file takes its place": _replaced_by_a_file,
    "its tables are deleted": _tables_deleted,
    "sweep.json is deleted": _description_deleted,
    "sweep.json is emptied": _description_emptied,
    "a clock is 10 minutes ahead": partial(_clock, OTHER_CLOCK),
    "a clock is 10 minutes behind": partial(_clock, -OTHER_CLOCK),
}


def _ran(place: Path, file: Path, out: Path, happens: Happens | None = None) -> Answer:
    """Run the sweep; once its first run is there, let something happen."""
    err = place / "err"
    err.unlink(missing_ok=True)
    command = start("run", file, "--out", out, "--device", "cpu", "--jobs", JOBS, "--exact", err=err)
    end = time.monotonic() + LONGEST
    if happens is not None:
        while not any((out / "s" / "runs").glob("[!.]*.parquet")) and time.monotonic() < end and not command.ends(0.01):
            pass
        happens(out / "s")
    if not command.ends(LONGEST):
        command.kill(*command.members)
        command.ends(LONGEST)
        return Answer(-1, "", f"it did not end: {err.read_text()}")
    return Answer(command.popen.returncode, "", err.read_text())


def _faults(place: Path, file: Path, whole: Results, happens: Happens) -> list[str]:
    """Return what is wrong with how a sweep ended that something happened to, and with what a second call made."""
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    faults = wrong_with(_ran(place, file, out, happens))
    if (out / "s").is_file():
        faults += wrong_with(_ran(place, file, out), codes=(2, 4))  # as long as it lies there
        (out / "s").unlink()
        os.replace(out / "moved", out / "s")
    else:
        now = differences(out / "s", whole, complete=False)
        faults += [each for each in now if "sweep.json is damaged" not in each]  # as it should say
    again = _ran(place, file, out)
    faults += wrong_with(again, codes=JUDGED)
    return faults + differences(out / "s", whole, complete=True)


def wrong_with(answer: Answer, codes: tuple[int, ...] = (*JUDGED, 2, 4)) -> list[str]:
    """Return what is wrong with how a command ended."""
    faults = [] if answer.code in codes else [f"exit {answer.code}: {answer.err[-600:]}"]
    return faults + ([f"a traceback: {answer.err[-1500:]}"] if "Traceback" in answer.err else [])


def _on_mounts(place: Path, file: Path, whole: Results) -> Iterator[str]:
    """Yield what is wrong on a disk that is full, and on one that becomes read-only.

    Raises:
        PermissionError: if nothing can be mounted here.
    """
    at = place / "mounted"
    at.mkdir()
    mount = partial(subprocess.run, capture_output=True, check=False)
    if mount(["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(at)]).returncode:
        raise PermissionError("nothing can be mounted here")
    try:
        full = _ran(place, file, at)
        yield from wrong_with(full, codes=(4,))
        if "No space left on device" not in full.err:
            yield f"the cause is not named: {full.err[-600:]}"
        yield from differences(at / "s", whole, complete=False)
        mount(["mount", "-o", "remount,ro", str(at)])
        yield from wrong_with(_ran(place, file, at), codes=(2, 4))
        mount(["mount", "-o", "remount,rw,size=8m", str(at)])
        yield from wrong_with(_ran(place, file, at), codes=JUDGED)
        yield from differences(at / "s", whole, complete=True)
    finally:
        mount(["umount", "-l", str(at)])
