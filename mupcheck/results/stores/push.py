"""What is new in the mirror of an address, sent to the store: of a run its row last, which vouches for the rest."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mupcheck.results.files import EARLIER, StoreError
from mupcheck.results.stores.at_once import at_once
from mupcheck.results.stores.mirror import PICTURES, SWEEP, TABLES, Mirror, read_bytes, stamp_of, unsealed
from mupcheck.results.stores.objects import put_object, remove_object

PLACES = ("", f"{EARLIER}/")


def to_send(mirror: Mirror) -> list[str]:
    """Return the names of what is new here: rows of runs, which stand for their parts too, sweep.json, pictures."""
    names = [SWEEP] if (mirror.folder / SWEEP).exists() else []
    for place in PLACES:
        names += [f"{place}runs/{file}" for file in _files(mirror.folder / place / "runs", ".parquet")]
    pictures = mirror.folder / PICTURES
    if pictures.is_dir():
        found = (file.relative_to(mirror.folder).as_posix() for file in pictures.rglob("*") if file.is_file())
        names += [name for name in found if not Path(name).name.startswith(".")]
    return sorted(name for name in names if not mirror.same_here(name))


def push(mirror: Mirror) -> None:
    """Send what is new here; a run's row comes last, and an earlier one of it goes first.

    Raises:
        ValueError, StoreError: if the store does not take it; what was sent is taken down.
    """
    names, moved = to_send(mirror), _moved(mirror)
    if not names and not moved:
        return
    try:
        at_once(lambda name: _send_run(mirror, name) if "runs/" in name else _send(mirror, name), names)
        for name in _moved(mirror):
            remove_object(mirror.store, name)
            del mirror.known[name]
    finally:
        with suppress(StoreError):  # a full disk here; the next call compares bytes
            mirror.save()


def _moved(mirror: Mirror) -> list[str]:
    """Return what the store still has where a run was before it was set aside or brought back: its row comes first.

    Nothing but what is in the store at its new place as well: a run is never removed.
    """
    here = {place: set(_files(mirror.folder / place / "runs", ".parquet")) for place in PLACES}
    found = []
    for name in mirror.known:
        rest = name.removeprefix(PLACES[1])
        place = name.removesuffix(rest)
        table, _, file = rest.partition("/")
        if place in here and table in TABLES and file not in here[place]:
            other = PLACES[PLACES.index(place) - 1]
            if file in here[other] and f"{other}runs/{file}" in mirror.known:
                found.append(name)
    return sorted(found, key=lambda name: "runs/" not in name)


def send_sweep(mirror: Mirror) -> None:
    """Send `sweep.json` alone; raises as `push` does."""
    _send(mirror, SWEEP)


def _send(mirror: Mirror, name: str) -> None:
    stamp, data = stamp_of(mirror.folder / name), read_bytes(mirror.folder / name)
    if data is not None:
        mirror.note(name, stamp, put_object(mirror.store, name, data).mark)


def _send_run(mirror: Mirror, row: str) -> None:
    place, run_id = row.rpartition("runs/")[0], Path(row).stem
    names = [f"{place}{table}/{run_id}.parquet" for table in TABLES]
    stamps = {name: stamp_of(mirror.folder / name) for name in names}
    files = {name: data for name in names if (data := read_bytes(mirror.folder / name)) is not None}
    if row not in files or unsealed(run_id, files):
        return  # it is just being replaced, and then there to be sent; else readers here name it
    if row in mirror.known:  # it would vouch for the new parts before they are all there
        remove_object(mirror.store, row)
        del mirror.known[row]
    for name, data in files.items():
        mirror.note(name, stamps[name], put_object(mirror.store, name, data).mark)


def _files(folder: Path, ending: str) -> Iterable[str]:
    if not folder.is_dir():
        return []
    return [file.name for file in folder.iterdir() if file.suffix == ending and file.name[0] != "."]
