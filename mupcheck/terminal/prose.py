"""Sentences of an answer: whole in a pipe, for grep; wrapped in a terminal, with what goes on standing further in."""

import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

from mupcheck.terminal.console import STYLES, console

HANG = 2  # columns that what goes on stands further in than its first line
LEAST_COLUMNS = 20  # a narrower terminal breaks the lines itself
GLUE = "\N{NO-BREAK SPACE}"  # stands for a blank at which no line may end
TOGETHER = re.compile(r"\[[^\[\]]{1,30}\]|cannot tell|likely cause \d+:|--[a-z-]+ [^\s(]+")
COMMAND = re.compile(r"(?<=: )mupcheck [^;:()]+")  # to be copied: on a line of its own where it fits on one


def columns_of_terminal() -> int | None:
    """Return how wide the terminal on stdout is, None where stdout is a pipe."""
    return max(console().width, LEAST_COLUMNS) if sys.stdout.isatty() else None


def print_prose(text: str, *, indent: int = 0, verdicts: Iterable[str] = ()) -> None:
    """Print a paragraph: one line in a pipe, in a terminal as many as it takes; a word or an interval is never broken.

    Args:
        text: of one paragraph.
        indent: columns before it.
        verdicts: that get their colour where they stand after a colon, or at the start.
    """
    from rich.text import Text

    out = console()
    for line in wrapped(text, columns_of_terminal(), indent=indent):
        shown = Text(line)
        for verdict in verdicts:
            shown.highlight_regex(rf"(?:(?<=: )|^ *){re.escape(verdict)}(?=$|[;,]|  | as )", STYLES.get(verdict, ""))
        out.print(shown, soft_wrap=True)


def wrapped(text: str, columns: int | None, *, indent: int = 0) -> list[str]:
    """Return the lines of a paragraph: one where there is no width to keep to."""
    first = " " * indent
    if columns is None:
        return [first + text]

    def glue(found: re.Match[str]) -> str:
        return found[0].replace(" ", GLUE) if len(first) + HANG + len(found[0]) <= columns else found[0]

    glued = TOGETHER.sub(glue, COMMAND.sub(glue, text))
    lines = textwrap.wrap(
        glued,
        columns,
        initial_indent=first,
        subsequent_indent=first + " " * HANG,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(GLUE, " ") for line in lines]


def print_precision(answers: Iterable[Any]) -> None:
    """Print what a precision check said, a line each: records with `sentence` and `verdict`."""
    for answer in answers:
        print_prose(f"{answer.sentence}: {answer.verdict}", verdicts=(answer.verdict,))
