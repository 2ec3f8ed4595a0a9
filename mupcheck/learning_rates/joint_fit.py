"""The minima of the loss curves of several widths, fitted together: one lopsidedness for all, unless widths differ.

Around its minimum c a curve is a + b ((x - c)^2 + k (x - c)^3). Height a, bend b and place c are each width's own, the
lopsidedness k is one for all: losses of several widths pin it down, and an error in it moves all minima alike, which a
drift does not see. Each loss counts by an Epanechnikov weight that is 0 from REACH octaves off the minimum on, so that
where the minimum lies between the lrs of a grid hardly matters, and no loss beyond a diverged lr counts.

Simulated (three widths, lrs an octave apart, 5 seeds with 0.027 nats a run, 0.1 octaves a seed and as much again a
seed and width), the slope of three minima has a standard deviation of 0.055 and a bias below 0.006 on
symmetric and on lopsided curves at drifts of 0 to -1; with a parabola through the lowest three losses it is 0.12, with
a lopsidedness of each width's own 0.10.

How intervals are made: the minima are smooth functions of the losses, so the shares that seeds have in them are read
off their derivatives (the infinitesimal jackknife; numerically, all derivatives in one batch of fits). Contrasts
between widths are pooled, each over the variance that the noise of its losses would give it, so that n seeds and W
widths have (n - 1)(W - 1) degrees of freedom and not n - 1. Widths that show no other noise than their neighbours count
as equally noisy (`width_noise`); where they do, what is not known of that costs degrees of freedom. With equal noise
the slope's half-width is as good as unchanged by asking (0.087, simulated with 6 seeds); runs of the middle width twice
as noisy, which the slope does not depend on, make it 0.094 and not 0.112.

What seeds cannot show is that widths differ in lopsidedness: what is allowed for, and from when on each width has its
own, is in `lopsided`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from mupcheck.learning_rates.cubic import MOST_LOPSIDED, Bools, Floats, Minima, around, reach, settle
from mupcheck.learning_rates.lopsided import BEYOND_NOISE, QUARTIC, own_ways
from mupcheck.learning_rates.lr_curve import Indices, Point, first_worse, mean_curve
from mupcheck.learning_rates.quantiles import chi2_ppf, f_ppf, normal_ppf, t_ppf
from mupcheck.learning_rates.width_noise import WidthNoise, noise_of_widths
from mupcheck.results.comparable import CONFIDENCE

# Octaves (standard deviation) by which a minimum is off where a diverged lr lies within its reach: the loss steepens
# within an octave there, which no cubic follows. Simulated without noise, a wall half an octave above the minimum.
WALL_ERROR = 0.06
STEP = 1e-4  # nats, for derivatives


@dataclass(frozen=True)
class Joint:
    """The fit of all widths, and what it is worth.

    Attributes:
        log2_lr: of the minimum, [width]; the lowest lr that was run where the fit places none.
        placed: whether the fit does, [width].
        shares: what each seed adds to the minima's mean, [seed, width], of mean 0 over seeds.
        loads: derivatives of the minima by the mean losses, [width, loss].
        of_width: the width of each of these losses, [loss].
        noise: of the losses of each width, next to one another.
        rounding: how far off a minimum may be that is known to its grid point only, [width]; 0 where placed.
        wall: standard deviation for a diverged lr within reach, [width].
        own_part: how far the lopsidedness of each is its own, [width]: 0 where the shared one, 1 where its own alone.
        quartic: octaves by which the minima of widths that go their own way may be off, as no cubic follows a curve
            that is exponential on either side, [width]; with a shared lopsidedness they are so together.
        by_lopsided: derivatives of the minima by each width's lopsidedness, [width, width].
        spread: standard deviation of lopsidedness between widths that is allowed for, per octave.
        misfit: standard deviation by which the curves are no such cubics beyond the seeds' noise, nats.
        upward: whether a curve bends upward where it was fitted, and by more than its seeds undo, [width].
    """

    log2_lr: Floats
    placed: Bools
    shares: Floats
    loads: Floats
    of_width: Indices
    noise: WidthNoise
    rounding: Floats
    wall: Floats
    own_part: Floats
    quartic: Floats
    by_lopsided: Floats
    spread: float
    misfit: float
    lopsided: Floats
    upward: Bools

    def interval(self, weights: Floats, confidence: float) -> tuple[float, float, float] | None:
        """Return estimate, half-width and the part of that which is no seeds' noise, of weights [width] @ minima.

        None with one seed.
        """
        n_seeds = len(self.shares)
        if n_seeds < 2:
            return None
        level = (1 + confidence) / 2
        variance, freedom = self._variance(weights)
        by_shape = weights @ self.by_lopsided * self.spread, [weights @ self.quartic]
        by_fit = weights @ self.loads * self.misfit, weights * self.wall
        model_half = float(normal_ppf(level) * np.linalg.norm(np.concatenate([*by_shape, *by_fit])))
        bound = float(np.abs(weights) @ self.rounding)
        half = float(np.hypot(t_ppf(level, freedom) * np.sqrt(variance), model_half)) + bound
        return float(weights @ self.log2_lr), half, model_half + bound

    def _variance(self, weights: Floats) -> tuple[float, float]:
        """Variance of weights @ minima by the seeds, and its degrees of freedom; contrasts of widths are pooled."""
        n_seeds = len(self.shares)
        own = weights * self.placed
        contrasts = np.stack([own] if not own.any() or abs(own.sum()) > 1e-9 else _contrasts(own, self.placed))
        owner = self.of_width[:, None] == np.arange(len(weights))
        by_width = (contrasts @ self.loads) ** 2 @ owner * self.noise.variance  # [contrast, width]
        known = by_width.sum(axis=1) > 0
        if not known[0]:
            return 0.0, n_seeds - 1
        contrasts, by_width = contrasts[known], by_width[known]
        expected = by_width.sum(axis=1)
        ratios = np.sum((contrasts @ self.shares.T) ** 2, axis=1) / (n_seeds - 1) / expected
        # Relative variance of their mean: by the seeds, where contrasts go together as widths differ in noise (as their
        # curves differ in bend they do too; intervals that count it cover no better), and by what is not known of
        # widths' noise, which the contrasts are brought to that of `weights` by.
        together = (contrasts * self.noise.variance) @ contrasts.T
        together /= np.sqrt(np.outer(np.diag(together), np.diag(together)))
        brought = (by_width[0] / expected[0] - by_width / expected[:, None]).mean(axis=0)
        relative = 2 / (n_seeds - 1) * np.mean(together**2) + float(brought**2 @ (2 / self.noise.freedom))
        return float(ratios.mean() * expected[0]) / n_seeds, 2 / float(relative)


def _contrasts(weights: Floats, placed: Bools) -> list[Floats]:
    """Weights, and an orthonormal basis of the other contrasts between the widths that are placed."""
    n = int(placed.sum())
    if n < 3:
        return [weights]
    rows = np.stack([placed / np.sqrt(n), weights / np.linalg.norm(weights)])
    rows[1] -= rows[0] * (rows[1] @ rows[0])
    full = np.linalg.svd(rows[:, placed])[2][2:]
    others = np.zeros((len(full), len(placed)))
    others[:, placed] = full
    return [weights, *others]


def fit_jointly(curves: Sequence[Sequence[Point]]) -> Joint:
    """Fit the curves of all widths; one lr per width at least must have a finite mean loss."""
    return _fit(tuple(map(tuple, curves)))


@lru_cache(maxsize=16)  # the optima of a table and their drift ask for the same
def _fit(curves: tuple[tuple[Point, ...], ...]) -> Joint:
    x, losses, seed_losses = stack_curves(curves)
    n_seeds, n_widths = len(seed_losses), len(losses)
    lowest, connected, placed = around(losses)
    within = reach(x, losses)
    cells = np.argwhere(connected)
    means = losses[cells[:, 0], cells[:, 1]]
    deviations = np.nan_to_num(seed_losses[:, cells[:, 0], cells[:, 1]] - means)  # 0 where a seed was not run
    fit = _place(x, losses, connected, cells, placed, x[lowest], within)
    told = fit.upward
    while n_seeds > 1:
        # A minimum that its seeds move by more than the fit reaches is not told by it, and through the lopsidedness
        # that all share would take the others with it: known to its grid point only, the worst of them first.
        moved = _moved(fit, deviations, within)
        if moved.max() <= 1:
            break
        told = told & (np.arange(n_widths) != moved.argmax())
        fit = _place(x, losses, connected, cells, fit.placed & told, x[lowest], within)
        told = told & fit.upward
    noise = _noise(seed_losses - losses, losses, fit.loads, cells, fit.placed)
    own_part, spread = _own_ways(fit, deviations, noise.variance[cells[:, 0]])
    if own_part.any():
        own = _place(x, losses, connected, cells, fit.placed, x[lowest], within, own_part)
        if (own.placed == fit.placed).all() and _moved(own, deviations, within).max() <= 1:
            fit, noise = own, _noise(seed_losses - losses, losses, own.loads, cells, own.placed)
        else:
            own_part = np.zeros(n_widths)
    minima, bumped, placed, log2_lr, loads, _ = fit
    lopsided = np.clip(minima.lopsided[0], -MOST_LOPSIDED, MOST_LOPSIDED)
    if own_part.any():  # what a shape moves goes through its own and the shared lopsidedness, by as much as these count
        by_lopsided, quartic = _by_shape(x, fit, cells, lopsided)
    else:
        shift, many = np.eye(n_widths) * 1e-3, np.repeat(losses[None], n_widths, axis=0)
        shifted = settle(x, many, connected, placed, log2_lr, within, shift=shift)
        by_lopsided = np.where(placed[:, None], (shifted.log2_lr - log2_lr).T / 1e-3, 0.0)
        quartic = np.zeros(n_widths)
    left_loads = (bumped.left - minima.left[0])[:, placed] / STEP
    misfit = _misfit(minima.left[0][placed], minima.weight[0][placed], np.tensordot(deviations, left_loads, 1))
    rounding = np.array([0.0 if ok else _rounding(curve) for ok, curve in zip(placed, curves, strict=True)])
    near = np.abs(x - log2_lr[:, None]) < within[:, None]
    walled = (near & np.isinf(losses)).any(axis=1)
    return Joint(
        log2_lr,
        placed,
        deviations @ loads.T,
        loads,
        cells[:, 0],
        noise,
        rounding,
        np.where(placed & walled, WALL_ERROR, 0.0),
        own_part,
        quartic,
        by_lopsided,
        spread,
        misfit,
        lopsided,
        told,
    )


class _Placed(NamedTuple):
    """Where the minima of all widths lie, and what a loss moves: `bumped` has one loss of all raised by STEP, each."""

    minima: Minima
    bumped: Minima
    placed: Bools
    log2_lr: Floats
    loads: Floats
    upward: Bools


def _place(
    x: Floats,
    losses: Floats,
    connected: Bools,
    cells: Indices,
    placed: Bools,
    lowest: Floats,
    within: Floats,
    own_part: Floats | float = 0.0,
) -> _Placed:
    """Fit the widths that are to be placed; the others, and those that do not bend upward, stay at their lowest lr."""
    base = settle(x, losses[None], connected, placed, lowest, within, own_part)
    minima = settle(x, losses[None], connected, placed, base.log2_lr[0], within, own_part)
    upward = minima.bend[0] > 0
    placed = placed & upward
    log2_lr = np.where(placed, minima.log2_lr[0], lowest)
    moved = np.repeat(losses[None], len(cells), axis=0)
    moved[np.arange(len(cells)), cells[:, 0], cells[:, 1]] += STEP
    bumped = settle(x, moved, connected, placed, log2_lr, within, own_part)
    loads = np.where(placed[:, None], (bumped.log2_lr - log2_lr).T / STEP, 0.0)
    return _Placed(minima, bumped, placed, log2_lr, loads, upward)


def _noise(deviations: Floats, losses: Floats, loads: Floats, cells: Indices, placed: Bools) -> WidthNoise:
    """Noise of widths next to one another, as far as it is what moves their minima apart.

    Seeds share batches, so that noise may be shared by widths and then goes out of every contrast between them. Where
    contrasts vary less than the losses' noise would have it by more than chance, only that part of its differences
    between widths is believed.
    """
    weight = np.zeros(losses.shape)
    owner, at = cells.T
    weight[owner, at] = loads[owner, np.arange(len(cells))] ** 2
    weight /= np.maximum(weight.max(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    found = noise_of_widths(deviations, losses, weight, placed)
    n_seeds, n = len(deviations), int(placed.sum())
    if n_seeds < 2 or n < 3:
        return found
    apart = loads[placed] - loads[placed].mean(axis=0)
    shares = np.nan_to_num(deviations[:, owner, at]) @ apart.T
    expected = (n_seeds - 1) * float(np.sum(apart**2 @ found.absolute[owner]))
    freedom = (n_seeds - 1) * (n - 1)
    least = expected * float(chi2_ppf(1 - BEYOND_NOISE, freedom)) / freedom
    own = min(1.0, max(float(np.sum(shares**2)) / least, 1e-3)) if least > 0 else 1.0
    variance = (1 - own) + own * found.variance
    return found._replace(variance=variance, freedom=found.freedom * (variance / (own * found.variance)) ** 2)


def stack_curves(curves: Sequence[Sequence[Point]]) -> tuple[Floats, Floats, Floats]:
    """Return log2 lrs [lr] of all curves, mean losses [width, lr] and those of seeds [seed, width, lr].

    NaN where an lr was not run; a mean is +inf, and a seed's loss NaN, where it diverged.
    """
    x = np.array(sorted({point.log2_lr for curve in curves for point in curve}))
    seeds = sorted({seed for curve in curves for point in curve for seed, _ in point.seed_losses})
    rows = {seed: row for row, seed in enumerate(seeds)}
    losses = np.full((len(curves), len(x)), np.nan)
    of_seeds = np.full((len(seeds), len(curves), len(x)), np.nan)
    for width, curve in enumerate(curves):
        at, means = mean_curve(curve)
        columns = np.searchsorted(x, at)
        losses[width, columns] = means
        for column, point in zip(columns, curve, strict=True):
            for seed, loss in point.seed_losses:
                of_seeds[rows[seed], width, column] = np.nan if loss is None else loss
    return x, losses, of_seeds


def _moved(fit: _Placed, deviations: Floats, within: Floats) -> Floats:
    """How far its seeds move each minimum, a standard error of their mean, over what the fit reaches, [width]."""
    return np.where(fit.placed, np.std(deviations @ fit.loads.T, axis=0) / within, 0.0) / len(deviations) ** 0.5


def _own_ways(fit: _Placed, deviations: Floats, variance: Floats) -> tuple[Floats, float]:
    """As `own_ways` has it, of the widths that are placed; the others have the shared lopsidedness."""
    own_part, at, minima = np.zeros(len(fit.placed)), fit.placed, fit.minima
    loads = (fit.bumped.lopsided - minima.lopsided[0]).T / STEP
    own_part[at], spread = own_ways(
        minima.lopsided[0, at], loads[at], minima.known[0, at], minima.by_quartic[0, at], deviations, variance
    )
    return own_part, spread


def _by_shape(x: Floats, fit: _Placed, cells: Indices, lopsided: Floats) -> tuple[Floats, Floats]:
    """Return how the minima follow the shapes of curves, through the losses that these change.

    By a cubic term of each width, [width, width], and by the quartic terms of all as exponential curves have them,
    [width]; as minima follow losses, shared and own lopsidedness and all.
    """
    owner, at = cells.T
    z, bend = x[at] - fit.log2_lr[owner], fit.minima.bend[0, owner]
    by_width = fit.loads * (bend * z**3) @ (owner[:, None] == np.arange(len(lopsided)))
    return by_width, fit.loads @ (bend * QUARTIC * lopsided[owner] ** 2 * z**4)


def _misfit(left: Floats, weight: Floats, of_seeds: Floats) -> float:
    """Root mean square (nats) of what a fit leaves [width, lr] beyond noise, by what it leaves of seeds."""
    n_seeds, n_left = len(of_seeds), int((weight > 1e-3).sum()) - 3 * len(weight)
    if n_seeds < 2 or n_left < 1:
        return 0.0
    noise = float(np.sum(of_seeds**2)) / (n_seeds * (n_seeds - 1))
    excess = float(np.sum(left**2)) - noise * float(f_ppf(BEYOND_NOISE, n_left, (n_seeds - 1) * n_left))
    return float(np.sqrt(max(excess, 0.0) / weight.sum()))


def _rounding(curve: Sequence[Point]) -> float:
    """How far (octaves) a minimum may lie from the lowest lr: half a step, and farther where noise chose among lrs."""
    x, losses = mean_curve(curve)
    i = int(losses.argmin())
    steps = np.diff(x)[max(i - 1, 0) : i + 1]
    ends = (first_worse(curve, i, side, CONFIDENCE) for side in (-1, 1))
    alike = [abs(x[i] - (x[far] if end is None else end)) for end, far in zip(ends, (0, -1), strict=True)]
    inside = [
        way - step for way, step in zip(alike, (x[i] - x[max(i - 1, 0)], x[min(i + 1, len(x) - 1)] - x[i]), strict=True)
    ]
    return float(steps.max()) / 2 + max(0.0, *inside) if len(steps) else 0.0
