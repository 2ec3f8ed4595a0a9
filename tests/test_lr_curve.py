"""The minimum of one loss curve: where it is, how well that is known, and what lies between its points."""

import numpy as np
import pytest

from mupcheck.lr_curve import (
    Point,
    draw_seeds,
    fit_minimum,
    grid_rounding,
    interval,
    loss_at,
    resample_curves,
    resample_losses,
)
from mupcheck.robustness import divergence_threshold, lr_sensitivity


def curve_of(x, losses):
    """Curve from losses [seed, lr], +inf for a diverged run."""
    points = []
    for log2_lr, at_lr in zip(x, np.transpose(losses), strict=True):
        finite = np.isfinite(at_lr)
        seed_losses = tuple((seed, float(loss) if np.isfinite(loss) else None) for seed, loss in enumerate(at_lr))
        points.append(Point(float(log2_lr), float(at_lr.mean()) if finite.all() else None, sum(~finite), seed_losses))
    return tuple(points)


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


def test_resamples_repeat_and_keep_a_seed_together():
    assert np.array_equal(draw_seeds(3), draw_seeds(3))
    x = np.arange(-8.0, -3)
    centres = np.array([-6.3, -6.0, -5.7])
    curve = curve_of(x, (x - centres[:, None]) ** 2 + np.array([[0.0], [5.0], [9.0]]))
    _, (resampled,) = resample_curves([curve])
    # seeds of equal curvature: the vertex of the mean is the mean of the vertices, whatever their offsets
    assert resampled.minima == pytest.approx(centres[draw_seeds(3)].mean(axis=1), abs=1e-9)


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


def test_rounding_only_where_a_neighbour_is_not_finite():
    x = np.arange(0, 2, 0.5)
    assert grid_rounding(curve_of(x, [[3, 1, 2, 4]])) == 0
    assert grid_rounding(curve_of(x, [[3, 2, 1, np.inf]])) == pytest.approx(0.5 / np.sqrt(12))
    assert grid_rounding(curve_of(x, [[1, 2, 3, 4]])) == pytest.approx(0.5 / np.sqrt(12))


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


def test_sensitivity_counts_a_diverged_run_as_the_initial_loss():
    curve = curve_of([-2, -1, 0], [[3.0, 2.0, np.inf], [3.0, 2.0, 9.0]])
    assert lr_sensitivity(curve, initial_loss=5.0) == pytest.approx((1 + 0 + 3) / 3)
    assert lr_sensitivity(curve_of([0], [[np.inf]]), 5.0) is None


def test_divergence_threshold_needs_half_of_the_seeds():
    one_of_three = curve_of([0, 1], [[1, np.inf], [1, 2], [1, 2]])
    two_of_four = curve_of([0, 1], [[1, np.inf], [1, np.inf], [1, 2], [1, 2]])
    assert divergence_threshold(one_of_three) is None
    assert divergence_threshold(two_of_four) == 1
