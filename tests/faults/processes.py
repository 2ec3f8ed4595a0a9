"""A command in a session of its own, its processes, and signals to them."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Command:
    """A command that runs, in a session that all of its processes stay in."""

    popen: subprocess.Popen
    err: Path

    @property
    def members(self) -> dict[int, int]:
        """Return the processes of the session, each with its parent; zombies apart."""
        found = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdecimal():
                with suppress(OSError, ValueError):
                    # the name, in brackets, may hold anything
                    state, parent, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
                    if int(session) == self.popen.pid and state not in "ZX":
                        found[int(entry.name)] = int(parent)
        return found

    @property
    def workers(self) -> list[int]:
        """Return the processes that train: those that the fork server made."""
        members = self.members
        return sorted(each for each, parent in members.items() if parent != self.popen.pid and parent in members)

    def kill(self, *processes: int, signal: int = signal.SIGKILL) -> None:
        for each in processes:
            with suppress(ProcessLookupError):
                os.kill(each, signal)

    def ends(self, seconds: float) -> bool:
        """Wait until the command has ended, and say whether it did."""
        with suppress(subprocess.TimeoutExpired):
            self.popen.wait(seconds)
        return self.popen.returncode is not None

    def orphans(self, seconds: float) -> dict[int, str]:
        """Return what is left of the session after so many seconds, or none as soon as nothing is."""
        end = time.monotonic() + seconds
        while (left := self.members) and time.monotonic() < end:
            time.sleep(0.02)
        named = {}
        for each in left:
            with suppress(OSError):
                named[each] = (Path("/proc") / str(each) / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
        return named


def start(*arguments: object, err: Path, script: Path | None = None) -> Command:
    """Start the command line, or a script in its place; what it says on stderr goes to a file."""
    what = [str(script)] if script is not None else ["-m", "mupcheck"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    with err.open("ab") as said:
        popen = subprocess.Popen(
            [sys.executable, *what, *map(str, arguments)],
            stdout=subprocess.DEVNULL,
            stderr=said,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
        )
    return Command(popen, err)
