"""From files to the judges' tables, with what to say of how they were read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from mupcheck.imported.columns import KINDS, LOSSES, choose, holds_of, need
from mupcheck.imported.files import Source, open_table
from mupcheck.imported.frame import completed
from mupcheck.imported.losses import runs_of_losses
from mupcheck.imported.nested import as_flat
from mupcheck.imported.sizes import tables_of_sizes
from mupcheck.imported.table import Loaded, load_part
from mupcheck.imported.wide import as_long
from mupcheck.results.printing import counted
from mupcheck.results.reading import Results
from mupcheck.results.version import version

# in the order in which they are said
SAID = (
    *("width", "lr", "log2_lr", "log10_lr", "val_loss", "train_loss", "loss", "value", "name", "kind", "stat", "layer"),
    *("seed", "parametrization", "optimizer", "mode", "step", "run", "status"),
)


@dataclass(frozen=True)
class Imported:
    """What files held: `results` for the judges, lines on how they were read, and the column of each key."""

    kind: str
    results: Results
    said: tuple[str, ...]
    columns: dict[str, str]
    files: tuple[str, ...]
    required: dict[str, list[float]]  # what the user requires of sizes: lowest and highest slope by pattern


def read_tables(
    files: Sequence[str | Path],
    *,
    name: str,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    holds: str | None = None,
    required: Mapping[str, Sequence[float]] | None = None,
) -> Imported:
    """Read tables of losses or of sizes, all files as one.

    Args:
        files: paths; "-" is standard input.
        name: of the sweep that comes of it.
        columns: by key, overruling what names say.
        where: value by column, of the rows to keep.
        holds: LOSSES or SIZES (default: by the columns).
        required: of sizes, lowest and highest slope by pattern of their names.
    Raises:
        ValueError: in one line that names the file, and the row or column.
    """
    sources = [as_long(as_flat(open_table(file)), columns or {}) for file in files]
    holds = holds or holds_of(sources[0].names, columns or {}, sources[0].label)
    parts = []
    for source in sources:
        chosen = choose(source.names, holds, columns or {}, source.label)
        need(chosen, source.names, holds, source.label)
        parts.append(load_part(source, chosen, where or {}))
    table = Loaded(tuple(parts))
    if holds == LOSSES:
        (runs, said), coords = runs_of_losses(table, name), pd.DataFrame()
    else:
        runs, coords, said = tables_of_sizes(table, name)
    results = Results(completed(runs), pd.DataFrame(), coords, {})
    told = [_told(table, sources, len(runs)), *said]
    if "seed" not in table.columns:
        told.append("no column seed: one seed, whose noise is not known")
    labels = tuple(source.label for source in sources)
    needs = {pattern: list(map(float, ends)) for pattern, ends in (required or {}).items()}
    imported = Imported(KINDS[holds], results, tuple(told), dict(table.columns), labels, needs)
    return replace(imported, results=replace(results, sweeps={name: resolved(imported)}))


def resolved(imported: Imported) -> dict[str, Any]:
    """Return the `sweep.json` of what was imported: where it came from and how it was read."""
    return {
        "imported": {"files": list(imported.files), "columns": imported.columns, "said": list(imported.said)},
        "required": imported.required,
        "run_ids": sorted(imported.results.runs["run_id"]),
        "mupcheck": version(),
    }


def _told(table: Loaded, sources: Sequence[Source], n_runs: int) -> str:
    """Return "runs.csv: 84 rows, 84 runs; width from config.d_model, lr from config.lr, ..."."""
    note = f" ({sources[0].note})" if sources[0].note else ""
    labels = ", ".join(source.label for source in sources[:3]) + (" ..." if len(sources) > 3 else "")
    last = f" (at step {table.told['last step']}, the last)" if "last step" in table.told else ""
    parts = []
    for key in SAID:
        if column := table.columns.get(key):
            parts.append(f"{key} from {column}" + (last if key.endswith("loss") else ""))
    return f"{labels}: {counted(table.n_rows, 'row')}{note}, {counted(n_runs, 'run')}; {', '.join(parts)}"
