"""Cubics through the losses of several widths at once, as arrays: where each has its minimum.

Around its minimum a curve is a + b (z^2 + k z^3), z in octaves of lr. Height a, bend b and place are each width's own,
the lopsidedness k is one for all. `joint_fit` says why, and what it is worth.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

REACH = 3.0  # octaves beyond which losses do not count, at lrs an octave apart or closer
MOST_LOPSIDED = 1 / 3  # of k, per octave; beyond it the cubic turns over within its reach
PRIOR_SPREAD = 1.0  # octaves^6: what is known of k = 0 before; 7 losses an octave apart bring 11 to 36, three none
LEAST = 1e-9  # octaves^6, of what is known of a k that losses say nothing of
ROUNDS, K_ROUNDS = 15, 6  # of the parabola, and of the lopsidedness


class Minima(NamedTuple):
    """Of every curve, [..., width]."""

    log2_lr: Floats
    bend: Floats  # nats per octave^2, half the second derivative; at or below 0 there is no minimum
    lopsided: Floats  # k of each width on its own, per octave, drawn to 0 by PRIOR_SPREAD
    known: Floats  # octaves^6: what the losses tell of that k, beside PRIOR_SPREAD
    by_quartic: Floats  # octaves: how much a z^4 beside z^2 + k z^3 adds to it
    weight: Floats  # of each loss, [..., width, lr]
    left: Floats  # what the fit leaves of the losses, times the root of their weight, [..., width, lr]


def joint_minima(x: Floats, losses: Floats, told: Bools | bool = True, own_part: Floats | float = 0) -> Floats:
    """Minima [curve, width] of many sets of curves, losses [curve, width, lr], as `fit_jointly` places them.

    NaN where an lr was not run, +inf where it diverged. `told` says which widths to place, `own_part` how far the
    lopsidedness of each is its own, [width]; both are for the seeds to say.
    """
    lowest, connected, placed = around(losses)
    placed = placed & told
    within = reach(x, losses[0])
    found = settle(x, losses, connected, placed, x[lowest], within, own_part)
    return np.where(placed & (found.bend > 0), found.log2_lr, x[lowest])


def around(losses: Floats) -> tuple[NDArray[np.int64], Bools, Bools]:
    """Index of the lowest loss [..., width], what is joined to it [..., width, lr], and if it is between finite ones.

    No loss beyond a diverged lr is joined. An lr that was not run parts nothing.
    """
    ran = ~np.isnan(losses)
    finite = np.isfinite(losses)
    lowest = np.where(finite, losses, np.inf).argmin(axis=-1)
    holes = np.cumsum(ran & ~finite, axis=-1)
    connected = finite & (holes == np.take_along_axis(holes, lowest[..., None], axis=-1))
    at = np.arange(losses.shape[-1])
    below, above = (connected & side for side in (at < lowest[..., None], at > lowest[..., None]))
    return lowest, connected, below.any(axis=-1) & above.any(axis=-1)


def reach(x: Floats, losses: Floats) -> Floats:
    """Octaves within which losses count, [width]: REACH, and more on a grid of lrs more than an octave apart."""
    gaps = [np.diff(x[~np.isnan(row)]) for row in losses]
    return REACH * np.array([max(1.0, float(np.median(gap))) if len(gap) else 1.0 for gap in gaps])


def settle(
    x: Floats,
    losses: Floats,
    connected: Bools,
    placed: Bools,
    start: Floats,
    reach: Floats,
    own_part: Floats | float = 0,
    shift: Floats | float = 0,
) -> Minima:
    """Fit losses [curve, width, lr], from near the minima `start`.

    A width's k is the shared one, or `own_part` [width] of the way from that to its own, and `shift` more.

    First a parabola and its weights move until they stand on one another. Then the weights stay: if they moved with a
    cubic as well, all minima and the lopsidedness could drift off together.
    """
    y = np.where(connected, losses, 0.0)
    y = np.where(connected, y - np.where(connected, losses, np.inf).min(axis=-1, keepdims=True), 0.0)
    ends = np.where(connected, x, np.inf).min(axis=-1), np.where(connected, x, -np.inf).max(axis=-1)
    centre = np.broadcast_to(start, y.shape[:-1]).astype(float)
    for _ in range(ROUNDS):
        basis, weight = _basis(x, centre, reach, connected)
        _, gradient, bend = np.moveaxis(_least_squares(basis, weight, y), -1, 0)
        ahead = np.clip(-gradient / np.maximum(2 * bend, 1e-6) * reach, -1, 1)
        centre = np.where(placed, np.clip(centre + ahead, *ends), centre)
    basis, weight = _basis(x, centre, reach, connected)
    cube = basis[..., 1] ** 3
    left = cube - np.einsum("...xi,...i->...x", basis, _least_squares(basis, weight, cube))
    known = np.einsum("...x,...x,...x->...", weight, left, left) * reach**6 * placed
    cubic = np.einsum("...x,...x,...x->...", weight, left, y) * reach**3 * placed
    by_quartic = (
        np.einsum("...x,...x,...x->...", weight, left, basis[..., 1] ** 4) * reach**7 / np.maximum(known, LEAST)
    )
    plain = basis[..., 2].copy()
    k = np.zeros_like(centre)
    for _ in range(K_ROUNDS):
        basis[..., 2] = plain + (k * reach)[..., None] * cube
        _, gradient, bend = np.moveaxis(_least_squares(basis, weight, y), -1, 0)
        gradient, bend = gradient / reach, bend / reach**2
        positive = np.maximum(bend, 1e-6)
        prior = PRIOR_SPREAD * np.sum(positive**2 * placed, axis=-1) / np.maximum(placed.sum(axis=-1), 1) + 1e-12
        shared = np.sum(positive * cubic, axis=-1) / (np.sum(positive**2 * known, axis=-1) + prior)
        own = cubic / (positive * np.maximum(known, LEAST))
        shared, own = (np.clip(each, -MOST_LOPSIDED, MOST_LOPSIDED) for each in (shared[..., None], own))
        k = shared + own_part * (own - shared) + shift
    drawn = cubic / (positive * (known + PRIOR_SPREAD))
    left = (y - np.einsum("...xi,...i->...x", basis, _least_squares(basis, weight, y))) * np.sqrt(weight)
    log2_lr = np.clip(centre + _root(gradient, positive, k), *ends)
    return Minima(log2_lr, bend, drawn, known, by_quartic, weight, left)


def _basis(x: Floats, centre: Floats, reach: Floats, connected: Bools) -> tuple[Floats, Floats]:
    """Powers 0 to 2 of the distance from a centre [..., lr, 3], in units of the reach, and weights [..., lr]."""
    u = (x - centre[..., None]) / reach[:, None]
    return np.stack([np.ones_like(u), u, u**2], axis=-1), (np.clip(1 - u**2, 0.0, None) + 1e-6) * connected


def _least_squares(basis: Floats, weight: Floats, y: Floats) -> Floats:
    """Coefficients [..., i] of basis [..., lr, i]; the smallest ones where there are fewer losses than coefficients."""
    weighted = basis * weight[..., None]
    normal = np.einsum("...xi,...xj->...ij", weighted, basis) + 1e-12 * np.eye(basis.shape[-1])
    return np.linalg.solve(normal, np.einsum("...xi,...x->...i", weighted, y)[..., None])[..., 0]


def _root(gradient: Floats, bend: Floats, k: Floats) -> Floats:
    """Octaves from here to the minimum of gradient z + bend (z^2 + k z^3), at most one."""
    ahead = np.clip(-gradient / (2 * bend), -1, 1)
    for _ in range(4):
        slope = gradient + bend * (2 * ahead + 3 * k * ahead**2)
        ahead = np.clip(ahead - slope / np.maximum(bend * (2 + 6 * k * ahead), 0.5 * bend), -1, 1)
    return ahead
