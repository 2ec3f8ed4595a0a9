"""What every page prints with: a console for answers on stdout, lines on stderr, numbers and styles."""

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

from mupcheck.terminal.wrapping import wrapped

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text


PIPE_COLUMNS = 100_000  # a row is one line, however long
STYLES = {
    **dict.fromkeys(("pass", "transfers", "negligible", "holds", "same"), "green"),
    **dict.fromkeys(("fail", "drifts", "costly", "moves", "moved"), "red"),
    "cannot tell": "yellow",
}
MAX_LINES = 10
_events: list[bool] = []  # whether what is said is said as events


def say(line: str) -> None:
    """Print one line on stderr, wrapped on a terminal; where events are asked for, as one."""
    if _events:
        say_event("message", text=line)
        return
    columns = _columns_of_stderr()
    if columns is not None:
        line = "\n".join(each for part in line.splitlines() for each in wrapped(part, columns, whole_commands=True))
    print(line, file=sys.stderr, flush=True)


def _columns_of_stderr() -> int | None:
    """Return how wide the terminal on stderr is, None where there is none or nobody knows."""
    if not sys.stderr.isatty():
        return None
    try:
        columns = int(os.environ.get("COLUMNS", "0")) or os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return None
    return max(columns, 20) if columns else None


def say_event(event: str, **fields: Any) -> None:
    """Print an event as one line of JSON on stderr; numbers that JSON has no form for become null."""
    print(json.dumps({"event": event, **_finite(fields)}), file=sys.stderr, flush=True)


def events(wanted: bool) -> None:
    """Say from now on whatever is said on stderr as events, or as lines."""
    _events[:] = [True] * wanted


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON has no form for become null."""
    takes_all = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith("utf")
    print(json.dumps(_finite(document), indent=2, ensure_ascii=not takes_all))


def console() -> "Console":
    """Return a console for answers on stdout; a pipe gets plain text, a row a line."""
    from rich.console import Console
    from rich.table import Table as RichTable

    piped = not sys.stdout.isatty()

    class WholeWords(Console):
        """A console whose tables lose no part of a word, in however narrow a terminal."""

        def print(self, *objects: Any, **options: Any) -> None:
            if len(objects) != 1 or not isinstance(objects[0], RichTable):
                super().print(*objects, **options)
                return
            (table,) = objects
            if piped:
                with self.capture() as captured:
                    super().print(table, **options)
                lines = (line.rstrip() for line in captured.get().splitlines())
                self.file.write("".join(f"{line}\n" for line in lines))
                return
            columns = self.width
            self.width = max(columns, _fit(table, self))  # wider than the terminal: it breaks the row
            super().print(table, **options)
            self.width = columns

    return WholeWords(
        width=PIPE_COLUMNS if piped else None,
        force_terminal=False if is_plain(sys.stdout) else None,
        highlight=False,
        # names and paths are a user's, and mean what they say
        markup=False,
        emoji=False,
    )


def _fit(table: "RichTable", console: "Console") -> int:
    """Make a table fit: less space between columns, then narrow the widest, none below its longest word.

    Returns:
        The width it has then, which may still be more than the console's.
    """
    from rich.measure import Measurement

    unbounded = console.options.update(max_width=PIPE_COLUMNS)
    if Measurement.get(console, unbounded, table).maximum > console.width:
        table.padding = 0
    total = Measurement.get(console, unbounded, table).maximum
    cells = [[Measurement.get(console, unbounded, cell) for cell in (c.header, *c.cells)] for c in table.columns]
    least = [max(cell.minimum for cell in column) for column in cells]
    widths = [max(cell.maximum for cell in column) for column in cells]
    while total > console.width and widths != least:
        widest = max((i for i in range(len(widths)) if widths[i] > least[i]), key=lambda i: widths[i])
        widths[widest] -= 1
        total -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    return total


def is_plain(stream: IO[str]) -> bool:
    """Say whether a stream takes no colour and no movement: a pipe, or any while NO_COLOR is set (no-color.org)."""
    return not stream.isatty() or bool(os.environ.get("NO_COLOR"))


def table_of(*columns: str) -> "RichTable":
    """Return an empty table with these columns."""
    from rich import box
    from rich.table import Table as RichTable

    return RichTable(*columns, box=box.SIMPLE_HEAD, pad_edge=False)


def styled(verdict: str) -> "Text":
    """Return a verdict in its colour."""
    from rich.text import Text

    return Text(verdict, STYLES.get(verdict, ""))


def number(value: float | None, form: str) -> str:
    """Write a number in a form such as "+.2f", "?" where there is none."""
    return "?" if value is None or math.isnan(value) else format(value, form)


def interval_text(low: float | None, high: float | None, form: str = "+.2f") -> str:
    """Write an interval, "?" for an end that is not there."""
    return f"[{number(low, form)}, {number(high, form)}]"


def range_text(low: float, high: float) -> str:
    """Write a required or implied range: "0", "-1/2 to 0", "<= 0", "" for none."""
    from mupcheck.theory.parametrization import write_exponent

    if math.isnan(high):
        return ""
    if math.isinf(low):
        return f"<= {high:g}"
    low, high = round(low, 2), round(high, 2)
    return write_exponent(low) if low == high else f"{write_exponent(low)} to {write_exponent(high)}"


def duration_text(seconds: float) -> str:
    """Write a time as a person says it: "40 s", "5 min", "2.5 h"."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
