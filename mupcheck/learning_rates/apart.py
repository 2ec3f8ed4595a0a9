"""How far the best lrs of two sweeps lie apart where both drew the same: seed by seed, so that the noise goes out.

Two sweeps of one setting, by the same seeds on the same data, differ by what trained them alone. What a seed adds to a
minimum it adds to both, so that its share in the difference is the difference of its shares in either fit.
"""

import math
from collections.abc import Sequence

import numpy as np

from mupcheck.learning_rates.cubic import Floats
from mupcheck.learning_rates.joint_fit import fit_jointly
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.quantiles import t_ppf


def half_of_paired(a: Sequence[Optimum], b: Sequence[Optimum], weights: Floats, confidence: float) -> float | None:
    """Return the half-width (octaves) of the interval of weights [width] @ (best log2 lrs of b - those of a).

    Student's t over seeds; where a fit places no minimum, as far as the grid leaves it open is added.

    Args:
        a, b: of the same widths, in one order, each with an optimum; trained with the same draws.
        weights: such as those of one width, or of the drift.
        confidence: of the interval.
    Returns:
        None with one seed, or where either side has another number of seeds.
    """
    one, other = (fit_jointly([optimum.curve for optimum in side]) for side in (a, b))
    n_seeds = len(one.shares)
    if n_seeds < 2 or one.shares.shape != other.shares.shape:
        return None
    by_seed = (other.shares - one.shares) @ weights
    noise = math.sqrt(float(by_seed @ by_seed) / (n_seeds * (n_seeds - 1)))
    open_by_grid = float(np.abs(weights) @ (one.rounding + other.rounding))
    return float(t_ppf((1 + confidence) / 2, n_seeds - 1)) * noise + open_by_grid


def weights_of_drift(optima: Sequence[Optimum]) -> Floats:
    """Return the weights [width] by which the drift is made of the best log2 lrs."""
    log2_width = np.log2([optimum.width for optimum in optima])
    centred = log2_width - log2_width.mean()
    return np.asarray(centred / (centred @ centred))
