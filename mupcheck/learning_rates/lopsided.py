"""How far widths differ in the lopsidedness k of their loss curves, and how far the joint fit lets each go its own way.

One k for all widths is known best, and an error in it moves all minima alike, which a drift does not see; but where
curves change their shape with width it moves them apart. LOPSIDED_SPREAD is allowed for throughout. Where the curves'
own k differ beyond their noise, that spread is as well; and from OWN_SEEDS on each width goes its own way, as far as
its own k is known beside the spread, and what is left of it is allowed for.

Simulated (`reshaping` of sweeps/simulate_lr.py: the widest of three widths is flatter above its minimum, as SP's was at
1024 under AdamW on an H200), with 6 seeds: a shared k put the slope off by 0.22 to 0.26, with an interval of +-0.26 to
0.41 that covered 50 to 79%; now it is off by 0.07 to 0.12, +-0.15 to 0.20, and covered in 57 to 80%. With a third of
the noise +-0.50 became +-0.07 to 0.12, which covers 84 to 96%. A change that noise hides is the limit: where none was
seen the slope is off by 0.24 as ever. Where the ratio of third to second derivative grows by 0.1 at every doubling
(`deforming`) it is off by 0.05, and the interval covers 68 to 85%. Where widths do not differ, some 4 in 100 sweeps
look as if they did, and intervals cover 1 to 2% less for it (89 to 94%).
"""

import numpy as np

from mupcheck.learning_rates.cubic import LEAST, MOST_LOPSIDED, PRIOR_SPREAD, Floats
from mupcheck.learning_rates.quantiles import f_ppf, normal_ppf, t_ppf

# Standard deviation of k between widths, per octave. Own fits gave 0.03, 0.12, 0.04 (+-0.07 each; demo of 5 seeds, CPU)
# and -0.03, -0.09, -0.04 (+-0.05; widths 256-1024 on an H100): no more than their noise.
LOPSIDED_SPREAD = 0.015
# Of a loss that is exponential in log lr on either side, as measured curves are (`curve_family`): its term in z^4
# beside z^2 + k z^3 is this times k^2. A cubic takes it for lopsidedness, the more or less by where the lrs lie.
QUARTIC = 0.75
# Fewer do not know the error of an own k well enough: of 1,000 simulated sweeps without drift (symmetric curves) 5 and
# 4 drifted with 3 and 4 seeds, one with 5 or 6, and none with a shared k.
OWN_SEEDS = 6
BEYOND_NOISE = 0.95  # of what noise alone gives, above which a misfit counts by what is beyond


def own_ways(
    k: Floats, loads: Floats, known: Floats, by_quartic: Floats, deviations: Floats, variance: Floats
) -> tuple[Floats, float]:
    """Return how far each width goes its own way, [width], and the standard deviation of k between widths.

    That is LOPSIDED_SPREAD, or what is seen beyond noise: by moments (R. DerSimonian, N. Laird, Control. Clin. Trials 7
    (1986) 177), less what chance makes of these in 19 of 20. It is known from as many widths as there are, so it counts
    by Student's t over that of a normal. A width's own k is drawn to the shared one by its error beside that spread, as
    random effects are: its noise, without what drew it to 0, and what quartic terms add to it.

    Args:
        k: of each width on its own, per octave, [width].
        loads: its derivatives by the mean losses, [width, loss].
        known: octaves^6, what the losses tell of it, [width].
        by_quartic: octaves, its derivative by a quartic term, [width].
        deviations: of each seed from the mean losses, [seed, loss].
        variance: of each loss next to the others, by its width's noise, [loss].
    """
    n_seeds, n, shared = len(deviations), len(k), np.zeros(len(k))
    expected = loads**2 @ variance
    if n_seeds < 2 or n < 2 or not (expected > 0).all():
        return shared, LOPSIDED_SPREAD
    shares = deviations @ loads.T
    noise = float(np.mean(np.sum(shares**2, axis=0) / expected)) / (n_seeds - 1)
    precision = n_seeds / np.maximum(noise * expected, 1e-12)
    misfit = float(precision @ (k - precision @ k / precision.sum()) ** 2)
    excess = misfit - (n - 1) * float(f_ppf(BEYOND_NOISE, n - 1, (n_seeds - 1) * n))
    if excess <= 0:
        return shared, LOPSIDED_SPREAD
    seen = np.sqrt(excess / (precision.sum() - np.sum(precision**2) / precision.sum()))
    spread = float(seen * t_ppf(0.95, n - 1) / normal_ppf(0.95))
    if spread <= LOPSIDED_SPREAD or n_seeds < OWN_SEEDS:
        return shared, max(LOPSIDED_SPREAD, spread)
    undrawn = 1 + PRIOR_SPREAD / np.maximum(known, LEAST)
    quartic = QUARTIC * by_quartic * (precision @ np.minimum(np.abs(k), MOST_LOPSIDED) ** 2) / precision.sum()
    beyond = spread**2 - LOPSIDED_SPREAD**2  # what is allowed for throughout stays so
    return beyond / (beyond + undrawn**2 / precision + quartic**2), spread
