"""Ctrl-C once and twice, and SIGTERM, at random times of a sweep: how soon it ends, with what, and what is left."""

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lines import Line
from processes import Command, start
from tables import write_sweep_file

JOBS = 3
LONGEST = 120.0  # seconds, until a command begins to train
TRAINS = " runs to train, into "


@dataclass(frozen=True)
class Signals:
    """What is sent and what should come of it.

    Attributes:
        says: in words.
        sent: the signals, in turn, to every process of the terminal or to the command alone.
        code: it ends with.
        seconds: in which it has ended after the last of them.
        line: what it says then.
    """

    says: str
    sent: tuple[signal.Signals, ...]
    code: int
    seconds: float
    line: str = ""


CASES = (
    Signals("SIGINT once", (signal.SIGINT,), 130, 10.0, "this goes on from them: mupcheck run"),
    Signals("SIGINT twice", (signal.SIGINT, signal.SIGINT), 130, 2.0),
    Signals("SIGTERM", (signal.SIGTERM,), 143, 10.0),
)


def measure(place: Path, *, times: int = 20, cases: Sequence[Signals] = CASES, seed: int = 0) -> Iterator[Line]:
    """Send the signals of each case so many times; yield a line for each."""
    draw = random.Random(seed)
    file = write_sweep_file(place / "s.toml", lrs="[0.01, 0.02, 0.03]", seeds=20, steps=60)
    for case in cases:
        faults, slowest, left = [], 0.0, 0
        for _ in range(times):
            seconds, found, orphans = _once(case, file, place, draw)
            slowest, left = max(slowest, seconds), left + bool(orphans)
            faults += found
        says = f"{case.says} ({times} times, {JOBS} workers)"
        asked = f"{case.code} within {case.seconds:g} s, no orphan" + (", line to resume" if case.line else "")
        measured = f"{slowest:.1f} s at most, {left} with orphans, {len(faults)} faults"
        yield Line(says, asked, measured, not faults, tuple(faults))


def _once(case: Signals, file: Path, place: Path, draw: random.Random) -> tuple[float, list[str], dict[int, str]]:
    """Return how long it took, what was wrong, and what was left behind."""
    shutil.rmtree(place / "out", ignore_errors=True)
    err = place / "err"
    err.unlink(missing_ok=True)
    how = ("--device", "cpu", "--jobs", JOBS, "--exact")
    command = start("run", file, "--out", place / "out", *how, err=err)
    end = time.monotonic() + LONGEST
    while TRAINS not in err.read_text() and time.monotonic() < end and not command.ends(0.02):
        pass
    command.ends(draw.uniform(0, 3))
    for number, each in enumerate(case.sent):
        if number:
            command.ends(draw.uniform(0, 0.5))
        _send(command, each)
    sent = time.monotonic()
    command.ends(4 * case.seconds)
    seconds = time.monotonic() - sent
    orphans = command.orphans(1.0)
    command.kill(*orphans)
    command.ends(1.0)
    faults = [f"left behind: {orphans}"] if orphans else []
    if seconds > case.seconds:
        faults.append(f"it took {seconds:.1f} s")
    if command.popen.returncode != case.code:
        faults.append(f"exit {command.popen.returncode}: {err.read_text()[-500:]}")
    if case.line not in err.read_text():
        faults.append(f"no line to resume: {err.read_text()[-500:]}")
    if "Traceback" in err.read_text():
        faults.append(f"a traceback: {err.read_text()[-800:]}")
    return seconds, faults, orphans


def _send(command: Command, what: signal.Signals) -> None:
    """Send a signal as it comes: a Ctrl-C to all that a terminal has in front, another to the command alone."""
    with suppress(ProcessLookupError):
        if what is signal.SIGINT:
            os.killpg(command.popen.pid, what)
        else:
            command.kill(command.popen.pid, signal=what)
