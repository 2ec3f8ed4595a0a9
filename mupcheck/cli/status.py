"""status and ls: where sweeps stand, by their folders alone."""

from pathlib import Path
from typing import Annotated

from mupcheck.cli.options import Json, Stored
from mupcheck.cli.stores import read_from


def status(
    path: Annotated[Path, Stored] = Path("results"),
    json: Json = False,
) -> None:
    """Say where sweeps stand: runs done, running, waiting, diverged and failed at each width, the time left, and what goes on.

    Reads only, so that any machine that sees the folder may ask, while the sweep runs and ever after.

    Example: mupcheck status results/lr
    """
    from mupcheck.results.status import status_of, sweeps_in
    from mupcheck.terminal.status_page import print_status

    print_status([status_of(folder) for folder in sweeps_in(read_from(path))], as_json=json)


def ls(
    path: Annotated[Path, Stored] = Path("results"),
    json: Json = False,
) -> None:
    """List the sweeps in a folder, a line each: runs that are there of those planned, state, age.

    Example: mupcheck ls results/
    """
    from mupcheck.results.status import status_of, sweeps_in
    from mupcheck.terminal.status_page import print_sweeps

    print_sweeps([status_of(folder, read=False) for folder in sweeps_in(read_from(path))], as_json=json)
