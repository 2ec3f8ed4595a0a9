"""A table that fits: rows of short cells in the terminal's columns, each row on one line or, in a narrow one, as words.

Tables of the other pages are rich's, and break their cells where they are too wide. Here a cell is never broken: a row
can be read across, and found by grep in a pipe.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mupcheck.terminal.console import STYLES, console
from mupcheck.terminal.prose import columns_of_terminal, print_prose
from mupcheck.terminal.streams import as_taken
from mupcheck.terminal.wrapping import wrapped

if TYPE_CHECKING:
    from rich.text import Text

COLUMNS = 80  # of a pipe
EDGE = 1  # blanks before a line
GAPS = (2, 1)  # blanks between columns, and where that is too wide


@dataclass(frozen=True)
class Column:
    """A column: its heading, whether it holds numbers, which stand to the right, and whether it holds verdicts."""

    heading: str
    right: bool = False
    verdict: bool = False


def print_grid(columns: Sequence[Column], rows: Sequence[Sequence[str] | str]) -> None:
    """Print a table with its headings.

    Where a terminal is too narrow for it, each row is a sentence of headings and cells instead; a pipe gets a line a
    row, of at most COLUMNS unless cells are longer.

    Args:
        columns: what the cells of a row are.
        rows: a cell a column; or a text across all columns, on the rows below it.
    """
    columns = [Column(as_taken(each.heading, sys.stdout), each.right, each.verdict) for each in columns]
    rows = [
        as_taken(row, sys.stdout) if isinstance(row, str) else [as_taken(cell, sys.stdout) for cell in row]
        for row in rows
    ]
    terminal = columns_of_terminal()
    found = _layout(columns, [row for row in rows if not isinstance(row, str)], terminal or COLUMNS)
    if found is None:
        if terminal is not None:
            _print_as_words(columns, rows)
            return
        found = _layout(columns, [row for row in rows if not isinstance(row, str)], sys.maxsize)
        assert found is not None
    widths, gap = found
    out = console()
    for line in _heading(columns, widths, gap):
        out.print(line, soft_wrap=True)
    rule = as_taken("─", sys.stdout) * (sum(widths) + gap * (len(widths) - 1))
    out.print(" " * EDGE + rule, soft_wrap=True)
    for row in rows:
        if isinstance(row, str):
            print_prose(row, indent=EDGE)
        else:
            out.print(_line(row, columns, widths, gap), soft_wrap=True)


def _layout(columns: Sequence[Column], rows: Sequence[Sequence[str]], room: int) -> tuple[list[int], int] | None:
    """Return the width of each column and the blanks between two; headings are broken where they must; None if none."""
    from rich.cells import cell_len

    cells = [max((cell_len(row[i]) for row in rows), default=0) for i in range(len(columns))]
    words = [max(map(len, each.heading.split()), default=0) for each in columns]
    least = [max(pair) for pair in zip(cells, words, strict=True)]
    widths = [max(pair) for pair in zip(cells, (len(each.heading) for each in columns), strict=True)]
    for gap in GAPS:
        between = EDGE + gap * (len(columns) - 1)
        if sum(widths) + between <= room:
            return widths, gap
    between = EDGE + GAPS[-1] * (len(columns) - 1)
    while sum(widths) + between > room and widths != least:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
    return (widths, GAPS[-1]) if sum(widths) + between <= room else None


def _heading(columns: Sequence[Column], widths: Sequence[int], gap: int) -> list["Text"]:
    """Return the lines of the headings, the last of each on the last one."""
    from rich.text import Text

    broken = []
    for column, width in zip(columns, widths, strict=True):
        text = column.heading
        broken.append([text] if len(text) <= width else [part.strip() for part in wrapped(text, width)])
    n_lines = max(map(len, broken))
    padded = [[""] * (n_lines - len(lines)) + lines for lines in broken]
    return [Text(_joined(cells, columns, widths, gap), "bold") for cells in zip(*padded, strict=True)]


def _line(row: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: int) -> "Text":
    from rich.text import Text

    line, start = Text(_joined(row, columns, widths, gap)), EDGE
    for cell, column, width in zip(row, columns, widths, strict=True):
        if column.verdict:
            line.stylize(STYLES.get(cell, ""), start, start + width)
        start += width + gap
    return line


def _joined(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], gap: int) -> str:
    from rich.cells import cell_len

    parts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        blanks = " " * (width - cell_len(cell))
        parts.append(blanks + cell if column.right else cell + blanks)
    return (" " * EDGE + (" " * gap).join(parts)).rstrip()


def _print_as_words(columns: Sequence[Column], rows: Sequence[Sequence[str] | str]) -> None:
    """Print each row as a sentence: its first cell, then each heading with its cell."""
    for row in rows:
        if isinstance(row, str):
            print_prose(row)
            continue
        (first, *rest), (_, *headings) = row, columns
        cells = zip(headings, rest, strict=True)
        said = ", ".join(f"{each.heading} {cell}".strip() for each, cell in cells if cell.strip())
        print_prose(f"{first}: {said}", indent=EDGE)
