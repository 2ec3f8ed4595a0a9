"""What a narrow terminal, no colour and a pipe get."""

import contextlib
import io
import os
import pty
import re
import struct
import sys
from pathlib import Path

import pytest
from commands import mupcheck
from small_sweeps import HERE, LR, process

from mupcheck.cli import exits
from mupcheck.theory.parametrization import Role

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


def mupcheck_on_a_terminal(columns: int, *arguments: object) -> str:
    """Run the command line in this process, on a terminal; return what it showed, without colours."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("commands.io.StringIO", Terminal)
        answer = mupcheck(*arguments, COLUMNS=str(columns), TERM="xterm", NO_COLOR="1")
    return answer.out


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


def test_a_notebook_s_matplotlib_does_no_harm(copied):
    # which need not be installed, and whose figures are not files
    answer = process("plot", copied / "results" / "lr", MPLBACKEND="module://matplotlib_inline.backend_inline")
    assert answer.code == exits.OK and ".png" in answer.out
    assert re.fullmatch(r"\d+ more figures? with --all: .*\n", answer.err)


@pytest.mark.parametrize("columns", [80, 60, 40])
def test_a_site_is_never_cut(made, columns):
    again = ("run", made / "coord.toml", "--out", made / "results", *HERE, "--all")
    sites = {word for line in mupcheck(*again).out.splitlines() for word in line.split() if "_" in word}
    assert {"effective_update", "o_proj", "down_proj"} <= sites
    shown = mupcheck_on_a_terminal(columns, *again)
    assert sites <= set(shown.split()) and "…" not in shown


@pytest.mark.parametrize("columns", [120, 80, 60])
@pytest.mark.parametrize("name", ["coord", "lr"])
def test_an_answer_keeps_to_the_terminal_and_loses_no_number(made, name, columns):
    again = ("run", made / f"{name}.toml", "--out", made / "results", *HERE)
    shown, piped = mupcheck_on_a_terminal(columns, *again), mupcheck(*again).out
    assert max(map(len, shown.splitlines())) <= columns
    assert sorted(re.findall(r"\d\S*", shown)) == sorted(re.findall(r"\d\S*", piped))
    tables = [line for line in piped.splitlines() if re.match(r" \S", line)]
    assert tables and max(map(len, tables)) <= 80
    assert len(piped.splitlines()) <= 30, "an answer in short"


def test_what_is_said_on_stderr_is_wrapped_on_a_terminal_alone(made):
    _, shown = on_a_terminal(70, "run", made / "coord.toml", "--out", "new", *HERE, "--max-runs", "1", NO_COLOR="1")
    lines = [line.rstrip() for line in shown.splitlines()]
    first = next(i for i, line in enumerate(lines) if line.startswith("coord: expected intervals: "))
    assert len(lines[first]) <= 70 and lines[first + 1].startswith("  ")
    piped = mupcheck("run", made / "coord.toml", "--out", "new", *HERE, "--max-runs", "1", COLUMNS="70").err
    (whole,) = [line for line in piped.splitlines() if line.startswith("coord: expected intervals: ")]
    end = next(i for i in range(first + 1, len(lines)) if not lines[i].startswith("  "))
    assert " ".join(" ".join(lines[first:end]).split()) == whole


def test_a_row_is_one_line_in_a_pipe(made):
    for arguments, first in (
        (("rules", "-p", "gdn-mup", "--mode", "heads"), [role.value for role in Role]),
        (("explain", "z_beta"), ["activation rms, mean_abs", "activation_update rms", "activation_grad rms"]),
        (("gates", made / "results" / "coord"), ["z_alpha", "z_beta"]),
    ):
        lines = mupcheck(*arguments, COLUMNS="40").out.splitlines()
        rule = next(i for i, line in enumerate(lines) if set(line.strip()) == {"─"})
        rows = lines[rule + 1 : lines.index("", rule)]
        assert rows and all(row.strip().startswith(tuple(first)) for row in rows), arguments
