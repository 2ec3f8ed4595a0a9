"""The lr predicted at a width that was not trained: on the line, ever less sure, and refused where it cannot be."""

import math
from dataclasses import replace

import numpy as np
import pytest
from planted_curves import LRS, judge, optimum_of, sweep

from mupcheck.learning_rates.drift import find_optima
from mupcheck.learning_rates.forecast import MAX_WIDTH, check_target, forecast
from mupcheck.learning_rates.line import Drift
from mupcheck.learning_rates.recommend import recommend

SPEC = {"mode": "head-dim", "n_heads": 2, "base_width": None}


def half(found):
    return (found.ci_high - found.ci_low) / 2


def test_the_line_is_followed_and_its_doubt_grows_with_the_distance():
    runs = sweep(-0.5, noise=0.05, seeds=5)
    answer = judge(runs, target=512)
    drift, found = answer.drift, answer.target
    assert found.width == 512 and found.doublings == 2
    assert found.log2_lr == pytest.approx(drift.intercept + 9 * drift.slope)
    assert found.ci_low < -6.2 - 0.5 * 4 < found.ci_high
    assert found.lr == 2**found.log2_lr
    at = {width: judge(runs, target=width).target for width in (32, 64, 256, 512, 4096)}
    assert half(at[64]) < half(at[256]) < half(at[512]) < half(at[4096])
    # of the middle width the drift says nothing: what is left is how well places are known
    level = np.mean([(o.ci_high - o.ci_low) / 2 for o in answer.optima])
    assert half(at[64]) == pytest.approx(level, rel=1e-6)
    # far out it is the drift's
    assert half(at[4096]) == pytest.approx((drift.ci_high - drift.ci_low) / 2 * 6, rel=0.2)


def test_optima_off_their_line_widen_it():
    def optima(off):
        places = (-6.0, -6.0 + off, -6.0)
        noise = 0.02 * np.random.default_rng(0).normal(size=(4, 1))
        return [
            optimum_of(width, LRS, 3 + 0.1 * (LRS - place - noise) ** 2)
            for width, place in zip((32, 64, 128), places, strict=True)
        ]

    trend = Drift(0.0, -0.1, 0.1, -6.0, 0.9, 3, 5)
    known = [[o.__class__(**{**o.__dict__, "half_width": 0.1}) for o in optima(off)] for off in (0.0, 0.9)]
    straight, bent = (forecast(each, 256, trend) for each in known)
    assert half(bent) > 2 * half(straight)
    assert half(straight) == pytest.approx(math.hypot(0.1, 0.2), rel=0.01)


def test_an_optimum_open_to_a_side_makes_a_forecast_no_surer():
    runs = sweep(-0.5, noise=0.3, seeds=5)
    answer = judge(runs)
    blind = [replace(each, ci_low=None, ci_high=None) if each.width == 64 else each for each in answer.optima]
    assert forecast(blind, 512, answer.drift) == forecast(answer.optima, 512, answer.drift)
    surer = [replace(each, half_width=None) if each.width == 64 else each for each in answer.optima]
    assert forecast(surer, 512, answer.drift) != forecast(answer.optima, 512, answer.drift)


def test_what_the_doubt_costs_is_read_off_the_largest_widths_curve():
    answer = judge(sweep(0.0, noise=0.05, seeds=5, bend=0.1), target=256)
    found = answer.target
    far = max(found.ci_high - found.log2_lr, found.log2_lr - found.ci_low)
    # the bend is 0.1 nats per octave squared, of a loss of 3 - 0.1 * 7
    assert found.percent == pytest.approx(100 * 0.1 * far**2 / 2.3, rel=0.15)
    steep = judge(sweep(0.0, noise=0.05, seeds=5, bend=0.3), target=256).target
    assert steep.percent > found.percent
    assert f"would cost {found.percent:.1f}% of the loss" in found.text


def test_what_is_not_known_is_left_open():
    edge = judge(sweep(-1.0, centre=-8.2), target=256).target
    assert edge.ci_low is None and edge.percent is None and "at the lowest lr or beyond" in edge.reason
    assert "[?" in edge.text
    # the smallest width's lies lower than it seems, so that the line is steeper and its end is open above
    turned = judge(sweep(1.0, centre=-10.3), target=256).target
    assert turned.ci_high is None and turned.ci_low is not None and "best lr of width 32" in turned.reason
    one_seed = judge(sweep(-0.5, seeds=1), target=256).target
    assert one_seed.log2_lr is not None and (one_seed.ci_low, one_seed.ci_high) == (None, None)
    assert "no interval" in one_seed.reason
    one_width = judge(sweep(widths=(32,)), target=64).target
    assert one_width.log2_lr is None and "add widths" in one_width.reason and one_width.lr is None
    assert one_width.text.startswith("no lr for width 64")


@pytest.mark.parametrize(
    ("width", "said"),
    [
        (-4096, "--target -4096 is not a width; give a whole number from 32 to 16777216"),
        (0, "is not a width"),
        (MAX_WIDTH + 32, "is not a width"),
        (16, "--target 16 is below the smallest width of the sweep; give one of 32 or more"),
        (4097, "--target: width 4097 is not allowed in head-dim mode: K=12, V=24 at base_width 32 must grow"),
    ],
)
def test_a_width_that_cannot_be_is_refused_in_one_line(width, said):
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        check_target(width, (32, 64, 128), SPEC, name="--target")
    assert said in str(caught.value)


def test_a_width_that_fits_is_not_refused():
    for width in (32, 96, 4096, MAX_WIDTH):
        check_target(width, (32, 64, 128), SPEC)
    check_target(48, (32, 64), SPEC | {"mode": "heads", "head_k_dim": 8, "head_v_dim": 8})
    with pytest.raises(ValueError, match="target=True is not a width"):
        check_target(True, (1, 2), SPEC)
    with pytest.raises(ValueError, match="target=16 is below"):
        judge(sweep(), target=16)


# --- recommend --------------------------------------------------------------------------------------------------------


def test_what_transfers_at_no_cost_is_recommended_without_a_warning():
    answer = judge(sweep(0.0, noise=0.02, seeds=8, bend=0.05))
    assert (answer.verdict, answer.cost.verdict) == ("transfers", "negligible")
    found = recommend(answer, 256)
    assert found.warnings == ()
    assert found.lr_low < 2**-6.2 < found.lr_high and found.lr == found.forecast.lr
    assert found.sentence == answer.sentence and found.rests_on == answer.how_measured
    assert found.title == answer.title and found.base_width == 32


def test_what_drifts_or_cannot_be_told_is_warned_of_and_answered():
    drifting = recommend(judge(sweep(-1.0, noise=0.05, seeds=5)), 256)
    assert "DRIFTS" in drifting.warnings[0] and "COSTLY" in drifting.warnings[1]
    assert drifting.lr_low < 2**-9.2 < drifting.lr_high
    noisy = recommend(judge(sweep(0.0, noise=0.6, seeds=3)), 4096)
    assert "CANNOT be TOLD" in noisy.warnings[0]
    assert any("the interval is wide" in warning for warning in noisy.warnings)
    assert any("32 times the largest" in warning for warning in noisy.warnings)
    open_end = recommend(judge(sweep(-1.0, centre=-8.2, noise=0.02)), 256)
    assert any("no whole interval" in warning for warning in open_end.warnings) and open_end.lr_low is None
    (own,) = recommend(judge(sweep(0.0, noise=0.02, seeds=8, bend=0.05)), 64).warnings
    assert own.startswith("width 64 was run, and its own best lr is 0.0")
    with pytest.raises(ValueError, match="width=8 is below"):
        recommend(judge(sweep()), 8)


def test_a_forecast_takes_what_find_optima_returns():
    optima = find_optima(sweep(-0.5, noise=0.05))
    assert forecast(optima, 256, Drift(-0.5, None, -0.3, -3.7, 0.9, 3, 5)).ci_low is None
    assert forecast(optima, 256, Drift(None, None, None, None, 0.9, 3, 5)).log2_lr is None


def test_of_a_sweep_that_cannot_be_trusted_there_is_no_interval():
    runs = sweep(noise=0.05, seeds=4)
    assert judge(runs, target=512).target.ci_low is not None
    copy = runs.copy()
    copy.loc[copy["width"] == 64, "val_loss"] = copy.loc[copy["width"] == 32, "val_loss"].to_numpy()
    found = judge(copy, target=512).target
    assert (found.ci_low, found.ci_high) == (None, None) and "copied width at width 32" in found.reason
    # the largest width that has a best lr is what it is so far from
    lost = runs.assign(status=runs["status"].mask(runs["width"] == 128, "diverged"))
    found = judge(lost, target=512).target
    assert found.doublings == 3 and found.reason == "no finite lr at width 128"
    none = judge(runs.assign(status="diverged"), target=512).target
    assert none.reason == "0 of 3 widths have a best lr, too few for a drift; add lrs that do not diverge"
