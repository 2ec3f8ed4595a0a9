"""Who drives a sweep: a file for each process in `<sweep>/claims/`, and whether it is alive.

An owner on the same machine is dead when its process is gone; any other when its beats stood still for a lease, by the
clock of whoever looks: no two clocks are compared.
"""

import json
import math
import os
import platform
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from mupcheck.results.files import STALE_SECONDS, StoreError

FOLDER = "claims"  # of a sweep's folder
BEAT, LEASE = 5.0, 60.0  # seconds between beats, and without one until an owner counts as dead


@dataclass(frozen=True)
class Owner:
    """A process that drives a sweep, as its file says.

    Attributes:
        token: that no other owner has.
        host: the machine's name, as people know it.
        machine: the machine since it was started, and the processes that can see each other there.
        pid: the process there.
        started: of the process, in the machine's own count; "" where it has none.
        since: when it began, UTC by its own clock: to be shown, never to be compared.
        command: that goes on with the sweep.
        asks: what it trains: a hash of the sweep's spec.
        beats: how often it said that it lives.
        said: how far it is: steps, seconds_left and what else its driver says.
        mupcheck: its version.
    """

    token: str
    host: str = "?"
    machine: str = ""
    pid: int = 0
    started: str = ""
    since: str = ""
    command: str = ""
    asks: str = ""
    beats: int = 0
    said: dict[str, Any] = field(default_factory=dict)
    mupcheck: str = ""

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}"


# --- this process -----------------------------------------------------------------------------------------------------


@cache
def machine() -> str:
    """Return what two processes share that can ask whether the other one lives: host, boot and room for processes."""
    parts = [socket.gethostname(), platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))  # a container may have its host's name, never its processes
    return " ".join(parts)


def process_start(pid: int) -> str | None:
    """Return when a process of this machine began, None where there is none; "" where the machine does not say."""
    with suppress(OSError):  # there is none, or it is hidden
        # the name in brackets may hold anything
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return None if state in (b"Z", b"X", b"x") else rest[18].decode()  # a zombie is dead
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except (OSError, OverflowError):
        pass  # of another user
    return ""


def is_gone(owner: Owner) -> bool:
    """Say whether it is known at once that an owner is dead: it is of this machine, and its process is no more."""
    if owner.machine != machine() or owner.pid <= 0:
        return False
    started = process_start(owner.pid)
    return started is None or bool(started and owner.started and started != owner.started)


# --- reading ----------------------------------------------------------------------------------------------------------


def owners(folder: str | Path) -> list[Owner]:
    """Return the owners of a sweep's folder, alive or not, in an order of their own; none where there are no claims."""
    found = []
    for entry in entries_of(Path(folder)):
        if entry.endswith(".owner"):
            with suppress(FileNotFoundError):  # it just ended
                found.append(read_owner(Path(folder), entry.removesuffix(".owner")))
    return sorted(found, key=lambda owner: (owner.since, owner.token))


def read_owner(folder: Path, token: str) -> Owner:
    """Return an owner by its token, with nothing but that where its file is damaged or of another kind.

    Raises:
        FileNotFoundError: if there is none.
    """
    try:
        document = json.loads((folder / FOLDER / f"{token}.owner").read_bytes())
        known = {name: document[name] for name in Owner.__dataclass_fields__ if name in document}
        plain: dict[str, Any] = {
            "pid": int(known["pid"]),
            "beats": int(known["beats"]),
            "said": dict(known["said"]),
            "token": token,
        }
        fields: dict[str, Any] = {name: str(value) for name, value in known.items()}
        return Owner(**fields | plain)
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        return Owner(token)


def entries_of(folder: Path) -> list[str]:
    """Return the names of all files of claims in a sweep's folder."""
    try:
        return os.listdir(folder / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreError(f"cannot read {folder / FOLDER}: {error.strerror}") from error


def written(folder: Path, token: str, *, otherwise: float = math.inf) -> float:
    """Return when an owner's file was written, by the clock of its disk; `otherwise` where there is none."""
    try:
        return (folder / FOLDER / f"{token}.owner").stat().st_mtime
    except (OSError, ValueError):
        return otherwise


class Watch:
    """Judges which owners are dead, by what it saw of their beats.

    Args:
        folder: the sweep's.
        lease: seconds without a beat until an owner counts as dead.
        beside: token of an owner that is alive: whose file is older than this one's by STALE_SECONDS is dead. Both
            times are of the disk, and where they are not, clocks that disagree by less do no harm.
        clock: seconds that pass.
    """

    def __init__(
        self, folder: Path, *, lease: float = LEASE, beside: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.folder, self.lease, self.beside, self.clock = folder, lease, beside, clock
        self.seen: dict[str, tuple[int, float]] = {}  # beats, and when they were first seen, by token

    def alive(self, token: str) -> bool:
        """Say whether an owner may be alive; at the first look it is, unless its process is gone."""
        try:
            owner = read_owner(self.folder, token)
        except FileNotFoundError:
            owner = Owner(token, beats=-1)
        beside = written(self.folder, self.beside, otherwise=0.0)
        if is_gone(owner) or written(self.folder, token) + STALE_SECONDS < beside:
            return False
        now = self.clock()
        beats, since = self.seen.get(token, (None, now))
        if owner.beats != beats:
            self.seen[token] = (owner.beats, now)
            return True
        return now - since < self.lease

    def others(self, token: str = "") -> list[Owner]:
        """Return the owners that may be alive, but for one."""
        return [owner for owner in owners(self.folder) if owner.token != token and self.alive(owner.token)]


def living(folder: str | Path, *, patience: float = 2 * BEAT) -> list[Owner]:
    """Return the owners of a sweep's folder that are alive; reads only.

    Those of this machine are known at once. Others are watched until they give a sign of life.

    Args:
        folder: the sweep's.
        patience: seconds after which one that gave none is taken for dead.
    """
    first = [owner for owner in owners(folder) if not is_gone(owner)]
    here = [owner for owner in first if owner.machine == machine() and owner.started]
    quiet = {owner.token: owner for owner in first if owner not in here}
    end = time.monotonic() + patience
    while quiet and time.monotonic() < end:
        time.sleep(min(patience / 20, 0.25))
        now = {owner.token: owner for owner in owners(folder)}
        here += [now[token] for token, owner in quiet.items() if token in now and now[token].beats != owner.beats]
        quiet = {token: owner for token, owner in quiet.items() if now.get(token) == owner}
    return here
