"""The line of the best log2 lr against log2 width: its slope is the drift, in octaves of lr per doubling of width.

Beside the slope stand what a slope can hide: the drift between every two neighbouring widths, and how far each optimum
lies off the line. With three equally spaced widths least squares gives the middle one weight 0.

An optimum at an edge of its lr grid is known from one side only: of a curve with one minimum it lies below (above) the
first lr that is worse beyond the seeds' noise. One within noise of an edge, or with no lr on a side that is worse, is
fitted and may lie farther on that side, and one above an lr that diverged may lie lower. So the slope's interval has
one end or none.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from mupcheck.learning_rates.cubic import Bools, Floats
from mupcheck.learning_rates.joint_fit import Joint, fit_jointly
from mupcheck.learning_rates.lr_curve import first_worse, grid_floor, mean_curve
from mupcheck.learning_rates.open_sides import open_sides
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.registration import Registration, register
from mupcheck.results.comparable import CONFIDENCE, check_confidence, group_of
from mupcheck.results.printing import said

SAME_WIDTH = 0.25  # doublings; widths less far apart count as one, such as by rounding to a multiple


@dataclass(frozen=True)
class Neighbours:
    """The drift between two neighbouring widths. All pairs' intervals hold together (Bonferroni)."""

    narrow: int
    wide: int
    slope: float  # octaves per doubling of width
    ci_low: float | None
    ci_high: float | None


@dataclass(frozen=True)
class OffLine:
    """How far (octaves) the optimum of a width lies above the line through all."""

    width: int
    octaves: float
    ci_low: float | None
    ci_high: float | None
    ci_grid: float | None = None  # as those of `Drift`
    ci_rounding: float | None = None


@dataclass(frozen=True)
class Drift:
    """The line log2_lr = intercept + slope * log2(width), with the interval of its slope.

    The interval has no end on a side that an optimum leaves open (`open_sides`); `slope` then goes through the edge of
    a grid that the optimum is at. None for both with one seed.
    """

    slope: float | None
    ci_low: float | None
    ci_high: float | None
    intercept: float | None
    confidence: float
    n_widths: int
    n_seeds: int
    ci_grid: float | None = None  # half-width that no seeds' noise gives: grid and model
    ci_rounding: float | None = None  # the part of it by optima known to their grid point only
    neighbours: tuple[Neighbours, ...] = ()
    off_line: tuple[OffLine, ...] = ()  # by rising width; () with fewer than three
    registration: Registration | None = None


def fit_drift(optima: Sequence[Optimum], *, confidence: float = CONFIDENCE) -> Drift:
    """Least-squares slope of the optimum's log2 lr against log2 width, over the widths of one parametrization.

    The minima are those of `fit_jointly`, which also says how intervals are made: what a seed does to all widths alike
    does not widen them. Widths without an optimum are left out; the slope is None with fewer than 2 left, its interval
    also with one seed. Guards are `transfer`'s business, but for those that leave a side of an optimum open.

    Simulated with noise as in the demo (three widths, 6 seeds, -0.9 to 0.35; sweeps/simulate_lr.py), a nominal 90%
    interval covers 89 to 94% on symmetric and lopsided curves, 91 to 96% on steep ones that diverge, and more where the
    seeds' noise is small or divergence close, as what no seed shows is then most of it. Where widths differ in noise by
    a factor of 2 it covers 90 to 93% with 6 seeds, the ends noisier or the middle (86 to 96% if they counted as equal).

    Raises:
        ValueError: if confidence is not in (0, 1), or the optima are not of one (sweep, parametrization, optimizer,
            mode).
    """
    check_confidence(confidence)
    if not isinstance(optima, Sequence) or not all(isinstance(optimum, Optimum) for optimum in optima):
        raise ValueError(f"fit_drift() takes optima of one table, as find_optima() returns them, not {said(optima)}")
    groups = sorted({group_of(optimum) for optimum in optima})
    if len(groups) > 1:
        raise ValueError(f"optima of {len(groups)} groups, {groups[0]} and {groups[1]}; pass those of one")
    found = [optimum for optimum in optima if optimum.log2_lr is not None]
    n_seeds = max((optimum.n_seeds for optimum in optima), default=0)
    if len({optimum.width for optimum in found}) < 2:
        return Drift(None, None, None, None, confidence, len(found), n_seeds)
    curves, log2_width = [optimum.curve for optimum in found], np.log2([optimum.width for optimum in found])
    joint = fit_jointly(curves)
    best = joint.log2_lr
    known = _known(found, confidence)
    centred = log2_width - log2_width.mean()
    weights = centred / (centred @ centred)  # slope = weights @ best
    slope = float(weights @ best)
    low, high, grid, rounding = _bounds(joint, known, weights, confidence)
    return Drift(
        slope,
        low,
        high,
        float(best.mean() - slope * log2_width.mean()),
        confidence,
        len(found),
        n_seeds,
        ci_grid=grid,
        ci_rounding=rounding,
        neighbours=_neighbours(found, joint, known, log2_width, confidence),
        off_line=_off_line(found, joint, known, weights, confidence),
        registration=register(curves, log2_width, best, slope, confidence),
    )


def bound_optima(optima: Sequence[Optimum], *, confidence: float) -> dict[int, tuple[float | None, float | None]]:
    """Return the ends of the interval of each width's best log2 lr, None on a side that is open, or with one seed.

    As the drift has them: an optimum at an edge of its grid has a bound alone, others may be open to a side.
    """
    found = [optimum for optimum in optima if optimum.log2_lr is not None]
    if not found:
        return {}
    joint, known = fit_jointly([optimum.curve for optimum in found]), _known(found, confidence)
    ends: dict[int, tuple[float | None, float | None]] = {}
    for row, optimum in enumerate(found):
        low, high, *_ = _bounds(joint, known, np.eye(len(found))[row], confidence)
        at, floor = float(joint.log2_lr[row]), 0.0 if optimum.at_edge else grid_floor(optimum.curve)
        ends[optimum.width] = (
            None if low is None else min(low, at - floor),
            None if high is None else max(high, at + floor),
        )
    return ends


def n_apart(widths: Iterable[int]) -> int:
    """Return the number of widths, those less than SAME_WIDTH doublings above the last one counted not counted."""
    count, last = 0, -np.inf
    for log2_width in np.log2(sorted(set(widths))):
        if log2_width - last >= SAME_WIDTH:
            count, last = count + 1, log2_width
    return count


class _Known(NamedTuple):
    """What edges leave of optima, [width]: those at one are known by bounds alone, others may be open to a side."""

    at_edge: Bools
    bounds: Floats  # least and greatest log2 lr of those at an edge, [width, 2]
    is_open: Bools  # towards lower and higher lrs, of the others, [width, 2]


def _known(optima: Sequence[Optimum], confidence: float) -> _Known:
    bounds, is_open = np.zeros((len(optima), 2)), np.zeros((len(optima), 2), dtype=bool)
    for row, optimum in enumerate(optima):
        lowest = int(mean_curve(optimum.curve)[1].argmin())
        worse = [first_worse(optimum.curve, lowest, side, confidence) for side in (-1, 1)]
        is_open[row] = open_sides(optimum.curve, optimum.flags, confidence)
        sides = zip(worse, is_open[row], (-np.inf, np.inf), strict=True)
        bounds[row] = [end if is_side_open or known is None else known for known, is_side_open, end in sides]
    return _Known(np.array([optimum.at_edge for optimum in optima]), bounds, is_open)


def _bounds(
    joint: Joint, known: _Known, weights: Floats, confidence: float
) -> tuple[float | None, float | None, float | None, float | None]:
    """Interval of weights [width] @ optima, what of its half-width is no noise, and what of that is the grid's."""
    free = ~known.at_edge
    made = joint.interval(weights * free, confidence)
    if made is None:
        return None, None, None, None
    estimate, half, grid = made
    ends = [estimate - half, estimate + half]
    for row in np.flatnonzero(np.abs(weights) > 1e-9):
        if known.at_edge[row]:
            bounds = sorted(weights[row] * bound for bound in known.bounds[row])
        else:
            bounds = sorted(weights[row] * np.where(known.is_open[row], (-np.inf, np.inf), 0.0))
        ends = [end + bound for end, bound in zip(ends, bounds, strict=True)]
    low, high = (float(end) if np.isfinite(end) else None for end in ends)
    return low, high, grid, float(np.abs(weights * free) @ joint.rounding)


def _neighbours(
    found: Sequence[Optimum], joint: Joint, known: _Known, log2_width: Floats, confidence: float
) -> tuple[Neighbours, ...]:
    together = 1 - (1 - confidence) / (len(found) - 1)
    pairs = []
    for row in range(len(found) - 1):
        weights = np.zeros(len(found))
        weights[[row, row + 1]] = -1.0, 1.0
        weights /= log2_width[row + 1] - log2_width[row]
        low, high, *_ = _bounds(joint, known, weights, together)
        narrow, wide = found[row].width, found[row + 1].width
        pairs.append(Neighbours(narrow, wide, float(weights @ joint.log2_lr), low, high))
    return tuple(pairs)


def _off_line(
    found: Sequence[Optimum], joint: Joint, known: _Known, weights: Floats, confidence: float
) -> tuple[OffLine, ...]:
    """Each width's distance from the line of the slope weights [width] @ optima."""
    if len(found) < 3:
        return ()
    n = len(found)
    centred = weights / (weights @ weights)
    off = []
    for row, optimum in enumerate(found):
        residual = np.eye(n)[row] - 1 / n - centred[row] * weights
        interval = _bounds(joint, known, residual, confidence)
        off.append(OffLine(optimum.width, float(residual @ joint.log2_lr), *interval))
    return tuple(off)
