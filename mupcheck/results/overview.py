"""What results hold, at a glance: a row for each sweep and table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mupcheck.results.comparable import GROUP
from mupcheck.results.printing import MOST_NAMED, counted, named

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pandas as pd

STATUSES = ("ok", "diverged", "stopped", "failed")
NEEDED = {*GROUP, "kind", "width", "log2_lr", "seed", "status"}


def overview_rows(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return a dict for each sweep, table, optimizer and mode of a runs table: kind, grid, how its runs ended."""
    if not set(runs.columns) >= NEEDED:
        return []
    return [
        dict(zip(GROUP, key, strict=True))
        | {"kind": group["kind"].iloc[0], "widths": named(sorted(set(group["width"])))}
        | {"lrs": group["log2_lr"].nunique(), "seeds": group["seed"].nunique(), "runs": len(group)}
        | {status: int((group["status"] == status).sum()) for status in STATUSES}
        for key, group in runs.groupby(GROUP)
    ]


def overview_text(runs: pd.DataFrame, n_missing: Callable[[str], int]) -> Iterator[tuple[str, str]]:
    """Yield name and grid of each sweep of a runs table, with the number of runs that did not end well."""
    rows = overview_rows(runs)
    sweeps = list(dict.fromkeys(row["sweep"] for row in rows))
    for sweep in sweeps[:MOST_NAMED]:
        mine = [row for row in rows if row["sweep"] == sweep]
        settings = sorted({f"{row['optimizer']}, {row['mode']}" for row in mine})
        parts = [
            mine[0]["kind"],
            f"{named(dict.fromkeys(row['parametrization'] for row in mine))} ({' and '.join(settings)})",
            f"widths {mine[0]['widths']}",
            counted(max(row["lrs"] for row in mine), "lr"),
            counted(max(row["seeds"] for row in mine), "seed"),
            counted(sum(row["runs"] for row in mine), "run"),
        ]
        not_well = {status: sum(row[status] for row in mine) for status in STATUSES[1:]} | {"missing": n_missing(sweep)}
        yield sweep, "; ".join([*parts, *(f"{n} {how}" for how, n in not_well.items() if n)])
    if len(sweeps) > MOST_NAMED:
        yield "", f"... and {counted(len(sweeps) - MOST_NAMED, 'more sweep')}"
