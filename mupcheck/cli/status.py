"""status and ls: where sweeps stand, by their folders alone."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from mupcheck.cli.options import Json, Stored
from mupcheck.cli.stores import drivers_in_store, read_from

if TYPE_CHECKING:
    from mupcheck.results.status import Status


def status(
    path: Annotated[Path, Stored] = Path("results"),
    json: Json = False,
) -> None:
    """Say where sweeps stand: runs done, running, waiting, diverged and failed at each width, the time left, and what goes on.

    Reads only, so that any machine that sees the folder may ask, while the sweep runs and ever after.

    Example: mupcheck status results/lr
    """
    from mupcheck.terminal.status_page import print_status

    print_status(_found(path, read=True), as_json=json)


def ls(
    path: Annotated[Path, Stored] = Path("results"),
    json: Json = False,
) -> None:
    """List the sweeps in a folder, a line each: runs that are there of those planned, state, age.

    Example: mupcheck ls results/
    """
    from mupcheck.terminal.status_page import print_sweeps

    print_sweeps(_found(path, read=False), as_json=json)


def _found(path: Path, *, read: bool) -> "list[Status]":
    """Return where the sweeps at a path or an address stand, and who trains them."""
    from mupcheck.results.status import status_of, sweeps_in

    folders = sweeps_in(read_from(path))
    return [status_of(folder, read=read, elsewhere=drivers_in_store(path, folder)) for folder in folders]
