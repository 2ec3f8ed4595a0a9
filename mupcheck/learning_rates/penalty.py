"""Two widths side by side: what one's best learning rate costs the other, and how far their loss curves agree.

Losses are nats per token. Source: theory.md section 6. Intervals are over seeds, the same seeds drawn at both widths.
On simulated lopsided curves (3 and 5 seeds; noise shared by widths, of a width, of a run) a nominal 90% interval
of the agreement covers 88-93%, one of the penalty 93-95% without drift and 81-92% with it: where seeds leave little
noise, the bias of a parabola on a lopsided curve shows, 0.1 octave in the lr that is carried over. A part of that is
repeated in tests/learning_rates/test_penalty.py, on curves without that bias.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mupcheck.learning_rates.lr_curve import (
    Floats,
    Point,
    grid_floor,
    interpolate,
    interval,
    loss_at,
)
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.resample import Resampled, resample_curves

MIN_SHARED_LRS = 3  # fewer points have no shape to agree in


@dataclass(frozen=True)
class Penalty:
    """What it costs to train width `target` at the optimum of width `source`: L_target(x*_source) - min L_target."""

    source: int
    target: int
    nats: float | None
    percent: float | None  # of min L_target
    reason: str  # why there is no number or no interval, else empty
    ci_low: float | None = None  # nats
    ci_high: float | None = None


@dataclass(frozen=True)
class Agreement:
    """How far the curves of two widths, each less its own minimum, lie apart: the rms over the lrs both have."""

    narrow: int
    wide: int
    rms: float | None  # nats
    ci_low: float | None
    ci_high: float | None
    n_lrs: int  # at which no seed of either diverged
    reason: str  # why there is no number or no interval, else empty


def find_penalties(optima: Sequence[Optimum], *, confidence: float) -> tuple[Penalty, ...]:
    """Return the penalty of every source with every target, from the mean curves; 0 on the diagonal by definition.

    None where the optimum of source or target lies at the edge of its grid: where it is beyond is not known, nor what
    it costs, not even at its own width.
    The interval is made for the signed square root of the penalty, which around an optimum is as normal as the distance
    between the two optima is, and squared again: the penalty itself has a floor at 0.
    """
    n_seeds, resampled = resample_curves([optimum.curve for optimum in optima])
    pairs = list(zip(optima, resampled, strict=True))
    return tuple(
        _penalty(source, target, source_draws, target_draws, n_seeds, confidence)
        for source, source_draws in pairs
        for target, target_draws in pairs
    )


def find_agreements(optima: Sequence[Optimum], *, confidence: float) -> tuple[Agreement, ...]:
    """Return the agreement of every two widths. Curves that only lie side by side, shifted in lr, do not agree."""
    n_seeds, resampled = resample_curves([optimum.curve for optimum in optima])
    pairs = combinations(list(zip(optima, resampled, strict=True)), 2)
    return tuple(_agreement(*narrow, *wide, n_seeds, confidence) for narrow, wide in pairs)


def _penalty(
    source: Optimum, target: Optimum, source_draws: Resampled, target_draws: Resampled, n_seeds: int, confidence: float
) -> Penalty:
    """Penalty of one pair; without a number where it would have to be extrapolated."""
    ends = source.width, target.width
    if source.log2_lr is None or target.log2_lr is None or target.loss is None:
        return Penalty(*ends, None, None, f"width {ends[source.log2_lr is not None]} has no optimum")
    if beyond := [optimum.width for optimum in (source, target) if optimum.at_edge]:
        return Penalty(*ends, None, None, f"the optimum of width {beyond[0]} is at the edge of its lr grid")
    if source is target:
        return Penalty(*ends, 0.0, 0.0, "", 0.0, 0.0)
    loss = loss_at(target.curve, source.log2_lr)
    if loss is None:
        inside = target.curve[0].log2_lr <= source.log2_lr <= target.curve[-1].log2_lr
        reason = f"width {target.width} diverges around it" if inside else f"outside the lrs of width {target.width}"
        return Penalty(*ends, None, None, reason)
    nats = max(loss - target.loss, 0.0)  # a parabola through other points can dip a little below the minimum
    root = _signed_root(np.array([nats]), np.array([source.log2_lr - target.log2_lr]))[0]
    at_source = interpolate(target_draws.x, target_draws.losses, source_draws.minima)
    roots = _signed_root(at_source - target_draws.lowest, source_draws.minima - target_draws.minima)
    floor = _root_floor(source, target)
    low, high = interval(root, roots, n_seeds=n_seeds, rounding=0.0, confidence=confidence, floor=floor)
    percent = 100 * nats / target.loss if target.loss > 0 else None  # of nothing, nothing is a percent
    if low is None or high is None:
        reason = "one seed" if n_seeds < 2 else f"width {target.width} diverges close to it"
        return Penalty(*ends, nats, percent, f"no interval: {reason}")
    least = 0.0 if low <= 0 <= high else min(low**2, high**2)
    return Penalty(*ends, nats, percent, "", least, max(low**2, high**2))


def _root_floor(source: Optimum, target: Optimum) -> float:
    """Return the root of what it costs the target to be off by as much as the grid leaves open of both optima."""
    if target.log2_lr is None or target.loss is None:
        return 0.0
    octaves = float(np.hypot(grid_floor(source.curve), grid_floor(target.curve)))
    losses = (loss_at(target.curve, target.log2_lr + sign * octaves) for sign in (-1, 1))
    rises = [loss - target.loss for loss in losses if loss is not None]
    return max(0.0, *rises, 0.0) ** 0.5


def _signed_root(nats: Floats, octaves: Floats) -> Floats:
    """Square root of a penalty, with the sign of the way from the target's optimum to the source's."""
    return np.sign(octaves) * np.sqrt(np.maximum(nats, 0.0))


def _agreement(
    narrow: Optimum, narrow_draws: Resampled, wide: Optimum, wide_draws: Resampled, n_seeds: int, confidence: float
) -> Agreement:
    ends = narrow.width, wide.width
    wide_points = {point.log2_lr: point for point in wide.curve}
    shared = [x for x, loss in _finite(narrow.curve) if wide_points.get(x, _NOT_RUN).loss is not None]
    if len(shared) < MIN_SHARED_LRS or narrow.loss is None or wide.loss is None:
        reason = f"{len(shared)} lrs without divergence at both widths, {MIN_SHARED_LRS} are needed; add lrs they share"
        return Agreement(*ends, None, None, None, len(shared), reason)
    rises = [np.array([dict(_finite(optimum.curve))[x] for x in shared]) - optimum.loss for optimum in (narrow, wide)]
    gap = rises[1] - rises[0]
    drawn = [draws.losses[:, np.isin(draws.x, shared)] - draws.lowest[:, None] for draws in (narrow_draws, wide_draws)]
    rms = float(np.sqrt(np.mean(gap**2)))
    with np.errstate(invalid="ignore"):  # where a resample has no seed that was run
        apart = drawn[1] - drawn[0]
    low, high = _distance_interval(gap, apart, n_seeds, confidence)
    return Agreement(*ends, rms, low, high, len(shared), "" if low is not None else "no interval: one seed")


def _distance_interval(
    gap: Floats, resampled: Floats, n_seeds: int, confidence: float
) -> tuple[float | None, float | None]:
    """Interval of the rms of a difference of curves [lr], from its values [resample, lr] under resampled seeds.

    By the triangle inequality the rms is off by no more than the rms of the error of the difference, whose size the
    resamples tell: noise, which only ever adds to an rms, does not make equal curves look unequal.
    """
    error = np.sqrt(np.mean((resampled - gap) ** 2, axis=1))
    rms = float(np.sqrt(np.mean(gap**2)))
    low, high = interval(rms, rms + error, n_seeds=n_seeds, rounding=0.0, confidence=confidence)
    return (None if low is None else max(low, 0.0)), high


def _finite(curve: Sequence[Point]) -> list[tuple[float, float]]:
    return [(point.log2_lr, point.loss) for point in curve if point.loss is not None]


_NOT_RUN = Point(float("nan"), None, 0, ())
