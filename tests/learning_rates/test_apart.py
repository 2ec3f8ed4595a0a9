"""Best lrs that the same seeds found twice differ by each seed's own difference: Student's t over these."""

import numpy as np
import pytest
from planted_curves import curve_of, optimum_of
from scipy import stats

from mupcheck.learning_rates.apart import half_of_paired, weights_of_drift

LRS = np.arange(-9.0, -3.0)
WIDTHS = (32, 64, 256)
EACH = np.eye(3)


def optima(best):
    """Optima of parabolas with minima `best` [seed, width], which the fit finds to rounding."""
    return [optimum_of(width, LRS, 3 + 0.1 * (LRS - np.array(best)[:, [i]]) ** 2) for i, width in enumerate(WIDTHS)]


def drawn(n_seeds, seed=0):
    """Return minima of two sides that share what seeds do, and how far they differ, [seed, width]."""
    rng = np.random.default_rng(seed)
    a, apart = -6.2 + 0.2 * rng.standard_normal((n_seeds, 3)), 0.02 * rng.standard_normal((n_seeds, 3))
    return a, a + apart, apart


@pytest.mark.parametrize("n_seeds", [2, 3, 8])
@pytest.mark.parametrize("confidence", [0.9, 0.998])
def test_it_is_the_interval_of_a_mean_of_differences(n_seeds, confidence):
    a, b, apart = drawn(n_seeds)
    t = stats.t.ppf((1 + confidence) / 2, n_seeds - 1)
    slopes = np.polyfit(np.log2(WIDTHS), apart.T, 1)[0]
    sides = optima(a), optima(b)
    for weights, of_seeds in (*zip(EACH, apart.T, strict=True), (weights_of_drift(sides[0]), slopes)):
        wanted = t * of_seeds.std(ddof=1) / n_seeds**0.5
        assert half_of_paired(*sides, weights, confidence) == pytest.approx(wanted, rel=0.02)
        assert half_of_paired(*sides[::-1], weights, confidence) == pytest.approx(wanted, rel=0.02)


def test_what_all_widths_share_is_no_drift():
    a, _, _ = drawn(4)
    sides = optima(a), optima(a + np.array([[0.1], [-0.1], [0.2], [0.0]]))
    weights = weights_of_drift(sides[0])
    assert weights.sum() == pytest.approx(0) and weights @ np.log2(WIDTHS) == pytest.approx(1)
    assert half_of_paired(*sides, weights, 0.9) < 1e-3 < 0.05 < half_of_paired(*sides, EACH[0], 0.9)


def test_a_minimum_known_to_its_grid_point_stays_open_by_the_grid():
    a, b, _ = drawn(4)
    losses = 3 + 0.1 * (LRS - a[:, [0]]) ** 2
    losses[:, LRS > -6] = np.inf  # the lowest lies beside what diverged
    walled = [optimum_of(32, LRS, losses), *optima(a)[1:]]
    assert walled[0].curve == curve_of(LRS, losses)
    known, half = (half_of_paired(side, optima(b), EACH[0], 0.9) for side in (optima(a), walled))
    assert half >= 0.5 > 0.1 > known


def test_one_seed_or_another_number_of_seeds_tells_nothing():
    a, b, _ = drawn(4)
    assert half_of_paired(optima(a[:1]), optima(b[:1]), EACH[0], 0.9) is None
    assert half_of_paired(optima(a), optima(b[:3]), EACH[0], 0.9) is None
