"""One sweep's folder, driven by several processes at once: each trains what no other one does, and all end together."""

import hashlib
import json
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mupcheck.results.claims import Claims
from mupcheck.results.owners import BEAT, LEASE, Owner, is_gone
from mupcheck.results.printing import counted
from mupcheck.results.version import version
from mupcheck.spec.sweep import NOT_ASKED
from mupcheck.sweep.engines.local import Group, Message
from mupcheck.sweep.path import PathTask
from mupcheck.sweep.plan import Plan
from mupcheck.theory.parametrization import table_to_json

if TYPE_CHECKING:
    from mupcheck.sweep.pace import Progress

SECONDS_BETWEEN_LOOKS = 1.0  # at what others hold


@contextmanager
def joined(
    plan: Plan,
    *,
    command: str = "",
    beat: float = BEAT,
    lease: float = LEASE,
    say: Callable[[str], None] = lambda _: None,
) -> Iterator[Claims]:
    """Let this process be one of those that drive a sweep, as long as it is within.

    Args:
        plan: of the sweep.
        command: that goes on with it.
        beat, lease: as of Claims.
        say: takes a line where it has to wait to see whether another one lives.
    Raises:
        ValueError: if another process trains another sweep in the folder or is another version, or this one is to
            train all anew.
        StoreError: if the folder takes no claims.
    """
    with Claims(plan.folder, command=command, asks=asks_of(plan), beat=beat, lease=lease) as claims:
        for other in claims.others():
            if (why := _refusal(plan, other)) and _lives(claims, other, say):
                raise ValueError(f"{plan.folder} is in use: {other} {why}")
        yield claims


def _refusal(plan: Plan, other: Owner) -> str:
    """Say why a plan is not to be trained beside another process, "" where it may."""
    by = f" ({other.command})" if other.command else ""
    if other.asks != asks_of(plan):
        return f"trains another sweep of this name{by}; wait for it, or give another --name"
    if other.mupcheck != version():
        return f"trains this sweep by mupcheck {other.mupcheck}, and this one is {version()}; let both be the same"
    if plan.fresh:
        return f"trains this sweep{by}; wait for it, or leave --fresh out to train beside it"
    return ""


def asks_of(plan: Plan) -> str:
    """Return a hash of what a sweep trains, in all its rounds: its spec, tables and data, and the backend it takes."""
    spec = {key: value for key, value in plan.sweep.model_dump(mode="json").items() if key not in NOT_ASKED}
    tables = {table.name: table_to_json(table) for table in plan.sweep.tables}
    asked = json.dumps([spec, tables, plan.source], sort_keys=True, default=str)
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _lives(claims: Claims, other: Owner, say: Callable[[str], None]) -> bool:
    """Wait until another owner gives a sign of life, ends, or is known to be dead; return whether it lives."""
    if other.machine == claims.machine and not is_gone(other) and other.started:
        return True
    say(f"waiting to see whether {other} is alive")
    while found := next((each for each in claims.others() if each.token == other.token), None):
        if found.beats != other.beats:
            return True
        time.sleep(min(claims.beat, SECONDS_BETWEEN_LOOKS) / 2)
    return False


class Shared:
    """What this process may train of its groups, beside what others do.

    Args:
        claims: of this process.
        again: whether runs that are there are trained nevertheless.
        ends: says when to stop waiting for others.
    """

    def __init__(self, claims: Claims, *, again: bool = False, ends: Callable[[], bool] = lambda: False) -> None:
        self.claims, self.again, self.ends = claims, again, ends
        self.others: deque[Group] = deque()  # what others train
        self.passed: deque[Group] = deque()  # what others trained, not told yet
        self.looked = time.monotonic()
        self.said: list[str] = []

    def take(self, group: Group) -> Group:
        """Claim a group's runs and return those that this process is to train; it keeps the others in mind."""
        if isinstance(group[0], PathTask):
            return group
        mine = set(self.claims.take(run.run_id for run in group))
        there = set() if self.again else {run_id for run_id in mine if _is_there(self.claims.folder, run_id)}
        self.claims.release(there)
        for where, part in (
            (self.passed, tuple(run for run in group if run.run_id in there)),
            (self.others, tuple(run for run in group if run.run_id not in mine)),
        ):
            if part:
                where.append(part)
        left = tuple(run for run in group if run.run_id in mine - there)
        return group if len(left) == len(group) else left

    def messages(self, start: Callable[[deque[Group]], Iterator[Message]], waiting: deque[Group]) -> Iterator[Message]:
        """Work through the groups that wait, and yield what happens, until all their runs are there or failed here.

        Args:
            start: works through groups, with `take` asked before each.
            waiting: the groups; those that others gave back are added.
        """
        while True:
            for message in start(waiting):
                if message.steps is None and not isinstance(message.group[0], PathTask):
                    self.claims.release(run.run_id for run in message.group)
                yield message
                yield from self._look(waiting)
            yield from self._look(waiting, at_once=True)
            if self.ends() or not (self.others or waiting):
                return
            if not waiting:
                yield from self._say_waiting()
                time.sleep(SECONDS_BETWEEN_LOOKS / 4)

    def _look(self, waiting: deque[Group], *, at_once: bool = False) -> Iterator[Message]:
        """Yield runs that others trained, and let those wait here that nobody has any more."""
        if self.others and (at_once or time.monotonic() - self.looked >= SECONDS_BETWEEN_LOOKS):
            others, self.others = self.others, deque()
            held = self.claims.holders({run.run_id for group in others for run in group})
            for group in others:
                there = {run.run_id for run in group if _is_there(self.claims.folder, run.run_id)}
                parts: dict[str, list[Any]] = {"there": [], "held": [], "free": []}
                for run in group:
                    how = "held" if run.run_id in held else "there" if run.run_id in there else "free"
                    parts[how].append(run)
                for how, where in (("there", self.passed), ("held", self.others), ("free", waiting)):
                    if parts[how]:
                        where.append(tuple(parts[how]))
            self.looked = time.monotonic()
        while self.passed:
            yield Message(self.passed.popleft(), elsewhere=True)

    def _say_waiting(self) -> Iterator[Message]:
        """Yield a note on whom this process waits for, where it is another than before."""
        held = self.claims.holders({run.run_id for group in self.others for run in group})
        counts = Counter(str(owner) for owner in held.values())
        text = "waiting for " + ", ".join(f"{counted(n, 'run')} that {owner} trains" for owner, n in counts.items())
        if counts and sorted(counts) != self.said:
            self.said = sorted(counts)
            yield Message((), elsewhere=True, note=text)


def _is_there(folder: Path, run_id: str) -> bool:
    """Say whether a run is whole, by its file alone."""
    try:
        return (folder / "runs" / f"{run_id}.parquet").stat().st_size > 0
    except OSError:
        return False


def tell(claims: Claims, states: Iterable["Progress"]) -> Iterator["Progress"]:
    """Pass on how far a sweep is, and let others see it."""
    for state in states:
        claims.said = {name: getattr(state, name) for name in ("runs_finished", "runs_total", "seconds_left")}
        yield state
