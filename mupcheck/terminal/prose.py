"""Sentences of an answer: whole in a pipe, for grep; wrapped in a terminal, with what goes on standing further in."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from mupcheck.terminal.console import STYLES, console
from mupcheck.terminal.wrapping import wrapped

LEAST_COLUMNS = 20  # a narrower terminal breaks the lines itself


def columns_of_terminal() -> int | None:
    """Return how wide the terminal on stdout is, None where stdout is a pipe."""
    return max(console().width, LEAST_COLUMNS) if sys.stdout.isatty() else None


def print_prose(text: str, *, indent: int = 0, verdicts: Iterable[str] = (), style: str = "") -> None:
    """Print a paragraph: one line in a pipe, in a terminal as many as it takes; a word or an interval is never broken.

    Args:
        text: of one paragraph.
        indent: columns before it.
        verdicts: that get their colour where they stand after a colon, or at the start.
        style: of all of it, as rich has them.
    """
    from rich.text import Text

    out = console()
    for line in wrapped(text, columns_of_terminal(), indent=indent):
        shown = Text(line, style)
        for verdict in verdicts:
            found = rf"(?:(?<=: )|^ *){re.escape(verdict)}(?=$|[;,]|  | as | \()"
            shown.highlight_regex(found, STYLES.get(verdict, ""))
        out.print(shown, soft_wrap=True)


def print_precision(answers: Iterable[Any]) -> None:
    """Print what a precision check said, a line each: records with `sentence` and `verdict`."""
    for answer in answers:
        print_prose(f"{answer.sentence}: {answer.verdict}", verdicts=(answer.verdict,))
