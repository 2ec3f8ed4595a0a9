"""Checkpoints of groups that train for minutes: a file a group, taken back whole and of the same kind of device alone.

A file is three lines, a hash of all that follows it, what the file is of, and facts as JSON, and then tensors as torch
writes them. It is read as tensors and JSON and nothing else, and only if the hash is right.
"""

import hashlib
import json
import math
import os
import pickle
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mupcheck.results.files import StoreError, one_line, write_stream
from mupcheck.results.reading import finished_runs
from mupcheck.spec.run import RunSpec
from mupcheck.sweep.cost import weight_bytes
from mupcheck.sweep.groups import Group
from mupcheck.sweep.machine import device_name
from mupcheck.sweep.provenance import provenance

if TYPE_CHECKING:
    from mupcheck.training.rows import StepRow
    from mupcheck.training.state import State

FOLDER = "checkpoints"  # of a sweep's folder
FORMAT = 1
MAGIC = b"mupcheck checkpoint %d " % FORMAT
SEAL = len(MAGIC) + 64 + 1  # bytes of the first line
HEADER_BYTES = 2**20  # more is no header
# A sweep that is over in two minutes writes none; later ones are so far apart that they take 2% of the time at most.
FIRST_SECONDS, SECONDS, SHARE = 120.0, 300.0, 0.02
BYTES_A_SECOND = 1e8  # taken for the speed of writing, until one was written
VARIABLE = "MUPCHECK_CHECKPOINT_MINUTES"
CHUNK = 2**22

leaving = threading.Event()  # set when this process shall end soon: groups are left where they can go on


class Left(BaseException):
    """A group was left with its checkpoint written, as `leaving` asked; no error that a worker takes for its own."""


@dataclass(frozen=True)
class Header:
    """What a checkpoint is of.

    Attributes:
        run_ids: of its replicas, in their order.
        where: what the same bits depend on beside the runs.
        step: that comes next.
        seconds: that training took so far.
        started_at: when it began.
    """

    run_ids: tuple[str, ...]
    where: Mapping[str, str]
    step: int
    seconds: float
    started_at: datetime


@dataclass(frozen=True)
class Kept:
    """What a checkpoint holds: the rows of all steps before `header.step`, and the state there."""

    header: Header
    rows: "list[StepRow]"
    state: "State"


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


def file_of(folder: Path, run_ids: Sequence[str], where: Mapping[str, str]) -> Path:
    """Return the name of a group's checkpoint."""
    key = json.dumps([FORMAT, sorted(run_ids), dict(where)], sort_keys=True)
    return folder / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.ckpt"


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
        self.began = time.monotonic()
        self.due = self.began + max(self.first, cost / self.share)
        self.before, self.started_at = 0.0, datetime.now(UTC)

    @property
    def seconds(self) -> float:
        """Return how long the group has trained, what was done before it went on included."""
        return self.before + time.monotonic() - self.began

    def take_up(self) -> "Kept | None":
        """Return the furthest that a checkpoint of these runs on this kind of device has come, None without one.

        One that is damaged is set aside and said. On a CPU, where no replica depends on others, it may be of more runs.
        """
        for file, header in self._candidates():
            try:
                kept = read_checkpoint(file, self.run_ids, self.where)
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                _set_aside(file, error, len(header.run_ids) if header else len(self.run_ids))
                continue
            self.before, self.started_at = kept.header.seconds, kept.header.started_at
            return kept
        return None

    def offer(self, rows: "Sequence[StepRow]", state: "Callable[[], State]") -> None:
        """Write a checkpoint where one is due; what cannot be written is said, and training goes on.

        Raises:
            Left: if `leaving` is set, afterwards.
        """
        leave = leaving.is_set()
        if not leave and time.monotonic() < self.due:
            return
        start = time.monotonic()
        if self.first < math.inf:
            header = Header(self.run_ids, self.where, len(rows), self.seconds, self.started_at)
            try:
                write_checkpoint(self.file, header, rows, state())
            except StoreError as error:
                warnings.warn(f"no checkpoint, training goes on: {error}", stacklevel=2)
        now = time.monotonic()
        self.due = now + max(self.often, (now - start) / self.share)
        if leave:
            raise Left

    def remove(self) -> None:
        """Remove what was kept: the runs are there."""
        with suppress(OSError):
            self.file.unlink()
        with suppress(OSError):
            self.file.parent.rmdir()  # where none is left

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


def write_checkpoint(file: Path, header: Header, rows: "Sequence[StepRow]", state: "State") -> None:
    """Write a checkpoint, whole or not at all, in place of the one before.

    Raises:
        StoreError: if it cannot be written; the one before stays.
    """
    import torch

    from mupcheck.training.state import pack_rows

    packed = pack_rows(rows)
    described = {**vars(header), "started_at": header.started_at.isoformat()}

    def write(out: BinaryIO) -> None:
        out.write(bytes(SEAL))
        hashing: Any = _Hashing(out)
        for part in (described, {"rows": packed.facts, "state": state.facts}):
            hashing.write(json.dumps(part).encode() + b"\n")
        torch.save({"rows": packed.tensors, "state": state.tensors}, hashing)
        out.seek(0)
        out.write(MAGIC + hashing.sha256.hexdigest().encode() + b"\n")

    write_stream(file, write)


def read_checkpoint(file: Path, run_ids: Sequence[str], where: Mapping[str, str]) -> Kept:
    """Return what a checkpoint holds of some of its runs, in their order.

    Raises:
        ValueError: if it is damaged, or of other runs or another kind of device.
        OSError: if it cannot be read.
    """
    import torch

    from mupcheck.training.state import State, pick, unpack_rows

    with file.open("rb") as source:
        _check_seal(source)
        header = _header(source)
        if header is None or not set(run_ids) <= set(header.run_ids) or header.where != where:
            raise ValueError("it is of other runs, or of another device or version")
        try:
            facts = json.loads(source.readline())
            tensors = torch.load(source, map_location="cpu", weights_only=True)
            parts = [State(header.step, tensors[name], facts[name]) for name in ("rows", "state")]
            places = [header.run_ids.index(run_id) for run_id in run_ids]
            rows, state = (pick(part, places) if places != list(range(len(header.run_ids))) else part for part in parts)
            return Kept(header, unpack_rows(rows), state)
        except (pickle.UnpicklingError, RuntimeError, KeyError, IndexError, TypeError, EOFError) as error:
            raise ValueError(one_line(error)) from error


def headers_in(folder: Path) -> list[tuple[Path, Header]]:
    """Return the checkpoints of a sweep and what they say they are of, which is not checked; damaged ones left out."""
    found = []
    for file in sorted((folder / FOLDER).glob("*.ckpt")):
        with suppress(OSError), file.open("rb") as source:
            source.seek(SEAL)
            if (header := _header(source)) is not None:
                found.append((file, header))
    return found


def forget_checkpoints(folder: Path, *, all_of_them: bool = False) -> None:
    """Remove the checkpoints whose runs are all there, or all there are."""
    if not (folder / FOLDER).exists():
        return
    there = finished_runs(folder)
    for file, header in headers_in(folder):
        if all_of_them or there.issuperset(header.run_ids):
            with suppress(OSError):
                file.unlink()
    with suppress(OSError):
        (folder / FOLDER).rmdir()  # where none is left


def kept_groups(folder: Path, missing: Sequence[RunSpec], device: str) -> list[Group]:
    """Return groups of missing runs as checkpoints on this kind of device have them; no run is in two."""
    found = headers_in(folder)
    if not found:
        return []
    where, left = where_of(device, provenance()), {run.run_id: run for run in missing}
    groups = []
    for _, header in sorted(found, key=lambda each: (-each[1].step, each[0].name)):
        if header.where == where and left.keys() >= set(header.run_ids):
            groups.append(tuple(left.pop(run_id) for run_id in header.run_ids))
    return groups


def _check_seal(source: BinaryIO) -> None:
    """Read a file as a whole and stand behind its first line.

    Raises:
        ValueError: if it is not what was written.
    """
    seal, digest = source.read(SEAL), hashlib.sha256()
    while part := source.read(CHUNK):
        digest.update(part)
    if seal != MAGIC + digest.hexdigest().encode() + b"\n":
        raise ValueError("its bytes are not those that were written")
    source.seek(SEAL)


def _header(source: BinaryIO) -> Header | None:
    """Return the header that comes next, None where there is none."""
    try:
        fields = json.loads(source.readline(HEADER_BYTES))
        run_ids, where = tuple(map(str, fields["run_ids"])), dict(fields["where"])
        started_at = datetime.fromisoformat(fields["started_at"])
        return Header(run_ids, where, int(fields["step"]), float(fields["seconds"]), started_at)
    except (ValueError, KeyError, TypeError):
        return None


def _set_aside(file: Path, error: Exception, n_runs: int) -> None:
    """Give a checkpoint that is not believed another name, and say so."""
    aside = file.with_suffix(".damaged")
    with suppress(OSError):
        file.replace(aside)
    warnings.warn(f"{file} is not used ({error}); it is {aside.name} now, and {n_runs} runs start anew", stacklevel=2)


class _Hashing:
    """Writes to a file and hashes what it writes."""

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.sha256 = out, hashlib.sha256()

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self.out.write(data)

    def flush(self) -> None:
        self.out.flush()
