"""The sides to which the best lr of one width is open: lower or higher lrs may be better, as far as its runs tell."""

from collections.abc import Collection, Sequence

import numpy as np

from mupcheck.learning_rates.lr_curve import Point, draw_seeds, first_worse, mean_curve, resample_losses


def open_sides(curve: Sequence[Point], flags: Collection[str], confidence: float) -> tuple[bool, bool]:
    """Say if an optimum is open to lower and to higher lrs, by its flags.

    It is to the edge that it is at; near edges to those that resamples of the seeds have it at; in noise to untold
    sides; and to lower lrs above one that diverged.
    """
    below = not {"low edge", "low divergence", "above divergence"}.isdisjoint(flags)
    above = "high edge" in flags
    if "within noise" in flags:
        untold = untold_sides(curve, confidence)
        below, above = below or untold[0], above or untold[1]
    if "near edge" in flags:
        # what makes it near is the share of both edges: that of one at least is above half of it
        hits = [share > near_edge(confidence) / 2 for share in edge_shares(curve)]
        below, above = below or hits[0], above or hits[1]
    return below, above


def near_edge(confidence: float) -> float:
    """Return the share of resamples at an edge of the grid above which an optimum is near it: an interval's tail."""
    return (1 - confidence) / 2


def edge_shares(curve: Sequence[Point]) -> tuple[float, float]:
    """Return the shares of resamples of the seeds that have the best lr at the lowest and at the highest lr."""
    seeds = sorted({seed for point in curve for seed, _ in point.seed_losses})
    lowest = resample_losses(curve, seeds, draw_seeds(len(seeds))).argmin(axis=1)
    return float(np.mean(lowest == 0)), float(np.mean(lowest == len(curve) - 1))


def untold_sides(curve: Sequence[Point], confidence: float) -> tuple[bool, bool]:
    """Say for either side of the lowest point if lrs lie there of which none diverged or is worse beyond noise."""
    lowest = int(mean_curve(curve)[1].argmin())
    below, above = (first_worse(curve, lowest, side, confidence) is None for side in (-1, 1))
    return below and lowest > 0, above and lowest < len(curve) - 1
