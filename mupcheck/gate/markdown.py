"""Tables and text as GitHub's Markdown shows them, whatever stands in a name."""

from collections.abc import Sequence
from math import isnan


def folded(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a table below a title, opened by a click on it; cells are plain text."""
    return ["", f"<details><summary>{title}</summary>", "", *table(head, rows, cells=True), "", "</details>"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, cells: bool = False) -> list[str]:
    """Return the lines of a table; with `cells` of plain text, else of Markdown."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return lines + [f"| {' | '.join(map(cell, row) if cells else row)} |" for row in rows]


def number(value: float, decimals: int) -> str:
    """Write a number with its sign, "?" where there is none."""
    return "?" if isnan(value) else f"{value:+.{decimals}f}"


def cell(text: str) -> str:
    """Return text that Markdown shows as it is, on one line."""
    text = " ".join(text.split())
    for mark in "\\`*_[]|#~@":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
