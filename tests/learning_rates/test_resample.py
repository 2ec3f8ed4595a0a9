"""Curves under resampled seeds: paired, and with the minima that the fit of all seeds would place."""

import numpy as np
import pytest
from planted_curves import curve_of

from mupcheck.learning_rates.joint_fit import fit_jointly
from mupcheck.learning_rates.lr_curve import draw_seeds
from mupcheck.learning_rates.resample import resample_curves

X = np.arange(-10.0, -3)


def test_resamples_repeat_and_keep_a_seed_together():
    assert np.array_equal(draw_seeds(3), draw_seeds(3))
    x = np.arange(-8.0, -3)
    centres = np.array([-6.3, -6.0, -5.7])
    curve = curve_of(x, (x - centres[:, None]) ** 2 + np.array([[0.0], [5.0], [9.0]]))
    _, (resampled,) = resample_curves([curve])
    # seeds of equal curvature: the vertex of the mean is the mean of the vertices, whatever their offsets
    assert resampled.minima == pytest.approx(centres[draw_seeds(3)].mean(axis=1), abs=1e-9)


def exponential(ratio):
    """A minimum at -6.2, the third derivative `ratio` times the second."""
    z = X + 6.2
    return 0.07 / ratio**2 * (np.exp(ratio * z) - ratio * z - 1)


def test_resamples_of_seeds_that_agree_have_the_minima_of_the_fit_whatever_the_widths_shapes():
    heights = 0.02 * np.arange(6)[:, None]  # which move no minimum
    for ratios in ((0.5, 0.5, 0.5), (0.1, 0.1, -0.7)):
        curves = [curve_of(X, exponential(ratio) + heights) for ratio in ratios]
        joint = fit_jointly(curves)
        assert joint.own_part.any() == (len(set(ratios)) > 1)
        _, resampled = resample_curves(curves)
        for width, each in enumerate(resampled):
            assert each.minima == pytest.approx(joint.log2_lr[width], abs=1e-3)


def test_a_minimum_that_seeds_do_not_tell_is_placed_in_no_resample():
    rng = np.random.default_rng(0)
    x, dips = np.arange(-11.0, -5), np.array([0.042, 0.009, 0.0, 0.011, 0.016, 0.004])
    shapes = [dips, *(0.012 * (x - at) ** 2 for at in (-8.3, -8.6, -8.9))]
    untold = 0
    for _ in range(20):
        curves = [curve_of(x, shape + 0.008 * rng.normal(size=(3, len(x)))) for shape in shapes]
        if not fit_jointly(curves).placed[0]:
            untold += 1
            assert np.isin(resample_curves(curves)[1][0].minima, x).all()
    assert untold > 2
