"""The drift by registration: one loss curve for all widths, moved along log lr and up or down.

L_w(x) = a_w + f(x - d log2 w), with f a polynomial of degree DEGREE. Every loss says where a curve lies, not those at
the bottom alone, so d is known better than from minima, and is wrong where the shape of the curve changes with width.
Its misfit tells: a registration that leaves more of the mean losses than seeds explain has no say.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mupcheck.learning_rates.cubic import REACH, Floats, around
from mupcheck.learning_rates.joint_fit import stack_curves
from mupcheck.learning_rates.lr_curve import Point
from mupcheck.learning_rates.quantiles import f_sf, t_ppf

DEGREE = 4
ROUNDS = 12


@dataclass(frozen=True)
class Registration:
    """The drift (octaves per doubling of width) that lays the curves of all widths on one another best."""

    slope: float
    ci_low: float | None  # over seeds, as if all curves had one shape
    ci_high: float | None
    misfit: float  # nats, root mean square of what it leaves of the mean losses
    misfit_p: float | None  # of so large a misfit were it the seeds' noise alone
    fits: bool  # the misfit is no larger than noise, at the confidence of the intervals


def register(
    curves: Sequence[Sequence[Point]], log2_width: Floats, centres: Floats, start: float, confidence: float
) -> Registration | None:
    """Register the curves of two widths or more; None where the losses around their minima are too few.

    Args:
        curves: of each width, with a finite mean loss somewhere.
        log2_width: [width].
        centres: log2 lr of their minima, [width]; losses within REACH of these are used.
        start: a drift to start from.
        confidence: of the interval, and of the call on the misfit.
    """
    x, losses, seed_losses = stack_curves(curves)
    connected = around(losses)[1] & (np.abs(x - centres[:, None]) < REACH)
    width, at = np.nonzero(connected)
    n, n_widths = len(width), len(curves)
    if n < n_widths + DEGREE + 2 or len(set(width.tolist())) < 2:
        return None
    y = losses[width, at] - losses[connected].min()
    apart = (log2_width - log2_width.mean())[width]
    heights = (width[:, None] == np.arange(n_widths)).astype(float)
    middle, slope = float(centres.mean()), start
    powers = np.arange(1, DEGREE + 1)
    for _ in range(ROUNDS):
        u = (x[at] - middle - slope * apart) / REACH
        shape = u[:, None] ** powers
        fitted = np.linalg.lstsq(np.hstack([heights, shape]), y, rcond=None)[0]
        steep = (powers * u[:, None] ** (powers - 1)) @ fitted[n_widths:] / REACH
        design = np.hstack([heights, shape, (-steep * apart)[:, None]])
        inverse = np.linalg.pinv(design)
        slope += float(np.clip(inverse[-1] @ y, -0.5, 0.5))
    left = y - design @ (inverse @ y)
    deviations = np.nan_to_num(seed_losses[:, width, at] - losses[width, at])
    misfit, n_seeds = float(np.sqrt(np.mean(left**2))), len(deviations)
    if n_seeds < 2:
        return Registration(slope, None, None, misfit, None, False)
    half = t_ppf((1 + confidence) / 2, n_seeds - 1) * np.std(deviations @ inverse[-1], ddof=1) / np.sqrt(n_seeds)
    of_seeds = deviations - deviations @ (design @ inverse).T
    noise, free = float(np.sum(of_seeds**2)) / (n_seeds * (n_seeds - 1)), n - n_widths - DEGREE - 1
    p = float(f_sf(float(left @ left) / noise, free, free * (n_seeds - 1))) if noise > 0 else 0.0
    return Registration(slope, float(slope - half), float(slope + half), misfit, p, p >= 1 - confidence)
