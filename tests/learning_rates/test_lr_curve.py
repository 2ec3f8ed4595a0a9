"""The minimum of one loss curve: where it is, how well that is known, and what lies between its points."""

from dataclasses import replace

import numpy as np
import pytest
from planted_curves import curve_of

from mupcheck.learning_rates.lr_curve import (
    FIT_OCTAVES,
    Point,
    copied_seeds,
    draw_seeds,
    fit_minimum,
    grid_floor,
    interpolate,
    interval,
    loss_at,
    lowest_below_divergence,
    resample_losses,
)


@pytest.mark.parametrize(("spacing", "vertex"), [(1.0, -6.2), (1.0, -5.6), (0.5, -6.2), (0.5, -5.9)])
def test_vertex_of_a_parabola_is_found(spacing, vertex):
    x = np.arange(-9, -2, spacing)
    best, upward = fit_minimum(x, 2 + 0.1 * (x - vertex)[None] ** 2)
    # exact but for rounding: a parabola is what is fitted
    assert best == pytest.approx(vertex, abs=1e-9)
    assert upward.all()


def test_fine_grid_takes_five_points_and_a_coarse_one_three():
    losses = np.array([[3.0, 2.3, 2.0, 2.1, 2.2]])  # the outer points pull the vertex to the right
    coarse, _ = fit_minimum(np.arange(5.0), losses)
    fine, _ = fit_minimum(np.arange(5.0) / 2, losses)
    assert coarse == pytest.approx(2 + 0.2 / 0.8)
    curvature, gradient, _ = np.polyfit([-1, -0.5, 0, 0.5, 1], losses[0], 2)
    assert fine == pytest.approx(1 - gradient / (2 * curvature))


def test_minimum_without_two_finite_neighbours_is_its_grid_point():
    x = np.arange(4.0)
    losses = np.array([[1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, np.inf], [np.inf, 2.0, 3.0, 4.0]])
    best, _ = fit_minimum(x, losses)
    assert list(best) == [0, 2, 1]


def test_a_curve_that_does_not_bend_upward_is_told():
    best, upward = fit_minimum(np.arange(5.0) / 2, np.array([[1.0, 1.4, 0.9, 1.4, 1.0], [1.4, 1.0, 0.9, 1.0, 1.4]]))
    assert list(upward) == [False, True]
    assert best == pytest.approx([1, 1])  # by the three points around it


def test_a_seed_that_was_not_run_leaves_the_others():
    x = np.arange(-8.0, -3)
    whole = curve_of(x, np.stack([(x + 6) ** 2, (x + 6) ** 2]))
    holed = tuple(Point(p.log2_lr, p.loss, 0, p.seed_losses[:1] if p.log2_lr == -8 else p.seed_losses) for p in whole)
    draws = np.array([[0, 1], [1, 1]])
    assert fit_minimum(x, resample_losses(holed, [0, 1], draws))[0] == pytest.approx([-6, -6])


def test_interval_is_students_for_a_mean():
    values = np.array([0.1, 0.5, 0.2, 0.9])
    low, high = interval(values.mean(), values[draw_seeds(4)].mean(axis=1), n_seeds=4, rounding=0, confidence=0.9)
    half = 2.353 * values.std(ddof=1) / 2  # t(3 degrees of freedom, 95%) / sqrt(4 seeds)
    # 1000 resamples know a standard deviation to 2%; three times that
    assert (high - low) / 2 == pytest.approx(half, rel=0.07)
    assert interval(0.0, np.zeros(10), n_seeds=1, rounding=0, confidence=0.9) == (None, None)


def test_loss_between_points_and_never_beyond_them():
    x = np.arange(-8.0, -2)
    losses = 2 + 0.1 * (x + 5.3) ** 2
    curve = curve_of(x, [[*losses[:-1], np.inf]])
    assert loss_at(curve, -5.3) == pytest.approx(2)
    assert loss_at(curve, -7.8) == pytest.approx(2 + 0.1 * 2.5**2)
    assert loss_at(curve, -4) == losses[4]
    assert [loss_at(curve, at) for at in (-8.1, -3.5, -3, -2.9)] == [None] * 4
    two = curve_of([-2.0, -1.0, 0.0], [[3.0, 2.0, np.inf]])
    assert loss_at(two, -1.25) == pytest.approx(2.25)


def test_a_refined_curve_is_fitted_over_the_range_of_an_unrefined_one():
    """Through the nearest three of a fine curve, noise of a thousandth of a nat moves the minimum by octaves."""
    x = np.array([-9.0, -8, -7, -6.5, -6.25, -6, -5.75, -5, -4])
    rng = np.random.default_rng(0)
    losses = 2 + 0.05 * (x + 6.2) ** 2 + rng.normal(0, 0.002, (200, len(x)))
    wide = fit_minimum(x, losses)[0]
    near = [fit_minimum(x[3:8], row[None, 3:8])[0][0] for row in losses]  # no point an octave away
    assert np.abs(wide + 6.2).max() < 0.3
    assert np.std(near) > 2 * np.std(wide)
    assert FIT_OCTAVES >= 1


def test_a_parabola_stops_at_a_hole_in_the_curve():
    x = np.arange(-8.0, -3, 0.25)
    losses = 2 + 0.1 * (x + 6.1) ** 2
    # beyond a diverged lr the curve is another one
    bent = np.where(x > -5.25, losses - 0.06, losses)
    assert fit_minimum(x, bent[None])[0] != pytest.approx(-6.1, abs=1e-3)
    assert fit_minimum(x, np.where(x == -5.25, np.inf, bent)[None])[0] == pytest.approx(-6.1)
    assert fit_minimum(x, np.where(x == -5.75, np.inf, bent)[None])[0] == -6  # a neighbour is gone


def test_every_curve_is_read_at_its_own_lr():
    x = np.array([-8.0, -7, -6.5, -6, -4])
    losses = np.stack([2 + 0.1 * (x + 6) ** 2, 3 + 0.2 * (x + 7) ** 2, np.where(x > -6.2, np.inf, x)])
    at = np.array([-5.2, -7.4, -6.2])
    found = interpolate(x, losses, at)
    # exact but for rounding: parabolas are what is drawn through three points
    assert found[:2] == pytest.approx([2 + 0.1 * 0.8**2, 3 + 0.2 * 0.4**2])
    assert np.isnan(found[2])
    assert np.isnan(interpolate(x, losses[:2], np.array([-8.1, -3.9]))).all()
    assert interpolate(x[:1], losses[:1, :1], np.array([-8.0])) == pytest.approx(2.4)


def test_an_interval_needs_numbers_from_nearly_all_resamples():
    values = np.linspace(0, 1, 100)
    assert interval(0.5, values, n_seeds=3, rounding=0, confidence=0.9)[0] is not None
    few = np.where(np.arange(100) < 6, np.nan, values)
    assert interval(0.5, few, n_seeds=3, rounding=0, confidence=0.9) == (None, None)


def test_the_floor_of_an_interval_grows_with_the_spacing_that_a_parabola_spans():
    def floor(spacing):
        x = np.arange(-8, -4 + spacing / 2, spacing)
        return grid_floor(curve_of(x, [(x + 6) ** 2, (x + 6) ** 2 + 1]))

    assert [floor(1.0), floor(2.0)] == pytest.approx([0.1, 0.4])
    assert [floor(0.25), floor(0.5)] == pytest.approx([0.1, 0.1], abs=0.03)  # as far to either side, however fine
    x = np.arange(3.0)
    assert grid_floor(curve_of(x, [[2, 1, np.inf]])) == grid_floor(curve_of(x, [[1, 2, 3]])) == 0
    assert grid_floor(curve_of(x, [[2, 1, 2], [2, 1, 2]])) == 0.5


def test_copies_of_seeds_are_found_and_dead_ones_are_none():
    x, inf = np.arange(3.0), np.inf
    assert copied_seeds(curve_of(x, [[2, 1, 2], [2, 1, 2], [3, 1, 2]])) == (0, 1)
    assert copied_seeds(curve_of(x, [[2, 1, inf], [2, 1, inf]])) == (0, 1)
    assert copied_seeds(curve_of(x, [[inf, inf, inf], [inf, inf, inf]])) == ()
    assert copied_seeds(curve_of(x, [[2, 1, np.nan], [np.nan, np.nan, 2]])) == ()
    assert copied_seeds(curve_of(x, [[2, 1, 2]])) == ()


@pytest.mark.parametrize(
    ("losses", "lowest"),
    [
        ([3, 2, 3], None),
        ([3, 2, np.inf], None),
        ([np.inf, 2, 3], 0),
        ([3, np.inf, 2], 0),  # one lr says nothing of where the loss falls to
        ([2.5, 3, np.inf, 2], 0),
        ([3, 2.5, np.inf, 2], None),  # it falls all the way
        ([3, 2.5, 2.8, np.inf, 2], 1),
        ([3, 2.5, 2.8, np.inf, np.inf, 2, np.inf], 1),
        ([3, 2.5, np.inf, 2.2, 2.4, np.inf, 2], 3),
        ([3, 2.5, np.inf, 2.2, np.inf, 2], None),
        ([3, 2.5, 2.8, np.inf, 2.6], None),  # the best lies below what diverged
    ],
)
def test_the_best_below_a_diverged_lr_is_found_where_the_loss_does_not_fall_up_to_it(losses, lowest):
    curve = curve_of(np.arange(float(len(losses))), [losses])
    assert lowest_below_divergence(curve) == lowest
    assert lowest_below_divergence([replace(each, n_diverged=0, n_stopped=each.n_lost) for each in curve]) is None
