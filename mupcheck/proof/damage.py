"""Every file of a sweep cut at each byte, and with one bit of each byte flipped: what a reader makes of it.

What counts is that no other number is ever read, and that no fault goes without the name of its file. `damage` returns
what it found; a sweep's command is played by `mend`, which is to set aside what a reader refuses.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from mupcheck.proof.stored import write_stored
from mupcheck.results.cache import FOLDER
from mupcheck.results.compact import compact
from mupcheck.results.mend import DAMAGED, mend
from mupcheck.results.reading import read_tables
from mupcheck.results.tables import SCHEMAS

# "compact/runs": the compacted file; "runs, compacted": a run's own file where there is a compacted one
KINDS = (
    *("runs", "steps", "coords", "sweep.json"),
    *("compact/runs", "compact/steps", "compact/coords", "runs, compacted"),
)

# tables, sweeps, notes
Read = tuple[dict[str, Any], dict[str, dict[str, Any]], list[str]]


@dataclass
class Damage:
    """What was made of one kind of file.

    Attributes:
        kind: one of KINDS.
        n_bytes: size of the file.
        n: files that were damaged, each in one way.
        refused: of these, those that a reader refused, naming the file, and that were set aside then.
        unharmed: those that gave what was written all the same: a bit of a description, or a cache that was not used.
        wrong: what else came of one, in words.
    """

    kind: str
    n_bytes: int
    n: int = 0
    refused: int = 0
    unharmed: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the figure as a line."""
        said = f"{self.n:,} damaged, {self.refused:,} refused by name, {self.unharmed:,} without effect"
        return f"{self.kind} ({self.n_bytes:,} bytes): {said}, {len(self.wrong)} wrong"


def damage(folder: Path, *, kinds: tuple[str, ...] = KINDS, every: int = 1) -> Iterator[Damage]:
    """Damage each kind of file of a small sweep, and yield what came of it.

    Args:
        folder: where the sweep is made; it must not be there.
        every: take each so many-th byte; 1 is all of them.
    """
    sweep = folder / "s"
    run_id = write_stored(sweep, 2, n_steps=3, n_coords=4)[0]
    truth = read_tables(folder, tables=SCHEMAS)
    for kind in kinds:
        shutil.rmtree(sweep / FOLDER, ignore_errors=True)
        if "compact" in kind:
            compact(sweep)
        if kind.startswith("compact/"):
            (file,) = (sweep / FOLDER).glob(f"{kind.removeprefix('compact/')}-*")
        else:
            name = kind.removesuffix(", compacted")
            file = sweep / name if name == "sweep.json" else sweep / name / f"{run_id}.parquet"
        yield _damage(folder, file, Damage(kind, file.stat().st_size), truth, every)


def _damage(folder: Path, file: Path, found: Damage, truth: Read, every: int) -> Damage:
    whole = file.read_bytes()
    kept = {each: each.read_bytes() for each in folder.rglob("*") if each.is_file()}
    flips = random.Random(5)
    places = range(flips.randrange(every), len(whole), every)
    ways = chain(
        ((f"cut after {at} bytes", whole[:at]) for at in places),
        ((f"a bit of byte {at} flipped", _flipped(whole, at, flips.randrange(8))) for at in places),
    )
    for how, data in ways:
        file.write_bytes(data)
        found.n += 1
        try:
            outcome = _outcome(folder, file, truth, spare=found.kind.startswith("compact/"))
        except Exception as error:
            outcome = f"{type(error).__name__}: {error}"
        found.refused += outcome == "refused"
        found.unharmed += outcome == "unharmed"
        if outcome not in ("refused", "unharmed"):
            found.wrong.append(f"{file}, {how}: {outcome}")
        for each, was in kept.items():
            if each == file or not each.exists():
                each.parent.mkdir(exist_ok=True)
                each.write_bytes(was)
        shutil.rmtree(folder / "s" / DAMAGED, ignore_errors=True)
    return found


def _flipped(whole: bytes, at: int, bit: int) -> bytes:
    return whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]


def _outcome(folder: Path, file: Path, truth: Read, *, spare: bool) -> str:
    """Return "refused" or "unharmed" where all is as it should be, else what is not."""
    refused = False
    notes: list[str] = []
    try:
        *read, notes = read_tables(folder, tables=SCHEMAS)
        if not _same(read, truth):
            return "other values were read"
    except ValueError as error:
        if str(file) not in str(error) or "\n" in str(error):
            return f"not named in one line: {error}"
        refused = True
    if spare:
        told = any(str(file) in note for note in notes)
        return "unharmed" if told and not refused else "a damaged cache is to be told and to do no harm"
    set_aside = mend(folder / "s")
    if refused and not any(str(file) in line for line in set_aside):
        return "refused and not set aside"
    if set_aside and not _among(read_tables(folder, tables=SCHEMAS), truth):
        return "other values were read once it was set aside"
    return "refused" if refused else "unharmed"


def _same(read: Sequence[Any], truth: Read) -> bool:
    return all(read[0][name].equals(truth[0][name]) for name in SCHEMAS) and read[1] == truth[1]


def _among(read: Read, truth: Read) -> bool:
    """Say whether all that was read is part of what was written, run by run."""
    there = read[0]["runs"]["run_id"]
    return all(read[0][name].equals(of.filter(pc.is_in(of["run_id"], there))) for name, of in truth[0].items())
