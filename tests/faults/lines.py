"""A line of the table: what was asked of the sweep engine, and what was measured."""

from collections.abc import Iterable
from dataclasses import dataclass

COLUMNS = ("line", "asked", "measured")


@dataclass(frozen=True)
class Line:
    """One figure beside what it should be.

    Attributes:
        says: what happens.
        asked: what should come of it.
        measured: what came of it.
        good: whether that is as asked.
        faults: what was not, one text each, for who mends it.
    """

    says: str
    asked: str
    measured: str
    good: bool
    faults: tuple[str, ...] = ()


def as_table(lines: Iterable[Line]) -> str:
    """Return lines as a table of text, those that fall short marked."""
    rows = [COLUMNS, *((line.says, line.asked, line.measured + ("" if line.good else "   SHORT")) for line in lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    said = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([said[0], "-" * max(map(len, said)), *said[1:]])
