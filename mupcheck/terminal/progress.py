"""How far a sweep is, on stderr: a bar on a terminal, lines in a pipe."""

import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mupcheck.terminal.console import duration_text, is_plain, say

if TYPE_CHECKING:
    from mupcheck.sweep.plan import Plan
    from mupcheck.sweep.runner import Progress

SECONDS_BETWEEN_LINES = 5.0


def follow(progress: Iterator["Progress"], plan: "Plan") -> list[str]:
    """Show how far a sweep is until it ends: a bar with the time left, or plain lines in a pipe; return its errors."""
    errors: list[str] = []
    if not plan.missing:
        there = "all" if plan.n_there == len(plan.runs) else f"{plan.n_there} of"
        say(f"{plan.folder}: {there} {len(plan.runs)} runs are there already")
        for _ in progress:
            pass
        return errors
    show = _lines if is_plain(sys.stderr) else _bar
    for state in show(progress, plan):
        if state.note:
            say(state.note)
        if state.error is not None:
            say(f"retrying: {state.error}" if state.retried else f"failed: {state.error}")
            if not state.retried:
                errors.append(state.error)
    return errors


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
    say(f"{plan.folder.name}: {plan.missing} of {len(plan.runs)} runs to train, into {plan.folder}")
    for state in progress:
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES and state.seconds_left is not None and state.done < state.total:
            left = state.seconds_left
            share = state.done / state.total
            say(f"{plan.folder.name}: {state.runs_finished} of {state.runs_total} runs, {share:.0%}, {left:.0f} s left")
            last = now
        yield state
    say(f"{plan.folder.name}: done in {time.monotonic() - start:.0f} s")
