"""How far a sweep is, and how long it still takes by the pace of what has been done."""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mupcheck.sweep.cost import n_steps
from mupcheck.sweep.groups import Group, group_cost
from mupcheck.sweep.plan import Plan

MOMENT = 0.05  # seconds; a GPU's steps come many at a time, and their time is that of all of them
# The share of a group that still counts as its start: kernels compile and a step is captured after some steps. And the
# share of all work from which on starts say how long the rest takes, where nothing else does yet.
START, TELLING = 0.05, 0.02


@dataclass(frozen=True)
class Progress:
    """How far a sweep is: `done` of `total` in units of work, runs finished, and what went wrong with a group.

    `note` says what else is to be known now, such as that the backend is not what the reference computes, or that a GPU
    was lost. `seconds_left` is judged by what has been done so far, None before anything is.

    `width` is that of the group this tells about, `steps` how many all groups did here, each of a group counted once.
    """

    done: float
    total: float
    runs_finished: int
    runs_total: int
    error: str | None = None
    retried: bool = False
    note: str = ""
    seconds_left: float | None = None
    width: int | None = None
    steps: int = 0


class Pace:
    """Work that is done and left, and the seconds it took, by width.

    How the work of one width compares with that of another is known roughly beforehand; how long a width takes shows
    once some of it is done. Until then it goes by the nearest width that is known. What is first heard of a group holds
    its start as well, of a process, of kernels to compile: that counts only while nothing else is known, and not before
    it is a fair share of all there is.

    Args:
        plan: what is trained.
        places: how many groups train at a time.
        clock: seconds that pass.
        cost: work of a group on a device.
        steps: how many steps a run has.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        places: int,
        clock: Callable[[], float] = time.monotonic,
        cost: Callable[[Any, str], float] = group_cost,
        steps: Callable[[Any], int] = n_steps,
    ) -> None:
        self.device, self.places, self.clock, self.cost, self.steps = plan.device, places, clock, cost, steps
        self.n_runs, self.finished, self.done = len(plan.runs), plan.n_there, 0.0
        self.left: defaultdict[int, float] = defaultdict(float)
        for group in plan.groups:
            self.left[group[0].width] += self.cost(group, self.device)
        self.total = sum(self.left.values())
        # seconds of all places together, and the work done in them; with the starts of groups, and without
        self.rough: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.known: defaultdict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self.underway: dict[str, float] = {}  # work, by the first run of a group
        self.heard: dict[str, float] = {}  # when, by the first run of a group
        self.pending: dict[str, tuple[float, float, bool]] = {}  # seconds, work, whether of a start: not ended yet
        self.n_steps = 0  # of all groups
        self.idle_since = [clock()] * places  # of places without a group that was heard of

    def advance(self, group: Group, steps: int) -> None:
        """Take in that a group did so many steps more."""
        cost, before = self.cost(group, self.device), self.underway.get(group[0].run_id, 0.0)
        self.n_steps += steps
        self._gain(group, min(cost * steps / self.steps(group[0]), cost - before))

    def finish(self, group: Group) -> None:
        """Take in that a group ended well."""
        self._gain(group, self.cost(group, self.device) - self.underway.get(group[0].run_id, 0.0))
        self._leave(group)
        self.finished += len(group)

    def pass_over(self, group: Group) -> None:
        """Take in that another process trained a group."""
        if group:
            cost = self.cost(group, self.device)
            self.left[group[0].width] -= cost
            self.done += cost
            self.finished += len(group)

    def fail(self, group: Group, *, again: bool) -> None:
        """Take in that a group ended without its runs, which are tried again or not."""
        tried = self.underway.get(group[0].run_id, 0.0)
        self.pending.pop(group[0].run_id, None)
        self.done -= tried
        self.left[group[0].width] += tried if again else tried - self.cost(group, self.device)
        self._leave(group)

    def _gain(self, group: Group, work: float) -> None:
        key, width, now = group[0].run_id, group[0].width, self.clock()
        first = key not in self.heard
        starting = first or self.underway.get(key, 0.0) < START * self.cost(group, self.device)
        if first:
            self.heard[key] = self.idle_since.pop(0) if self.idle_since else now
        seconds = now - self.heard[key]
        if first or seconds > MOMENT:
            self._count(key, width)
            self.pending[key] = (seconds, work, starting)
        else:
            before, done, with_start = self.pending[key]
            self.pending[key] = (before + seconds, done + work, with_start)
        self.heard[key] = now
        self.underway[key] = self.underway.get(key, 0.0) + work
        self.done += work
        self.left[width] -= work

    def _count(self, key: str, width: int) -> None:
        """Count what a group did at a time, once that has ended."""
        seconds, work, with_start = self.pending.pop(key, (0.0, 0.0, True))
        for pace in [self.rough] if with_start else [self.rough, self.known]:
            pace[width][0] += seconds
            pace[width][1] += work

    def _leave(self, group: Group) -> None:
        self._count(group[0].run_id, group[0].width)
        self.underway.pop(group[0].run_id, None)
        self.idle_since.append(self.heard.pop(group[0].run_id, self.clock()))

    @property
    def seconds_left(self) -> float | None:
        """Return how long the rest takes, None before anything is known."""
        paces = [
            {width: seconds / work for width, (seconds, work) in pace.items() if work > 0}
            for pace in (self.known, self.rough)
        ]
        known = next(filter(None, paces), None)
        if known is None or (not paces[0] and self.done < TELLING * self.total):
            return None
        busy = 0.0
        for width, work in self.left.items():
            nearest = min(known, key=lambda other: max(other / width, width / other))
            busy += max(work, 0.0) * known[nearest]
        return busy / max(self.places, 1)

    def now(self, **more: Any) -> Progress:
        """Return how far it is; `more` are fields of Progress."""
        fields = {"seconds_left": self.seconds_left, "steps": self.n_steps, **more}
        return Progress(self.done, self.total, self.finished, self.n_runs, **fields)
