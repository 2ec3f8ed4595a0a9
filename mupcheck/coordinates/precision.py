"""Does another dtype move a slope? The same coordinate check trained in both, compared quantity by quantity.

Seeds are the same in both, so what a seed adds to a size cancels, and what is left is rounding: a shift is read as it
is and held against what the slope is known to, half of its interval.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from mupcheck.coordinates.judge import Judgement, judge
from mupcheck.results.reading import Results

TOLERANCE_SHARE = 0.1
CELL = ["parametrization", "optimizer", "mode", "width", "seed"]
KEY = ["kind", "stat", "site", "step"]


@dataclass(frozen=True)
class SlopePrecision:
    """How far another dtype moves the slopes of one parametrization.

    Attributes:
        dtype, other: the check's, and the one it is compared with.
        n_slopes, n_moved: judged slopes that both have, and those that move beyond what they are known to.
        worst: the slope that moves most by that measure, in words, "" where none is known.
        verdict: holds, moves or cannot tell.
    """

    parametrization: str
    optimizer: str
    mode: str
    dtype: str
    other: str
    n_slopes: int
    n_moved: int
    worst: str
    verdict: str
    reason: str

    @property
    def sentence(self) -> str:
        """Say it in one line."""
        said = {"holds": "moves no slope further than it is known", "moves": "moves slopes"}
        return f"{self.parametrization}: {self.other} {said.get(self.verdict, 'may move slopes')}: {self.reason}"


def compare_checks(one: Results, other: Results) -> Iterator["SlopePrecision"]:
    """Compare the coordinate checks of two results, each parametrization with itself, over the runs that both have.

    Raises:
        ValueError: if they have no runs in common, or those are all of one dtype.
    """
    common = pd.merge(one.runs[CELL], other.runs[CELL])
    if common.empty:
        raise ValueError("there are no two runs of one parametrization, width and seed to compare")
    # what else a top-up added is no part of it, and neither counts as missing
    judged = [judge(replace(each, runs=each.runs.merge(common, on=CELL), sweeps={})) for each in (one, other)]
    for mine in judged[0]:
        names = (mine.parametrization, mine.optimizer, mine.mode)
        yield from (
            compare_slopes(mine, each)
            for each in judged[1]
            if (each.parametrization, each.optimizer, each.mode) == names
        )


def _known_to(rows: pd.DataFrame) -> pd.Series:
    """Return to what a slope is known, or what of it is worth asking for."""
    half: pd.Series = (rows["ci_high"] - rows["ci_low"]) / 2
    return half.clip(lower=TOLERANCE_SHARE * rows["tolerance"])


def compare_slopes(one: Judgement, other: Judgement) -> SlopePrecision:
    """Say whether the other's dtype moves a judged slope, pooled over layers and later steps, beyond its interval.

    Raises:
        ValueError: if they are of two parametrizations, optimizers or modes, of other widths or seeds, or of one dtype.
    """
    names = ("parametrization", "optimizer", "mode")
    for name in names:
        if getattr(one, name) != getattr(other, name):
            raise ValueError(f"judgements to compare differ in {name}: {getattr(one, name)}, {getattr(other, name)}")
    for name in ("widths", "seeds", "record"):
        if list(one.measured[name]) != list(other.measured[name]):
            raise ValueError(f"judgements to compare differ in {name}: {one.measured[name]}, {other.measured[name]}")
    dtypes = [str(each.measured["dtype"]) for each in (one, other)]
    if dtypes[0] == dtypes[1]:
        raise ValueError(f"both judgements are in {dtypes[0]}; compare with another dtype")
    both = pd.merge(one.pooled, other.pooled, on=KEY, suffixes=("", "_other"))
    both = both[both["verdict"] != "info"]
    both = both.assign(shift=both["slope_other"] - both["slope"], half=_known_to(both))
    known = both[both["shift"].notna() & both["half"].notna()]
    key: dict[str, Any] = {name: getattr(one, name) for name in names} | {"dtype": dtypes[0], "other": dtypes[1]}
    if len(known) < len(both) or known.empty:
        reason = f"{len(both) - len(known)} of {len(both)} judged slopes have no interval or no value in both"
        return SlopePrecision(**key, n_slopes=len(known), n_moved=0, worst="", verdict="cannot tell", reason=reason)
    moved = known[known["shift"].abs() > known["half"]]
    row = known.loc[(known["shift"].abs() - known["half"]).idxmax()]
    step = "later" if row["step"] else "at step 0"
    worst = f"{row['kind']} {row['stat']} of {row['site']} {step} by {row['shift']:+.3f}, known to {row['half']:.3f}"
    reason = f"{len(moved)} of {len(known)} judged slopes move further than they are known; most of all {worst}"
    verdict = "moves" if len(moved) else "holds"
    return SlopePrecision(**key, n_slopes=len(known), n_moved=len(moved), worst=worst, verdict=verdict, reason=reason)
