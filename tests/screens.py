"""What a page shows on a terminal of some width, or in a pipe, in some encoding."""

import io
import re
from collections.abc import Callable

import pytest


class Pipe(io.StringIO):
    """A stream that is read by another program; of its encoding it says None, as io.StringIO does."""

    encoding = None


class Terminal(Pipe):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


def seen(show: Callable[[], object], *, columns: int | None = None, encoding: str | None = None) -> str:
    """Return what `show` prints on a terminal of so many columns, or in a pipe; without colours.

    With an encoding all of it must be what that can take.
    """
    stream = Pipe() if columns is None else Terminal()
    stream.encoding = encoding
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", stream)
        patch.setenv("COLUMNS", str(columns or 80))
        patch.setenv("TERM", "xterm")
        show()
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())
