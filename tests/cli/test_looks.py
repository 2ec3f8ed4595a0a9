"""What a narrow terminal, no colour and a pipe get."""

import contextlib
import os
import pty
import struct
import sys
from pathlib import Path

import pytest
from commands import mupcheck
from small_sweeps import HERE, LR

from mupcheck.cli import exits

# --- looks ------------------------------------------------------------------------------------------------------------


def on_a_terminal(columns: int, *arguments: object, **environment: str) -> tuple[int, str]:
    """Run the command line on a pseudo-terminal; return its exit code and what it showed."""
    pid, shown = pty.fork()
    if pid == 0:
        os.environ.update({"TERM": "xterm-256color"} | environment)
        os.execv(sys.executable, [sys.executable, "-m", "mupcheck", *map(str, arguments)])
    import fcntl
    import termios

    fcntl.ioctl(shown, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    seen = b""
    with contextlib.suppress(OSError):  # how Linux says that the other end is closed
        while part := os.read(shown, 65536):
            seen += part
    os.close(shown)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen.decode()


def test_a_narrow_terminal_gets_colours_and_loses_nothing_but_width(made):
    Path("lr.toml").write_text(LR)
    code, shown = on_a_terminal(40, "run", "lr.toml", *HERE)
    assert code == exits.CANNOT_TELL, shown
    assert "\x1b[" in shown and "Traceback" not in shown
    assert "cannot tell" in shown and "drift" in shown


def test_no_color_is_plain_on_a_terminal_too(made):
    again = ("run", made / "lr.toml", "--out", made / "results", *HERE)
    code, shown = on_a_terminal(80, *again, NO_COLOR="1")
    assert code == exits.CANNOT_TELL and "cannot tell" in shown
    assert "\x1b" not in shown


@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1"}, {"COLUMNS": "40"}, {"TERM": "dumb"}]
)
def test_a_pipe_gets_plain_text_of_one_width(made, environment):
    for arguments in (
        ("run", made / "lr.toml", "--out", made / "results", *HERE),
        ("run", made / "coord.toml", "--out", made / "results", *HERE),
        ("run", made / "lr.toml", "--out", "new", "--dry-run", *HERE),
        ("rules",),
        ("rules", "-p", "sp", "--width", "512"),
    ):
        answer = mupcheck(*arguments, **environment)
        assert "\x1b" not in answer.out + answer.err
        assert answer == mupcheck(*arguments) or "--dry-run" in arguments  # which times the machine
