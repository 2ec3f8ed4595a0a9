"""An imported table in the layout of results, so that `plot` and `check` read it as any sweep."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from mupcheck.imported.read import Imported, resolved
from mupcheck.results.files import check_writable
from mupcheck.results.reading import read_sweep
from mupcheck.results.tables import SCHEMAS
from mupcheck.results.writing import write_run, write_sweep

NO_STEPS: Mapping[str, list[Any]] = {field.name: [] for field in SCHEMAS["steps"] if field.name != "run_id"}


def store(imported: Imported, folder: Path) -> None:
    """Write what was imported into a sweep's folder, in place of an earlier import.

    `sweep.json` is written first and lists the runs: a folder that was left half-written says that runs are missing.

    Raises:
        ValueError: if the folder holds a sweep that mupcheck trained, or cannot be written to.
        StoreError: if a file cannot be written.
    """
    if (folder / "sweep.json").exists() and "imported" not in read_sweep(folder):
        raise ValueError(f"{folder} holds a sweep that mupcheck trained; give another --name, or another --out")
    check_writable(folder)
    runs, coords = imported.results.runs, imported.results.coords
    by_run = dict(list(coords.groupby("run_id"))) if len(coords) else {}
    write_sweep(folder, resolved(imported))
    for row in runs.to_dict("records"):
        run = {
            name: _plain(row[name], name) for name in SCHEMAS["runs"].names if name in row and not _is_none(row[name])
        }
        sizes = by_run.get(row["run_id"])
        mine = None if sizes is None else {name: sizes[name].tolist() for name in sizes if name != "run_id"}
        write_run(folder, run, NO_STEPS, mine, imported=True)


def _is_none(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _plain(value: Any, name: str) -> Any:
    """Return a cell as its column on disk takes it."""
    kind = SCHEMAS["runs"].field(name).type
    if pa.types.is_string(kind):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if pa.types.is_integer(kind):
        return int(value)
    return float(value) if pa.types.is_floating(kind) else value
