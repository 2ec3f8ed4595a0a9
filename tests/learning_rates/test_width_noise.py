"""Widths that differ in noise: equal ones are pooled as they were, and a noisy one is felt where it counts."""

from dataclasses import replace

import numpy as np
import pytest
from planted_curves import curve_of
from scipy import stats

from mupcheck.learning_rates.joint_fit import _noise, fit_jointly
from mupcheck.learning_rates.width_noise import noise_of_widths

X = np.arange(-10.0, -3)
SLOPE = np.array([-0.5, 0.0, 0.5])  # of three widths an octave apart
BEST = -6.2
PLACED = np.ones(3, dtype=bool)


def bowl(rng, *, noise, n_seeds=6, shared=0.0):
    """Losses [width, seed, lr] of parabolas with the same minimum, noise of each width in nats a run."""
    common = shared * rng.normal(size=(n_seeds, len(X))) + 0.02 * rng.normal(size=(n_seeds, 1))
    own = [sd * rng.normal(size=(n_seeds, len(X))) for sd in noise]
    return np.stack([0.035 * (X - BEST) ** 2 + common + each for each in own])


def fit(losses):
    return fit_jointly([curve_of(X, each) for each in losses])


def as_equal(joint):
    """The same fit, if all widths were equally noisy."""
    n = len(joint.placed)
    same = joint.noise._replace(variance=np.ones(n), freedom=np.full(n, np.inf))
    return replace(joint, noise=same)


def pooled(joint):
    """Variance of the slope, and its degrees of freedom: contrasts over what equal noise would give them."""
    n_seeds = len(joint.shares)
    contrasts = np.array([SLOPE, [1, -2, 1]])
    v = np.sum((joint.shares @ contrasts.T) ** 2, axis=0) / (n_seeds - 1)
    e = np.sum((contrasts @ joint.loads) ** 2, axis=1)
    return np.mean(v / e) * e[0] / n_seeds, 2 * (n_seeds - 1)


def half(joint):
    return joint.interval(SLOPE, 0.9)[1]


def test_widths_that_scatter_alike_are_pooled_as_equal_ones_exactly():
    one = bowl(np.random.default_rng(0), noise=[0.004])[0]
    joint = fit(np.stack([one, one[::-1], np.roll(one, 2, axis=0)]))  # seeds in another order
    assert joint.noise.variance.tolist() == [1, 1, 1]
    assert joint._variance(SLOPE) == pytest.approx(pooled(joint), rel=1e-9)
    joint = fit(bowl(np.random.default_rng(1), noise=[0.01, 0.03, 0.01]))
    assert joint._variance(SLOPE)[0] < 0.8 * pooled(joint)[0]
    assert joint._variance(SLOPE)[1] < pooled(joint)[1]


def test_no_evidence_of_a_difference_is_none_at_all():
    rng = np.random.default_rng(1)
    weight, losses = np.ones((3, len(X))), np.ones((3, len(X)))
    one = rng.normal(size=(6, len(X)))
    one -= one.mean(axis=0)
    found = noise_of_widths(np.stack([one, one[::-1], -one], axis=1), losses, weight, PLACED)
    assert found.variance.tolist() == [1, 1, 1] and np.isinf(found.freedom).all()
    still = noise_of_widths(np.zeros((6, 3, len(X))), losses, weight, PLACED)
    assert still.variance.tolist() == [1, 1, 1]
    alone = noise_of_widths(np.stack([one] * 3, axis=1), losses, weight, np.array([True, False, False]))
    assert alone.variance.tolist() == [1, 1, 1]


def test_variances_of_widths_are_their_losses_and_not_their_seeds_heights():
    rng = np.random.default_rng(2)
    sd = np.array([0.5, 1.0, 2.0])[:, None]
    y = sd * rng.normal(size=(200, 3, 7)) + 30 * rng.normal(size=(200, 1, 1))
    missing = rng.random(y.shape) < 0.2  # not run
    y[missing] = np.nan
    y -= np.nanmean(y, axis=0)
    weight = np.tile([0.2, 0.6, 0.9, 1.0, 0.9, 0.6, 0.0], (3, 1))
    found = noise_of_widths(y, np.ones((3, 7)), weight, PLACED)
    # some 750 degrees of freedom know a variance to 5%, three times that
    assert found.absolute == pytest.approx(sd[:, 0] ** 2, rel=0.15)
    assert (found.freedom > 500).all() and (found.freedom < 200 * 5).all()


def test_few_losses_are_drawn_together_and_one_width_without_noise_is_finite():
    rng = np.random.default_rng(3)
    y = np.array([1.0, 3.0, 1.0])[:, None] * rng.normal(size=(3, 3, 4))
    y -= y.mean(axis=0)
    found = noise_of_widths(y, np.ones((3, 4)), np.ones((3, 4)), PLACED)
    by_hand = np.sum((y - y.mean(axis=2, keepdims=True)) ** 2, axis=(0, 2)) / (2 * 3)
    spread = by_hand.max() / by_hand.min()
    assert 1 < found.variance.max() / found.variance.min() < spread
    assert (found.freedom > 6).all()  # (3 - 1) (4 - 1) of its own, and the common one's
    quiet = noise_of_widths(y * np.array([[[0.0], [1], [1]]]), np.ones((3, 4)), np.ones((3, 4)), PLACED)
    assert np.isfinite(quiet.variance).all() and quiet.variance[0] < 0.1


@pytest.mark.parametrize("noise", [(0.0, 0.0, 0.01), (1e-9, 1e-9, 1.0), (0.01, 0.0, 0.0)])
def test_widths_next_to_which_others_have_no_noise_have_an_interval(noise):
    joint = fit(bowl(np.random.default_rng(2), noise=noise))
    variance, freedom = joint._variance(SLOPE)
    assert np.isfinite([variance, freedom, half(joint)]).all()
    assert freedom > 0


def test_noise_in_the_middle_narrows_the_slope_and_at_the_ends_widens_it():
    ratios = {}
    for noise in ((0.01, 0.03, 0.01), (0.03, 0.01, 0.03)):
        joints = [fit(bowl(np.random.default_rng(seed), noise=noise)) for seed in range(8)]
        ratios[noise] = np.median([half(joint) / half(as_equal(joint)) for joint in joints])
    middle, ends = ratios.values()
    # what no seeds show is in the half-width too; by the noise alone 0.5 and 1.2
    assert middle < 0.85
    assert ends > 1.05


def test_noise_that_widths_share_goes_out_of_what_tells_them_apart():
    losses = bowl(np.random.default_rng(4), noise=[0.001] * 3, shared=0.03)
    rise = 0.035 * (X - BEST) ** 2
    quieter = fit(rise + np.array([0.6, 1.0, 1.0])[:, None, None] * (losses - rise))
    # a variance of 0.36 to 1 and 1, of which next to nothing is in their difference
    assert quieter.noise.absolute[0] < 0.6 * quieter.noise.absolute[1]
    assert quieter.noise.variance == pytest.approx([1, 1, 1], abs=0.15)


def test_scaled_noise_scales_the_half_width_and_the_order_of_seeds_is_nothing():
    losses = bowl(np.random.default_rng(5), noise=[0.0004, 0.0008, 0.0002])
    rise = 0.035 * (X - BEST) ** 2
    one, doubled = fit(losses), fit(rise + 2 * (losses - rise))
    assert np.sqrt(doubled._variance(SLOPE)[0]) == pytest.approx(2 * np.sqrt(one._variance(SLOPE)[0]), rel=0.01)
    assert doubled._variance(SLOPE)[1] == pytest.approx(one._variance(SLOPE)[1], rel=0.01)
    turned = fit(losses[:, [3, 1, 5, 0, 2, 4]])
    assert half(turned) == pytest.approx(half(one), rel=1e-6)


def test_intervals_cover_where_the_ends_are_noisier():
    n_widths, n_seeds, n_sweeps = 5, 6, 300
    weights = np.arange(-2, 3) / 10
    joint = fit([0.035 * (X - BEST) ** 2 + np.array([[0.0], [0.1]])] * n_widths)
    cells = np.stack([joint.of_width, np.tile(np.arange(len(X)), n_widths)], axis=1)
    rng = np.random.default_rng(6)
    covered = {"own": 0, "equal": 0}
    for _ in range(n_sweeps):  # to first order in the noise, which needs no other fit
        y = np.array([5, 1, 1, 1, 5])[:, None] * rng.normal(size=(n_seeds, n_widths, len(X)))
        means, y = y.mean(axis=0), y - y.mean(axis=0)
        noise = _noise(y, means, joint.loads, cells, joint.placed)
        found = replace(joint, shares=y.reshape(n_seeds, -1) @ joint.loads.T, noise=noise)
        for name, each in (("own", found), ("equal", as_equal(found))):
            variance, freedom = each._variance(weights)
            far = abs(weights @ joint.loads @ means.ravel())
            covered[name] += far < stats.t.ppf(0.95, freedom) * np.sqrt(variance)
    # 300 know a coverage of 0.9 to 0.017, of 0.77 to 0.024: some three times that
    assert 0.845 < covered["own"] / n_sweeps < 0.955
    assert covered["equal"] / n_sweeps < 0.83
