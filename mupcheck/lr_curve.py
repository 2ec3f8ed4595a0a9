"""One curve of loss against learning rate: its minimum, the interval of that minimum, and values between its points.

x is log2 lr, so distances are octaves; losses are nats per token. A diverged run is the worst outcome at its lr: one
is enough to make the mean over seeds +inf there, so that the seeds that survived cannot make that lr look good.

How the intervals are made. What varies is the seed: seeds are resampled with replacement and the whole estimate is
repeated on each resample. The interval is estimate +- t * sqrt(n / (n - 1)) * s, with s the root mean square distance
of the resampled estimates from the estimate, n the number of seeds and t Student's quantile for n - 1 degrees of
freedom. The square root undoes the bootstrap's variance, which is (n - 1) / n too small, and t pays for knowing s from
n seeds only. On simulated lopsided curves with 3 to 5 seeds a nominal 90% interval of the drift covers 86-98%;
bootstrap percentiles with the square root alone cover 68-88%. A part of that is repeated in tests/test_transfer.py. The
interval of one optimum covers as much where the seeds' noise dominates; it leaves out the bias of a parabola on a
lopsided curve, about 0.1 octave at one octave between lrs, which widths share and which the drift therefore loses.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# A grid finer than this (octaves) has five points where a coarser one has three, over the same range of lr.
FINE_SPACING = 0.75
N_RESAMPLES = 1000
RESAMPLE_SEED = 0


@dataclass(frozen=True)
class Point:
    """One lr of a curve. In `seed_losses` a diverged run has loss None, and a seed that was not run is absent."""

    log2_lr: float
    loss: float | None  # mean over seeds; None where any diverged or none ran
    n_diverged: int
    seed_losses: tuple[tuple[int, float | None], ...]  # (seed, loss)


def mean_curve(curve: Sequence[Point]) -> tuple[Floats, Floats]:
    """Return log2 lr [lr] and mean loss [lr], +inf where a seed diverged or none ran."""
    losses = [np.inf if point.loss is None else point.loss for point in curve]
    return np.array([point.log2_lr for point in curve]), np.array(losses)


def fit_minimum(x: Floats, losses: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit a parabola around the lowest point of each curve: through 3 points, or to 5 where the grid is fine.

    Args:
        x: log2 lr, rising, [lr].
        losses: [curve, lr]; may hold +inf.

    Returns:
        The vertex [curve], and whether the parabola opened upward. Where a neighbour of the lowest point is missing
        or not finite, and where the parabola does not open upward, the lowest point itself.
    """
    lowest = losses.argmin(axis=1)
    best, upward = x[lowest], np.ones(len(losses), dtype=bool)
    for i in range(1, len(x) - 1):
        for reach in (1, 2):  # the wider fit, where it can be had, replaces the narrower
            window = slice(max(i - reach, 0), i + reach + 1)
            near = x[window] - x[i]
            if len(near) < 2 * reach + 1 or (reach == 2 and np.diff(near).max() >= FINE_SPACING):
                continue
            rows = np.flatnonzero((lowest == i) & np.isfinite(losses[:, window]).all(axis=1))
            if len(rows) == 0:
                continue
            curvature, gradient, _ = np.polyfit(near, losses[rows, window].T, 2)
            up = curvature > 0
            upward[rows] = up
            vertex = x[i] - gradient[up] / (2 * curvature[up])
            best[rows[up]] = np.clip(vertex, x[i - 1], x[i + 1])
    return best, upward


def draw_seeds(n_seeds: int) -> Indices:
    """Resamples of the seeds, as indices [resample, seed]; the same at every call, so that widths are paired."""
    return np.random.default_rng(RESAMPLE_SEED).integers(n_seeds, size=(N_RESAMPLES, n_seeds))


def resample_minimum(curve: Sequence[Point], seeds: Sequence[int], draws: Indices) -> tuple[Floats, Indices]:
    """Minimum [resample] of the mean curve over each draw of `seeds`, and the index of its lowest point.

    A seed brings its losses at all lrs together. A cell that was not run is left out of its mean.
    """
    losses = np.full((len(seeds), len(curve)), np.nan)
    for column, point in enumerate(curve):
        for seed, loss in point.seed_losses:
            losses[seeds.index(seed), column] = np.inf if loss is None else loss
    drawn = losses[draws]  # [resample, seed, lr]
    ran = ~np.isnan(drawn)
    n_ran = ran.sum(axis=1)
    means = np.where(n_ran > 0, np.where(ran, drawn, 0.0).sum(axis=1) / np.maximum(n_ran, 1), np.inf)
    return fit_minimum(mean_curve(curve)[0], means)[0], means.argmin(axis=1)


def grid_rounding(curve: Sequence[Point]) -> float:
    """Standard deviation (octaves) of a minimum known only to its grid point: uniform over one grid step.

    0 where both neighbours of the lowest point are finite, so that a parabola places the minimum between them.
    """
    x, losses = mean_curve(curve)
    i = int(losses.argmin())
    neighbours = [j for j in (i - 1, i + 1) if 0 <= j < len(x)]
    if len(neighbours) == 2 and np.isfinite(losses[neighbours]).all():
        return 0.0
    return max((float(abs(x[j] - x[i])) for j in neighbours), default=0.0) / float(np.sqrt(12))


def interval(
    estimate: float, resampled: Floats, *, n_seeds: int, rounding: float, confidence: float
) -> tuple[float | None, float | None]:
    """Interval of an estimate from its values [resample] under resampled seeds; None, None with one seed.

    The top of this file says how. `rounding` is a standard deviation, independent of the seeds, to be added.
    """
    if n_seeds < 2:
        return None, None
    level = (1 + confidence) / 2
    spread = np.sqrt(np.mean((resampled - estimate) ** 2) * n_seeds / (n_seeds - 1))
    half = float(np.hypot(stats.t.ppf(level, n_seeds - 1) * spread, stats.norm.ppf(level) * rounding))
    return estimate - half, estimate + half


def loss_at(curve: Sequence[Point], log2_lr: float) -> float | None:
    """Mean loss between the points of a curve, on the parabola through the nearest three that are finite.

    A straight line where there are only two. Never extrapolated: None outside the grid and next to a diverged lr.
    """
    x, losses = mean_curve(curve)
    nearest = int(np.abs(x - log2_lr).argmin())
    if np.isclose(x[nearest], log2_lr, rtol=0, atol=1e-9):
        return curve[nearest].loss
    above = int(np.searchsorted(x, log2_lr))
    if above in (0, len(x)) or not np.isfinite(losses[above - 1 : above + 1]).all():
        return None
    for centre in sorted((above - 1, above), key=lambda i: abs(x[i] - log2_lr)):
        window = slice(max(centre - 1, 0), centre + 2)
        if len(x[window]) == 3 and np.isfinite(losses[window]).all():
            parabola = np.polyfit(x[window] - x[centre], losses[window], 2)
            return float(np.polyval(parabola, log2_lr - x[centre]))
    return float(np.interp(log2_lr, x[above - 1 : above + 1], losses[above - 1 : above + 1]))


def lr_sensitivity(curve: Sequence[Point], initial_loss: float) -> float | None:
    """Mean over the grid of min(L(x), L_init) - min L, in nats, seeds pooled (arXiv:2309.14322).

    A diverged run counts as L_init. Curves compare only where they share a grid. None without a finite minimum.
    """
    _, losses = mean_curve(curve)
    if not np.isfinite(losses).any():
        return None
    capped = [
        np.mean([initial_loss if loss is None else min(loss, initial_loss) for _, loss in point.seed_losses])
        for point in curve
        if point.seed_losses
    ]
    return float(np.mean(capped) - losses.min())


def divergence_threshold(curve: Sequence[Point]) -> float | None:
    """Smallest log2 lr at which at least half of the seeds diverged; None where there is none."""
    diverged = (p.log2_lr for p in curve if p.n_diverged > 0 and 2 * p.n_diverged >= len(p.seed_losses))
    return next(diverged, None)
