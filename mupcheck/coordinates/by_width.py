"""Sizes pooled over layers and later steps, and of these one at each width."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.coded import beside, numbered
from mupcheck.coordinates.grid import SITE

Sizes = dict[tuple[str, str, str, bool], tuple[float, ...]]


def pool(coords: pd.DataFrame) -> pd.DataFrame:
    """Return `coords` with one row per run, kind, stat and site for step 0, and one for all later steps.

    Its value is the geometric mean over layers and steps, so its slope is the mean of their slopes, with less noise
    than any of them; `layer` is -1 and `step` the last of all. What is required is the same at each of them.
    """
    measured = coords[coords["kind"] != "diagnostic"]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(measured["value"].to_numpy(dtype=float))
    place = ["run_id", *SITE, "later"]
    table = measured.assign(later=measured["step"] > 0)
    numbers, first = numbered(table, place)
    means = _means(logs, numbers, none=np.isnan(logs))
    pooled = table[place].iloc[first].reset_index(drop=True)
    # a run that diverged lacks the last steps, and stays comparable all the same
    step = np.where(pooled["later"], measured["step"].max(), 0)
    return pooled.drop(columns="later").assign(layer=-1, step=step, value=np.exp(means))


def sizes_by_width(runs: pd.DataFrame, coords: pd.DataFrame) -> Sizes:
    """Return the sizes of each quantity by rising width: geometric means over seeds, layers and later steps.

    Args:
        runs: of one group.
        coords: of these runs, pooled.
    Returns:
        By kind, stat, site and whether it is of the steps after 0; NaN where a width has no size, or one that has no
        logarithm.
    """
    rows = beside(coords, runs, ("width",))
    if rows.empty:
        return {}
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(rows["value"].to_numpy(dtype=float))
    rows, place = rows.assign(later=rows["step"] > 0), [*SITE, "later", "width"]
    numbers, first = numbered(rows, place)
    means = np.exp(_means(logs, numbers, none=~np.isfinite(logs)))
    widths = np.unique(runs["width"].to_numpy())
    sizes: dict[tuple[str, str, str, bool], NDArray[np.float64]] = {}
    places = zip(*(rows[name].iloc[first].tolist() for name in place), strict=True)
    for (kind, stat, site, later, width), mean in zip(places, means, strict=True):
        of = sizes.setdefault((kind, stat, site, later), np.full(len(widths), np.nan))
        of[np.searchsorted(widths, width)] = mean
    return {quantity: tuple(of) for quantity, of in sizes.items()}


def _means(logs: NDArray[np.float64], numbers: NDArray[np.int64], *, none: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean of the logs of each number from 0 on, NaN where any is `none`: it is not averaged away."""
    means = pd.Series(logs).groupby(numbers).mean().loc[0:].to_numpy(copy=True)
    without = numbers[none]
    means[without[without >= 0]] = np.nan
    return means
