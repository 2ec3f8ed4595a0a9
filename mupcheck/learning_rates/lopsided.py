"""How far widths differ in the lopsidedness k of their loss curves, and how far the joint fit lets each go its own way.

One k for all widths is known best, and an error in it moves all minima alike, which a drift does not see; but where
curves change their shape with width it moves them apart. LOPSIDED_SPREAD is allowed for throughout. Where the curves'
own k differ beyond their noise, that spread is as well; and from OWN_SEEDS on each width goes its own way, as far as
its own k is known beside the spread, and what is left of the spread is allowed for. Where the widest of three widths is
flatter above its minimum, as SP's was at 1024 (AdamW, H200; `reshaping` of sweeps/simulate_lr.py, 6 seeds), a shared k
put the slope off by 0.25 and made its interval +-0.39, so that it is 0.09 and +-0.14.

A change that noise hides is the limit of this: where the ratio of third to second derivative grows by 0.1 at every
doubling, the slope is off by 0.06, and with 6 seeds and the demo's noise its interval covers 68 to 85% and not 90
(`deforming`).
"""

import numpy as np

from mupcheck.learning_rates.cubic import MOST_LOPSIDED, Floats
from mupcheck.learning_rates.quantiles import f_ppf, normal_ppf, t_ppf

# Standard deviation of k between widths, per octave. Own fits gave 0.03, 0.12, 0.04 (+-0.07 each; demo of 5 seeds, CPU)
# and -0.03, -0.09, -0.04 (+-0.05; widths 256-1024 on an H100): no more than their noise.
LOPSIDED_SPREAD = 0.015
# Standard deviation of a width's own k, over its square, by where the minimum lies between lrs an octave apart; 0.08 at
# half an octave (curves that are exponential on either side, k of 0.03 to 0.3 per octave, without noise).
GRID_ERROR = 0.5
# Octaves, times the square of a width's k, by which the minimum of its own cubic is off where the loss is exponential
# in log lr on either side, as measured curves are (`curve_family`): 0.01 at a k of 0.1, 0.06 at 0.23 per octave.
QUARTIC_ERROR = 1.07
# Fewer do not know the error of an own k well enough: of 1,000 simulated sweeps without drift (symmetric curves) 5, 4
# and 1 drifted with 3, 4 and 5 seeds; with 6, and with a shared k, none.
OWN_SEEDS = 6
BEYOND_NOISE = 0.95  # of what noise alone gives, above which a misfit counts by what is beyond


def own_ways(k: Floats, loads: Floats, deviations: Floats, variance: Floats) -> tuple[float, Floats]:
    """Return the standard deviation of k between widths to allow for, and how far each goes its own way, [width].

    LOPSIDED_SPREAD, and what is seen beyond that, noise and grid: by moments (R. DerSimonian, N. Laird, Control. Clin.
    Trials 7 (1986) 177), less what chance makes of these in 19 of 20. It is known from as many widths as there are, so
    it counts by Student's t over that of a normal. A width's own k is drawn to the shared one by its error beside that
    spread, as random effects are.

    Args:
        k: of each width on its own, per octave, [width].
        loads: its derivatives by the mean losses, [width, loss].
        deviations: of each seed from these means, [seed, loss].
        variance: of each loss next to the others, by its width's noise, [loss].
    """
    (n_seeds, _), n, shared = deviations.shape, len(k), np.zeros(len(k))
    expected = loads**2 @ variance
    if n_seeds < 2 or n < 2 or not (expected > 0).all():
        return LOPSIDED_SPREAD, shared
    shares = deviations @ loads.T
    noise = float(np.mean(np.sum(shares**2, axis=0) / expected)) / (n_seeds - 1)
    k = np.clip(k, -MOST_LOPSIDED, MOST_LOPSIDED)
    error = np.maximum(noise * expected, 1e-12) / n_seeds + (GRID_ERROR * k**2) ** 2 + LOPSIDED_SPREAD**2
    share = 1 / error / np.sum(1 / error)
    by_chance = (n - 1) * float(f_ppf(BEYOND_NOISE, n - 1, (n_seeds - 1) * n))
    excess = float(np.sum((k - share @ k) ** 2 / error)) - by_chance
    if excess <= 0:
        return LOPSIDED_SPREAD, shared
    beyond = excess / np.sum((1 - share) / error) * (t_ppf(0.95, n - 1) / normal_ppf(0.95)) ** 2
    own_part = beyond / (beyond + error) if n_seeds >= OWN_SEEDS else shared
    return float(np.sqrt(LOPSIDED_SPREAD**2 + beyond)), own_part
