"""In what two results were measured differently: what is said of it, and when the draws are the same."""

import pytest
from planted_checks import EFFECTIVE, RIGHT, plant, together
from planted_curves import sweep

from mupcheck.gate.difference import diff
from mupcheck.results.reading import Results
from mupcheck.results.tables import SETTINGS

RUNS = sweep(widths=(32, 64), x=(-8.0, -7.0, -6.0, -5.0)).assign(python="3")


def of(runs):
    return Results(runs=runs, steps=runs[:0], coords=runs[:0], sweeps={})


def measured(a, b):
    (pair,) = diff(a, b).pairs
    return pair.measured


def texts(found):
    return [each.text for each in found]


@pytest.mark.parametrize("unknown", [None, ""])
def test_draws_of_data_that_is_not_known_are_not_the_same(unknown):
    """A user's own loop gives seeds and no data: what rounding does not explain may be other batches."""
    slight = RIGHT | {(*EFFECTIVE, 1): 0.01}
    a, b = (plant(slopes, noise=0.2, data_hash=unknown) for slopes in (RIGHT, slight))
    difference = diff(a, b)
    assert not difference.pairs[0].measured.shared and difference.outcome != "moved"
    assert not measured(*(of(RUNS.assign(data_hash=unknown)) for _ in "ab")).shared
    assert diff(plant(noise=0.2), plant(slight, noise=0.2)).outcome == "moved"


def test_models_of_a_users_own_are_a_pair_by_their_names():
    one, two = (plant(mode="own", parametrization="own", sweep=name) for name in ("big", "small"))
    (pair,) = diff(together(one, two), two).pairs
    assert pair.a[0] == pair.b[0] == "small" and pair.measured.shared
    # two models and a third are no sweeps of one table, of which one would have to be named
    assert diff(together(one, two), plant(mode="own", parametrization="own", sweep="third")).pairs == ()
    renamed = diff(one, two).pairs[0]  # the only ones there are, and other models
    assert renamed.title.startswith("big -> small") and not renamed.measured.shared


def test_where_data_lies_and_what_code_read_it_change_no_draw():
    a, b = (plant(data=f"text:/home/{who}/text.txt", commit=who, torch=who) for who in "ab")
    found = measured(a, b)
    assert found.shared and found.settings == () and texts(found.code) == ["commit a -> b", "torch a -> b"]
    assert texts(measured(plant(commit=None), plant(commit="b")).code) == [], "of what one side does not say"
    found = measured(plant(backend="chunk", device="cpu"), plant(backend="reference", device="cuda"))
    assert found.shared and texts(found.code) == ["device cpu -> cuda", "backend chunk -> reference"]
    other = measured(plant(data="text:a"), plant(data="stdlib"))
    assert texts(other.settings) == ["data text -> stdlib"] and not other.shared


def test_what_earlier_files_do_not_say_is_no_other_setting():
    said = RUNS.assign(**dict.fromkeys(SETTINGS, 1.0) | {"eps": 1e-8})
    now, then = said.assign(accumulation=1), said.assign(accumulation=None)
    assert measured(of(then), of(now.assign(eps=1e-6))).settings == ()
    assert texts(measured(of(now), of(now.assign(eps=1e-6))).settings) == ["eps 1e-08 -> 1e-06"]


def test_settings_of_other_groups_and_kinds_are_not_those_of_a_pair():
    beside = RUNS.assign(optimizer="sgd", run_id="z" + RUNS["run_id"], steps=7)
    checks = plant(steps=9, sweep="s").runs
    a = of(RUNS)
    b = Results(*(together(of(RUNS), of(beside), of(checks)).runs, RUNS[:0], plant(steps=9, sweep="s").coords), {})
    pairs = {each.b[2]: each for each in diff(a, b).pairs if each.kind == "lr"}
    assert pairs["adamw"].measured.settings == () and pairs["adamw"].measured.shared


def test_ranges_are_said_in_short():
    found = texts(measured(of(RUNS), of(RUNS.assign(seed=RUNS["seed"] + 3, log2_lr=RUNS["log2_lr"] - 1))).settings)
    assert "seeds 0 to 2 -> 3 to 5" in found
    few = measured(plant(seeds=(0, 1)), plant(seeds=(0, 2, 4)))
    assert texts(few.settings) == ["seeds 0, 1 -> 0, 2, 4"]
    more = measured(of(RUNS), of(RUNS[RUNS["log2_lr"] > -8]))
    assert texts(more.settings)[0].startswith("lrs 2^-8, 2^-7, 2^-6, 2^-5 -> 2^-7")
