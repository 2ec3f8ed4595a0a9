"""Which runs to add to a coordinate check until every verdict is decided: seeds first, then widths.

A slope whose interval lies across the tolerance is decided by a shorter interval, unless it lies at the tolerance
itself: then no number of seeds is enough, and larger widths, where finite-size effects fade, may be. Everything is
decided from the judgements at hand, so an interrupted check goes on as it would have gone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from mupcheck.coordinates.judge import Judgement, open_slopes
from mupcheck.coordinates.seeds import more_seeds

MOST_WIDTHS_MORE = 2


@dataclass(frozen=True)
class More:
    """What the tables that are not decided should have: these widths, with so many seeds."""

    parametrizations: tuple[str, ...]
    widths: tuple[int, ...]
    n_seeds: int


def next_round(judgements: Sequence[Judgement], *, widths: Sequence[int]) -> More | None:
    """Return what to add, None where all is decided, or more runs would not decide it.

    Args:
        judgements: of one sweep.
        widths: of the sweep before any was added.
    """
    undecided = {judgement.parametrization: open_slopes(judgement) for judgement in judgements if _is_open(judgement)}
    if not undecided:
        return None
    chosen = [judgement for judgement in judgements if judgement.parametrization in undecided]
    n_seeds = max(len(judgement.measured["seeds"]) for judgement in chosen)
    used = max((judgement.measured["widths"] for judgement in chosen), key=len)
    if more := more_seeds(pd.concat(undecided.values()), n_seeds):
        return More(tuple(undecided), tuple(used), more)
    if len(used) < len(widths) + MOST_WIDTHS_MORE:
        return More(tuple(undecided), (*used, 2 * max(used)), n_seeds)
    return None


def _is_open(judgement: Judgement) -> bool:
    """Say whether a judgement waits for nothing but shorter intervals."""
    in_doubt = judgement.counts["cannot tell"] > len(open_slopes(judgement))
    blocked = any(finding.effect == "no pass" for finding in judgement.findings)
    return judgement.verdict == "cannot tell" and not blocked and not in_doubt
