"""A sentence in so many columns: what goes on stands further in, and what is copied as one stays in one line."""

import re
import textwrap

HANG = 2  # columns that what goes on stands further in than its first line
GLUE = "\N{NO-BREAK SPACE}"  # stands for a blank at which no line may end
TOGETHER = re.compile(r"\[[^\[\]]{1,30}\]|cannot tell|likely cause \d+:|--[a-z-]+ [^\s(]+")
COMMAND = re.compile(r"(?<=: )mupcheck [^;:()]+")  # to be copied


def wrapped(text: str, columns: int | None, *, indent: int = 0, whole_commands: bool = False) -> list[str]:
    """Return the lines of a paragraph.

    No word is broken, nor an interval, an option with its value, or a command where that fits on a line.

    Args:
        text: of one paragraph.
        columns: at most so many where words allow it; None for one line, however long.
        indent: columns before it.
        whole_commands: whether a command that fits on no line stays in one all the same.
    """
    first = " " * indent
    if columns is None or len(first) + len(text) <= columns:
        return [first + text]

    def glue(found: re.Match[str]) -> str:
        fits = len(first) + HANG + len(found[0]) <= columns
        return found[0].replace(" ", GLUE) if fits or (whole_commands and found.re is COMMAND) else found[0]

    lines = textwrap.wrap(
        TOGETHER.sub(glue, COMMAND.sub(glue, text)),
        columns,
        initial_indent=first,
        subsequent_indent=first + " " * HANG,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(GLUE, " ") for line in lines]
