"""How far a sweep is, on stderr: a bar on a terminal, lines in a pipe, or JSON for other programs."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from mupcheck.terminal.console import duration_text, events, is_plain, say, say_event

if TYPE_CHECKING:
    from mupcheck.sweep.plan import Plan
    from mupcheck.sweep.runner import Progress

SECONDS_BETWEEN_LINES, SECONDS_BETWEEN_EVENTS = 5.0, 1.0
WAYS = ("auto", "rich", "plain", "json", "none")


def follow(progress: Iterator["Progress"], plan: "Plan", how: str = "auto") -> list[str]:
    """Show how far a sweep is until it ends, and return its errors.

    Args:
        progress: as `execute` yields it.
        plan: that is executed.
        how: one of WAYS; "auto" is a bar with the time left on a terminal, and plain lines in a pipe.
    """
    if how == "json":
        return _events(progress, plan)
    errors: list[str] = []
    if not plan.missing:
        there = "all" if plan.n_there == len(plan.runs) else f"{plan.n_there} of"
        say(f"{place_of(plan)}: {there} {len(plan.runs)} runs are there already")
    shows = {"plain": _lines, "rich": _bar, "none": _nothing}
    show = shows.get(how) or (_lines if is_plain(sys.stderr) else _bar)
    for state in show(progress, plan) if plan.missing else progress:
        if state.note:
            say(state.note)
        if state.error is not None:
            say(f"retrying: {state.error}" if state.retried else f"failed: {state.error}")
            if not state.retried:
                errors.append(state.error)
    return errors


def follow_as(how: str, name: str = "--progress") -> Callable[..., list[str]]:
    """Return `follow` for a way to show progress, and let all that is said be events where that is asked for.

    Args:
        how: one of WAYS.
        name: what its user called it.
    Raises:
        ValueError: if there is no such way.
    """
    if how not in WAYS:
        raise ValueError(f"{name} {how!r} is unknown; known: {', '.join(WAYS)}")
    events(how == "json")
    return partial(follow, how=how)


def _events(progress: Iterator["Progress"], plan: "Plan") -> list[str]:
    """Say how far a sweep is as events; return its errors."""
    errors: list[str] = []
    start, last, finished = time.monotonic(), -SECONDS_BETWEEN_EVENTS, plan.n_there
    of: dict[str, Any] = {"sweep": plan.folder.name, "folder": str(plan.folder), "runs": len(plan.runs)}
    say_event("start", **of, runs_finished=finished, runs_missing=plan.missing)
    for state in progress:
        at: dict[str, Any] = {**of, "runs_finished": state.runs_finished, "width": state.width}
        if state.note:
            say_event("note", **at, text=state.note)
        if state.error is not None:
            say_event("retry" if state.retried else "failed", **at, error=state.error)
            errors += [] if state.retried else [state.error]
        if state.runs_finished != finished or time.monotonic() - last >= SECONDS_BETWEEN_EVENTS:
            finished, last = state.runs_finished, time.monotonic()
            share = state.done / state.total if state.total else 1.0
            say_event("progress", **at, steps=state.steps, share=share, seconds_left=state.seconds_left)
    say_event("end", **of, runs_finished=finished, failures=len(errors), seconds=time.monotonic() - start)
    return errors


def _nothing(progress: Iterator["Progress"], _plan: "Plan") -> Iterator["Progress"]:
    yield from progress


def place_of(plan: "Plan") -> str:
    """Return where a sweep is kept, as its user knows it: the address of a store, else its folder."""
    return getattr(plan, "address", "") or str(plan.folder)


def _bar(progress: Iterator["Progress"], plan: "Plan") -> Iterator["Progress"]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    left = TextColumn("{task.fields[left]}")
    with Bar(*columns, left, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(plan.folder.name, total=None, left="")
        for state in progress:
            text = f"{plan.folder.name}: {state.runs_finished} of {state.runs_total} runs"
            left_text = "" if state.seconds_left is None else f"{duration_text(state.seconds_left)} left"
            bar.update(task, total=state.total, completed=state.done, description=text, left=left_text)
            yield state


def _lines(progress: Iterator["Progress"], plan: "Plan") -> Iterator["Progress"]:
    start = last = time.monotonic()
    say(f"{plan.folder.name}: {plan.missing} of {len(plan.runs)} runs to train, into {place_of(plan)}")
    for state in progress:
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and state.seconds_left is not None and state.done < state.total:
            left = state.seconds_left
            share = state.done / state.total
            say(f"{plan.folder.name}: {state.runs_finished} of {state.runs_total} runs, {share:.0%}, {left:.0f} s left")
            last = now
        yield state
    say(f"{plan.folder.name}: done in {time.monotonic() - start:.0f} s")
