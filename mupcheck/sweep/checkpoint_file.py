"""A checkpoint's file: taken as it was written, or not at all.

It is three lines, a hash of all that follows it, what the file is of, and facts as JSON, and then tensors as torch
writes them. It is read as tensors and JSON and nothing else, and only if the hash is right.
"""

import hashlib
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from mupcheck.results.files import TMP_SUFFIX, one_line, write_stream

if TYPE_CHECKING:
    from mupcheck.training.rows import StepRow
    from mupcheck.training.state import State

FOLDER = "checkpoints"  # of a sweep's folder
FORMAT = 1
MAGIC = b"mupcheck checkpoint %d " % FORMAT
SEAL = len(MAGIC) + 64 + 1  # bytes of the first line
HEADER_BYTES = 2**20  # more is no header
CHUNK = 2**22


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


def file_of(folder: Path, run_ids: Sequence[str], where: Mapping[str, str]) -> Path:
    """Return the name of a group's checkpoint."""
    key = json.dumps([FORMAT, sorted(run_ids), dict(where)], sort_keys=True)
    return folder / FOLDER / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.ckpt"


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
        hashing.check()
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


def remove(file: Path) -> None:
    """Remove a checkpoint, and the folder where it was the last."""
    with suppress(OSError):
        file.unlink()
    remove_temporaries(file)
    with suppress(OSError):
        file.parent.rmdir()


def remove_temporaries(file: Path) -> None:
    """Remove what a killed process was writing: it may be large."""
    for unfinished in file.parent.glob(f".{file.name}.*{TMP_SUFFIX}"):
        with suppress(OSError):
            unfinished.unlink()


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


def set_aside(file: Path, error: Exception, n_runs: int) -> None:
    """Give a checkpoint that is not believed another name, and say so."""
    aside = file.with_suffix(".damaged")
    with suppress(OSError):
        file.replace(aside)
    warnings.warn(f"{file} is not used ({error}); it is {aside.name} now, and {n_runs} runs start anew", stacklevel=2)


class _Hashing:
    """Writes to a file and hashes what it writes.

    torch would make another error of one that happens within a write, of a full disk or Ctrl-C alike: so that is kept,
    nothing more is written, and `check` raises it.
    """

    def __init__(self, out: BinaryIO) -> None:
        self.out, self.sha256 = out, hashlib.sha256()
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.sha256.update(data)
                self.out.write(data)
            except BaseException as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        pass

    def check(self) -> None:
        if self.error is not None:
            raise self.error
