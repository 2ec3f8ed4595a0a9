"""Loss curves whose truth is known, for the tests of what is read from them."""

import numpy as np

from mupcheck.learning_rates.lr_curve import Point, fit_minimum, loss_at, mean_curve
from mupcheck.learning_rates.optimum import Optimum


def curve_of(x, losses):
    """Curve from losses [seed, lr], +inf for a diverged run and NaN for one that was not run."""
    points = []
    for log2_lr, at_lr in zip(x, np.transpose(losses), strict=True):
        ran = [(seed, float(loss)) for seed, loss in enumerate(at_lr) if not np.isnan(loss)]
        seed_losses = tuple((seed, loss if np.isfinite(loss) else None) for seed, loss in ran)
        n_diverged = sum(loss is None for _, loss in seed_losses)
        mean = float(np.mean([loss for _, loss in ran])) if ran and not n_diverged else None
        points.append(Point(float(log2_lr), mean, n_diverged, seed_losses))
    return tuple(points)


def optimum_of(width, x, losses, *, flags=(), parametrization="p"):
    """The optimum of losses [seed, lr], as `find_optima` would have it, without its own interval."""
    curve = curve_of(x, losses)
    best = float(fit_minimum(np.asarray(x, dtype=float), mean_curve(curve)[1][None])[0][0])
    found = np.isfinite(mean_curve(curve)[1]).any()
    return Optimum(
        *("s", parametrization, "sgd", "heads", width),
        *((best, None, None, loss_at(curve, best)) if found else (None, None, None, None)),
        *("val_loss", flags, len(losses), len(curve), curve),
    )
