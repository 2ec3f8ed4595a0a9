"""How noisy the losses of each width are, next to the other widths: variances of a few runs, drawn together.

A seed's own height is taken off, as it moves no minimum, and what is left of its losses within reach of the minimum
shows the noise, each loss by how much it moves the minimum. Few losses know a variance badly, so those of all widths
are moderated (G. K. Smyth, Stat. Appl. Genet. Mol. Biol. 3 (2004) 3, section 6.2): a common one counts by as many
degrees of freedom as make the variances' spread what it is. Where they spread no more than equal ones would, that is
infinitely many, and all widths are equally noisy.

Where a seed moves a minimum, its losses on either side go up and down together and are more of that minimum's noise
than they are of a width's variance. So this is used for the ratios of widths' noise only.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from mupcheck.learning_rates.cubic import Bools, Floats

LEAST_WEIGHT = 1e-3  # of a loss that counts; those beyond reach have next to none, nor has one at the very minimum
LEAST_VARIANCE = 1e-5  # of the noisiest width's: one without noise is not infinitely better known than that
ROUNDS = 20
SAME = 1e-8  # variance of log variances between widths that is none


class WidthNoise(NamedTuple):
    """Of every width, [width]."""

    variance: Floats  # of a loss, over the mean of all widths
    absolute: Floats  # the same, nats^2
    freedom: Floats  # degrees of freedom that this is known by; inf where widths show no difference


def noise_of_widths(deviations: Floats, losses: Floats, weight: Floats, placed: Bools) -> WidthNoise:
    """Compare the noise of widths.

    Args:
        deviations: of losses from the mean of their width and lr, [seed, width, lr]; NaN where there is none.
        losses: these means, [width, lr].
        weight: of each loss, [width, lr]; by how much it moves the minimum, squared, over the most of its width.
        placed: whether that fit places a minimum, [width]; the others' noise is taken for the common one.
    """
    there = np.isfinite(deviations) & (weight > LEAST_WEIGHT) & placed[:, None]
    y, own = np.where(there, deviations, 0.0), np.where(there, weight, 0.0)  # [seed, width, lr]
    n_ran, total = np.maximum(there.sum(axis=0), 1), np.maximum(own.sum(axis=-1), LEAST_WEIGHT)[..., None]
    # one round does where every seed has every lr; else the height of a missing one is in the mean of that lr
    for _ in range(ROUNDS if (there != there.any(axis=0)).any() else 1):
        y = np.where(there, y - (own * y).sum(axis=-1, keepdims=True) / total, 0.0)
        y = np.where(there, y - y.sum(axis=0) / n_ran, 0.0)
    # y @ quadratic @ y is what a seed's losses leave around its weighted mean
    quadratic = own[..., None] * np.eye(own.shape[-1]) - own[..., None] * own[..., None, :] / total[..., None]
    apart = 1 - 1 / n_ran  # variance of a deviation from the mean, [width, lr]
    left = np.einsum("swl,swlm,swm->w", y, quadratic, y)
    expected = np.einsum("swll,wl->w", quadratic, apart)
    known = expected > LEAST_WEIGHT
    variance, freedom = np.zeros(len(placed)), np.zeros(len(placed))
    variance[known] = left[known] / expected[known]
    freedom[known] = expected[known] ** 2 / np.einsum("swlm,wl->w", quadratic**2, apart)[known]
    finite = np.abs(losses[np.isfinite(losses)])
    rounding = (16 * np.finfo(np.float64).eps * finite.max(initial=0.0)) ** 2 + np.finfo(np.float64).tiny
    return _moderate(np.maximum(variance, rounding), freedom)


def _moderate(variance: Floats, freedom: Floats) -> WidthNoise:
    """Draw variances [width] to a common one, the less the more they spread beyond chance; 0 df is not known at all."""
    known = freedom > 0
    common = float(freedom @ variance / max(freedom.sum(), 1.0))
    same = WidthNoise(np.ones(len(variance)), np.full(len(variance), common), np.full(len(variance), np.inf))
    if known.sum() < 2:
        return same
    found, df = np.maximum(variance, LEAST_VARIANCE * variance[known].max()), freedom[known]
    logs = np.log(found[known]) + np.log(df / 2) - special.digamma(df / 2)
    beyond = float(np.var(logs, ddof=1) - special.polygamma(1, df / 2).mean())
    if beyond <= SAME:
        return same
    prior = 2 * _where_trigamma_is(beyond)
    common = float(np.exp(logs.mean() + special.digamma(prior / 2) - np.log(prior / 2)))
    moderated = (prior * common + np.where(known, freedom * found, 0.0)) / (prior + freedom)
    return WidthNoise(moderated / moderated.mean(), moderated, prior + freedom)


def _where_trigamma_is(value: float) -> float:
    """Return the x above 0 at which the trigamma function has a value, by Newton on 1 over it (Smyth, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(ROUNDS):
        there = special.polygamma(1, x)
        x += float(there * (1 - there / value) / special.polygamma(2, x))
    return x
