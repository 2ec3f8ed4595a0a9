"""Checkpoints of groups that train for minutes: when one is written, and which is gone on from.

It is one of the same runs on the same kind of device and by the same versions, so that a group that is ended and goes
on has the numbers of one that was not, bit for bit.
"""

import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupcheck.results.files import StoreError
from mupcheck.results.reading import finished_runs
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.checkpoint_file import (
    FOLDER,
    Header,
    Kept,
    file_of,
    headers_in,
    read_checkpoint,
    remove,
    remove_temporaries,
    set_aside,
    write_checkpoint,
)
from mupcheck.sweep.cost import weight_bytes
from mupcheck.sweep.groups import Group
from mupcheck.sweep.machine import device_name
from mupcheck.sweep.provenance import provenance

if TYPE_CHECKING:
    from mupcheck.training.rows import StepRow
    from mupcheck.training.state import State

# A sweep that is over in two minutes writes none; later ones are so far apart that they take 2% of the time at most.
FIRST_SECONDS, SECONDS, SHARE = 120.0, 300.0, 0.02
BYTES_A_SECOND = 1e8  # taken for the speed of writing, until one was written
VARIABLE = "MUPCHECK_CHECKPOINT_MINUTES"
# What less than this has trained is trained again.
LEAST_SECONDS = 10.0
RANK = "rank"  # of what a checkpoint is of, where several processes train a run
leaving = threading.Event()  # set when this process shall end soon: groups are left where they can go on


class Left(BaseException):
    """A group was left with its checkpoint written, as `leaving` asked; no error that a worker takes for its own."""


def interval() -> tuple[float, float, float]:
    """Return the seconds before a first checkpoint and between two, and the largest share of the time they take.

    Raises:
        ValueError: if the environment asks for what is no number of minutes.
    """
    given = os.environ.get(VARIABLE)
    if given is None:
        return FIRST_SECONDS, SECONDS, SHARE
    try:
        seconds = 60 * float(given)
    except ValueError:
        seconds = math.nan
    if not seconds >= 0:
        raise ValueError(f"{VARIABLE}={given} is no number of minutes; give one such as 5, or 0 for no checkpoints")
    seconds = seconds or math.inf
    return seconds, seconds, math.inf


def where_of(device: str, provenance: Mapping[str, Any]) -> dict[str, str]:
    """Return what training gives the same bits by, beside its runs: the kind of device, versions and the commit."""
    by = {name: str(provenance.get(name)) for name in ("commit", "mupcheck", "torch", "triton")}
    by |= {"numpy": metadata.version("numpy"), "device": device_name(device)}
    if device == "cpu":
        import torch

        by["cpu"] = torch.backends.cpu.get_cpu_capability()
    return by


class Keeper:
    """Keeps the checkpoint of one group while it trains.

    Args:
        folder: the sweep's.
        group: runs, one per replica.
        device: that trains them.
        provenance: by what commit and versions.
    """

    def __init__(self, folder: Path, group: Group, device: str, provenance: Mapping[str, Any]) -> None:
        self.folder, self.run_ids = folder, tuple(run.run_id for run in group)
        self.where = where_of(device, provenance)
        self.exactly = device != "cpu"  # sums over replicas depend on how many there are
        self.file = file_of(folder, self.run_ids, self.where)
        self.first, self.often, self.share = interval()
        copies = 3 if group[0].optimizer == "adamw" else 2
        cost = copies * len(group) * weight_bytes(group[0]) / BYTES_A_SECOND
        self.began = self.since = time.monotonic()
        self.due = self.began + max(self.first, cost / self.share)
        self.before, self.started_at = 0.0, datetime.now(UTC)
        self.earlier: Path | None = None  # of a group that this one is what is left of

    @property
    def seconds(self) -> float:
        """Return how long the group has trained, what was done before it went on included."""
        return self.before + time.monotonic() - self.began

    def take_up(self) -> "Kept | None":
        """Return the furthest that a checkpoint of these runs on this kind of device has come, None without one.

        One that is damaged is set aside and said. On a CPU, where no replica depends on others, it may be of more runs.
        """
        remove_temporaries(self.file)
        for file, header in self._candidates():
            if kept := self._read(file, self.where, header):
                self.before, self.started_at = kept.header.seconds, kept.header.started_at
                return kept
        return None

    def succeed(self, header: Header) -> None:
        """Go on for a part of a group that came so far; the checkpoint of all of it stays until there is one of this.

        Args:
            header: of the group, where it stood.
        """
        self.before, self.started_at = header.seconds, header.started_at
        self.earlier = file_of(self.folder, header.run_ids, self.where)
        self.since = self.began - header.seconds
        if header.seconds >= self.first:  # it may have been trained for hours
            self.due = self.began

    def _read(self, file: Path, where: Mapping[str, str], header: "Header | None" = None) -> "Kept | None":
        """Return what a file holds of these runs, None where it is not there or not believed."""
        try:
            return read_checkpoint(file, self.run_ids, where)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            set_aside(file, error, len(header.run_ids) if header else len(self.run_ids))
            return None

    def offer(self, rows: "Sequence[StepRow]", state: "Callable[[], State]") -> None:
        """Write a checkpoint where one is due; what cannot be written is said, and training goes on.

        Raises:
            Left: if `leaving` is set, afterwards.
        """
        leave, start = leaving.is_set(), time.monotonic()
        if not leave and start < self.due:
            return
        if self.first < math.inf and (not leave or start - self.since >= min(self.first, LEAST_SECONDS)):
            header = Header(self.run_ids, self.where, len(rows), self.seconds, self.started_at)
            try:
                write_checkpoint(self.file, header, rows, state())
                self._forget_earlier()
            except StoreError as error:
                warnings.warn(f"no checkpoint, training goes on: {error}", stacklevel=2)
        self._wait(start)
        if leave:
            if multiprocessing.parent_process() is not None:
                signal.raise_signal(signal.SIGTERM)  # as an end that who waits for this process knows
            raise Left

    def _wait(self, start: float) -> None:
        """Let the next be due later, the longer the longer this one took, which began at `start`."""
        self.since = time.monotonic()
        self.due = self.since + max(self.often, (self.since - start) / self.share)

    def remove(self) -> None:
        """Remove what was kept: the runs are there."""
        remove(self.file)
        self._forget_earlier()

    def _forget_earlier(self) -> None:
        if self.earlier is not None:
            remove(self.earlier)
            self.earlier = None

    def _candidates(self) -> "list[tuple[Path, Header | None]]":
        """Return checkpoints to try, the group's own first, then those that have come furthest."""
        own: list[tuple[Path, Header | None]] = [(self.file, None)] if self.file.exists() else []
        if self.exactly:
            return own
        wanted = set(self.run_ids)
        others = [
            (file, header)
            for file, header in headers_in(self.folder)
            if file != self.file and wanted <= set(header.run_ids) and header.where == self.where
        ]
        return [*own, *sorted(others, key=lambda each: -each[1].step)]


def leave(*_: Any) -> None:
    """Let groups that train in this process, and in its workers, be left with their checkpoints; a signal's handler."""
    leaving.set()
    for worker in multiprocessing.active_children():
        if worker.pid is not None:
            os.kill(worker.pid, signal.SIGUSR1)


@contextmanager
def left_by_signal() -> Iterator[None]:
    """Let a worker process do as its parent's `leave` says; SIGUSR1 ends one that trains nothing."""
    here = threading.current_thread() is threading.main_thread() and multiprocessing.parent_process() is not None
    if not here or not hasattr(signal, "SIGUSR1") or signal.getsignal(signal.SIGUSR1) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGUSR1, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)


def steps_kept(folder: Path, run_ids: Collection[str]) -> int:
    """Return how many steps of runs the checkpoints hold that have all their runs among these."""
    found = (header for _, header in _of_groups(folder) if set(header.run_ids) <= set(run_ids))
    return sum(header.step * len(header.run_ids) for header in found)


def _of_groups(folder: Path) -> list[tuple[Path, Header]]:
    """Return the checkpoints that one process wrote; those of ranks are parts of a run."""
    return [(file, header) for file, header in headers_in(folder) if RANK not in header.where]


def forget_checkpoints(folder: Path, *, all_of_them: bool = False) -> None:
    """Remove the checkpoints whose runs are all there, or all there are."""
    if not (folder / FOLDER).exists():
        return
    there = finished_runs(folder)
    for file, header in headers_in(folder):
        if all_of_them or there.issuperset(header.run_ids):
            remove(file)
    with suppress(OSError):
        (folder / FOLDER).rmdir()  # where none is left


def kept_groups(folder: Path, missing: Sequence[RunSpec], device: str) -> list[Group]:
    """Return groups of missing runs as checkpoints on this kind of device have them; no run is in two.

    Args:
        folder: the sweep's.
        missing: runs to train.
        device: "cpu", "cuda:i", or "cuda" for GPUs of other machines, of which nothing is known.
    """
    found = _of_groups(folder)
    if not found:
        return []
    where = None if device == "cuda" else where_of(device, provenance())
    left = {run.run_id: run for run in missing}
    groups = []
    for _, header in sorted(found, key=lambda each: (-each[1].step, each[0].name)):
        if where in (None, header.where) and left.keys() >= set(header.run_ids):
            groups.append(tuple(left.pop(run_id) for run_id in header.run_ids))
    return groups
