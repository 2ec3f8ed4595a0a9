"""The command line: its commands, and what a user's fault ends in.

Nothing heavy is imported here: a command imports what it runs, so that `--help` answers at once.
"""

import atexit
import errno
import os
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from mupcheck.cli import (
    audit,
    bench,
    diff,
    engine,
    gate,
    judge,
    machine,
    proof,
    recommend,
    roles,
    status,
    store,
    stored,
    sweeps,
    theory,
)
from mupcheck.cli.exits import BUG, INTERRUPTED, OK, STORAGE, TERMINATED, USAGE
from mupcheck.cli.help import Command, Group, fault_of
from mupcheck.terminal.console import events, say
from mupcheck.terminal.streams import last_words, steady_streams

PACKAGE = Path(__file__).parents[1]
MOST_SAID = 700  # characters at either end of an error, which may quote what a user typed

app = typer.Typer(
    cls=Group,
    help="Does the learning rate found on a small Gated DeltaNet model hold on a large one?",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from mupcheck.results.version import version

        typer.echo(f"mupcheck {version()}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Take what belongs to no command."""


# in the order of the help
for command in (
    sweeps.coord, sweeps.lr_sweep, sweeps.run, status.status, status.ls, audit.audit, judge.judge, roles.roles, recommend.recommend, stored.plot, stored.report, gate.check, diff.diff, store.compact,
    theory.rules, machine.doctor, proof.identities, stored.gates, theory.explain, proof.selftest, bench.bench,
):  # fmt: skip
    app.command(cls=Command)(command)
app.command(cls=Command, hidden=True)(engine.work)


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def _terminate(_signal: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGTERM, _leave)
    raise SystemExit(TERMINATED)


def _interrupt(_signal: int, _frame: Any) -> NoReturn:
    signal.signal(signal.SIGINT, _leave)
    raise KeyboardInterrupt


def _leave(number: int, _frame: Any) -> NoReturn:
    """End at once: what a second signal asks for, whatever is tidied up for the first. Workers end without a parent."""
    if forking := sys.modules.get("mupcheck.sweep.engines.forking"):
        forking.end_server()
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, b"\x1b[?25h\n")  # a bar hides the cursor
    os._exit(INTERRUPTED if number == signal.SIGINT else TERMINATED)


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def main() -> NoReturn:
    """Run the command line; every fault a user can cause is one line and an exit code of contract."""
    # last of all, before Python gives up its handlers: a Ctrl-C then would end it by the signal, with another code
    atexit.unregister(_ignore_interrupts)
    atexit.register(_ignore_interrupts)
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as it is behind a shell's &
        signal.signal(signal.SIGINT, _interrupt)
    steady_streams()
    events(False)
    with warnings.catch_warnings():
        warnings.showwarning = partial(_show_warning, warnings.showwarning)
        code = _run()
    signal.signal(signal.SIGINT, _leave)  # all is said, and what is waited for is no work
    sys.exit(code)


def _show_warning(otherwise: Callable[..., Any], message: Any, category: type, *where: Any, **more: Any) -> None:
    """Print a warning of mupcheck's own as one line, without the line of code that it comes from."""
    if category is UserWarning and Path(where[0]).is_relative_to(PACKAGE):
        say(str(message))
    else:
        otherwise(message, category, *where, **more)


def _run() -> int:
    """Run the command that was typed; return its exit code."""
    try:
        code = _command()(prog_name="mupcheck", standalone_mode=False)
    except ValueError as error:
        for line in getattr(error, "lines", ()):  # of the file of a user whose code raised
            say(line)
        code = _fault(error, USAGE)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            code = _fault(f"{_what_failed(error)}; give a shorter one", USAGE)
        else:
            code = _fault(_what_failed(error), STORAGE)
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        # typer's usage errors carry their own one-line message; its class is not public in every version
        if hasattr(error, "format_message"):
            code = _fault(fault_of(error), USAGE)
        else:
            say("this is a bug in mupcheck; please report it with the lines below")
            sys.excepthook(*sys.exc_info())
            code = BUG
    if unwritten := last_words():
        code = _fault(_what_failed(unwritten), STORAGE)
    return code or OK


def _what_failed(error: OSError) -> str:
    """Return a system's error without its number: "file: No such file or directory"."""
    parts = (error.filename, error.strerror)
    return ": ".join(str(part) for part in parts if part is not None) or str(error)


def _fault(error: object, code: int) -> int:
    said = " ".join(str(error).split())
    if len(said) > 2 * MOST_SAID:
        said = f"{said[:MOST_SAID]} ... {said[-MOST_SAID:]}"
    say(f"error: {said}")
    return code
