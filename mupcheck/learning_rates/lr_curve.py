"""One curve of loss against learning rate: its minimum, the interval of that minimum, and values between its points.

x is log2 lr, so distances are octaves; losses are nats per token. A diverged run is the worst outcome at its lr: one
is enough to make the mean over seeds +inf there, so that the seeds that survived cannot make that lr look good. A
stopped run (training/halving.py) was far above the best one when it was given up, and counts alike.

How intervals of what has no derivative are made (costs, agreement, thresholds; `joint_fit` has those of optima and of
their drift). What varies is the seed: seeds are resampled with replacement and the whole estimate is repeated on each
resample. The interval is estimate +- t * sqrt(n / (n - 1)) * s, with s the root mean square distance of the resampled
estimates from the estimate, n the number of seeds and t Student's quantile for n - 1 degrees of freedom. The square
root undoes the bootstrap's variance, which is (n - 1) / n too small, and t pays for knowing s from n seeds only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isfinite
from operator import itemgetter

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.learning_rates.quantiles import normal_ppf, t_ppf

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Where a refinement looks next: a parabola through all points nearer to the lowest one than this (octaves), and through
# its two neighbours. Through the nearest three alone, a curve refined to a quarter octave would look where noise is.
FIT_OCTAVES = 1.5
N_RESAMPLES = 1000
RESAMPLE_SEED = 0
SAME_LR = 1e-9  # octaves
# Octaves by which the minimum of one curve may be off however well seeds agree: a parabola through points an octave
# apart is, where the third derivative is some 0.7 of the second, by a sixth of that. It grows as the spacing squared.
FIT_BIAS = 0.1


@dataclass(frozen=True)
class Point:
    """One lr of a curve. In `seed_losses` a diverged or stopped run has None, and a seed that was not run is absent."""

    log2_lr: float
    loss: float | None  # mean over seeds; None where any has none or none ran
    n_diverged: int
    seed_losses: tuple[tuple[int, float | None], ...]  # (seed, loss)
    n_stopped: int = 0

    @property
    def n_lost(self) -> int:
        """Number of seeds without a loss."""
        return self.n_diverged + self.n_stopped


def curve_of(cells: pd.DataFrame, loss_name: str) -> tuple[Point, ...]:
    """Curve of one width. A finished run without a finite loss counts as diverged; a failed run was not run."""
    # in lists: of a handful of rows pandas takes many times as long to choose some
    lrs, seeds, statuses = (cells[name].tolist() for name in ("log2_lr", "seed", "status"))
    losses = cells[loss_name].astype(float).tolist()
    by_lr: dict[float, list[tuple[int, str, float]]] = {log2_lr: [] for log2_lr in sorted(set(lrs))}
    for log2_lr, seed, status, loss in zip(lrs, seeds, statuses, losses, strict=True):
        if status != "failed":
            by_lr[log2_lr].append((int(seed), status, loss))
    points = []
    for log2_lr, ran in by_lr.items():
        ran.sort(key=itemgetter(0))
        finite = [loss if status == "ok" and isfinite(loss) else None for _, status, loss in ran]
        known = [loss for loss in finite if loss is not None]
        mean = float(np.mean(known)) if known and len(known) == len(finite) else None
        seed_losses = tuple((seed, loss) for (seed, _, _), loss in zip(ran, finite, strict=True))
        n_stopped = sum(status == "stopped" for _, status, _ in ran)
        points.append(Point(float(log2_lr), mean, len(finite) - len(known) - n_stopped, seed_losses, n_stopped))
    return tuple(points)


def mean_curve(curve: Sequence[Point]) -> tuple[Floats, Floats]:
    """Return log2 lr [lr] and mean loss [lr], +inf where a seed diverged or none ran."""
    losses = [np.inf if point.loss is None else point.loss for point in curve]
    return np.array([point.log2_lr for point in curve]), np.array(losses)


def lowest_below_divergence(curve: Sequence[Point]) -> int | None:
    """Return which lr is the best below one that diverged, where the best of all lies above that.

    What trains above an lr that diverges may do so by chance, and the best lr then lies below both: at the minimum that
    those further down have, or below them all (0). None where nothing diverged below the best lr, or where the loss
    falls from lr to lr up to what did, as it does around one minimum. An lr whose runs were stopped is worse, no more.
    """
    losses = mean_curve(curve)[1]
    for diverged in (i for i in range(losses.argmin()) if curve[i].n_diverged):
        trained = np.flatnonzero(np.isfinite(losses[:diverged]))
        if len(trained) < 2 or losses[:diverged].argmin() != trained[-1]:
            return int(losses[:diverged].argmin()) if len(trained) else 0
    return None


def fit_minimum(x: Floats, losses: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """Fit a parabola around the lowest point of each curve, through the points within FIT_OCTAVES of it.

    Args:
        x: log2 lr, rising, [lr].
        losses: [curve, lr]; may hold +inf, and no point beyond one is fitted.

    Returns:
        The vertex [curve], within the points fitted, and whether the parabola opened upward. Where a neighbour of the
        lowest point is missing or not finite, and where the parabola does not open upward, the lowest point itself.
    """
    rows = np.arange(len(losses))
    lowest = losses.argmin(axis=1)
    best, upward = x[lowest].astype(float), np.ones(len(losses), dtype=bool)
    holes = np.cumsum(~np.isfinite(losses), axis=1)
    connected = np.isfinite(losses) & (holes == holes[rows, lowest][:, None])  # to the lowest point, without a hole
    beside = np.abs(np.arange(len(x)) - lowest[:, None]) <= 1
    between = (connected & beside).sum(axis=1) == 3
    if not between.any():
        return best, upward
    near = (x - best[:, None])[between]  # [curve, lr]
    fitted = (connected & (beside | (np.abs(x - best[:, None]) < FIT_OCTAVES)))[between]
    rise = np.where(fitted, losses[between] - losses[rows, lowest][between, None], 0.0)
    powers = near[:, :, None] ** np.arange(3) * fitted[:, :, None]  # [curve, lr, coefficient]
    normal = powers.transpose(0, 2, 1) @ powers
    _, gradient, curvature = np.linalg.solve(normal, powers.transpose(0, 2, 1) @ rise[:, :, None])[:, :, 0].T
    up = curvature > 0
    vertex = -gradient[up] / (2 * curvature[up])
    ends = np.where(fitted, near, 0.0)[up]
    upward[between] = up
    best[np.flatnonzero(between)[up]] += np.clip(vertex, ends.min(axis=1), ends.max(axis=1))
    return best, upward


def draw_seeds(n_seeds: int) -> Indices:
    """Resamples of the seeds, as indices [resample, seed]; the same at every call, so that widths are paired."""
    return np.random.default_rng(RESAMPLE_SEED).integers(n_seeds, size=(N_RESAMPLES, n_seeds))


def resample_losses(curve: Sequence[Point], seeds: Sequence[int], draws: Indices) -> Floats:
    """Mean curve [resample, lr] of each draw of `seeds`, +inf where a drawn seed diverged or none ran.

    A seed brings its losses at all lrs together. A cell that was not run is left out of its mean.
    """
    losses = np.full((len(seeds), len(curve)), np.nan)
    for column, point in enumerate(curve):
        for seed, loss in point.seed_losses:
            losses[seeds.index(seed), column] = np.inf if loss is None else loss
    drawn = losses[draws]  # [resample, seed, lr]
    ran = ~np.isnan(drawn)
    n_ran = ran.sum(axis=1)
    return np.where(n_ran > 0, np.where(ran, drawn, 0.0).sum(axis=1) / np.maximum(n_ran, 1), np.inf)


def first_worse(curve: Sequence[Point], lowest: int, side: int, confidence: float) -> float | None:
    """Return the log2 lr next to the lowest point, below (-1) or above (1), that is worse beyond the seeds' noise.

    By Student's t over the seeds, each compared with itself: the order of its batches moves all its losses alike. A
    diverged lr is worse. Of a curve with one minimum, that minimum lies on this side of it. None where there is none.
    """
    best = dict(curve[lowest].seed_losses)

    def is_worse(point: Point) -> bool:
        if point.n_lost:
            return True
        pairs = [(loss, best.get(seed)) for seed, loss in point.seed_losses]
        rises = np.array([loss - at_best for loss, at_best in pairs if loss is not None and at_best is not None])
        if len(rises) < 2:
            return False
        error = rises.std(ddof=1) / np.sqrt(len(rises))
        return bool(rises.mean() > t_ppf((1 + confidence) / 2, len(rises) - 1) * error)

    points = curve[lowest + 1 :] if side > 0 else curve[:lowest][::-1]
    return next((point.log2_lr for point in points if is_worse(point)), None)


def grid_floor(curve: Sequence[Point]) -> float:
    """Least half-width (octaves) of a minimum's interval, however well the seeds agree.

    FIT_BIAS for the spread of the points that the parabola goes through; half a grid step where seeds are copies of one
    another, which say nothing of the noise. 0 where no lr lies on one side, or a diverged one.
    """
    x, losses = mean_curve(curve)
    i = int(losses.argmin())
    if not 0 < i < len(x) - 1 or not np.isfinite(losses[i - 1 : i + 2]).all():
        return 0.0
    if copied_seeds(curve):
        return float(max(x[i] - x[i - 1], x[i + 1] - x[i])) / 2
    ahead = np.abs(x - x[i])
    fitted = ahead[np.isfinite(losses) & ((ahead < FIT_OCTAVES) | (np.abs(np.arange(len(x)) - i) <= 1))]
    return FIT_BIAS * float(np.sum(fitted**4) / np.sum(fitted**2))


def copied_seeds(curve: Sequence[Point]) -> tuple[int, ...]:
    """Return the seeds that have the losses of another one at every lr both ran, to the last bit; () where none do."""
    by_seed: dict[int, dict[float, float | None]] = {}
    alike: dict[tuple[float, float], list[int]] = {}
    for point in curve:
        for seed, loss in point.seed_losses:
            by_seed.setdefault(seed, {})[point.log2_lr] = loss
            if loss is not None:  # runs that diverged are alike in that alone
                alike.setdefault((point.log2_lr, loss), []).append(seed)
    copies = set()
    for one, other in {pair for seeds in alike.values() for pair in combinations(seeds, 2)}:
        shared = by_seed[one].keys() & by_seed[other].keys()
        if all(by_seed[one][x] == by_seed[other][x] for x in shared):
            copies |= {one, other}
    return tuple(sorted(copies))


def interval(
    estimate: float, resampled: Floats, *, n_seeds: int, rounding: float, confidence: float, floor: float = 0.0
) -> tuple[float | None, float | None]:
    """Interval of an estimate from its values [resample] under resampled seeds; None, None with one seed.

    The top of this file says how. `rounding` is a standard deviation, independent of the seeds, to be added, and
    `floor` the least half-width. None, None also where more resamples have no number than the interval may leave out on
    one side.
    """
    known = resampled[np.isfinite(resampled)]
    level = (1 + confidence) / 2
    if n_seeds < 2 or len(known) < level * len(resampled):
        return None, None
    spread = np.sqrt(np.mean((known - estimate) ** 2) * n_seeds / (n_seeds - 1))
    half = float(np.hypot(t_ppf(level, n_seeds - 1) * spread, normal_ppf(level) * rounding))
    half = max(half, floor)
    return estimate - half, estimate + half


def loss_at(curve: Sequence[Point], log2_lr: float) -> float | None:
    """Mean loss at a log2 lr, as `interpolate` has it; None where there is none."""
    x, losses = mean_curve(curve)
    loss = float(interpolate(x, losses[None], np.array([log2_lr]))[0])
    return loss if np.isfinite(loss) else None


def interpolate(x: Floats, losses: Floats, at: Floats) -> Floats:
    """Loss [curve] of each curve at its own log2 lr, on the parabola through the nearest three points that are finite.

    A straight line where there are only two. Never extrapolated: NaN outside the grid and next to a diverged lr.

    Args:
        x: log2 lr, rising, [lr].
        losses: [curve, lr]; may hold +inf.
        at: log2 lr, [curve].
    """
    rows, last = np.arange(len(losses)), len(x) - 1
    known = np.where(np.isfinite(losses), losses, np.nan)
    nearest = np.abs(x - at[:, None]).argmin(axis=1)
    on_point = np.abs(x[nearest] - at) < SAME_LR
    if last == 0:
        return np.where(on_point, known[rows, nearest], np.nan)
    above = np.clip(np.searchsorted(x, at), 1, last)
    below = above - 1
    left, right = known[rows, below], known[rows, above]
    share = (at - x[below]) / (x[above] - x[below])
    line = left + share * (right - left)
    other = np.where(nearest == above, below, above)
    bend = np.full(len(losses), np.nan)
    for centre in (other, nearest):  # the nearer point as the middle one, where that can be had
        first = np.clip(centre - 1, 0, max(last - 2, 0))
        if last < 2:
            break
        x0, x1, x2 = (x[first + i] for i in range(3))
        y0, y1, y2 = (known[rows, first + i] for i in range(3))
        second = ((y2 - y1) / (x2 - x1) - (y1 - y0) / (x1 - x0)) / (x2 - x0)
        middle = (centre > 0) & (centre < last)
        bend = np.where(middle & np.isfinite(second), second, bend)
    between = line + np.where(np.isfinite(bend), bend, 0.0) * (at - x[below]) * (at - x[above])
    inside = (at > x[0]) & (at < x[-1])
    return np.where(on_point, known[rows, nearest], np.where(inside, between, np.nan))
