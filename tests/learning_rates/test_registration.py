"""The drift by laying whole curves on one another: exact for one shape, and without a say where the shape changes."""

import numpy as np
import pytest
from planted_curves import curve_of

from mupcheck.learning_rates.registration import register

X = np.arange(-10.0, -3)
DOUBLINGS = np.arange(3.0)


def curves(best, *, ratios=(0.4, 0.4, 0.4), noise=0.003, n_seeds=5, seed=0):
    rng = np.random.default_rng(seed)
    return [
        curve_of(
            X,
            0.07 / ratio**2 * (np.exp(ratio * (X - at)) - ratio * (X - at) - 1) + noise * rng.normal(size=(n_seeds, 7)),
        )
        for at, ratio in zip(best, ratios, strict=True)
    ]


@pytest.mark.parametrize("drift", [0.0, -0.4, -1.0])
def test_a_planted_drift_of_one_shape_is_found_from_any_start(drift):
    best = -5.8 + drift * DOUBLINGS
    found = [register(curves(best), DOUBLINGS, best, start, 0.9) for start in (drift, drift + 0.5)]
    assert found[0].slope == pytest.approx(found[1].slope, abs=1e-4)  # iterated to the same place
    assert found[0].slope == pytest.approx(drift, abs=0.03)  # three of its standard errors, 0.01
    assert found[0].ci_low < found[0].slope < found[0].ci_high
    assert found[0].fits


def test_a_shape_that_changes_with_width_is_a_misfit():
    best = np.full(3, -6.2)
    bent = register(curves(best, ratios=(0.2, 0.5, 0.8)), DOUBLINGS, best, 0.0, 0.9)
    assert not bent.fits and bent.misfit_p < 0.01
    assert abs(bent.slope) > 3 * (bent.ci_high - bent.ci_low) / 2  # and the drift of 0 is missed, for sure


def test_one_shape_is_called_a_misfit_as_often_as_said():
    best = np.full(3, -6.2)
    calls = [register(curves(best, seed=seed), DOUBLINGS, best, 0.0, 0.9).fits for seed in range(100)]
    # nominally 90 of 100, known to 3; three times that
    assert 81 <= sum(calls) <= 99


def test_too_few_losses_have_no_shape_and_one_seed_no_interval():
    x = np.arange(3.0)
    assert register([curve_of(x, [[2, 1, 2]] * 2)] * 2, np.arange(2.0), np.ones(2), 0.0, 0.9) is None
    best = np.full(3, -6.2)
    one = register(curves(best, n_seeds=1), DOUBLINGS, best, 0.0, 0.9)
    assert (one.ci_low, one.ci_high, one.fits) == (None, None, False)
