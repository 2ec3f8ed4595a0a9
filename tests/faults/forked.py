"""The command line in a process of its own that has everything imported: tens of milliseconds instead of seconds."""

import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from commands import Answer
from points import Fault, install

SECONDS = 60.0
IMPORTED = (
    *("mupcheck.training.train", "mupcheck.measuring.path", "mupcheck.sweep.runner", "mupcheck.cli.app"),
    *("mupcheck.learning_rates.drift", "mupcheck.coordinates.folder", "mupcheck.results.reading", "forked"),
)


def answer(*arguments: object, fault: Fault | None = None, plant: Callable[[], None] | None = None) -> Answer:
    """Run the command line with a fault in it.

    Args:
        plant: called first in its process, to change what the command does there.
    Raises:
        TimeoutError: if it does not end within SECONDS.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    with tempfile.TemporaryDirectory() as place:
        process = context.Process(target=_command, args=(list(map(str, arguments)), fault, plant, place, os.getcwd()))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"mupcheck {' '.join(map(str, arguments))} took more than {SECONDS:g} s")
        out, err = (Path(place, name).read_text(encoding="utf-8") for name in ("out", "err"))
    return Answer(process.exitcode, out, err)


def _command(
    arguments: list[str], fault: Fault | None, plant: Callable[[], None] | None, place: str, folder: str
) -> None:
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(place, name), os.O_WRONLY | os.O_CREAT), descriptor)
    from mupcheck.cli import app

    sys.argv = ["mupcheck", *arguments]
    os.environ["NO_COLOR"] = "1"
    if plant is not None:
        plant()
    if fault is not None:
        install(fault)
    app.main()
