"""How answers show themselves in a session: lines of plain text that fit a screen, and the same in a notebook."""

import html
import textwrap
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TypeVar

COLUMNS = 80
MOST_NAMED = 8  # values or sweeps that a line or a page names
T = TypeVar("T")


class Answers(list[T]):
    """A list of answers whose `print` prints each of them; otherwise a list as any other."""

    def __str__(self) -> str:
        return "\n\n".join(map(str, self)) or "[]"

    def _repr_html_(self) -> str:
        return in_html(self)


def in_html(record: object) -> str:
    """Return what `print` prints of a record, for a notebook."""
    return f"<pre>{html.escape(str(record))}</pre>"


def lines_of(title: str, rest: Iterable[tuple[str, str]]) -> str:
    """Return a title and below it a paragraph for each (label, text), of at most COLUMNS; labels may be ""."""
    paragraphs = [
        textwrap.fill(
            f"{label}: {text}" if label else text,
            width=COLUMNS,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for label, text in rest
    ]
    return "\n".join([title, *paragraphs])


def named(values: Collection[object]) -> str:
    """Write values as "64, 128, 256", the ends alone where there are many: "1, ..., 64 (40)"."""
    shown = [str(value) for value in values]
    return ", ".join(shown) if len(shown) <= MOST_NAMED else f"{shown[0]}, ..., {shown[-1]} ({len(shown)})"


def counted(n: int, what: str) -> str:
    """Write a number with what it is of: "1 seed", "12 seeds"."""
    return f"{n:,} {what}" + "s" * (n != 1)


def said(given: object) -> str:
    """Name what was given in place of something else: "None", "the string 'lr'", "the path 'results/lr'", "a list"."""
    if given is None:
        return "None"
    if isinstance(given, str | Path):
        return f"the {'string' if isinstance(given, str) else 'path'} {str(given)!r}"
    name = type(given).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
