"""Where sweeps stand: a page for one, a line each for those of a folder."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.text import Text

from mupcheck.results.printing import counted
from mupcheck.results.status import COMPLETE, DAMAGED, FAILED, INTERRUPTED, RUNNING, Failure, Status
from mupcheck.terminal.console import console, duration_text, print_json, table_of

STYLES = {RUNNING: "cyan", COMPLETE: "green", FAILED: "red", DAMAGED: "red", INTERRUPTED: "yellow"}
KINDS = {"coord": "coordinate check", "lr": "learning-rate sweep"}
COLUMNS = ("planned", "done", "diverged", "running", "waiting", "failed")
MOST_REASONS = 5


def print_status(found: Sequence[Status], *, as_json: bool) -> None:
    """Print where each sweep stands: counts by width, what failed and why, who trains it, and what goes on."""
    if as_json:
        print_json([_record(status) for status in found])
        return
    out = console()
    for i, status in enumerate(found):
        if i:
            out.print()
        total = status.total
        there = f"{total.done} of {counted(total.planned, 'run')} {'is' if total.planned == 1 else 'are'} there"
        kind = f" ({KINDS[status.kind]})" if status.kind in KINDS else ""
        left = "" if status.seconds_left is None else f", about {duration_text(status.seconds_left)} left"
        state = Text(status.state, STYLES[status.state])
        out.print(Text.assemble(f"{status.name}{kind}: ", state, f", {there}{left}"), soft_wrap=True)
        table = table_of("width", *COLUMNS)
        for column in table.columns:
            column.justify = "right"
        rows = [*status.widths, total] if len(status.widths) > 1 else status.widths
        for at in rows:
            values = ("?" if (value := getattr(at, name)) is None else str(value) for name in COLUMNS)
            table.add_row("all" if at is total else "?" if at.width is None else str(at.width), *values)
        out.print(table)
        for line in _lines(status):
            out.print(line, soft_wrap=True)


def _lines(status: Status) -> list[str]:
    """Return what is said below the table."""
    lines: list[str] = []
    by_reason: dict[str, list[Failure]] = {}
    for failure in status.failures:
        by_reason.setdefault(failure.reason, []).append(failure)
    for reason, failures in list(by_reason.items())[:MOST_REASONS]:
        lines.append(f"failed, {counted(len(failures), 'run')}: {reason}")
    if len(by_reason) > MOST_REASONS:
        lines.append(f"... and {len(by_reason) - MOST_REASONS} other reasons, see --json")
    for owner in status.owners:
        by = f", mupcheck {owner.mupcheck}, since {owner.since.replace('+00:00', ' UTC')}" if owner.since else ""
        lines.append(f"{owner} drives it{by}")
    if status.damaged:
        lines.append(f"damaged: {status.damaged}")
    if status.incomplete and not status.owners:
        lines.append(status.incomplete)
    return lines


def print_sweeps(found: Sequence[Status], *, as_json: bool) -> None:
    """Print a line for each sweep: name, kind, runs that are there of those planned, state, and its age."""
    if as_json:
        print_json([{**_record(status), "widths": [at.width for at in status.widths]} for status in found])
        return
    table = table_of("sweep", "kind", "runs", "state", "last run")
    for status in found:
        age = "-" if status.age_seconds is None else f"{_age_text(status.age_seconds)} ago"
        runs = f"{status.total.done}/{status.total.planned}"
        table.add_row(status.folder.name, status.kind or "?", runs, Text(status.state, STYLES[status.state]), age)
    console().print(table)


def _age_text(seconds: float) -> str:
    return f"{seconds / 86400:.0f} days" if seconds > 2 * 86400 else duration_text(seconds)


def _record(status: Status) -> dict[str, Any]:
    """Return a sweep's state for other programs."""
    total = {name: getattr(status.total, name) for name in COLUMNS}
    return {
        "sweep": status.name,
        "folder": str(status.folder),
        "kind": status.kind,
        "state": status.state,
        **total,
        "seconds_left": status.seconds_left,
        "age_seconds": status.age_seconds,
        "command": status.command,
        "missing": status.incomplete,
        "damaged": status.damaged,
        "widths": [asdict(at) for at in status.widths],
        "failures": [asdict(failure) for failure in status.failures],
        "owners": [
            {name: getattr(owner, name) for name in ("host", "pid", "since", "command", "mupcheck", "said")}
            for owner in status.owners
        ],
    }
