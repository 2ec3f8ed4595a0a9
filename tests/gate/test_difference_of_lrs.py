"""What moved between two learning-rate sweeps: optima, drift and cost; bounds are no more than that."""

import numpy as np
import pytest
from planted_curves import LRS, diverge, judge, sweep

from mupcheck.gate.difference import diff
from mupcheck.gate.moves import DRIFT, OPTIMUM, OPTIMUM_TOLERANCE, Span, lr_moves, verdict_of
from mupcheck.learning_rates.apart import half_of_paired, weights_of_drift
from mupcheck.learning_rates.drift import find_optima
from mupcheck.results.reading import Results


def results(runs=None, **options):
    runs = sweep(**options) if runs is None else runs
    return Results(runs=runs.assign(python="3"), steps=runs[:0], coords=runs[:0], sweeps={})


def drawn(seed, *, drift=0.0, shift=0.0, seeds=6, first=0, noise=0.03, x=LRS):
    """Curves whose optima scatter by `noise` octaves a seed and width, with noise in every loss."""
    rng = np.random.default_rng(seed)
    runs = sweep(drift, noise=0.0, seeds=seeds, centre=-6.2 + shift, x=x)
    at = -6.2 + shift + drift * np.log2(runs["width"] / 32)
    own = {key: noise * rng.standard_normal() for key in runs.groupby(["width", "seed"]).groups}
    best = at + np.array([own[key] for key in zip(runs["width"], runs["seed"], strict=True)])
    loss = (
        3 - 0.1 * np.log2(runs["width"]) + 0.1 * (runs["log2_lr"] - best) ** 2 + 0.002 * rng.standard_normal(len(runs))
    )
    return results(runs.assign(val_loss=loss, train_loss=loss + 0.1, seed=runs["seed"] + first))


def moves_of(a, b):
    (pair,) = diff(a, b).pairs
    return pair, {(each.what, each.of): each for each in pair.moves}


def mirrored(span):
    return Span(-span.value, -span.high, -span.low)


def moved(found):
    return {key for key, each in found.items() if each.moved}


OPTIMA = [("best lr", f"width {width}") for width in (32, 64, 128)]
ALL = [*OPTIMA, ("drift", ""), ("cost", "32 at 128")]


def test_a_sweep_has_not_moved_against_itself():
    for each in (results(), results(seeds=1), results(bend=0.0), results(x=np.arange(-6.0, -2.0))):
        pair, found = moves_of(each, each)
        assert pair.outcome == "same" and {move.difference.value for move in found.values()} == {0.0}
    # nor where it is not known that the draws were the same
    pair, _ = moves_of(results(sweep().assign(data_hash=None)), results(sweep().assign(data_hash=None)))
    assert pair.outcome == "same" and not pair.measured.shared


def test_other_seeds_of_one_code_have_not_moved():
    pair, found = moves_of(drawn(1), drawn(2, first=6))
    assert list(found) == [*OPTIMA, ALL[3], ALL[4]] or set(found) == set(ALL)
    assert pair.outcome == "same" and {each.verdict for each in found.values()} == {"same"}
    assert pair.headline.startswith("p (adamw, head-dim): nothing moved of best lrs of 3 widths, drift, cost; verdict ")


@pytest.mark.parametrize("first", [0, 6])
def test_optima_that_moved_by_an_octave_did_and_the_drift_did_not(first):
    pair, found = moves_of(drawn(1), drawn(2, shift=1.0, first=first))
    assert moved(found) == set(OPTIMA) and pair.measured.shared == (first == 0)
    for key in OPTIMA:
        assert found[key].difference.value == pytest.approx(1.0, abs=0.1)
        assert found[key].difference.low > 0.5
    assert found["drift", ""].verdict == "same"


def test_a_planted_drift_moves_the_drift_and_the_verdict():
    pair, found = moves_of(drawn(1), drawn(2, drift=-0.9, first=6))
    assert {*OPTIMA[1:], ("drift", ""), ("cost", "32 at 128")} == moved(found)
    assert (pair.was, pair.now, pair.cost_was, pair.cost_now) == ("transfers", "drifts", "negligible", "costly")
    assert pair.is_verdict_new and "verdict transfers -> drifts; cost negligible -> costly" in pair.headline
    back, mirrored = moves_of(drawn(2, drift=-0.9, first=6), drawn(1))
    assert (back.was, back.now, moved(mirrored)) == ("drifts", "transfers", moved(found))
    for key, each in found.items():
        there = each.difference
        assert tuple(mirrored[key].difference) == pytest.approx((-there.value, -there.high, -there.low))


def test_a_move_within_the_tolerance_is_the_same_unless_it_is_beyond_doubt():
    # other seeds tell 0.1 octaves from none hardly, and from the tolerance surely
    _, found = moves_of(drawn(1, noise=0.1), drawn(2, noise=0.1, shift=0.05, first=6))
    assert {found[key].verdict for key in OPTIMA} == {"same"}
    _, found = moves_of(drawn(1, noise=0.001), drawn(1, noise=0.001, shift=0.2))
    assert moved(found) == set(OPTIMA) and OPTIMUM_TOLERANCE > 0.2


def test_the_same_is_within_the_tolerance_on_either_side():
    together = Span(0.2, -1.0, 1.4)
    for alone, verdict in ((Span(0.2, -0.1, 0.5), "same"), (Span(0.2, -0.1, 0.51), "cannot tell")):
        for each, wide in ((alone, together), (mirrored(alone), mirrored(together))):
            assert verdict_of(wide, each, 0.5) == verdict
            assert verdict_of(each._replace(low=0.01, high=0.02), each, 0.5) == "moved"


def test_noise_beyond_the_tolerance_cannot_be_told():
    pair, found = moves_of(drawn(1, noise=0.9, seeds=3), drawn(5, noise=0.9, seeds=3, first=6))
    assert pair.outcome == "cannot tell" and "cannot tell" in {found[key].verdict for key in OPTIMA}


def test_seeds_that_drew_the_same_are_compared_one_by_one():
    """What a seed does to both goes out: rounding of 0.001 nats a run leaves 0.01 octaves, not the seeds' 0.3."""
    runs = drawn(1, noise=0.3).runs
    rng = np.random.default_rng(0)
    again = runs.assign(val_loss=runs["val_loss"] + 0.001 * rng.standard_normal(len(runs)))
    optima = [find_optima(each) for each in (runs, again)]
    assert half_of_paired(*optima, weights_of_drift(optima[0]), 0.9) < 0.05
    alone = {key: each.verdict for key, each in moves_of(results(runs), results(again))[1].items()}
    assert {alone[key] for key in OPTIMA} == {"same"}
    pair, apart = moves_of(results(runs), results(again.assign(seed=again["seed"] + 6)))
    assert max(apart[key].difference.high for key in OPTIMA) > 0.3 and pair.outcome != "moved"


def test_intervals_hold_for_all_quantities_of_a_pair_together():
    """Five quantities at 99%: each at 99.8, by seeds where they drew the same and by either side's own where not."""
    a, b = judge(drawn(1).runs), judge(drawn(2).runs)
    weights = {**dict(zip(OPTIMA, np.eye(3), strict=True)), ("drift", ""): weights_of_drift(a.optima)}
    for without, level in (((), 1 - 0.01 / 5), (("drift", "cost"), 1 - 0.01 / 3)):
        for each in lr_moves(a, b, shared=True, without=without):
            if each.what in (OPTIMUM, DRIFT):
                half = half_of_paired(a.optima, b.optima, weights[each.what, each.of], level)
                assert each.difference.high - each.difference.value == pytest.approx(max(half, 0.005))
    own = [judge(side, confidence=1 - 0.01 / 5) for side in (drawn(1).runs, drawn(2).runs)]
    moves = {each.what: each for each in lr_moves(a, b, shared=False)}
    (low, high), (from_low, from_high) = ((each.drift.ci_low, each.drift.ci_high) for each in own)
    wide = np.hypot(from_high - b.drift.slope, a.drift.slope - low)
    assert moves[DRIFT].difference.high - moves[DRIFT].difference.value == pytest.approx(wide)
    assert high > a.drift.ci_high and from_low < b.drift.ci_low
    # a cost's level is another function of the confidence: 0.9 of it are 0.75
    cost = judge(drawn(1).runs, confidence=0.75).cost
    assert tuple(moves["cost"].a) == pytest.approx((cost.percent, cost.percent_low, cost.percent_high))


def test_less_than_rounding_has_not_moved_however_alike_the_seeds():
    for shift, verdict in ((0.001, "same"), (0.02, "moved")):
        _, found = moves_of(results(), results(centre=-6.2 + shift))
        assert {found[key].verdict for key in OPTIMA} == {verdict}
        assert {round(found[key].difference.value, 4) for key in OPTIMA} == {shift}


def test_what_is_known_from_one_side_is_a_bound_for_shared_seeds_too():
    x = np.arange(-5.0, -1.0)
    pair, found = moves_of(drawn(1, x=x), drawn(2, shift=-1.0, x=x))
    assert pair.measured.shared
    for key in OPTIMA:
        assert tuple(found[key].difference)[1:] == (-np.inf, np.inf) and found[key].verdict == "cannot tell"


def test_a_width_that_is_missing_leaves_drift_and_cost_in_doubt():
    part = results(widths=(32, 64))
    spec = {"widths": [32, 64, 128], "lrs": [2.0**x for x in LRS]}
    part.sweeps["s"] = {"run_ids": list(results().runs["run_id"]), "spec": spec}
    pair, found = moves_of(results(widths=(32, 64), noise=0.05), part)
    assert found["drift", ""].reason == "runs are missing in B" and found["drift", ""].verdict == "cannot tell"
    assert pair.outcome == "cannot tell" and found["cost", "32 at 64"].reason.endswith(" in B")


def test_a_cost_where_runs_diverge_is_not_compared():
    runs = sweep(drift=-0.9, noise=0.05)
    runs = diverge(runs, (runs["width"] == 128) & (runs["log2_lr"] >= -7))
    _, found = moves_of(results(drift=-0.9), results(runs))
    assert found["cost", "32 at 128"].reason == "runs diverge there in B"
    assert found["cost", "32 at 128"].verdict == "cannot tell"


def test_an_optimum_at_an_edge_is_a_bound():
    low = drawn(1, x=np.arange(-5.0, -1.0))  # the best lr of 2^-6.2 lies below
    for far, verdict in ((0.0, "cannot tell"), (4.2, "moved")):
        _, found = moves_of(low, drawn(2, shift=far, first=6, x=np.arange(-9.0, 1.0)))
        for key in OPTIMA:
            assert found[key].verdict == verdict
            assert found[key].a.low == -np.inf and found[key].difference.high == np.inf
    _, both = moves_of(low, drawn(2, shift=-1.0, first=6, x=np.arange(-5.0, -1.0)))
    assert {both[key].verdict for key in OPTIMA} == {"cannot tell"}
    # a bound on one side and one on the other exclude one another
    _, ends = moves_of(low, drawn(2, shift=8.0, first=6, x=np.arange(-4.0, 1.0)))
    assert set(OPTIMA) <= moved(ends)


def test_one_width_has_an_optimum_and_no_drift():
    pair, found = moves_of(results(widths=(64,)), results(widths=(64,), centre=-5.0))
    assert set(found) == {("best lr", "width 64")} == moved(found) and pair.cost_now == ""


def test_widths_of_one_side_are_named():
    pair, found = moves_of(drawn(1), results(widths=(32, 64, 128, 256)))
    assert found["best lr", "width 256"].verdict == "only in B"
    assert "cost" not in {what for what, _ in found}, "it is of other widths"
    assert "1 only in B" in pair.counted


@pytest.mark.parametrize(
    ("changes", "left", "said"),
    [
        (
            {"base_width": 64},
            {"drift", "cost"},
            "best lrs are not compared: an lr is the one at the base width, 32 in A",
        ),
        ({"vocab_size": 512}, {"best lr", "drift"}, "costs are not compared: a loss per token has another unit"),
        ({"val_loss": np.nan}, set(), "they are of val_loss in A and train_loss in B"),
    ],
)
def test_what_means_another_thing_is_not_compared(changes, left, said):
    pair, found = moves_of(results(), results(sweep().assign(**changes)))
    assert {what for what, _ in found} == left
    assert any(said in line for line in pair.measured.why)
    assert pair.outcome == ("cannot tell" if not left else "same")


def test_flags_that_leave_nothing_to_rest_on_cannot_tell():
    runs = sweep()
    gone = runs[~((runs["width"] == 64) & (runs["log2_lr"] == -6) & (runs["seed"] == 1))]
    _, found = moves_of(results(), results(gone))
    assert found["best lr", "width 64"].reason == "width 64 in B: incomplete"
    assert found["drift", ""].verdict == "cannot tell" and found["best lr", "width 32"].verdict == "same"
