"""The sizes behind pooled slopes: one at each width."""

import numpy as np
import pandas as pd

from mupcheck.coordinates.coded import beside, spelled
from mupcheck.coordinates.slopes import pool

Sizes = dict[tuple[str, str, str, bool], tuple[float, ...]]


def sizes_by_width(runs: pd.DataFrame, coords: pd.DataFrame) -> Sizes:
    """Return the sizes of each quantity by rising width: geometric means over seeds, layers and later steps.

    Args:
        runs: of one group.
        coords: of these runs.
    Returns:
        By kind, stat, site and whether it is of the steps after 0; NaN where a width has no size, or one that has no
        logarithm.
    """
    rows = spelled(beside(pool(coords), runs, ("width",)))
    if rows.empty:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(rows["value"].to_numpy(dtype=float))
    rows = rows.assign(log=np.where(np.isfinite(logs), logs, np.nan), later=rows["step"] > 0)
    found = rows.groupby(["kind", "stat", "site", "later", "width"])["log"].agg(["mean", "size", "count"])
    means = found["mean"].where(found["size"] == found["count"])  # what has no logarithm is not averaged away
    sizes = np.exp(means.unstack("width").reindex(columns=sorted(set(runs["width"]))))
    return dict(zip(sizes.index, map(tuple, sizes.to_numpy()), strict=True))
