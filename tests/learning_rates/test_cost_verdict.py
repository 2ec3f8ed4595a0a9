"""The verdict on costs: right where the truth is known, one-sided where it must be, absent where nothing is known."""

import math

import numpy as np
import pytest
from planted_curves import curve_of, diverge, judge, optimum_of, sweep

from mupcheck.learning_rates.cost import COST_TOLERANCE, find_cost
from mupcheck.learning_rates.curve_family import LOSS, PLACE, fit_family, rise

X = np.arange(-10.0, -3)
WIDTHS = (32, 64, 128)


def curves(moved, *, n_seeds=5, noise=0.03, x=X, rng=None, bend=0.032, middle=-6.4, flags=((), (), ())):
    """Optima of three widths whose curves rise faster above than below, as measured ones do, `moved` octaves in all."""
    rng = rng or np.random.default_rng(0)
    optima = []
    for i, width in enumerate(WIDTHS):
        u = x - (middle + moved * (i / 2 - 0.5))
        rises = bend * u**2 * (1 + 0.5 * np.maximum(u, 0))
        losses = 2.6 + rises + noise * rng.normal(size=(n_seeds, len(x))) + noise * rng.normal(size=(n_seeds, 1))
        optima.append(optimum_of(width, x, losses, flags=flags[i]))
    return optima


def cost_of(optima, **options):
    return find_cost(optima, **{"tolerance": COST_TOLERANCE, "confidence": 0.9, **options})


def test_without_noise_the_cost_is_that_of_the_curve():
    """A millionth of the noise: what is left is how far these curves are from the family that is fitted."""
    for moved in (-1.2, -0.8, 0.8):
        cost = cost_of(curves(moved, noise=1e-6))
        true = 0.032 * moved**2 * (1 + 0.5 * max(-moved, 0))
        assert cost.nats == pytest.approx(true, rel=0.15), "a curve with a kink is none of the family"
        assert cost.ci_low < true < cost.ci_high
        assert cost.percent == pytest.approx(100 * cost.nats / 2.6, rel=0.01)


@pytest.mark.parametrize(
    ("moved", "verdict"), [(0.0, "negligible"), (-0.2, "negligible"), (-2.2, "costly"), (2.6, "costly")]
)
def test_what_is_clear_is_decided(moved, verdict):
    """Five seeds with the demo's noise: of 20 sweeps with a cost far from the tolerance, 18 at least are decided."""
    rng = np.random.default_rng(1)
    found = [cost_of(curves(moved, rng=rng)).verdict for _ in range(20)]
    assert found.count(verdict) >= 18
    assert set(found) <= {verdict, "cannot tell"}


def test_at_the_tolerance_neither_verdict_is_given_falsely():
    """A cost of 1%, where each is false in 2 of 100 at most: in 40 sweeps more than 4 come in 1 of 1,000."""
    rng = np.random.default_rng(2)
    moved = -0.79  # 0.026 nats
    assert 0.032 * moved**2 * (1 + 0.5 * -moved) == pytest.approx(0.026, rel=0.1)
    found = [cost_of(curves(moved, rng=rng)).verdict for _ in range(40)]
    assert found.count("cannot tell") >= 36


def test_interval_covers_the_cost():
    rng = np.random.default_rng(3)
    for moved, n_seeds in ((-0.6, 3), (-1.5, 5)):
        true = 0.032 * moved**2 * (1 + 0.5 * -moved)
        found = [cost_of(curves(moved, n_seeds=n_seeds, rng=rng)) for _ in range(40)]
        covered = sum(cost.ci_low <= true <= cost.ci_high for cost in found)
        assert covered >= 35, "96 of 100; fewer than 35 of 40 in 1 of 1,000"
        assert found[0].level == pytest.approx(0.96)


def test_more_seeds_and_a_wider_tolerance_decide():
    open_one = curves(-0.4, n_seeds=3, rng=np.random.default_rng(5))
    cost = cost_of(open_one, tolerance=0.5)
    assert cost.verdict == "cannot tell" and cost.next_step.startswith("give more seeds, about ")
    assert cost_of(open_one, tolerance=5.0).verdict == "negligible"
    more = cost_of(curves(-0.4, n_seeds=16, rng=np.random.default_rng(5)), tolerance=0.5)
    assert more.ci_high - more.ci_low < (cost.ci_high - cost.ci_low) / 1.5
    assert cost_of(open_one, tolerance=0.5, confidence=0.5).ci_high < cost.ci_high


def test_the_middle_of_nothing_costs_nothing():
    """The lowest of noisy losses is too low; what the curve gains by that is none of the cost."""
    rng = np.random.default_rng(6)
    costs = [cost_of(curves(0.0, rng=rng)) for _ in range(60)]
    # about half a thousandth of the loss, where a mean over each seed's own minimum would find five times that
    assert np.mean([cost.percent for cost in costs]) < 0.1
    assert np.median([cost.percent for cost in costs]) < 0.03
    assert all(cost.percent_low < 0.1 for cost in costs)


# --- what is known from one side --------------------------------------------------------------------------------------


def test_a_target_at_the_edge_of_its_grid_has_a_lower_bound():
    optima = curves(-4.0, middle=-8.4, noise=0.005)  # its best lr lies at 2^-10.4, below the grid
    cost = cost_of(optima)
    assert cost.verdict == "costly" and cost.ci_high is None
    assert 100 * 0.032 * 3.6**2 / 2.6 * 0.5 < cost.percent_low < cost.percent
    assert "costs at least" in cost.text and "at least" in cost.reason
    near = cost_of(curves(-0.8, middle=-9.8, noise=0.03))
    assert (near.verdict, near.ci_high) == ("cannot tell", None)
    assert "the best lr of width 128 lies at the low end of its lrs" in near.reason and "--refine" in near.next_step


def test_a_source_at_the_edge_bounds_the_cost_only_if_the_other_lies_inward():
    inward = cost_of(curves(4.0, middle=-8.4, noise=0.005))
    assert inward.verdict == "costly" and inward.ci_high is None and "at least" in inward.text
    # both beyond the same edge: the target's own best may be just there
    both = cost_of(curves(0.0, middle=-12.0, noise=0.005))
    assert both.verdict == "cannot tell" and both.ci_low == 0.0 and both.ci_high is None
    assert both.nats is None and "unknown" in both.text
    across = [curves(0.0, middle=-12.0, noise=0.005)[0], curves(0.0, middle=-2.0, noise=0.005)[2]]
    assert cost_of(across).verdict == "costly", "beyond opposite ends"


def dying(optima, at, seeds):
    """The optima with the last width's runs diverged at `at` and above, for these seeds."""
    *others, last = optima
    losses = np.array([[loss for _, loss in point.seed_losses] for point in last.curve]).T
    losses[np.ix_(seeds, [point.log2_lr >= at for point in last.curve])] = np.inf
    return [*others, optimum_of(last.width, [point.log2_lr for point in last.curve], losses)]


def test_a_target_that_diverges_at_the_sources_lr_is_costly():
    optima = curves(-2.4, noise=0.005)  # the source's best lr is 2^-5.2
    dead = cost_of(dying(optima, -6.0, [2]))
    assert (dead.verdict, dead.n_diverged, dead.diverged_at, dead.ci_high) == ("costly", 1, -6.0, None)
    assert dead.text == "makes runs diverge" and "at width 128: 1 of 5 at 2^-6, at or below that lr" in dead.reason
    # between the last whole lr and the first with a dead run: at least what it costs at the former
    above = cost_of(dying(optima, -5.0, [2]))
    assert above.verdict == "costly" and above.n_diverged == 0 and above.ci_high is None
    assert above.percent_low < 100 * 0.032 * 1.6**2 * 1.8 / 2.6
    # divergence far above changes nothing
    clean = cost_of(curves(0.0, noise=0.01))
    assert cost_of(dying(curves(0.0, noise=0.01), -4.0, [0, 1])).verdict == clean.verdict == "negligible"


def test_nothing_is_said_where_nothing_is_known():
    one_seed = cost_of(curves(-1.0, n_seeds=1))
    assert one_seed.verdict == "cannot tell" and "one seed" in one_seed.reason and "seeds" in one_seed.next_step
    alone = cost_of(curves(-1.0)[:1])
    assert alone.verdict == "cannot tell" and alone.next_step == "give --widths 32,64"
    gone = cost_of(curves(-1.0), missing="2 of 30 runs of lr are missing; to complete it: x")
    assert (gone.verdict, gone.reason) == ("cannot tell", "2 of 30 runs of lr are missing")
    for flag in ("incomplete", "copied seeds", "no finite lr", "too few lrs"):
        found = cost_of(curves(-1.0, flags=((), (), (flag,))))
        assert found.verdict == "cannot tell" and "128" in found.reason and found.nats is None
        assert cost_of(curves(0.0, flags=((), (flag,), ()))).verdict == "negligible", "a width between does not matter"
    strangers = curves(-1.0)
    other = [point.__class__(point.log2_lr, point.loss, 0, tuple((s + 9, x) for s, x in point.seed_losses))
             for point in strangers[-1].curve]  # fmt: skip
    apart = optimum_of(128, X, np.full((5, len(X)), 2.0)).__class__(**{**strangers[-1].__dict__, "curve": tuple(other)})
    assert cost_of([*strangers[:2], apart]).verdict == "cannot tell"
    for wrong in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="no percent of the loss between 0 and 100; try 1"):
            cost_of(strangers, tolerance=wrong)


def test_seeds_that_differ_by_little_are_not_trusted_beyond_the_misfit():
    """With no noise at all the curve's own doubt is left, and an interval that is not a point."""
    cost = cost_of(curves(-1.0, noise=0.0))
    assert cost.ci_low < cost.nats < cost.ci_high


# --- the family -------------------------------------------------------------------------------------------------------


def test_a_curve_of_the_family_is_found_again():
    theta = np.array([2.6, -6.3, math.log(0.03), math.log(0.45), math.log(0.9)])
    shifts = (0.0, -0.7, -1.4)
    planted = []
    for shift in shifts:
        own = theta.copy()
        own[PLACE] += shift
        noise = 1e-7 * np.random.default_rng(7).normal(size=(3, len(X)))
        planted.append(curve_of(X, own[LOSS] + rise(own, X) + noise))
    family = fit_family(planted)
    assert family.theta[:, PLACE] == pytest.approx([theta[PLACE] + shift for shift in shifts], abs=0.01)
    assert family.theta[:, LOSS] == pytest.approx([2.6] * 3, abs=1e-3)
    assert np.all(family.misfit == 1)
    assert np.allclose(family.covariance, family.covariance.T)


def test_what_a_mean_loss_moves_is_what_a_refit_says():
    """The influences are derivatives: nudge one mean loss and fit again."""
    rng = np.random.default_rng(8)
    optima = curves(-1.0, rng=rng, noise=0.02)
    family = fit_family([optimum.curve for optimum in optima])
    nudged = [optimum.curve for optimum in optima]
    losses = np.array([[loss for _, loss in point.seed_losses] for point in nudged[-1]]).T
    losses[:, 3] += 1e-4
    again = fit_family([*nudged[:-1], curve_of(X, losses)])
    moved = (again.theta - family.theta).ravel() / 1e-4
    expected = family.follows[:, -1, 3]
    # the Hessian leaves out second derivatives of the residuals, and the weights follow the losses a little
    assert moved == pytest.approx(expected, abs=0.25 * np.abs(expected).max())


def test_lrs_behind_a_dead_one_and_lrs_of_other_widths_are_not_fitted():
    optima = curves(0.0, noise=0.01)
    losses = np.array([[loss for _, loss in point.seed_losses] for point in optima[0].curve]).T
    losses[0, 5] = np.inf  # at 2^-5, with 2^-4 whole behind it
    family = fit_family([curve_of(X, losses), optimum_of(64, X + 0.5, losses + 0.0).curve, optima[2].curve])
    assert family.range_of(0) == (-10.0, -6.0)
    assert family.used[0].sum() == 5 and family.used[2].sum() == 7
    assert len(family.x) == 14


# --- in the answer ----------------------------------------------------------------------------------------------------


def test_transfer_has_both_verdicts_in_a_sentence():
    answer = judge(sweep(0.0, noise=0.05, bend=0.03), cost=2.0)
    assert answer.cost.tolerance == 2.0 and answer.cost.verdict == "negligible"
    assert answer.sentence.startswith("p: the best lr of width 32 costs 0.")
    assert f"at 128: negligible; drift {answer.drift.slope:+.2f} [" in answer.sentence
    assert answer.sentence.endswith(f"octaves per doubling: {answer.verdict}")
    assert answer.sentence.split(";")[0] in " ".join(str(answer).split())
    drifting = judge(sweep(-1.0, noise=0.05))
    assert (drifting.verdict, drifting.cost.verdict) == ("drifts", "costly")
    one = judge(sweep(widths=(32,)))
    assert one.cost.verdict == "cannot tell" and "the best lr of" not in one.sentence
    runs = diverge(sweep(0.0, noise=0.05), lambda runs: (runs["width"] == 128) & (runs["seed"] == 0))
    assert judge(runs).cost.verdict == "cannot tell"
