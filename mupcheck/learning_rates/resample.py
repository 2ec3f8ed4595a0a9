"""Loss curves of several widths under the same resamples of their seeds, so that widths are paired.

Their minima are placed as the joint fit of all seeds does (`joint_fit`): the same widths, by as much of a shape of
their own.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

import numpy as np

from mupcheck.learning_rates.cubic import Bools, joint_minima
from mupcheck.learning_rates.joint_fit import fit_jointly
from mupcheck.learning_rates.lr_curve import Floats, Point, draw_seeds, interpolate, mean_curve, resample_losses


class Resampled(NamedTuple):
    """One curve under many resamples of its seeds."""

    x: Floats  # log2 lr, [lr]
    losses: Floats  # [resample, lr], may hold +inf
    minima: Floats  # log2 lr of the minimum, [resample]
    lowest: Floats  # loss at the minimum, [resample]


def resample_curves(curves: Sequence[Sequence[Point]]) -> tuple[int, list[Resampled]]:
    """Return the number of seeds, and every curve under the same resamples of them, so that widths are paired.

    Penalties, agreement and exponents ask for the same curves one after another: the last are kept, to be read only.
    """
    n_seeds, resampled = _resampled(tuple(map(tuple, curves)))
    return n_seeds, list(resampled)


@lru_cache(maxsize=2)
def _resampled(curves: tuple[tuple[Point, ...], ...]) -> tuple[int, tuple[Resampled, ...]]:
    seeds = sorted({seed for curve in curves for point in curve for seed, _ in point.seed_losses})
    draws = draw_seeds(len(seeds))
    if not curves:
        return len(seeds), ()
    grids, drawn = [mean_curve(curve)[0] for curve in curves], [resample_losses(c, seeds, draws) for c in curves]
    x = np.unique(np.concatenate(grids))
    together = np.full((len(draws), len(curves), len(x)), np.nan)
    for width, (grid, losses) in enumerate(zip(grids, drawn, strict=True)):
        together[:, width, np.searchsorted(x, grid)] = losses
    minima = joint_minima(x, together, *_told(curves)).T
    resampled = tuple(
        Resampled(grid, losses, at, interpolate(grid, losses, at))
        for grid, losses, at in zip(grids, drawn, minima, strict=True)
    )
    for array in chain.from_iterable(resampled):
        array.flags.writeable = False
    return len(seeds), resampled


def _told(curves: Sequence[tuple[Point, ...]]) -> tuple[Bools, Floats]:
    """Return which widths' minima all seeds tell, [width], and how far each goes its own way, [width]."""
    told, own_part = np.ones(len(curves), dtype=bool), np.zeros(len(curves))
    finite = [row for row, curve in enumerate(curves) if any(point.loss is not None for point in curve)]
    if finite:
        joint = fit_jointly([curves[row] for row in finite])
        told[finite], own_part[finite] = joint.placed, joint.own_part
    return told, own_part
