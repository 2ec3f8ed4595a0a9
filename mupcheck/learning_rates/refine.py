"""Which learning rates to add to a sweep, so that each width's best one is bracketed to a given precision.

An optimum is bracketed to a precision when the lowest point of the mean curve has a neighbour on either side that is no
farther than that: a diverged neighbour bounds it as well. Lrs are added one at a time, where the parabola through the
points around the lowest one has its minimum, and then one on either side of it: a width takes two or three. They divide
the gaps of the grid evenly, so that widths with a like optimum get the same lrs and stay comparable there. A grid may
be as narrow as three lrs: beyond an edge that is the best, or that seeds cannot tell from it, an lr is added an octave
further out, and so where all of it is flat, or where an lr below the best one diverges and no minimum lies below that.
Everything is decided from the runs at hand: an interrupted search goes on as it would have gone.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mupcheck.learning_rates.lr_curve import SAME_LR, first_worse, fit_minimum, lowest_below_divergence, mean_curve
from mupcheck.learning_rates.optimum import Optimum, find_optima
from mupcheck.results.comparable import CONFIDENCE
from mupcheck.results.reading import SAME_COMMAND

EDGE_OCTAVES = 1.0  # step beyond an edge of the grid
MAX_BEYOND = 6.0  # octaves beyond the grid, after which an optimum counts as not there
FLAT_OCTAVES = 4.0  # lrs that train over a narrower range may be flat for being narrow
MAX_ADDED = 16  # lrs at one width; an end for curves that are all noise


@dataclass(frozen=True)
class Search:
    """How far the search for one width's best lr is, and the log2 lrs to run next: none where it has ended.

    `bracket` holds the neighbours of the lowest lr, None where it is at the edge; a neighbour may have diverged.
    """

    parametrization: str
    width: int
    log2_lrs: tuple[float, ...]
    bracket: tuple[float | None, float | None]
    reason: str  # why it ended without a bracket, else empty


def next_lrs(optimum: Optimum, *, grid: Collection[float], precision: float) -> Search:
    """Return the log2 lrs to run next at one width.

    Args:
        optimum: of the runs so far, its curve with all lrs that were run.
        grid: log2 lrs of the sweep before any was added.
        precision: octaves, above 0.
    """
    x, losses = mean_curve(optimum.curve)
    lowest = int(losses.argmin())
    bracket = (float(x[lowest - 1]) if lowest > 0 else None), (float(x[lowest + 1]) if lowest < len(x) - 1 else None)

    def search(log2_lrs: Sequence[float] = (), reason: str = "") -> Search:
        exact = tuple(_on_lattice(log2_lr, sorted(grid), precision) for log2_lr in log2_lrs)
        return Search(optimum.parametrization, optimum.width, exact, bracket, reason)

    if "incomplete" in optimum.flags:
        return search(reason="runs are missing; finish the sweep")
    step = max(EDGE_OCTAVES, precision)
    n_added = len(x) - len(grid)
    if lowest == 0 or lowest_below_divergence(optimum.curve) == 0:
        wanted, limit = [float(x[0]) - step], f"the lowest lr, 2^{x[0]:g}, is still the best"
        if not np.isfinite(losses[0]):
            limit = f"a seed diverges down to the lowest lr, 2^{x[0]:g}"
        elif lowest > 0:
            limit += " below one that diverges"
    elif lowest == len(x) - 1:
        wanted, limit = [float(x[-1]) + step], f"the highest lr, 2^{x[-1]:g}, is still the best"
    else:
        finite = x[np.isfinite(losses)]
        wanted, limit = _inside(x, losses, lowest, precision), "seeds cannot tell the last lr from the best"
        if "flat" in optimum.flags and finite[-1] - finite[0] < FLAT_OCTAVES - SAME_LR:
            wanted = [float(x[0]) - step, *([float(x[-1]) + step] if np.isfinite(losses[-1]) else [])]
        elif "flat" in optimum.flags and wanted:
            return search(reason="the curve is flat, so any lr would do; train longer")
        elif not wanted and {"near edge", "within noise"} & set(optimum.flags):
            wanted = _beyond_noise(optimum, x, lowest, step)
    if not wanted:
        return search()
    if any(at < min(grid) - MAX_BEYOND - SAME_LR or at > max(grid) + MAX_BEYOND + SAME_LR for at in wanted):
        return search(reason=f"{limit}, {MAX_BEYOND:g} octaves beyond the grid")
    if n_added + len(wanted) > MAX_ADDED:
        return search(reason=f"{n_added} lrs were added and {MAX_ADDED} are the most; the noise moves the lowest one")
    return search(wanted)


def next_round(runs: pd.DataFrame, *, lrs: Sequence[float], precision: float) -> list[Search]:
    """Return the search of every parametrization and width of one sweep, from its `runs` table.

    Args:
        runs: of one sweep.
        lrs: the sweep's learning rates before any was added (not their logarithms).
        precision: octaves.
    """
    grid = [math.log2(lr) for lr in lrs]  # as the runs have it, to the last bit
    sweeps = runs["sweep"].unique()
    optima = find_optima(runs, grids=dict.fromkeys(sweeps, grid))
    return [next_lrs(optimum, grid=grid, precision=precision) for optimum in optima]


def find_searches(optima: Sequence[Optimum], spec: Mapping[str, Any]) -> list[Search]:
    """Return how far the search of every width is, of one parametrization; none where the sweep was not to be refined.

    Args:
        optima: of one parametrization, with intervals as a sweep asks for them, since they may end a search.
        spec: the sweep's, as its `sweep.json` has it.
    """
    if not spec.get("refine"):
        return []
    grid = [math.log2(lr) for lr in spec["lrs"]]
    return [next_lrs(optimum, grid=grid, precision=float(spec["precision"])) for optimum in optima]


def say_unfinished(searches: Sequence[Search]) -> str:
    """Say what goes on with searches that were not finished, and at which widths they were not; "" where all ended."""
    widths = ", ".join(str(search.width) for search in searches if search.log2_lrs)
    return f"{SAME_COMMAND}: the search for the best lr of width {widths} was not finished" if widths else ""


def say_unbracketed(searches: Sequence[Search], spec: Mapping[str, Any]) -> list[str]:
    """Say of every width without the bracket that was asked for why it has none."""
    notes = []
    for search in searches:
        if search.reason or search.log2_lrs:
            why = search.reason or f"the search was not finished; {SAME_COMMAND}"
            octaves = f"{float(spec['precision']):g} octaves"
            notes.append(f"width {search.width}: the optimum is not bracketed to {octaves}: {why}")
    return notes


def _inside(x: np.ndarray, losses: np.ndarray, lowest: int, precision: float) -> list[float]:
    """Log2 lrs to run between the neighbours of a lowest point that has both; none if they are near enough."""
    best = float(x[lowest])
    gaps = best - float(x[lowest - 1]), float(x[lowest + 1]) - best  # below, above
    parts = [int(np.ceil(gap / precision - SAME_LR)) for gap in gaps]
    below, above = (gap / part for gap, part in zip(gaps, parts, strict=True))
    if not np.isfinite(losses[lowest + 1]):
        # Training is at its best close to where it diverges: first find where that is.
        if parts[1] > 1:
            return [best + parts[1] // 2 * above]
    elif np.isfinite(losses[lowest - 1]):
        ahead = float(fit_minimum(x, losses[None])[0][0]) - best
        side, size = (0, below) if ahead < 0 else (1, above)
        count = min(round(abs(ahead) / size), parts[side] - 1)
        if count > 0:
            return [best + np.sign(ahead) * count * size]
    return [at for at, part in ((best - below, parts[0]), (best + above, parts[1])) if part > 1]


def _beyond_noise(optimum: Optimum, x: np.ndarray, lowest: int, step: float) -> list[float]:
    """Log2 lrs to run beyond the edges of a curve that are not worse than its lowest point beyond the seeds' noise."""
    best = optimum.curve[lowest]
    wanted = []
    if first_worse((optimum.curve[0], best), 1, -1, CONFIDENCE) is None:
        wanted.append(float(x[0]) - step)
    if first_worse((best, optimum.curve[-1]), 0, 1, CONFIDENCE) is None:
        wanted.append(float(x[-1]) + step)
    return wanted


def _on_lattice(log2_lr: float, grid: Sequence[float], precision: float) -> float:
    """Return the log2 lr counted from the grid: to the last bit the same by whatever way a width came there."""
    cell = min(max(bisect_right(grid, log2_lr) - 1, 0), max(len(grid) - 2, 0))
    inside = grid[0] <= log2_lr <= grid[-1]
    start = grid[cell] if inside else grid[0] if log2_lr < grid[0] else grid[-1]
    length = grid[cell + 1] - grid[cell] if inside and len(grid) > 1 else max(EDGE_OCTAVES, precision)
    size = length / int(np.ceil(length / precision - SAME_LR))
    return float(start + round((log2_lr - start) / size) * size)
