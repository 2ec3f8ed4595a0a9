"""Checkpoints of a run that several devices train together: each rank keeps its part, and all go on from one step."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupcheck.model.ranks import Ranks
from mupcheck.results.files import StoreError
from mupcheck.sweep.checkpoint_file import (
    Header,
    Kept,
    file_of,
    headers_in,
    remove,
    remove_temporaries,
    write_checkpoint,
)
from mupcheck.sweep.checkpoints import RANK, Keeper
from mupcheck.sweep.groups import Group

if TYPE_CHECKING:
    from mupcheck.training.rows import StepRow
    from mupcheck.training.state import State

NONE = -1  # in place of a step, where there is no checkpoint


class SharedKeeper(Keeper):
    """Keeps this rank's part of a run while it trains.

    Ranks write one after the other into two files each, by turns, and the older one goes when all have the newer. So
    whenever they are killed, there is a step that all of them have.

    Args:
        folder, group, device, provenance: as of `Keeper`, the group a run.
        ranks: who this process is, joined to the others.
    """

    def __init__(self, folder: Path, group: Group, device: str, provenance: Mapping[str, Any], *, ranks: Ranks) -> None:
        super().__init__(folder, group, device, provenance)
        self.ranks, self.device = ranks, device
        self.turn = 0  # whose file is written next

    def take_up(self) -> Kept | None:
        """Return the furthest that all ranks have a checkpoint of, None without one; each calls it."""
        found: dict[int, tuple[int, Kept]] = {}
        for turn in range(2):
            where = self._where(turn)
            file = file_of(self.folder, self.run_ids, where)
            remove_temporaries(file)
            if kept := self._read(file, where):
                found[kept.header.step] = turn, kept
        there = self._each([*found, NONE, NONE][:2])
        common = set(found).intersection(*map(set, there))
        if not common:
            return None
        turn, kept = found[max(common)]
        self.turn = 1 - turn
        self.before, self.started_at = kept.header.seconds, kept.header.started_at
        return kept

    def offer(self, rows: "Sequence[StepRow]", state: "Callable[[], State]") -> None:
        """Write a checkpoint where one is due by the clock of the first rank; each calls it, as often."""
        start = time.monotonic()
        if self.first == math.inf or not self._each([start >= self.due])[0][0]:
            return
        where = self._where(self.turn)
        header = Header(self.run_ids, where, len(rows), self.seconds, self.started_at)
        why = ""
        try:
            write_checkpoint(file_of(self.folder, self.run_ids, where), header, rows, state())
        except StoreError as error:
            why = str(error)
        if all(wrote for (wrote,) in self._each([not why])):
            self.turn = 1 - self.turn
            remove(file_of(self.folder, self.run_ids, self._where(self.turn)))
        elif why:
            warnings.warn(f"no checkpoint, training goes on: {why}", stacklevel=2)
        self._wait(start)

    def remove(self) -> None:
        """Remove what all ranks kept: the run is there."""
        for file, header in headers_in(self.folder):
            if header.run_ids == self.run_ids and RANK in header.where:
                remove(file)

    def _where(self, turn: int) -> dict[str, str]:
        return self.where | {RANK: f"{self.ranks.rank} of {self.ranks.size}", "turn": str(turn)}

    def _each(self, numbers: Sequence[int]) -> list[list[int]]:
        """Return these numbers of every rank."""
        import torch

        return self.ranks.each(torch.tensor(numbers, dtype=torch.int64, device=self.device)).tolist()
