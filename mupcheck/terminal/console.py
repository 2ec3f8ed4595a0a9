"""What every page prints with: a console for answers on stdout, lines on stderr, numbers and styles."""

import json
import math
import os
import sys
from collections.abc import Mapping
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text


PIPE_COLUMNS = 120
STYLES = {"pass": "green", "transfers": "green", "fail": "red", "drifts": "red", "cannot tell": "yellow"}
MAX_LINES = 10


def say(line: str) -> None:
    """Print one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def print_json(document: Any) -> None:
    """Print one JSON document on stdout; numbers that JSON has no form for become null."""
    print(json.dumps(_finite(document), indent=2, ensure_ascii=False))


def console() -> "Console":
    """Return a console for answers on stdout; a pipe gets plain text of PIPE_COLUMNS."""
    from rich.console import Console

    class Quiet(Console):
        """A console whose reader may leave: the rest goes nowhere, and the verdict keeps its exit code."""

        def on_broken_pipe(self) -> None:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return Quiet(
        width=None if sys.stdout.isatty() else PIPE_COLUMNS,
        force_terminal=False if is_plain(sys.stdout) else None,
        highlight=False,
        # names and paths are a user's, and mean what they say
        markup=False,
        emoji=False,
    )


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
