"""Fast transfer: does the best learning rate settle sooner with width than the loss does?

Source: Ghosh, Wu & Bietti, arXiv:2512.22768. Loss gap L_n - L_inf ~ n^-a, optimum gap |x*_n - x*_inf| ~ n^-b. A wrong
lr costs the square of its distance from the optimum, so tuning at a small width is useful, its cost gone sooner than
what width itself gains, when 2b > a.

Method: y_n = y_inf + A n^-e is fitted to the loss at the optimum and to the optimum, by least squares over all widths;
the limit is a third parameter, as gaps to the largest width alone make both exponents look larger than they are. The
exponents' logarithms get intervals over seeds as `lr_curve` says; on five simulated widths with 3 and 5 seeds a nominal
90% interval of 2b / a covers 91-97%. Limits: four widths at least leave one degree of
freedom; a power law is assumed, not tested; an optimum that does not move beyond its noise has no exponent, which is
the best of news and no answer here.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mupcheck.learning_rates.lr_curve import Floats, interval
from mupcheck.learning_rates.optimum import GUARDS, Optimum
from mupcheck.learning_rates.resample import resample_curves

MIN_WIDTHS = 4  # three parameters, and one degree of freedom
EXPONENTS = 2.0 ** np.arange(-4.0, 2.5, 1 / 32)  # searched; at either end the data do not bend as a power law does


@dataclass(frozen=True)
class Exponent:
    """An exponent of width, or a ratio of two, with its interval over seeds."""

    value: float | None
    ci_low: float | None
    ci_high: float | None


UNKNOWN = Exponent(None, None, None)


@dataclass(frozen=True)
class FastTransfer:
    """Exponents a of the loss gap and b of the optimum gap, and whether 2b / a is above 1."""

    loss: Exponent
    optimum: Exponent
    ratio: Exponent  # 2b / a
    useful: bool | None  # None: cannot tell
    reason: str


def fit_fast_transfer(optima: Sequence[Optimum], *, confidence: float) -> FastTransfer:
    """Fit both exponents over the widths of one parametrization, given by rising width; None where data do not tell."""
    n_seeds, resampled = resample_curves([optimum.curve for optimum in optima])
    guarded = [str(optimum.width) for optimum in optima if GUARDS.keys() & set(optimum.flags)]
    reason = ""
    if len(optima) < MIN_WIDTHS:
        reason = f"{len(optima)} widths where a power law and its limit need {MIN_WIDTHS}; add widths"
    elif guarded:
        reason = f"the optimum is in doubt at width {', '.join(guarded)}"
    elif n_seeds < 2:
        reason = "one seed does not show the noise; add seeds"
    if reason:
        return FastTransfer(UNKNOWN, UNKNOWN, UNKNOWN, None, reason)
    widths = np.array([optimum.width for optimum in optima], dtype=float)
    losses = np.array([optimum.loss for optimum in optima], dtype=float)
    best = np.array([optimum.log2_lr for optimum in optima], dtype=float)
    a, a_doubt = _log2_exponent("loss", widths, losses, np.stack([r.lowest for r in resampled], 1), n_seeds, confidence)
    b, b_doubt = _log2_exponent(
        "best lr", widths, best, np.stack([r.minima for r in resampled], 1), n_seeds, confidence
    )
    loss, optimum = (_exponent(each, n_seeds, confidence) for each in (a, b))
    if a is None or b is None:
        return FastTransfer(loss, optimum, UNKNOWN, None, "; ".join(filter(None, (a_doubt, b_doubt))))
    ratio = _exponent((1 + b[0] - a[0], 1 + b[1] - a[1]), n_seeds, confidence)
    useful, reason = _judge(ratio)
    return FastTransfer(loss, optimum, ratio, useful, reason)


def fit_exponents(widths: Floats, values: Floats) -> Floats:
    """Log2 of the exponent e in y = y_inf + A width^-e that fits best, NaN where none within EXPONENTS does.

    Args:
        widths: [width], 4 or more.
        values: [curve, width].
    """
    shrunk = (widths / widths[0]) ** -EXPONENTS[:, None]  # [exponent, width]
    shrunk = shrunk - shrunk.mean(axis=1, keepdims=True)
    shrunk /= np.linalg.norm(shrunk, axis=1, keepdims=True)
    centred = values - values.mean(axis=1, keepdims=True)
    explained = (centred @ shrunk.T) ** 2  # [curve, exponent]; what is left of the sum of squares is the misfit
    best = explained.argmax(axis=1)
    inside = (best > 0) & (best < len(EXPONENTS) - 1)
    return np.where(inside, np.log2(EXPONENTS[best]), np.nan)


Estimate = tuple[float, Floats]  # of a logarithm: its value, and [resample]


def _log2_exponent(
    name: str, widths: Floats, values: Floats, drawn: Floats, n_seeds: int, confidence: float
) -> tuple[Estimate | None, str]:
    """Log2 of the exponent of the gap of `values` [width], and of their resamples [resample, width]; or why not."""
    change = interval(
        values[-1] - values[0], drawn[:, -1] - drawn[:, 0], n_seeds=n_seeds, rounding=0.0, confidence=confidence
    )
    if change[0] is None or change[1] is None or change[0] <= 0 <= change[1]:
        return None, f"the {name} does not change with width beyond its noise, so its gap has no exponent"
    estimate = fit_exponents(widths, values[None])[0]
    if not np.isfinite(estimate):
        return None, f"the {name} does not approach a limit as a power of width"
    return (float(estimate), fit_exponents(widths, drawn)), ""


def _exponent(log2: Estimate | None, n_seeds: int, confidence: float) -> Exponent:
    if log2 is None:
        return UNKNOWN
    low, high = interval(*log2, n_seeds=n_seeds, rounding=0.0, confidence=confidence)
    return Exponent(2.0 ** log2[0], None if low is None else 2.0**low, None if high is None else 2.0**high)


def _judge(ratio: Exponent) -> tuple[bool | None, str]:
    if ratio.ci_low is None or ratio.ci_high is None:
        return None, "too few draws of the seeds follow a power law; add widths or seeds"
    if ratio.ci_low > 1 or ratio.ci_high < 1:
        return ratio.ci_low > 1, f"2b / a lies {'above' if ratio.ci_low > 1 else 'below'} 1"
    return None, "the interval of 2b / a holds 1; add widths or seeds"
