"""Who trains what in a sweep's folder, so that several processes share it and train no run twice at a time.

`<sweep>/claims/` holds a file for each owner, a process that drives a sweep, and one for each run that it is training:

    <token>.owner               the owner as JSON: host, process, command, and a count of beats, renewed by a thread
    <run_id>.<generation>       the owner's token; made by exclusive creation, and gone when the run is there

Who has the highest generation of a run has the run. To take over from an owner that died is to make the next one, which
only one of many can: nothing is renamed or removed on the way. All of this may be lost at any time (it is not synced,
nor backed up): what is doubted is trained twice, to the same bits.
"""

import json
import os
import re
import secrets
import socket
import threading
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mupcheck.results.files import StoreError
from mupcheck.results.owners import (
    BEAT,
    FOLDER,
    LEASE,
    Owner,
    Watch,
    entries_of,
    machine,
    owners,
    process_start,
    read_owner,
)
from mupcheck.results.version import version

ROOM = 2048  # bytes of an owner's file, so that it can be written in place
TRIES = 20  # to write into a folder that others may remove when they end
TOKEN = re.compile("[0-9a-f]{16}")
CLAIM = re.compile(r"(?P<run_id>[^.].*)\.(?P<generation>[0-9]+)")


def held(folder: str | Path, among: Collection[str] | None = None) -> dict[str, tuple[int, str]]:
    """Return the highest generation of each claimed run and its owner's token.

    Of a claim that holds no token, as it is just being written or damaged, it is a name that no owner has.

    Args:
        folder: the sweep's.
        among: run_ids to look for (default: all).
    """
    tokens = {}
    for run_id, generations in _generations(Path(folder)).items():
        if among is not None and run_id not in among:
            continue
        with suppress(OSError):  # it was just released
            tokens[run_id] = (max(generations), _token(Path(folder), run_id, max(generations)))
    return tokens


def trained_by_others(folder: str | Path, run_ids: Collection[str]) -> set[str]:
    """Return those of these runs that processes hold which may be alive, this one's own apart."""
    watch, me = Watch(Path(folder)), (machine(), os.getpid())
    tokens = {owner.token for owner in watch.others() if (owner.machine, owner.pid) != me}
    return {run_id for run_id, (_, token) in held(folder, run_ids).items() if token in tokens}


def _generations(folder: Path) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for entry in entries_of(folder):
        if parts := CLAIM.fullmatch(entry):
            found.setdefault(parts["run_id"], []).append(int(parts["generation"]))
    return found


def _token(folder: Path, run_id: str, generation: int) -> str:
    name = f"{run_id}.{generation}"
    text = (folder / FOLDER / name).read_text(encoding="ascii", errors="replace")
    return text if TOKEN.fullmatch(text) else f"?{name}"


class Claims:
    """The claims of this process on runs of one sweep; within it, a thread says that it lives.

    Args:
        folder: the sweep's.
        command: that goes on with the sweep, for others to read.
        asks: a hash of what it trains.
        beat: seconds between signs of life.
        lease: seconds without one until another owner counts as dead.
    Raises:
        StoreError: on entry, if nothing can be written into the folder.
    """

    def __init__(
        self, folder: str | Path, *, command: str = "", asks: str = "", beat: float = BEAT, lease: float = LEASE
    ) -> None:
        self.folder, self.beat, self.machine, self.command = Path(folder), beat, machine(), command
        self.mine: dict[str, int] = {}  # generation by run_id
        self.said: dict[str, Any] = {}  # how far it is
        self._fields: dict[str, Any] = {"command": command, "asks": asks, "mupcheck": version()}
        self._beats, self._pid, self._stop = 0, 0, threading.Event()
        self.token = secrets.token_hex(8)
        self.watch = Watch(self.folder, lease=lease, beside=self.token)

    def __enter__(self) -> "Claims":
        self._pid = os.getpid()
        started = process_start(self._pid) or ""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        host = socket.gethostname()
        self._fields |= {"host": host, "machine": self.machine, "pid": self._pid, "started": started, "since": since}
        self._made = not self.folder.exists()
        try:
            self._renew()
        except OSError as error:
            raise StoreError(
                f"cannot write {self.folder / FOLDER}: {error.strerror or error}; give another folder"
            ) from error
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if os.getpid() != self._pid:
            return  # a copy of the process that claimed
        self._thread.join(self.beat)  # it may be at it just now
        self.release(list(self.mine))
        self._tidy()

    def take(self, run_ids: Iterable[str]) -> list[str]:
        """Claim runs; return those that are this process's now, in their order: free ones, and those of the dead.

        Raises:
            StoreError: if a claim cannot be written.
        """
        wanted = list(run_ids)
        there = held(self.folder, set(wanted))
        taken = {run_id: there.get(run_id) for run_id in wanted if self._take(run_id, there.get(run_id))}
        now = _generations(self.folder) if taken else {}
        for run_id, before in taken.items():
            # Of two that took it by what they saw at different times, the one that came last sees the other's claim
            # here. And who was judged dead may have given the run back since, and another taken it anew.
            generation = self.mine[run_id]
            unseen = [each for each in now.get(run_id, ()) if each != generation and each > (before or (0, ""))[0]]
            with suppress(OSError):
                if unseen or (
                    before and before[0] != generation and _token(self.folder, run_id, before[0]) != before[1]
                ):
                    del self.mine[run_id]
                    self._remove(f"{run_id}.{generation}")
        return [run_id for run_id in wanted if run_id in self.mine]

    def _take(self, run_id: str, holder: tuple[int, str] | None) -> bool:
        """Claim a run that nobody alive holds, as far as is known; say whether it was taken, now or before."""
        if holder is not None and holder[1] == self.token:
            self.mine[run_id] = holder[0]
            return True
        self.mine.pop(run_id, None)  # another took it over, or the claims are lost
        if holder is not None and self.watch.alive(holder[1]):
            return False
        generation = holder[0] + 1 if holder else 1
        if not self._create(run_id, generation):
            return False
        self.mine[run_id] = generation
        return True

    def _create(self, run_id: str, generation: int) -> bool:
        """Make a claim's file; return False where it is there."""
        path = self.folder / FOLDER / f"{run_id}.{generation}"
        for _ in range(TRIES):
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            except FileExistsError:
                return False
            except FileNotFoundError:  # who ended last removed the folder
                with suppress(FileNotFoundError, FileExistsError):
                    path.parent.mkdir(parents=True, exist_ok=True)
                continue
            except OSError as error:
                raise self._cannot(path, error) from error
            try:
                os.write(handle, self.token.encode())
            except OSError as error:
                path.unlink(missing_ok=True)
                raise self._cannot(path, error) from error
            finally:
                os.close(handle)
            return True
        return False

    def _cannot(self, path: Path, error: OSError) -> StoreError:
        return StoreError(f"cannot write {path}: {error.strerror or error}; finished runs are kept, rerun to go on")

    def release(self, run_ids: Iterable[str]) -> None:
        """Give runs back, those that are there or cannot be: what others hold by now stays theirs."""
        for run_id in run_ids:
            generation = self.mine.pop(run_id, 0)
            # the dead of whom it was taken over first: who looks meanwhile finds this claim above theirs
            for each in range(max(generation - 3, 1), generation):
                self._remove(f"{run_id}.{each}")
            with suppress(OSError):
                if generation and _token(self.folder, run_id, generation) == self.token:
                    self._remove(f"{run_id}.{generation}")

    def holders(self, run_ids: Collection[str]) -> dict[str, Owner]:
        """Return the living owner of each of these runs that another one holds."""
        found = {}
        for run_id, (_, token) in held(self.folder, run_ids).items():
            if run_id not in self.mine and self.watch.alive(token):
                try:
                    found[run_id] = read_owner(self.folder, token)
                except FileNotFoundError:
                    found[run_id] = Owner(token)
        return found

    def others(self) -> list[Owner]:
        """Return the other owners of this folder that may be alive."""
        return self.watch.others(self.token)

    def _beat(self) -> None:
        while not self._stop.wait(self.beat):
            with suppress(OSError):  # a disk that is full, or away, may be back at the next
                self._renew()

    def _renew(self) -> None:
        """Say that this process lives, and how far it is; whole, but not synced."""
        self._beats += 1
        place = self.folder / FOLDER
        document = {"token": self.token, **self._fields, "beats": self._beats, "said": self.said}
        data = json.dumps(document).encode().ljust(ROOM)
        # In place, where a client of NFS sees it when it opens the file; a new file it would see a minute later.
        # A reader that meets half of it takes that for a sign of life, which it is.
        with suppress(FileNotFoundError):
            handle = os.open(place / f"{self.token}.owner", os.O_WRONLY)
            try:
                if os.fstat(handle).st_size == len(data):
                    os.pwrite(handle, data, 0)
                    return
            finally:
                os.close(handle)
        tmp = place / f".{self.token}.tmp"
        for left in reversed(range(TRIES)):
            try:
                place.mkdir(parents=True, exist_ok=True)
                tmp.write_bytes(data)
                tmp.replace(place / f"{self.token}.owner")
                return
            except (FileNotFoundError, FileExistsError):  # who ended last removed the folder, before mkdir looked again
                if not left:
                    raise

    def _tidy(self) -> None:
        """Remove what the dead left and this process's own file, and the folder where nobody else is in it."""
        with suppress(OSError):
            alive = {owner.token for owner in self.others()}
            for run_id, (generation, token) in held(self.folder).items():
                if token not in alive and not self.watch.alive(token):
                    self._remove(f"{run_id}.{generation}")
            for owner in owners(self.folder):
                if owner.token not in alive:
                    self._forget(owner.token)
        self._forget(self.token)
        with suppress(OSError):
            (self.folder / FOLDER).rmdir()
            if self._made:
                self.folder.rmdir()  # where nothing came into it

    def _forget(self, token: str) -> None:
        self._remove(f".{token}.tmp")
        self._remove(f"{token}.owner")

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            (self.folder / FOLDER / name).unlink()
