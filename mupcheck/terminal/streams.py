"""stdout and stderr that take whatever they are given: no character, closed end or full disk ends in a traceback."""

import codecs
import io
import os
import sys
from typing import IO, Any

# what a stream that is not UTF-8 gets instead
PLAIN = {
    "→": "->", "±": "+-", "…": "...", "—": "-", "–": "-", "×": "x", "·": "*", "≤": "<=", "≥": ">=", "≈": "~",
    "μ": "mu", "µ": "mu", "√": "sqrt", "’": "'", "‘": "'", "“": "'", "”": "'", "•": "*",
    **dict.fromkeys("─━╸╺╌┄", "-"),
    **dict.fromkeys("│┃", "|"),
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Return what stands for characters that a stream cannot take; a codec error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    taken = error.object[error.start : error.end]
    return "".join(PLAIN.get(each) or each.encode("ascii", "backslashreplace").decode() for each in taken), error.end


codecs.register_error("mupcheck", _plain)


def as_taken(text: str, stream: IO[str]) -> str:
    """Return a text as a stream will show it, so that what stands for a character is counted before it is aligned."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, errors="mupcheck").decode(encoding)


class Steady(io.FileIO):
    """The end of a stream whose reader may leave: the rest goes nowhere, the command ends with its own exit code."""

    any_fault = False  # whether no fault at all is worth a word, as on stderr

    def write(self, data: Any) -> int:
        """Write, or do nothing where nobody reads."""
        if not memoryview(data).nbytes:  # a probe of what the stream takes
            return 0
        try:
            return super().write(data)
        except OSError as error:
            to_nowhere(self.fileno())
            if not isinstance(error, BrokenPipeError) and not self.any_fault:
                raise OSError(error.errno, f"cannot write the answer: {error.strerror}") from None
            return memoryview(data).nbytes


def to_nowhere(descriptor: int) -> None:
    """Let a file descriptor lead to the null device."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def steady_streams() -> None:
    """Make stdout and stderr steady, where they are this process's own."""
    for descriptor in range(3):  # one that is closed would become some file's
        try:
            os.fstat(descriptor)
        except OSError:
            to_nowhere(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            end = Steady(descriptor, "wb", closefd=False)
            end.any_fault = name == "stderr"
            whole = stream is not None and stream.write_through  # python -u
            encoding, lines = (stream.encoding, stream.line_buffering) if stream is not None else ("utf-8", False)
            steady = io.TextIOWrapper(
                end if whole else io.BufferedWriter(end),
                encoding=encoding,
                errors="mupcheck",
                line_buffering=lines,
                write_through=whole,
            )
            if stream is not None:
                stream.flush()
            setattr(sys, name, steady)
            setattr(sys, f"__{name}__", steady)


def last_words() -> OSError | None:
    """Flush stdout; return the fault if what was printed cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    return None
