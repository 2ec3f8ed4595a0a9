"""Rows as tables of text: the same cells for the terminal and for Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

from mupcheck.bench.rows import Bench, Row, Timing

# what is timed -> its column
COLUMNS = {
    "op": {
        "forward": "forward",
        "both": "both",
        "forward in a graph": "forward in graph",
        "both in a graph": "both in graph",
    },
    "step": {"step": "step", "a run": "a run"},
    "coord": {"check": "check", "number": "a number"},
}
# what a terminal has no room for
ONLY_WHOLE = ("forward in a graph",)
# what rows are compared by
COMPARED = {"op": ("both", "both in a graph"), "step": ("a run",), "coord": ("check", "number")}


@dataclass(frozen=True)
class Grid:
    """One case as a table: its title, columns and lines of text."""

    title: str
    columns: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]


def grids(rows: Sequence[Row], *, whole: bool) -> list[Grid]:
    """Return a table for each case; a whole one has every time, with its quartiles behind the median."""
    return [_grid(list(of_case), whole=whole) for _, of_case in groupby(rows, key=lambda row: (row.suite, row.case))]


def as_markdown(bench: Bench) -> str:
    """Return all of a run as Markdown: what the machine does at best, then a table a case."""
    parts = [f"{line}  " for line in said(bench)]
    for grid in grids(bench.rows, whole=True):
        parts += ["", f"**{grid.title}**", "", _line(grid.columns), _line("---" for _ in grid.columns)]
        parts += [_line(cells) for cells in grid.lines]
    return "\n".join(parts) + "\n"


def said(bench: Bench) -> list[str]:
    """Return where, when and by what a run was made, and the ceilings that its shares refer to."""
    known, machine = bench.provenance, bench.machine
    software = [f"{name} {known[name]}" for name in ("mupcheck", "torch", "triton", "python") if known.get(name)]
    software += [f"{name} {version}" for name, version in (known.get("peers") or {}).items() if version]
    commit = known.get("commit") or "no commit"
    threads = f", {known['threads']} threads" if known.get("threads") else ""
    return [
        f"{known['device']}{threads}, {known['date']}, commit {commit[:12]}{'+' if commit.endswith('+') else ''}",
        ", ".join(software),
        f"ceilings of this run: copies {machine.bytes_per_second / 1e12:.3g} TB/s, {machine.product} products "
        f"{machine.flops_per_second / 1e12:.3g} TFLOP/s; a launch takes {machine.launch_seconds * 1e6:.1f} us",
    ]


def milliseconds(timing: Timing | None, *, spread: bool) -> str:
    """Write a time in milliseconds, three figures, with its quartiles if asked for; "" where there is none."""
    if timing is None:
        return ""
    median, low, high = (_three(1e3 * value) for value in (timing.median, timing.low, timing.high))
    return f"{median} ({low}-{high})" if spread else median


def _three(value: float) -> str:
    """Write a number with three figures, or whole."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _grid(rows: list[Row], *, whole: bool) -> Grid:
    suite = rows[0].suite
    names = COLUMNS[suite]
    timed = [what for what in names if (whole or what not in ONLY_WHOLE) and any(what in row.times for row in rows)]
    compared = [what for what in COMPARED[suite] if what in timed]
    with_memory = any(row.peak_bytes is not None for row in rows)
    with_share = any(row.shares for row in rows)
    per_token = whole and suite == "op"
    ours = next((row for row in rows if row.own and row.times), None)
    columns = ["", "off by", *(names[what] for what in timed), *(f"x {names[what]}" for what in compared)]
    columns += ["of floor" if suite == "op" else "of products"] * with_share + ["GB"] * with_memory
    columns += ["ns a token"] * per_token
    lines = []
    for row in rows:
        cells = [row.backend, "" if row.error is None else f"{row.error:.1e}"]
        if row.refused:
            lines.append((*cells, row.refused, *[""] * (len(columns) - len(cells) - 1)))
            continue
        cells += [milliseconds(row.times.get(what), spread=whole) for what in timed]
        cells += [_ratio(row, ours, what) for what in compared]
        if with_share:
            best = [row.shares[what] for what in compared if what in row.shares]
            cells.append(f"{100 * max(best):.0f}%" if best else "")
        if with_memory:
            cells.append("" if row.peak_bytes is None else f"{row.peak_bytes / 1e9:.2f}")
        if per_token:
            cells.append(f"{1e9 * row.times['both'].median / row.facts['tokens']:.2f}" if "both" in row.times else "")
        lines.append(tuple(cells))
    return Grid(_title(rows[0]), tuple(columns), tuple(lines))


def _ratio(row: Row, ours: Row | None, what: str) -> str:
    """Write how many times ours a row takes."""
    if ours is None or row is ours or what not in row.times or what not in ours.times:
        return ""
    return f"{row.times[what].median / ours.times[what].median:.2f}"


def _title(row: Row) -> str:
    facts = row.facts
    if row.suite == "op" and facts:
        return f"op, {row.case} x {facts['H']} heads, {facts['dtype']}, in ms"
    if row.suite == "step" and facts.get("tokens"):
        return f"step, {row.case}, {facts['layers']} layers, {facts['tokens']:,} tokens a run, {facts['dtype']}, in ms"
    return f"{row.suite}, {row.case}, in ms"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"
