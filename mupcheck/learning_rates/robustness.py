"""How much a wrong learning rate costs at each width, and from which one on training diverges.

Source: Wortsman et al., arXiv:2309.14322 (lr sensitivity); theory.md section 6. Distances are octaves of lr, losses
nats per token. Intervals are over seeds, made as `lr_curve` says. In simulations with 3 and 5 seeds a nominal 90%
interval of the sensitivity covers 89-92%, one of the threshold's drift 99%: it allows for a threshold anywhere in its
grid step, which is most of it. A sensitivity is a mean of rises above a minimum and never below 0, so its interval is
cut there, which loses no coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mupcheck.learning_rates.lr_curve import Floats, Point, draw_seeds, interval
from mupcheck.learning_rates.optimum import Optimum

Bounds = tuple[float | None, float | None]


@dataclass(frozen=True)
class Divergence:
    """Log2 lr from which at least half of the seeds diverged, by width; None where none did: it lies above the grid.

    The threshold itself lies in `brackets`, between the highest lr below it and that lr.
    """

    log2_lr: tuple[float | None, ...]
    brackets: tuple[Bounds, ...]  # the lower end None where already the lowest lr diverged
    slope: float | None  # octaves per doubling of width, of the brackets' middles; None unless every width has one
    ci_low: float | None
    ci_high: float | None
    reason: str  # why there is no slope or no interval, else empty


def common_lrs(optima: Sequence[Optimum]) -> list[float]:
    """Return the log2 lrs that all widths were run at: refined ones crowd around an optimum and would weigh it more."""
    return sorted(set.intersection(*({point.log2_lr for point in optimum.curve} for optimum in optima)))


def lr_sensitivity(curve: Sequence[Point], initial_loss: float, lrs: Sequence[float] | None = None) -> float | None:
    """Mean over lrs of min(L(x), L_init) - min L, in nats, seeds pooled (arXiv:2309.14322).

    A diverged run counts as L_init; where that is not known (inf), there is no value if any diverged. Curves compare
    only over the same `lrs` (default: all of the curve); the minimum is of those. None without a finite one.
    """
    points = [point for point in curve if point.seed_losses and (lrs is None or point.log2_lr in lrs)]
    means = [float(np.mean(list(_capped(point, initial_loss).values()))) for point in points]
    finite = [mean for point, mean in zip(points, means, strict=True) if point.loss is not None]
    return float(np.mean(means) - min(finite)) if finite and np.isfinite(means).all() else None


def sensitivity_interval(
    curve: Sequence[Point], initial_loss: float, lrs: Sequence[float], *, confidence: float
) -> Bounds:
    """Interval of `lr_sensitivity`; None, None where it has no value or there is one seed."""
    estimate = lr_sensitivity(curve, initial_loss, lrs)
    points = [point for point in curve if point.log2_lr in lrs]
    seeds = sorted(set.intersection(*({seed for seed, _ in point.seed_losses} for point in points))) if points else []
    if estimate is None or not seeds:
        return None, None
    draws = draw_seeds(len(seeds))
    capped = [_capped(point, initial_loss) for point in points]
    losses = np.array([[of[seed] for of in capped] for seed in seeds])[draws].mean(axis=1)  # [resample, lr]
    # as in the estimate, an lr at which any seed diverged is no minimum, whichever seeds were drawn
    finite = [i for i, point in enumerate(points) if point.loss is not None]
    resampled = losses.mean(axis=1) - losses[:, finite].min(axis=1)
    low, high = interval(estimate, resampled, n_seeds=len(seeds), rounding=0.0, confidence=confidence)
    return (None if low is None else max(low, 0.0)), high


def divergence_threshold(curve: Sequence[Point]) -> float | None:
    """Smallest log2 lr at which at least half of the seeds diverged; None where there is none."""
    diverged = (p.log2_lr for p in curve if p.n_diverged > 0 and 2 * p.n_diverged >= len(p.seed_losses))
    return next(diverged, None)


def fit_divergence(optima: Sequence[Optimum], *, confidence: float) -> Divergence:
    """Fit how the divergence threshold moves with width, by least squares on the middles of its brackets.

    A width that did not diverge has its threshold somewhere above its grid, and a slope without it would be biased, so
    there is none. The interval counts seeds, and that a threshold may lie anywhere in its bracket.
    """
    thresholds = tuple(divergence_threshold(optimum.curve) for optimum in optima)
    brackets = tuple(_bracket(o.curve, at) for o, at in zip(optima, thresholds, strict=True))
    ends = list(zip(optima, brackets, strict=True))
    beyond = [o for o, (_, high) in ends if high is None]
    below = [str(o.width) for o, (low, high) in ends if low is None and high is not None]
    stopped = [str(o.width) for o in optima if any(point.n_stopped for point in o.curve)]
    reason = ""
    if stopped:
        reason = f"width {', '.join(stopped)} has runs that were stopped, which may have diverged later"
    elif beyond:
        widths, highest = ", ".join(str(o.width) for o in beyond), min(o.curve[-1].log2_lr for o in beyond)
        reason = f"no divergence on the grid at width {widths}; the threshold lies above 2^{highest:.4g}"
    elif below:
        reason = f"the lowest lr diverges at width {', '.join(below)}; add lower lrs"
    elif len(optima) < 2:
        reason = "one width has no slope; add widths"
    if reason:
        return Divergence(thresholds, brackets, None, None, None, reason)
    known = np.array(brackets, dtype=float)
    log2_width = np.log2([optimum.width for optimum in optima])
    centred = log2_width - log2_width.mean()
    weights = centred / (centred @ centred)
    slope = float(weights @ known.mean(axis=1))
    rounding = float(np.linalg.norm(weights * np.diff(known)[:, 0]) / np.sqrt(12))  # uniform over a bracket
    middles = _resample_middles(optima)
    n_seeds = max(optimum.n_seeds for optimum in optima)
    low, high = interval(slope, middles @ weights, n_seeds=n_seeds, rounding=rounding, confidence=confidence)
    if low is None:
        reason = (
            "one seed; add seeds" if n_seeds < 2 else "only some draws of the seeds diverge at every width; add lrs"
        )
    return Divergence(thresholds, brackets, slope, low, high, reason)


def _capped(point: Point, initial_loss: float) -> dict[int, float]:
    return {seed: initial_loss if loss is None else min(loss, initial_loss) for seed, loss in point.seed_losses}


def _bracket(curve: Sequence[Point], threshold: float | None) -> Bounds:
    below = [point.log2_lr for point in curve if threshold is None or point.log2_lr < threshold]
    return (below[-1] if below else None), threshold


def _resample_middles(optima: Sequence[Optimum]) -> Floats:
    """Middle [resample, width] of the threshold's bracket under resampled seeds, NaN where it is not on the grid."""
    seeds = sorted({seed for optimum in optima for point in optimum.curve for seed, _ in point.seed_losses})
    draws = draw_seeds(len(seeds))
    middles = np.full((len(draws), len(optima)), np.nan)
    for column, optimum in enumerate(optima):
        x = np.array([point.log2_lr for point in optimum.curve])
        died = np.array([[dict(p.seed_losses).get(seed, 0.0) is None for p in optimum.curve] for seed in seeds])
        half = died[draws].mean(axis=1) >= 0.5  # [resample, lr]
        at = half.argmax(axis=1)
        found = half.any(axis=1) & (at > 0)
        middles[found, column] = (x[at[found]] + x[at[found] - 1]) / 2
    return middles
