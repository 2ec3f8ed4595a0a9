"""The mirror of an address brought up to date before it is read: what the store has, and nothing that is damaged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from mupcheck.results.files import EARLIER, write_whole
from mupcheck.results.stores.address import below, mirror_of
from mupcheck.results.stores.at_once import at_once
from mupcheck.results.stores.mirror import (
    PARTS,
    PICTURES,
    STATE,
    SWEEP,
    TABLES,
    Mirror,
    open_mirror,
    read_bytes,
    stamp_of,
    unsealed,
)
from mupcheck.results.stores.objects import Entry, get_object, holds, list_objects, open_store


def pull_sweep(address: str) -> tuple[Path, list[str]]:
    """Bring the mirror of one sweep's address up to date; return its folder, and a line on each object not believed.

    Raises:
        ValueError: if the address cannot be used, by these credentials or at all.
        StoreError: if the store does not answer, or the mirror cannot be written.
    """
    mirror = open_mirror(address)
    return mirror.folder, _pull(mirror, list_objects(mirror.store), reading=False)


def pull_results(address: str) -> tuple[Path, list[str]]:
    """Bring the mirrors of all sweeps at an address up to date, or of the one that is there; as `pull_sweep`.

    Raises:
        ValueError: if there are no results at the address, or as `pull_sweep` does.
        StoreError: as `pull_sweep` does.
    """
    folder, said = mirror_of(address), list[str]()
    # Before the list: what another process here sends meanwhile is not in it, and not gone.
    mirrors = {"": open_mirror(address)}
    mirrors |= {file.parent.name: open_mirror(below(address, file.parent.name)) for file in folder.glob(f"*/{STATE}")}
    found: dict[str, dict[str, Entry]] = {}
    for name, entry in list_objects(mirrors[""].store).items():
        if (at := _sweep_of(name)) is not None:
            found.setdefault(at, {})[name.removeprefix(f"{at}/" if at else "")] = entry
    if "" in found or mirrors[""].known:
        said = _pull(mirrors[""], found.get("", {}))
        if "" not in found:
            raise ValueError(f"there are no results at {address} any more; give what --out named, or run a sweep first")
        return folder, said
    del mirrors[""]
    for at in sorted({*found, *mirrors}):
        mirror = mirrors.get(at) or Mirror(open_store(below(address, at)), folder / at)
        said += _pull(mirror, found.get(at, {}))
    if not found:
        raise ValueError(f"there are no results at {address}; give what --out named, or run a sweep first")
    return folder, said


def _sweep_of(name: str) -> str | None:
    """Return the folder of the sweep that an object belongs to, "" for the address itself; None for anything else."""
    *folders, file = name.split("/")
    if any(part in ("", ".", "..") or part.startswith(".") or "\\" in part for part in (*folders, file)):
        return None
    if file != SWEEP:
        if not folders or folders[-1] not in TABLES or not file.endswith(".parquet"):
            return None
        del folders[-1]
        if folders and folders[-1] == EARLIER:
            del folders[-1]
    return "/".join(folders) if len(folders) <= 1 else None


def _pull(mirror: Mirror, there: Mapping[str, Entry], *, reading: bool = True) -> list[str]:
    """Make a sweep's folder what the store has of it; return what is to be said.

    Raises:
        ValueError: if `sweep.json` is damaged and this is for reading: no one could say what is missing.
    """
    _forget_gone(mirror, there)
    # what anyone may have put into the store has no say over names here
    rows = [name for name in there if _sweep_of(name) == "" and name.rpartition("/")[0].endswith("runs")]
    lines = [line for line in at_once(lambda row: _pull_run(mirror, row, there), sorted(rows)) if line]
    if SWEEP in there and _differs(mirror, SWEEP, there[SWEEP]):
        data = get_object(mirror.store, SWEEP)
        with suppress(ValueError):
            if data is not None and isinstance(json.loads(data), dict):
                _place(mirror, {SWEEP: data}, there)
                data = None
        if data is not None:
            mirror.known.pop(SWEEP, None)
            damaged = f"{below(mirror.store.address, SWEEP)} is damaged"
            if reading:
                raise ValueError(f"{damaged}; run the same sweep again, which writes it anew")
            lines.append(f"{damaged} and written anew")
    if mirror.known or mirror.folder.exists():
        mirror.save()
    return lines


def _forget_gone(mirror: Mirror, there: Mapping[str, Entry]) -> None:
    """Remove what was in the store and is no more, rows before what they vouch for; what was changed here stays."""
    gone = [name for name in mirror.known if name not in there and not name.startswith(PICTURES)]
    for name in sorted(gone, key=lambda name: "runs/" not in name):
        if mirror.same_here(name):
            with suppress(OSError):
                (mirror.folder / name).unlink()
        del mirror.known[name]


def _differs(mirror: Mirror, name: str, entry: Entry) -> bool:
    """Say whether the store has something new under a name; what is only new here does not count."""
    known = mirror.known.get(name)
    if known is None or not (mirror.folder / name).exists():
        return True
    return known.mark != entry.mark or (mirror.same_here(name) and known.size != entry.size)


def _pull_run(mirror: Mirror, row: str, there: Mapping[str, Entry]) -> str:
    """Fetch a run where the store has it anew; return a line if it is not to be believed."""
    place, run_id = row.rpartition("runs/")[0], Path(row).stem
    names = [name for table in PARTS if (name := f"{place}{table}/{run_id}.parquet") in there] + [row]
    if not any(_differs(mirror, name, there[name]) for name in names):
        return ""
    here = {name: read_bytes(mirror.folder / name) for name in names}
    fetched: dict[str, bytes] = {}
    for name in names:
        data = here[name]
        if data is None or not holds(there[name], data):
            data = get_object(mirror.store, name)
        if data is None:
            return ""  # another machine is just replacing or moving it
        fetched[name] = data
    if trouble := unsealed(run_id, fetched):
        name, why = trouble
        for each in names:
            mirror.known.pop(each, None)  # a whole one here is sent again
        mended = "that of the mirror is" if (mirror.folder / row).exists() else "the run is to be trained again"
        return f"{below(mirror.store.address, name)} is damaged ({why}) and not used; {mended}"
    _place(mirror, fetched, there)
    return ""


def _place(mirror: Mirror, files: Mapping[str, bytes], there: Mapping[str, Entry]) -> None:
    """Write files of the store here, whole or not at all, the last one as their mark."""
    if any(read_bytes(mirror.folder / name) != data for name, data in files.items()):
        write_whole(
            [(mirror.folder / name, data) for name, data in files.items()], advice="give another MUPCHECK_CACHE"
        )
    for name in files:
        mirror.note(name, stamp_of(mirror.folder / name), there[name].mark)
