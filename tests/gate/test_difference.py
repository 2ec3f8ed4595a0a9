"""What moved between two coordinate checks is named, what did not is not, and a pair is a pair in either order."""

from dataclasses import replace

import numpy as np
import pytest
from planted_checks import EFFECTIVE, FREE, RESIDUAL, RIGHT, SEEDS, plant, together
from scipy import stats

from mupcheck.coordinates.judge import judge
from mupcheck.gate.compare import family_factor
from mupcheck.gate.difference import diff
from mupcheck.gate.moves import Span, apart, slope_moves

MOVED = "effective_update rms", "a_proj later"
WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}
OTHERS = tuple(range(8, 16))


def one(a, b):
    (pair,) = diff(a, b).pairs
    return pair


def names(moves):
    return {(each.name, each.of) for each in moves}


def test_results_have_not_moved_against_themselves():
    for results in (plant(), plant(WRONG), plant(noise=2.0), plant(seeds=(3,))):
        difference = diff(results, results)
        (pair,) = difference.pairs
        assert difference.outcome == pair.outcome == "same"
        assert {each.verdict for each in pair.moves} == {"same"} and pair.worth == []
        assert {each.difference.value for each in pair.moves} == {0.0}
        assert pair.measured.shared and difference.lines == []
    # nor where it is not known that the draws were the same
    unknown = plant(noise=2.0, data_hash=None)
    assert diff(unknown, unknown).outcome == "same" and not one(unknown, unknown).measured.shared


@pytest.mark.parametrize("seeds", [SEEDS, OTHERS])
def test_a_planted_exponent_is_named_and_nothing_else(seeds):
    pair = one(plant(seeds=tuple(range(8))), plant(WRONG, seeds=seeds))
    moved = [each for each in pair.moves if each.moved]
    assert names(moved) == {MOVED}
    assert moved[0].difference.value == pytest.approx(0.5, abs=0.03)
    assert (moved[0].was, moved[0].now, pair.was, pair.now) == ("pass", "fail", "pass", "fail")
    assert pair.moves[0] == moved[0] and pair.outcome == "moved"
    assert pair.headline == "gdn-mup (adamw, head-dim): 1 of 3 slopes moved; verdict pass -> fail"


def test_what_theory_does_not_pin_may_move():
    pair = one(plant(), plant(RIGHT | {(*FREE, 1): 0.4}))
    assert pair.outcome == "same" and len(pair.moves) == 3


def test_with_the_same_draws_more_than_rounding_is_real():
    slight = RIGHT | {(*EFFECTIVE, 1): 0.01}
    assert one(plant(noise=0.2), plant(slight, noise=0.2)).outcome == "moved"
    # another setting is another experiment, whose noise need not be the same
    assert one(plant(noise=0.2), plant(slight, noise=0.2, lr=0.5)).outcome != "moved"
    assert one(plant(), plant(RIGHT | {(*EFFECTIVE, 1): 0.002})).outcome == "same"
    assert one(plant(commit="a", torch="1"), plant(commit="b", torch="2")).measured.shared


def test_the_other_way_round_signs_flip():
    def mirror(span):
        return pytest.approx((-span.value, -span.high, -span.low), nan_ok=True)

    for b in (
        plant(WRONG),
        plant(WRONG, seeds=OTHERS, noise=0.1),
        plant(RIGHT | {("activation", "rms", "logits", 0): 0}),
    ):
        there, back = one(plant(noise=0.1), b), one(b, plant(noise=0.1))
        assert (there.outcome, there.was, there.now) == (back.outcome, back.now, back.was)
        of = {(each.name, each.of): each for each in back.moves}
        for each in there.moves:
            other = of[each.name, each.of]
            assert tuple(other.difference) == mirror(each.difference)
            assert tuple(map(str, (other.a, other.b))) == tuple(map(str, (each.b, each.a)))
            turned = {"only in A": "only in B", "only in B": "only in A"}
            assert other.verdict == turned.get(each.verdict, each.verdict)
            assert (other.was, other.now) == (each.now, each.was)


def test_two_seed_sets_of_one_code_have_not_moved():
    seeds = tuple(range(8))
    difference = diff(plant(seeds=seeds), plant(seeds=OTHERS))
    assert difference.outcome == "same"
    assert difference.lines == ["measured in another way: seeds 0 to 7 -> 8 to 15"]
    assert not difference.pairs[0].measured.shared


def test_of_many_pairs_that_differ_by_noise_alone_few_are_said_to_have_moved():
    """100 slopes, 6 seeds, 150 pairs: at 99% for all of a pair 1 or 2 are expected, 6 hardly ever."""
    rng, (base,) = np.random.default_rng(0), judge(plant(noise=0.3))
    row = base.pooled[base.pooled["site"] == "a_proj"].iloc[0]

    def drawn(n_seeds, sure=1.0):
        draws = 0.1 * rng.standard_normal((100, n_seeds))
        slope = draws.mean(axis=1)
        half = sure * stats.t.ppf(0.95, n_seeds - 1) * draws.std(axis=1, ddof=1) / n_seeds**0.5
        pooled = base.pooled.loc[[row.name] * 100].assign(site=[f"p{i}" for i in range(100)], slope=slope)
        return replace(base, pooled=pooled.assign(ci_low=slope - half, ci_high=slope + half, n_seeds=n_seeds))

    def alarms(sure):
        pairs = ((drawn(6, sure), drawn(6, sure)) for _ in range(150))
        return sum(any(each.moved for each in slope_moves(*pair, shared=False)) for pair in pairs)

    assert alarms(1.0) <= 5
    assert alarms(0.3) > 15, "intervals that are too narrow are seen"


def test_of_two_numbers_of_seeds_the_smaller_one_counts():
    few, many = plant(seeds=(0, 1, 2), noise=0.3), plant(seeds=OTHERS, noise=0.3)
    for a, b in ((few, many), (many, few)):
        for each in one(a, b).moves:
            halves = [(span.high - span.low) / 2 for span in (each.a, each.b)]
            wanted = family_factor(3, 3) * np.hypot(*halves)
            assert each.difference.high - each.difference.value == pytest.approx(wanted) and wanted > 0.005


def test_few_seeds_cannot_tell():
    for a, b in ((plant(noise=1.0), plant(noise=1.0, seeds=OTHERS)), (plant(seeds=(0,)), plant(seeds=(1,)))):
        difference = diff(a, b)
        assert difference.outcome == "cannot tell"
        assert {each.verdict for each in difference.pairs[0].moves} == {"cannot tell"}


def test_one_width_has_no_slope_to_compare():
    pair = one(plant(widths=(32,)), plant(widths=(32,), seeds=OTHERS))
    assert pair.outcome == "cannot tell" and {each.reason for each in pair.moves} == {"no slope"}


def test_slopes_of_one_side_are_named_and_change_nothing():
    more = RIGHT | {("activation", "rms", "logits", 0): 0.0}
    pair = one(plant(), plant(more))
    assert pair.outcome == "same" and pair.counted == "3 same, 1 only in B"
    assert one(plant(more), plant()).counted == "3 same, 1 only in A"


def test_a_group_of_one_side_is_named():
    difference = diff(plant(), together(plant(), plant(WRONG, parametrization="sp")))
    assert difference.outcome == "same" and len(difference.pairs) == 1
    assert difference.lines == ["only in B: sp (adamw, head-dim) of coordinate check s"]
    nothing = diff(plant(optimizer="sgd", momentum=0.9), plant())
    assert (nothing.outcome, nothing.pairs, len(nothing.lines)) == ("cannot tell", (), 2)


def test_two_tables_are_a_pair_where_there_is_no_other():
    pair = one(plant(), plant(WRONG, parametrization="mine", sweep="t"))
    assert pair.title == "gdn-mup -> mine (adamw, head-dim)" and not pair.measured.shared
    both = together(plant(WRONG, parametrization="mine"), plant(WRONG, parametrization="sp"))
    assert diff(plant(), both).pairs == ()


def test_sweeps_of_other_names_are_a_pair_and_several_are_by_their_names():
    assert one(plant(), plant(sweep="t")).outcome == "same"
    two = together(plant(), plant(WRONG, sweep="t"))
    same, moved = sorted(diff(two, two).pairs, key=lambda each: each.b)
    assert (same.b[0], moved.b[0], same.outcome, moved.outcome) == ("s", "t", "same", "same")
    difference = diff(two, plant(sweep="t"))
    assert [each.a[0] for each in difference.pairs] == ["t"]
    assert difference.only_a == ("gdn-mup (adamw, head-dim) of coordinate check s",)
    for a, b, side in ((two, plant(sweep="u"), "A"), (plant(sweep="u"), two, "B")):
        with pytest.raises(ValueError, match=rf"^{side}, {side}, has gdn-mup .* in 2 sweeps, s, t, none of them in "):
            diff(a, b)


def test_groups_with_another_verdict_come_first():
    a = together(plant(), plant(parametrization="sp"), plant(parametrization="mup"))
    b = together(
        plant(),
        plant(RIGHT | {(*RESIDUAL, 1): 0.1}, parametrization="mup"),
        plant(WRONG, parametrization="sp"),
    )
    assert [each.b[1] for each in diff(a, b).pairs] == ["sp", "mup", "gdn-mup"]


def test_what_differs_everywhere_is_said_once_and_what_does_not_below_its_group():
    a = together(plant(), plant(parametrization="sp"))
    b = together(plant(lr=0.5), plant(lr=0.5, parametrization="sp", n_layers=2))
    difference = diff(a, b)
    assert difference.lines == ["measured in another way: lr 0.000244140625 -> 0.5"]
    said = {each.b[1]: difference.lines_of(each) for each in difference.pairs}
    assert said == {"gdn-mup": [], "sp": ["measured in another way: n layers 1 -> 2"]}


def test_missing_runs_are_said():
    assert diff(plant(), plant(missing=2)).missing == ("B: 2 of 18 runs of s are missing",)


def test_spans_that_are_open_are_bounds():
    inf, known = float("inf"), Span(0.0, -3.0, 4.0)
    assert apart(known, Span(10.0, 6.0, 13.0)) == (10.0, 10 - 32**0.5, 10 + 18**0.5)
    low = Span(-9.0, -inf, -8.0)
    assert apart(low, Span(-5.0, -6.0, -4.0)) == (4.0, 2.0, inf)
    assert apart(low, low)[1:] == (-inf, inf)
