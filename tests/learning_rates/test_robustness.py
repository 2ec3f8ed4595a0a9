"""What a wrong learning rate costs, and from where on training diverges: planted, found, not claimed without reason."""

import numpy as np
import pytest
from planted_curves import curve_of, optimum_of

from mupcheck.learning_rates.robustness import (
    common_lrs,
    divergence_threshold,
    fit_divergence,
    lr_sensitivity,
    sensitivity_interval,
)

WIDTHS = (32, 64, 128)
X = np.arange(-10.0, -2)


def test_sensitivity_counts_a_diverged_run_as_the_initial_loss():
    curve = curve_of([-2, -1, 0], [[3.0, 2.0, np.inf], [3.0, 2.0, 9.0]])
    assert lr_sensitivity(curve, initial_loss=5.0) == pytest.approx((1 + 0 + 3) / 3)
    assert lr_sensitivity(curve_of([0], [[np.inf]]), 5.0) is None


def test_divergence_threshold_needs_half_of_the_seeds():
    one_of_three = curve_of([0, 1], [[1, np.inf], [1, 2], [1, 2]])
    two_of_four = curve_of([0, 1], [[1, np.inf], [1, np.inf], [1, 2], [1, 2]])
    assert divergence_threshold(one_of_three) is None
    assert divergence_threshold(two_of_four) == 1


def bowls(rng, n_seeds, noise=0.2):
    """Losses [seed, lr] of a parabola whose place varies from seed to seed."""
    return 2 + 0.1 * (X + 6.2 + rng.normal(0, noise, n_seeds)[:, None]) ** 2


def test_sensitivity_is_over_the_lrs_that_widths_share():
    """Lrs that a refinement put around the optimum would make a width look less sensitive."""
    plain = optimum_of(32, X, 2 + 0.1 * (X[None] + 6) ** 2)
    fine = np.sort(np.concatenate([X, [-6.5, -6.25, -5.75, -5.5]]))
    refined = optimum_of(64, fine, 2 + 0.1 * (fine[None] + 6) ** 2)
    lrs = common_lrs([plain, refined])
    assert lrs == X.tolist()
    assert lr_sensitivity(refined.curve, 9.0, lrs) == pytest.approx(lr_sensitivity(plain.curve, 9.0, lrs))
    assert lr_sensitivity(refined.curve, 9.0) < 0.8 * lr_sensitivity(plain.curve, 9.0)


def test_interval_of_the_sensitivity_covers_it():
    """Nominal 90%; 89-92% in longer simulations of lopsided curves with 3 and 5 seeds."""
    rng = np.random.default_rng(0)
    # what a seed's shift adds to the mean curve, 0.1 * 0.2^2, it adds to the minimum as well
    truth = np.mean(0.1 * (X + 6.2) ** 2) - 0.1 * 0.2**2
    covered = 0
    for _ in range(100):
        low, high = sensitivity_interval(curve_of(X, bowls(rng, 4)), 9.0, X.tolist(), confidence=0.9)
        covered += low <= truth <= high
    # 100 repeats know a coverage of 0.9 to 0.03; three times that
    assert covered / 100 == pytest.approx(0.9, abs=0.09)
    assert sensitivity_interval(curve_of(X, bowls(rng, 1)), 9.0, X.tolist(), confidence=0.9) == (None, None)


def cliffs(thresholds, x=X):
    """Losses [seed, lr] that fall with lr until each seed diverges."""
    return np.where(x > np.asarray(thresholds)[:, None], np.inf, 3 - 0.1 * x)


def optima_with_cliffs(drift, n_seeds=4, start=-4.5, noise=0.0):
    rng = np.random.default_rng(1)
    return [
        optimum_of(width, X, cliffs(start + drift * i + noise * rng.normal(size=n_seeds)))
        for i, width in enumerate(WIDTHS)
    ]


def test_drift_of_divergence_is_found_and_lies_in_brackets():
    found = fit_divergence(optima_with_cliffs(-1.0), confidence=0.9)
    assert found.log2_lr == (-4, -5, -6)
    assert found.brackets == ((-5, -4), (-6, -5), (-7, -6))
    assert found.slope == pytest.approx(-1)
    # a threshold lies anywhere in an octave: 1 / sqrt(12) at either end of two doublings, 1.645 of that
    half = 1.645 * np.sqrt(2 / 12) / 2
    assert (found.ci_low, found.ci_high) == pytest.approx((-1 - half, -1 + half), abs=1e-3)
    still = fit_divergence(optima_with_cliffs(0.0), confidence=0.9)
    assert still.ci_low < 0 < still.ci_high


def test_seeds_that_diverge_apart_widen_its_interval():
    tight, loose = (fit_divergence(optima_with_cliffs(-1.0, noise=noise), confidence=0.9) for noise in (0.0, 0.6))
    assert loose.ci_high - loose.ci_low > 1.2 * (tight.ci_high - tight.ci_low)


def test_a_threshold_beyond_the_grid_is_said_and_not_made_up():
    censored = [*optima_with_cliffs(0.0)[:2], optimum_of(128, X, 3 - 0.1 * np.stack([X] * 4))]
    found = fit_divergence(censored, confidence=0.9)
    assert found.log2_lr == (-4, -4, None)
    assert found.brackets[2] == (-3, None)
    assert (found.slope, found.ci_low) == (None, None)
    assert found.reason == "no divergence on the grid at width 128; the threshold lies above 2^-3"
    dead = fit_divergence([*optima_with_cliffs(0.0)[:2], optimum_of(128, X, cliffs([-11] * 4))], confidence=0.9)
    assert dead.slope is None
    assert "lowest lr diverges at width 128" in dead.reason
    one = fit_divergence(optima_with_cliffs(-1.0, n_seeds=1), confidence=0.9)
    assert (one.slope, one.ci_low, one.reason) == (-1, None, "one seed; add seeds")


def test_a_sensitivity_is_never_below_nothing():
    """Two seeds that disagree give a wide interval, but a mean of rises has no place below 0."""
    apart = np.stack([2 + 0.02 * (X + 9) ** 2, 2 + 0.02 * (X + 3) ** 2])
    low, high = sensitivity_interval(curve_of(X, apart), 9.0, X.tolist(), confidence=0.9)
    assert low == 0 < high
    # losses above where training began count as that, at the minimum too
    blown = curve_of([-2, -1], [[5.0, 9.0], [9.0, 9.0]])
    assert lr_sensitivity(blown, initial_loss=5.5) == pytest.approx((0 + 0.25) / 2)
