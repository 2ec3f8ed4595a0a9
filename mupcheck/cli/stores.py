"""What commands do with an address: read what a store has, send what they made."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mupcheck.results.stores.address import below, check_address, is_address, mirror_of
from mupcheck.terminal.console import say

if TYPE_CHECKING:
    from mupcheck.results.owners import Owner


def read_from(path: Path | str) -> Path:
    """Return the folder to read: of an address its mirror, brought up to date; what is not believed there is said.

    Raises:
        ValueError: if there are no results at the address, or it cannot be used.
        StoreError: if it does not answer.
    """
    if not is_address(path):
        return Path(path)
    from mupcheck.results.stores.pull import pull_results

    check_address(path)

    folder, lines = pull_results(path)
    for line in lines:
        say(line)
    return folder


def drivers_in_store(path: Path | str, folder: Path) -> "list[Owner]":
    """Return who trains a sweep of an address just now, as its store tells; of a folder none.

    Args:
        path: that was asked for, an address or a folder.
        folder: the sweep's mirror here.
    Raises:
        ValueError, StoreError: if the store does not answer.
    """
    if not is_address(path):
        return []
    from mupcheck.results.stores.lease import living_holder
    from mupcheck.results.stores.objects import open_store

    holder = living_holder(open_store(path if mirror_of(path) == folder else below(path, folder.name)))
    return [holder] if holder else []


def send_pictures(path: Path | str) -> None:
    """Send the figures that were drawn into the mirror of an address; raises as `push_now` does."""
    if not is_address(path):
        return
    from mupcheck.results.stores.beside import push_now
    from mupcheck.results.stores.mirror import STATE

    folder = mirror_of(path)
    if (folder / STATE).exists():
        push_now(path)
        say(f"the figures are in {below(path, 'figures')} too")
        return
    for state in sorted(folder.glob(f"*/{STATE}")):
        push_now(below(path, state.parent.name))
    say(f"the figures are in {path} too")


@dataclass
class Kept:
    """Where a sweep is trained: `out` is a folder here, and `trouble` says in the end what its store lacks."""

    out: Path
    trouble: str = ""


@contextmanager
def kept_in(out: Path | str, name: str, *, sends: bool) -> Iterator[Kept]:
    """Yield the folder to train a sweep into; of an address its mirror, from which what ends is sent meanwhile.

    Args:
        out: as --out has it.
        name: of the sweep.
        sends: whether anything is written, which a dry run does not.
    Raises:
        ValueError, StoreError: if the address cannot be used, or does not answer.
    """
    if not is_address(out):
        yield Kept(Path(out))
        return
    from mupcheck.results.stores.beside import pushing, say_wait
    from mupcheck.results.stores.pull import pull_sweep

    check_address(out)
    address = below(out, name)
    folder, lines = pull_sweep(address)
    for line in lines:
        say(line)
    kept = Kept(folder.parent)
    if not sends:
        yield kept
        return
    if wait := say_wait(address):
        say(wait)
    with pushing(folder, address) as pusher:
        yield kept
        kept.trouble = pusher.finish()
    if kept.trouble:
        say(f"failed: {kept.trouble}")
