"""How many seeds decide what a coordinate check leaves open: a rule of thumb, for advice and for the top-up."""

from math import ceil, inf

import numpy as np
import pandas as pd

from mupcheck.coordinates.slopes import distance
from mupcheck.coordinates.widths import GROSS

MOST_SEEDS = 64  # more cost more than a larger width
TRUSTED_SEEDS = 8  # whose scatter says how many are needed
FEWEST_MORE, GROWTH = 4, 3  # seeds are added at least so many at a time, and at most by this factor
# Student's quantiles of some 16 seeds: of the interval of a pass, and of a fail among so many slopes (Holm)
T_PASS, T_FAIL = 1.75, 4.0


def more_seeds(table: pd.DataFrame, n_seeds: int) -> int | None:
    """Return how many seeds to have next where they may decide the rows of `fit_slopes`, None where widths must.

    An estimate from few seeds is a rough one: it is not trusted to say that none will do, nor to leap ahead.
    """
    table = table[table["open"] != "widths"]
    if table.empty:
        return None
    needed = seeds_needed(table)
    if needed > MOST_SEEDS:
        # noise may have put a slope near the tolerance
        needed = seeds_needed(table, nearer=1.0)
    if n_seeds >= min(needed, MOST_SEEDS) or (needed > MOST_SEEDS and n_seeds >= TRUSTED_SEEDS):
        return None
    return ceil(min(max(needed, n_seeds + FEWEST_MORE), GROWTH * n_seeds, MOST_SEEDS))


def seeds_needed(table: pd.DataFrame, *, nearer: float = 0.0) -> float:
    """Return about how many seeds decide every row of `fit_slopes` whose slope stays where it is; inf if none can.

    Args:
        table: rows of `fit_slopes`.
        nearer: by how many standard errors each slope may yet prove to be farther from the edge of what is required.
    """
    beyond = np.maximum(distance(table), 0) - table["tolerance"]
    beyond += np.where(beyond > 0, nearer, -nearer) * table["slope_stderr"]
    scatter = table["slope_stderr"] * np.sqrt(table["n_seeds"])
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = (np.where(beyond > 0, T_FAIL, T_PASS) * scatter / beyond.abs()) ** 2
    # a factor of two must be beyond the interval of any width, which noise alone puts off by about half of it
    gross = table["n_seeds"] * (2 * T_PASS * table["off_stderr"] / GROSS) ** 2
    gross = gross.where(table["off_most"] >= GROSS, 0.0)
    most = float(np.maximum(needed.replace(np.nan, inf), gross).max())
    return inf if most == inf else ceil(max(most, 2))
