"""What a coordinate check can resolve, before it is run: the interval that its widths and seeds will give a slope."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from scipy import stats

from mupcheck.coordinates.slopes import EFFECTIVE_SHARE, FAMILY_LEVEL, MIN_WIDTHS
from mupcheck.results.comparable import CONFIDENCE
from mupcheck.theory.required import TOLERANCES

TOLERANCE = max(TOLERANCES.values())
MOST_SEEDS = 256
N_EFFECTIVE = 21  # effective updates, among which half of the level is shared
POWER = 0.8
# Scatter over seeds of log2 of a judged size, at one width and pooled over layers and steps: of the median quantity and
# of the noisiest (dL/dz_alpha under AdamW, A_log under SGD). `gdn-mup`, 2 layers, 4 heads, 16 tokens, widths 64-512, 16
# seeds, both modes; H100, torch 2.11, 2026-11-25.
SCATTER = {"adamw": (0.045, 0.40), "sgd": (0.055, 0.60)}


@dataclass(frozen=True)
class Resolution:
    """Half-widths of the intervals that a plan leads to expect, and what follows.

    Attributes:
        typical, noisiest: of the median judged slope and of the noisiest.
        smallest_fault: distance from what is required at which the effective update of median scatter fails in four of
            five checks, among all that are judged (Holm).
        seeds: that the noisiest slope needs to pass where it is as required; None if no number will do.
    """

    typical: float
    noisiest: float
    smallest_fault: float
    seeds: int | None

    def __str__(self) -> str:
        """Say it in one line, before a run."""
        text = f"expected intervals: +-{self.typical:.2f} of a typical slope, +-{self.noisiest:.2f} of the noisiest; "
        text += f"a typical effective update that is off by {self.smallest_fault:.2f} fails in 4 of 5 checks"
        if self.noisiest < TOLERANCE:
            return text
        wanted = "more widths" if self.seeds is None else f"about {self.seeds} seeds"
        return f"{text}; above +-{TOLERANCE:g} nothing can pass: the noisiest needs {wanted}"


def resolve(
    widths: Sequence[int], n_seeds: int, *, optimizer: str, confidence: float = CONFIDENCE
) -> Resolution | None:
    """Return what a plan can resolve; None where it gives no interval at all (one seed, fewer than 3 widths).

    Args:
        widths: of the sweep.
        n_seeds: seeds at each width.
        optimizer: "adamw" or "sgd".
        confidence: of the intervals.
    """
    if len(set(widths)) < MIN_WIDTHS or n_seeds < 2:
        return None
    typical, noisiest = (_half(scatter, widths, n_seeds, confidence) for scatter in SCATTER[optimizer])
    alone = stats.t.ppf((1 + confidence) / 2, n_seeds - 1)
    among_all = stats.t.isf(FAMILY_LEVEL * EFFECTIVE_SHARE / N_EFFECTIVE, n_seeds - 1)
    smallest = TOLERANCE + typical * float(among_all + stats.t.ppf(POWER, n_seeds - 1)) / float(alone)
    counts = range(2, MOST_SEEDS + 1)
    enough = (n for n in counts if _half(SCATTER[optimizer][1], widths, n, confidence) < TOLERANCE)
    return Resolution(typical, noisiest, smallest, next(enough, None))


def _half(scatter: float, widths: Sequence[int], n_seeds: int, confidence: float) -> float:
    """Return half the interval of a slope whose log2 sizes scatter by so much at one width."""
    x = np.log2(sorted(set(widths)))
    spread = float(((x - x.mean()) ** 2).sum())
    return float(stats.t.ppf((1 + confidence) / 2, n_seeds - 1)) * scatter / sqrt(spread * n_seeds)
