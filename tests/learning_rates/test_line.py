"""What a slope hides, and what an optimum at an edge still says: each beside a sweep that must not trip it."""

import numpy as np
import pandas as pd
import pytest
from planted_curves import diverge, judge, noisy_beyond, sweep

from mupcheck.learning_rates.line import Drift, Neighbours, OffLine, bound_optima, n_apart
from mupcheck.learning_rates.optimum import GUARDS, find_optima
from mupcheck.learning_rates.registration import Registration
from mupcheck.learning_rates.verdict import conclude


def moved(width, octaves, *, noise=0.05, **options):
    """A sweep without drift, but for the curve of one width, which lies `octaves` higher."""
    whole = sweep(noise=noise, **options)
    apart = sweep(noise=noise, centre=-6.2 + octaves, **options)
    return pd.concat([whole[whole["width"] != width], apart[apart["width"] == width]]).sort_index()


def test_a_middle_width_off_by_an_octave_does_not_transfer_and_is_named():
    for octaves in (-1.0, 1.0):
        answer = judge(moved(64, octaves))
        assert -0.25 < answer.drift.ci_low < answer.drift.ci_high < 0.25  # three widths: the slope does not see it
        assert answer.verdict == "drifts"
        assert "from width 32 to 64" in answer.reason and "from width 64 to 128" in answer.reason
        assert "; width 64 lies" in answer.reason
    assert judge(moved(64, 0.0)).verdict == "transfers"


@pytest.mark.parametrize("width", [32, 64, 128, 256])
def test_of_four_widths_the_one_that_is_off_is_named(width):
    answer = judge(moved(width, 1.0, widths=(32, 64, 128, 256)))
    assert answer.verdict == "drifts"
    off = max(answer.drift.off_line, key=lambda each: abs(each.octaves))
    assert width in (32, 256) or off.width == width
    assert str(width) in answer.reason.partition("but")[2] or width in (32, 256)


def test_a_width_that_may_be_off_by_more_than_the_tolerance_leaves_the_verdict_open():
    answer = judge(moved(64, 0.3, noise=0.2, seeds=6))
    assert answer.verdict == "cannot tell"
    assert "but width 64 lies +" in answer.reason and "not within +-0.25 beyond doubt" in answer.reason
    assert "seeds" in answer.next_step or "look at width 64" in answer.next_step
    assert judge(moved(64, 0.0, noise=0.2, seeds=6)).verdict == "transfers"


def test_off_the_line_and_between_neighbours_are_what_they_say():
    drift = judge(moved(64, 0.6)).drift
    best = np.array([optimum.log2_lr for optimum in judge(moved(64, 0.6)).optima])
    assert [pair.slope for pair in drift.neighbours] == pytest.approx(np.diff(best))
    line = drift.intercept + drift.slope * np.log2([32, 64, 128])
    assert [off.octaves for off in drift.off_line] == pytest.approx(best - line)
    pair = drift.neighbours[0]
    assert pair.ci_low < pair.slope < pair.ci_high
    assert judge(sweep(widths=(32, 64))).drift.off_line == ()


CENSORED = [
    # the optimum of 128 is below the grid; that of 32 not: at most what the first worse lr allows
    (lambda: sweep(-1.5, centre=-7.2), "drifts", "at most -"),
    (lambda: sweep(1.5, centre=-5.8), "drifts", "at least +"),
    # a bound that reaches into the tolerance says nothing
    (lambda: sweep(-0.6, centre=-8.5), "cannot tell", "at most"),
    (lambda: sweep(0.6, centre=-4.5), "cannot tell", "at least"),
    # at the other end of the widths, the other end of the interval
    (lambda: sweep(0.9, centre=-11.0), "cannot tell", ""),
]


@pytest.mark.parametrize(("make", "verdict", "bound"), CENSORED)
def test_an_optimum_at_an_edge_bounds_the_drift_from_one_side(make, verdict, bound):
    answer = judge(make())
    assert any(optimum.at_edge for optimum in answer.optima)
    assert (answer.verdict, bound in answer.drift_text) == (verdict, True)
    assert (answer.drift.ci_low is None) != (answer.drift.ci_high is None) or not bound
    assert "add " in answer.reason  # what would tell more


def test_a_bound_holds_the_truth_and_both_edges_leave_none():
    for truth in (-1.2, -1.5, -2.0):
        drift = judge(sweep(truth, centre=-7.2)).drift
        assert drift.ci_low is None and truth < drift.ci_high < 0
    far = sweep(-5.0, centre=-1.5)  # best at the highest lr of 32 and at the lowest of 128
    answer = judge(far)
    assert [o.flags[0] for o in answer.optima if o.at_edge] == ["high edge", "low edge"]
    # at most the lowest lr of 128 above the highest of 32: still a bound
    assert answer.drift.ci_low is None and answer.drift.ci_high < 0
    same = judge(sweep(centre=-12.0))
    assert (same.drift.ci_low, same.drift.ci_high, same.verdict) == (None, None, "cannot tell")
    assert same.next_step.startswith("give --refine")


@pytest.mark.parametrize("side", [-1, 1])
def test_an_interval_has_no_end_where_seeds_do_not_tell_a_side(side):
    """The drift's, of a widest width, has none on that side either; the other ends are as if all were told."""
    runs = sweep(noise=0.01)
    answer = judge(noisy_beyond(runs, 128, side))
    optimum = answer.optima[2]
    assert optimum.flags == ("within noise",)
    ends, of_drift = ((found.ci_low, found.ci_high)[::-side] for found in (optimum, answer.drift))
    assert ends[0] is None and of_drift[0] is None and of_drift[1] is not None
    assert ends[1] == pytest.approx(optimum.log2_lr - side * optimum.half_width)
    for told in (*answer.optima[:2], *judge(runs).optima):
        assert (told.ci_low, told.ci_high) == pytest.approx(
            (told.log2_lr - told.half_width, told.log2_lr + told.half_width)
        )


@pytest.mark.parametrize("centre", [-8.2, -4.8])  # wherever the lowest lr lies
@pytest.mark.parametrize("edges", [(-10.0,), (-3.0,), (-10.0, -3.0)])
def test_near_an_edge_it_is_open_to_those_that_resamples_have_it_at(edges, centre):
    """One seed finds an edge better than all, the others worse; lrs between are worse beyond doubt."""
    runs = sweep(centre=centre, noise=0.01, bend=0.02)
    assert judge(runs).optima[2].flags == ()
    for seed, edge in enumerate(edges):
        at_edge = (runs["width"] == 128) & (runs["log2_lr"] == edge)
        runs.loc[at_edge, "val_loss"] = 3.0 - 1.3 * (runs["seed"] == seed)
    answer = judge(runs)
    optimum = answer.optima[2]
    assert optimum.flags == ("near edge",)
    is_open = [-10.0 in edges, -3.0 in edges]
    assert [end is None for end in (optimum.ci_low, optimum.ci_high)] == is_open
    assert [end is None for end in (answer.drift.ci_low, answer.drift.ci_high)] == is_open
    assert answer.verdict == "cannot tell"


def test_what_trains_above_a_diverging_lr_is_known_from_above_alone():
    runs = sweep(noise=0.01)
    lowest = runs["log2_lr"] == runs["log2_lr"].min()
    for width, side in ((32, 1), (128, 0)):
        answer = judge(diverge(runs.copy(), lowest & (runs["width"] == width)))
        (optimum,) = (each for each in answer.optima if each.width == width)
        assert "low divergence" in optimum.flags
        assert optimum.ci_low is None
        assert optimum.ci_high == pytest.approx(optimum.log2_lr + optimum.half_width)
        # a lower optimum of the narrowest width is a larger drift
        ends = answer.drift.ci_low, answer.drift.ci_high
        assert [end is None for end in ends] == [side == 0, side == 1]
        assert answer.verdict == "cannot tell"
        assert answer.reason.startswith(f"width {width}: an lr below the best one diverged")
        assert answer.next_step == "give --refine (goes down to lrs that do not diverge)"
        # neither is one at the high edge known from below
        rising = runs["val_loss"].where(runs["width"] != width, 3 - 0.1 * runs["log2_lr"] + 1e-3 * runs["seed"])
        at_edge = judge(diverge(runs.assign(val_loss=rising), lowest & (runs["width"] == width)))
        assert {"low divergence", "high edge"} <= {flag for each in at_edge.optima for flag in each.flags}
        assert (at_edge.drift.ci_low, at_edge.drift.ci_high) == (None, None)
        assert at_edge.verdict == "cannot tell"
    # nor does a lowest lr that diverged bracket the next one
    beside = judge(diverge(sweep(centre=-8.9, noise=0.01), lowest & (runs["width"] == 128))).optima[2]
    assert "low divergence" in beside.flags and "next to divergence" not in beside.flags
    # where the loss falls over lrs further down, one that diverged between them and the best tells nothing
    for diverged, is_told in ((-8, True), (-9, False)):
        between = (runs["log2_lr"] == diverged) & (runs["width"] == 128)
        assert ("low divergence" not in judge(diverge(runs.copy(), between)).optima[2].flags) == is_told
    # one that drifts is still known to
    fallen = sweep(-0.8, noise=0.01)
    lowest = fallen["log2_lr"] == fallen["log2_lr"].min()
    assert judge(diverge(fallen, lowest & (fallen["width"] == 128))).verdict == "drifts"
    assert judge(runs).verdict == "transfers"


def surviving(runs, width, *, hole, best, better=0.2):
    """One seed of a width diverges at `hole`; two lrs above are `better` than its minimum, and beyond all diverge."""
    runs = runs.copy()
    own = runs["width"] == width
    lowest = runs.loc[own, "val_loss"].min()
    for at, by in ((hole + 1, better / 2), (best, better)):
        rows = own & (runs["log2_lr"] == at)
        runs.loc[rows, "val_loss"] = lowest - by + 0.003 * runs["seed"]
    runs = diverge(runs, own & (runs["log2_lr"] == hole) & (runs["seed"] == 0))
    return diverge(runs, own & (runs["log2_lr"] > best))


@pytest.mark.parametrize("width", [64, 128])
def test_what_survives_above_a_minimum_and_a_diverging_lr_decides_nothing(width):
    """It may train by chance, four octaves above a width's own minimum: taken for the best lr it would drift."""
    runs = sweep(centre=-9, noise=0.01, x=np.arange(-12.0, -3))
    answer = judge(surviving(runs, width, hole=-7, best=-5))
    (optimum,) = (each for each in answer.optima if each.width == width)
    assert optimum.flags == ("above divergence",)
    assert (optimum.log2_lr, optimum.ci_low, optimum.ci_high) == (-5, None, pytest.approx(-4.5))
    assert answer.verdict == "cannot tell"
    assert answer.reason == f"width {width}: {GUARDS['above divergence']}"
    assert answer.next_step == "give --seeds 6 (whether lrs above one that diverged train by chance)"
    if width == 128:  # the cost is its as well, and says no more than the drift
        assert answer.cost.verdict == "cannot tell"
        assert answer.cost.reason == "the best lr of width 128 lies above one that diverged, and may train by chance"
    # what is worse than the minimum takes nothing from it
    worse = judge(surviving(runs, width, hole=-7, best=-5, better=-0.1))
    assert judge(runs).verdict == worse.verdict == "transfers"
    assert [each.flags for each in worse.optima] == [()] * 3


def test_what_survives_still_bounds_a_drift_from_above():
    fallen = sweep(-3.0, centre=-4, noise=0.01, x=np.arange(-13.0, -1))
    answer = judge(surviving(fallen, 128, hole=-8, best=-6))
    assert answer.optima[2].flags == ("above divergence",)
    assert answer.verdict == "drifts"
    assert answer.drift.ci_low is None and -3 < answer.drift.ci_high < -0.25


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_an_optimums_interval_is_what_its_drift_knows_of_it(confidence):
    n_open = []
    for runs in (
        sweep(noise=0.3),
        sweep(centre=-9.0, noise=0.6),
        sweep(centre=-4.0, noise=0.6),
        noisy_beyond(noisy_beyond(sweep(), 64), 128, -1),
        noisy_beyond(noisy_beyond(sweep(noise=0.01), 64), 64, -1),
    ):
        optima = find_optima(runs, confidence=confidence)
        known = bound_optima(optima, confidence=confidence)
        inside = [each for each in optima if not each.at_edge]
        n_open.append(sum((each.ci_low, each.ci_high).count(None) for each in inside))
        for each in inside:
            assert [each.ci_low, each.ci_high] == pytest.approx(known[each.width])
    assert n_open[0] == 0 < min(n_open[1:])


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (lambda: diverge(sweep(), lambda runs: runs["width"] > 0), "add lower lrs"),
        (lambda: diverge(sweep(), lambda runs: runs["width"] == 128), "add lower lrs"),
        (lambda: sweep(x=[-6.0]), "add lrs"),
        (lambda: sweep(widths=(32, 64)), "add widths, such as --widths 32,64,128"),
        (lambda: sweep(seeds=1), "add seeds"),
        (lambda: sweep(widths=(32, 64, 65)), "2 width(s) where at least 3 are needed (64 and 65 count as one); add"),
        (lambda: sweep(widths=(64, 65, 66, 68)), "1 width(s) where"),
    ],
    ids=["all diverged", "one width diverged", "one lr", "two widths", "one seed", "a width twice", "one width"],
)
def test_what_cannot_be_told_says_what_to_add(make, advice):
    answer = judge(make())
    assert answer.verdict == "cannot tell"
    assert advice in answer.reason and answer.next_step


def test_widths_count_once_where_rounding_made_two_of_one():
    assert n_apart([32, 64, 65]) == n_apart([65, 32, 64, 64]) == 2
    assert n_apart([256, 320, 384, 512]) == 4
    assert n_apart([]) == 0
    assert "--widths 32,64,128 " in judge(sweep(widths=(32, 64, 65))).next_step


def planted(*, neighbours=(), off_line=(), registration=None):
    return Drift(0.0, -0.1, 0.1, -6.2, 0.9, 3, 3, 0.03, 0.0, neighbours, off_line, registration)


def test_only_what_is_beyond_doubt_between_neighbours_drifts():
    optima = find_optima(sweep(noise=0.01))
    seen = conclude(optima, planted(neighbours=(Neighbours(32, 64, 0.8, 0.3, 1.3),)), 0.25)
    assert (seen.verdict, "+0.80 [+0.30, +1.30] from width 32 to 64" in seen.reason) == ("drifts", True)
    assert conclude(optima, planted(neighbours=(Neighbours(32, 64, 0.3, 0.1, 0.5),)), 0.25).verdict == "transfers"
    wide = conclude(optima, planted(off_line=(OffLine(64, 0.0, -0.3, 0.3),)), 0.25)
    assert (wide.verdict, "width 64" in wide.reason) == ("cannot tell", True)
    assert conclude(optima, planted(off_line=(OffLine(64, 0.0, -0.2, 0.2),)), 0.25).verdict == "transfers"


def test_what_narrows_the_interval_of_a_width_off_the_line_is_counted_by_its_own_lrs():
    """Its lrs may be farther apart than those that the drift, here known to +-0.03 without noise, rests on."""
    optima, refined = find_optima(sweep(noise=0.01)), {"refine": True, "precision": 0.5}

    def advice(*off, spec=None):
        return conclude(optima, planted(off_line=(OffLine(64, *off),)), 0.25, spec=spec).next_step

    spacing = "most of the interval is the spacing of the lrs, +-0.26 octaves"
    assert advice(0.0, -0.3, 0.3, 0.26, 0.26) == f"give --refine: {spacing}"
    assert advice(0.0, -0.3, 0.3, 0.26, 0.26, spec=refined) == f"give --precision 0.25: {spacing}"
    assert advice(0.1, -0.3, 0.5, 0.16, 0.05) == "look at width 64: more seeds alone will hardly do"
    assert advice(0.1, -0.3, 0.5, 0.03, 0.03) == "give more seeds, about 23: most of the interval is their noise"
    # three widths that are known to a grid point only: the slope has weights -1/2, 0, 1/2, the middle -1/3, 2/3, -1/3
    found = judge(diverge(sweep(centre=-5, noise=0.01), lambda runs: runs["log2_lr"] > -6)).drift
    assert found.off_line[1].ci_rounding == pytest.approx(found.ci_rounding * 4 / 3) and found.ci_rounding > 0.1


def test_a_registration_that_fits_has_a_veto_and_a_misfit_has_none():
    optima = find_optima(sweep(noise=0.01))

    def verdict(low, high, *, fits):
        found = Registration((low + high) / 2, low, high, 0.002, 0.5 if fits else 0.001, fits)
        return conclude(optima, planted(registration=found), 0.25)

    against = verdict(0.2, 0.3, fits=True)
    assert (against.verdict, "curves as wholes lie +0.25" in against.reason) == ("cannot tell", True)
    assert "seeds" in against.next_step
    assert verdict(0.3, 0.4, fits=True).verdict == "cannot tell"
    assert verdict(0.3, 0.4, fits=False).verdict == verdict(-0.05, 0.3, fits=True).verdict == "transfers"
    measured = judge(sweep(-0.6, noise=0.05)).drift
    assert measured.registration.slope == pytest.approx(measured.slope, abs=0.05)
