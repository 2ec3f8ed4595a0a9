"""A difference in words: rows of text for any table, one document of plain values, and Markdown."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from mupcheck.gate.compare import FAMILY_CONFIDENCE
from mupcheck.gate.difference import Difference, Pair
from mupcheck.gate.markdown import cell, folded, table
from mupcheck.gate.moves import COST, MOVED, ONLY_A, ONLY_B, OPTIMUM, SAME, Move, Span

HEAD = ("quantity", "of", "A", "B", "B - A", f"{FAMILY_CONFIDENCE:.0%} interval", "")
MARKS = {SAME: "✅", MOVED: "❌"}
N_ROWS = 40  # of a group on a page, or in a summary, which has at most a mebibyte
LEFT_OUT = f"The first {N_ROWS} rows; mupcheck diff --all prints every one."


def row_of(move: Move) -> tuple[str, ...]:
    """Return one quantity as the cells of HEAD; a best lr as a power of two, its difference in octaves."""
    return (
        # rms over later steps, as nearly all are
        move.name.removesuffix(" rms"),
        move.of.removesuffix(" later"),
        _value(move, move.a),
        _value(move, move.b),
        *_apart(move),
        _verdict(move),
    )


def _verdict(move: Move) -> str:
    """Say what became of it: "moved, pass -> fail", "cannot tell (one seed)"."""
    said = move.verdict + (f" ({move.reason})" if move.reason else "")
    if move.was == move.now or move.verdict in (ONLY_A, ONLY_B):
        return said
    turned = f"{move.was} -> {move.now}"
    return turned if move.verdict == MOVED else f"{turned}, {said}"


def _value(move: Move, span: Span) -> str:
    """Write a value; one that is open to a side as the bound that it is: "< 2^-9.00"."""
    if math.isnan(span.value):
        return ""
    write = _octaves if move.what == OPTIMUM else _percent if move.what == COST else _signed
    return _bounded(span, write)


def _apart(move: Move) -> tuple[str, str]:
    """Write a difference and its interval, of one that is open to a side its bound alone."""
    span = move.difference
    if math.isnan(span.low) or math.isnan(span.high):
        return "", ""
    write = _signed_percent if move.what == COST else _signed
    if math.isinf(span.low) or math.isinf(span.high):
        return _bounded(span, write), ""
    return write(span.value), f"[{write(span.low)}, {write(span.high)}]"


def _bounded(span: Span, write: Callable[[float], str]) -> str:
    if math.isinf(span.low) and math.isinf(span.high):
        return "?"
    if math.isinf(span.low):
        return f"< {write(span.high)}"
    return f"> {write(span.low)}" if math.isinf(span.high) else write(span.value)


def _signed(value: float) -> str:
    return f"{round(value, 2) + 0.0:+.2f}"  # + 0.0 turns -0.0 into 0.0


def _signed_percent(value: float) -> str:
    return f"{round(value, 1) + 0.0:+.1f}%"


def _percent(value: float) -> str:
    return f"{value:.1f}%"


def _octaves(value: float) -> str:
    return f"2^{value:.2f}"


def document_of_difference(difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON has it: its outcome, and every quantity of every group."""
    return {
        "outcome": difference.outcome,
        **{name: getattr(difference, name) for name in ("a", "b", "only_a", "only_b", "missing")},
        "pairs": [
            asdict(each)
            | {"outcome": each.outcome, "headline": each.headline}
            | {"moves": [_plain(move) for move in each.moves]}
            for each in difference.pairs
        ],
    }


def _plain(move: Move) -> dict[str, Any]:
    spans = {name: _finite(getattr(move, name)) for name in ("a", "b", "difference")}
    return asdict(move) | spans | {"moved": move.moved}


def _finite(span: Span) -> dict[str, float | None]:
    """Return a span by name; None where an end is open, or nothing is known."""
    return {name: value if math.isfinite(value) else None for name, value in span._asdict().items()}


def markdown_of_difference(difference: Difference, *, every: bool = False) -> str:
    """Return a difference as GitHub's Markdown: a line for each group, then tables of what moved.

    Args:
        difference: of `diff`.
        every: with all quantities, not only those worth a look.
    """
    mark = MARKS.get(difference.outcome, "⚠️")
    lines = [f"### mupcheck diff: {mark} {difference.outcome}", "", f"A: {cell(difference.a)}, B: {cell(difference.b)}"]
    lines += ["", *(f"- {cell(line)}" for line in difference.lines)] if difference.lines else []
    lines += ["", *(f"- {MARKS.get(each.outcome, '⚠️')} {cell(each.headline)}" for each in difference.pairs)]
    for each in difference.pairs:
        more = difference.lines_of(each)
        rows = [row_of(move) for move in shown(each, every=every)]
        if not rows and not more:
            continue
        lines += ["", f"#### {cell(each.title)}", "", *(f"- {cell(line)}" for line in more)]
        if rows and not every:
            lines += ["", *table(HEAD, rows[:N_ROWS], cells=True)]
            lines += ["", LEFT_OUT] if len(rows) > N_ROWS else []
        elif rows:
            lines += folded("every quantity", HEAD, rows)
        lines += ["", f"{cell(each.counted)}"]
    return "\n".join(lines) + "\n"


def shown(pair: Pair, *, every: bool) -> list[Move]:
    """Return the quantities of a group to show: all, or those that moved or have another verdict."""
    return list(pair.moves) if every else pair.worth
