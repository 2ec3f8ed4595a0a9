"""What was measured, case by case."""

from typing import TYPE_CHECKING

from mupcheck.bench.tables import grids, milliseconds, said
from mupcheck.terminal.console import console, print_json, say, table_of

if TYPE_CHECKING:
    from mupcheck.bench.rows import Bench, Row


def print_bench(bench: "Bench", *, as_json: bool) -> None:
    """Print a table a case, and where, when and by what it was measured."""
    if as_json:
        print_json(bench.as_json())
        return
    out = console()
    for grid in grids(bench.rows, whole=False):
        table = table_of(*grid.columns)
        for column in table.columns[1:]:
            column.justify = "right"
        refused = []
        for line in grid.lines:
            # a row without times says why below the table, where there is room
            if any(line[3:]) or not line[2:3] or not line[2]:
                table.add_row(*line)
            else:
                refused.append(f"{line[0]}: no time, as it {line[2]}" if line[1] else f"{line[0]}: {line[2]}")
        out.print(grid.title, soft_wrap=True)
        if table.row_count:
            out.print(table)
        for text in refused:
            out.print(text, soft_wrap=True)
    for text in said(bench):
        out.print(text, soft_wrap=True)


def say_row(row: "Row") -> None:
    """Say on stderr what was found, as it is found."""
    times = ", ".join(f"{what} {milliseconds(timing, spread=True)} ms" for what, timing in row.times.items())
    say(f"{row.suite} {row.case}, {row.backend}: {row.refused or times}")
