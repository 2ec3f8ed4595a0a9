"""What the guards of `validity` on eps and on gates look at: how near each table comes to their limits, by width."""

from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd

from mupcheck.coordinates.coded import beside
from mupcheck.coordinates.evidence import medians_of
from mupcheck.coordinates.validity import CLOSED, EPS_RATIO

PLACE = ["parametrization", "site", "width"]


class Guard(NamedTuple):
    """A limit on one diagnostic.

    Attributes:
        stat: the diagnostic.
        limit: where the guard acts.
        below: whether it acts below the limit, and so on the least value; else above it.
        positive: whether only values above 0 count.
        says: what the number is and what the guard does, one or two sentences.
    """

    stat: str
    limit: float
    below: bool
    positive: bool
    says: str


GUARDS = (
    Guard(
        "o_norm_eps_ratio", EPS_RATIO, True, False,
        "Median of mean(o^2)/eps at the norm of each head's output. Below the line eps, not o, sets that norm's size, "
        "and what comes after it is not judged.",
    ),
    Guard(
        "adam_eps_ratio", EPS_RATIO, True, True,
        "rms(sqrt(v))/eps of each weight under Adam. Below the line eps slows its steps, and its updates are not "
        "judged; a weight that has no gradient is left out.",
    ),
    Guard(
        "alpha_saturated", CLOSED, False, False,
        "Share of decay gates beyond 1% or 99%, which pass next to no gradient. Above the line gradients and updates "
        "behind them are not judged.",
    ),
    Guard(
        "beta_saturated", CLOSED, False, False,
        "Share of write strengths beyond 1% or 99%, which pass next to no gradient. Above the line gradients and "
        "updates behind them are not judged.",
    ),
)  # fmt: skip


def guarded(runs: pd.DataFrame, coords: pd.DataFrame) -> Iterator[tuple[Guard, pd.DataFrame]]:
    """Yield every guard that has something to look at, with the value nearest to its limit, or farthest beyond it.

    Args:
        runs: of one sweep, optimizer and mode.
        coords: the `coords` table.
    Returns:
        With each guard one row for every parametrization, site and width: value, the median over seeds as the guard
        takes it, with the layer and step that have it.
    """
    if coords.empty:
        return
    rows = coords[coords["stat"].isin([guard.stat for guard in GUARDS])]
    rows = beside(rows, runs[runs["status"] != "failed"], ("parametrization", "width", "seed"))
    medians = medians_of(rows, by=("parametrization",))
    for guard in GUARDS:
        own = medians[medians["stat"] == guard.stat]
        own = own[own["value"] > 0] if guard.positive else own
        if own.empty:
            continue
        by_place = own.groupby(PLACE)["value"]
        worst = own.loc[by_place.idxmin() if guard.below else by_place.idxmax()]
        yield guard, worst[[*PLACE, "value", "layer", "step"]].sort_values(PLACE, ignore_index=True)
