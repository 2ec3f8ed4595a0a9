"""Run each group over several devices: a process a device, which find each other through a file and train as ranks.

They come from the same fork server as `local`'s, in 0.03 s each, and end with their group. torchrun takes 4.4 s of a
core a run for its agent and two interpreters, and leaves ranks to themselves when its agent is killed (torch 2.13). A
rank that dies takes its team with it and nothing else.
"""

import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from mupcheck.sweep.engines import local
from mupcheck.sweep.engines.forking import context_of
from mupcheck.sweep.engines.local import Event, Group, Message, Work

# After the first rank failed the others have so long to say why, as theirs may be the cause; then they are ended.
GRACE_SECONDS = 1.0
END_SECONDS = 5.0
# What is said by a rank whose partner is gone.
LEFT_ALONE = ("connection closed", "connection reset", "broken pipe", "timed out", "nccl error", "remote process")
Place = Callable[[int, int, Path], Work]  # of a rank, how many there are, and where they meet


@dataclass(eq=False)
class _Team:
    """The ranks that work on a group, and how those that ended did."""

    devices: tuple[str, ...]
    group: Group
    workers: list[Any]
    begun: float
    ends: dict[int, Event] = field(default_factory=dict)
    failed_at: float | None = None

    @property
    def over(self) -> bool:
        """Say whether all is known: rank 0, which writes, ended well, or one failed and the others had their time."""
        if self.failed_at is None or self.wrote:
            return self.wrote
        return len(self.ends) == len(self.workers) or time.monotonic() - self.failed_at >= GRACE_SECONDS

    @property
    def wrote(self) -> bool:
        """Say whether rank 0 ended well; how the others leave it does not matter then."""
        return 0 in self.ends and self.ends[0][1] is None

    def note(self, rank: int, event: Event) -> None:
        """Take in how a rank ended."""
        self.ends[rank] = event
        if event[1] is not None and self.failed_at is None:
            self.failed_at = time.monotonic()

    def end(self) -> None:
        """End all ranks, by force those that do not heed."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join(END_SECONDS)
            if worker.process.is_alive():
                worker.end(at_once=True)
            worker.pipe.close()


def execute(
    groups: Sequence[Group],
    place: Place,
    *,
    teams: Sequence[Sequence[str]],
    preload: Sequence[str],
    alone: Callable[[Group], bool] = lambda _: False,
    contain: bool = False,
    seconds: float | None = None,
    take: Callable[[Group], Group] = lambda group: group,
) -> Iterator[Message]:
    """Work through the groups, a team on each, and yield what happens as it happens.

    Args:
        groups: as in `local.execute`.
        place: makes the work of a rank; picklable, as what it makes is.
        teams: the devices of each; a device that is lost takes its team out.
        preload: as in `local.execute`.
        alone: of a group, whether one rank does it.
        contain: as in `local.execute`.
        seconds: as in `local.execute`.
        take: asked of each group before it starts, what of it this call is to do; nothing starts where that is ().
    """
    waiting = groups if isinstance(groups, deque) else deque(groups)
    free = deque(tuple(devices) for devices in teams)
    running: list[_Team] = []
    context, why = context_of(preload), ""
    meetings = Path(tempfile.mkdtemp(prefix="mupcheck-"))
    try:
        while waiting or running:
            if not running and not free:
                yield from local._fail(waiting, why)
                return
            while waiting and free:
                if group := take(waiting.popleft()):
                    running.append(_start(context, place, free.popleft(), group, meetings, alone, contain))
            if not running:
                continue
            yield from _listen(running, seconds, contain)
            for team in [team for team in running if team.over]:
                running.remove(team)
                team.end()
                _, error, retry, lost, said = _cause(team)
                device = team.devices[0] if lost else ""
                if lost:
                    why = f"{', '.join(team.devices)}: {error}"
                else:
                    free.append(team.devices)
                yield Message(team.group, None, error, retry, device, said)
    finally:
        for team in running:
            for worker in team.workers:
                worker.process.terminate()
        for team in running:
            team.end()
        shutil.rmtree(meetings, ignore_errors=True)


def _start(
    context: Any,
    place: Place,
    devices: tuple[str, ...],
    group: Group,
    meetings: Path,
    alone: Callable[[Group], bool],
    contain: bool,
) -> _Team:
    """Start the ranks of a group."""
    size = 1 if alone(group) else len(devices)
    meeting = Path(tempfile.mkdtemp(dir=meetings)) / "meeting"
    workers = []
    for rank in range(size):
        worker = local._start(context, place(rank, size, meeting), devices[rank], contain)
        workers.append(worker)
        with suppress(BrokenPipeError):  # one that just died is seen where it is listened to
            worker.pipe.send(group)
    return _Team(devices, group, workers, time.monotonic())


def _listen(running: Sequence[_Team], seconds: float | None, contain: bool) -> Iterator[Message]:
    """Wait for news of the teams, take in how ranks ended, and yield the steps that were done."""
    places = {
        worker.pipe: (team, rank, worker)
        for team in running
        for rank, worker in enumerate(team.workers)
        if rank not in team.ends
    }
    now = time.monotonic()
    due = [team.failed_at + GRACE_SECONDS for team in running if team.failed_at is not None]
    due += [team.begun + seconds for team in running] if seconds is not None else []
    ready: Any = wait(list(places), max(min(due) - now, 0) if due else None)
    for pipe in ready:
        team, rank, worker = places[pipe]
        try:
            event = pipe.recv()
        except (EOFError, ConnectionResetError):
            event = local._ended(worker.process, "", contain)
        if event[0] is None:
            team.note(rank, event)
        elif rank == 0:  # the others do the same steps
            yield Message(team.group, event[0])
    for team in running:
        if seconds is not None and time.monotonic() - team.begun > seconds and not team.over:
            team.ends = {0: (None, f"it took longer than {seconds:g} s and was ended", False, False, "")}
            team.failed_at = team.begun


def _cause(team: _Team) -> Event:
    """Return how a group ended: well, or by what one of its ranks says that is not for want of another."""
    if team.wrote:
        return local.WELL
    failed = [event for event in team.ends.values() if event[1] is not None]

    def blame(event: Event) -> int:
        said = (event[1] or "").lower()
        if "was ended by" in said:
            return 0
        return 2 if any(words in said for words in LEFT_ALONE) else 1

    return min(failed, key=blame)
