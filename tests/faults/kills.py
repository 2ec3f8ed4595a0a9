"""SIGKILLs at random times over a sweep of sixty small runs, each followed by the command again.

What a kill costs is counted in runs: steps trained beyond those of the table, by the steps of a run. A run that is cut
off in its middle costs half a run, one that was trained and not yet written a whole one. How many runs began more than
once is said beside it: of a parent that is killed, each of its workers' runs does.
"""

import random
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lines import Line
from logged import counts
from processes import Command, start
from tables import differences, write_sweep_file

from mupcheck.results.reading import Results, load_results

LOGGED = Path(__file__).with_name("logged.py")
STEPS, JOBS = 16, 3
LRS = "[0.001, 0.002, 0.004, 0.008, 0.016, 0.03]"  # at 2 widths, so 12 runs a seed
WHAT = ("worker", "parent", "both")
WASTED = 1.1  # runs a kill, at most
SETTLED, LONGEST = 5.0, 300.0  # seconds
DONE, CUT = (0, 1, 3), 4


@dataclass(frozen=True)
class Moment:
    """When to kill: within so many seconds, of the start or, if it should train, of the first run that begins."""

    seconds: float
    trains: bool

    def comes(self, command: Command, log: Path, draw: random.Random) -> bool:
        """Wait for it, and say whether the command still runs."""
        before = counts(log)[0]
        while self.trains and counts(log)[0] == before:
            if command.ends(0.02):
                return False
        return not command.ends(draw.uniform(0, self.seconds))


@dataclass
class Tally:
    """What came of the kills so far."""

    kills: int = 0
    begun: int = 0
    steps: int = 0
    sweeps: int = 0


def measure(
    place: Path,
    *,
    kills: int = 200,
    seeds: int = 5,
    seed: int = 0,
    steps: int = STEPS,
    what: Sequence[str] = WHAT,
    window: float | None = None,
) -> Iterator[Line]:
    """Kill so many times; yield a line of rows and one of waste.

    Args:
        seeds: of the sweep, 12 runs each.
        seed: of what is killed and when.
        steps: of a run.
        what: to draw from, each time.
        window: seconds from a command's first run, or from the kill before, to one (default: the time that the whole
            command takes undisturbed, from its start).
    """
    draw = random.Random(seed)
    file = write_sweep_file(place / "s.toml", wider=", 24", lrs=LRS, seeds=seeds, steps=steps)
    began = time.monotonic()
    whole = _undisturbed(file, place)
    how = Moment(window, True) if window is not None else Moment(time.monotonic() - began, False)
    n_runs, n_steps = counts(place / "log")
    tally, faults = Tally(), []
    while tally.kills < kills:
        faults += _one_sweep(file, place, whole, kills, how, tally, what, draw)
    begun = (tally.begun - n_runs * tally.sweeps) / tally.kills
    wasted = (tally.steps - n_steps * tally.sweeps) / (n_steps / n_runs) / tally.kills
    says = f"{tally.kills} SIGKILLs (worker, parent, both), {n_runs} runs, {JOBS} workers"
    held = f"{len(faults)} faults in {tally.sweeps} sweeps"
    yield Line(says, "0 rows lost, 0 doubled, 0 different", held, not faults, tuple(faults))
    measured = f"{wasted:.2f} ({begun:.2f} begun again)"
    yield Line("runs wasted a kill", f"at most {WASTED}", measured, wasted <= WASTED)


def _started(file: Path, place: Path) -> Command:
    how = ("--device", "cpu", "--jobs", JOBS, "--exact")
    return start(place / "log", "run", file, "--out", place / "out", *how, err=place / "err", script=LOGGED)


def _undisturbed(file: Path, place: Path) -> Results:
    command = _started(file, place)
    if not command.ends(LONGEST) or command.popen.returncode not in DONE:
        raise RuntimeError(f"the undisturbed sweep failed: {command.err.read_text()[-2000:]}")
    return load_results(place / "out" / "s")


def _one_sweep(
    file: Path,
    place: Path,
    whole: Results,
    kills: int,
    how: Moment,
    tally: Tally,
    what: Sequence[str],
    draw: random.Random,
) -> list[str]:
    """Kill and go on until a sweep is complete; return what is wrong with it."""
    shutil.rmtree(place / "out", ignore_errors=True)
    (place / "log").unlink(missing_ok=True)
    faults = []
    while True:
        (place / "err").unlink(missing_ok=True)
        command = _started(file, place)
        killed = False
        while not killed and tally.kills < kills and how.comes(command, place / "log", draw):
            killed = _killed(command, draw.choice(what), draw, tally)
            faults += differences(place / "out" / "s", whole, complete=False)
        if not command.ends(LONGEST):
            command.kill(*command.members)
            faults.append("it did not end")
        if left := command.orphans(SETTLED):
            faults.append(f"left behind: {left}")
            command.kill(*left)
        code = command.popen.returncode
        said = (place / "err").read_text()
        # a process that is just starting cannot but say so where its parent is killed
        if not killed and "Traceback" in said:
            faults.append(f"a traceback: {said[-1500:]}")
        if not killed and code in DONE:
            break
        if not killed and code != CUT:
            faults.append(f"exit {code}: {said[-300:]}")
            break
    faults += differences(place / "out" / "s", whole, complete=True)
    begun, steps = counts(place / "log")
    tally.begun, tally.steps, tally.sweeps = tally.begun + begun, tally.steps + steps, tally.sweeps + 1
    return faults


def _killed(command: Command, what: str, draw: random.Random, tally: Tally) -> bool:
    """Kill a worker, the parent or both, and say whether that ended the command."""
    workers = command.workers
    if what == "worker" and not workers:
        return False  # none is there yet
    tally.kills += 1
    if what == "worker":
        command.kill(draw.choice(workers))
        return False
    # both at once, in any order
    hit = [command.popen.pid] if what == "parent" else draw.sample([command.popen.pid, *workers], len(workers) + 1)
    command.kill(*hit)
    return True
