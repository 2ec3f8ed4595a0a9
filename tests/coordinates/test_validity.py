"""Each finding planted in synthetic tables and seen, and not seen where the value is good."""

import numpy as np
import pandas as pd
import pytest
from planted_findings import GDN_MUP, GOOD, diagnostics, find, good_coords, make_runs, realised, the_only
from planted_slopes import SEEDS, WIDTHS, make_coords

from mupcheck.coordinates.finding import EFFECTS
from mupcheck.coordinates.starts import UPDATES, WEIGHT_UPDATES
from mupcheck.coordinates.validity import examine
from mupcheck.theory.exponents import PARAMETERS, growth


def test_a_good_check_has_nothing_to_find():
    runs = make_runs()
    sound = [realised(runs, site, field) for site in ("q_proj", "A_log", "embedding") for field in ("lr", "eps")]
    assert find(runs, *sound, table=GDN_MUP) == []
    for stat, (site, value) in GOOD.items():  # and one bad seed of four is none
        bad = 0.9 if value < 1 else 1e-3
        one = diagnostics(runs, stat, site, lambda run, bad=bad, value=value: bad if run["seed"] == 2 else value)
        assert find(runs, one) == []


def only_at(width, value, otherwise):
    return lambda run: value if run["width"] == width else otherwise


PLANTED = [
    # name, effect, what is planted, kinds and sites in doubt, what text and advice say
    (
        "saturated", "cannot tell", ("relative_update", "q_proj", only_at(128, 0.6, 0.01)), WEIGHT_UPDATES, ("q_proj",),
        ("q_proj changed by 0.6 of its size at width 128", "every rule shows slope 0"), "smaller lr",
    ),
    (
        "nothing trained", "cannot tell", ("relative_update", "q_proj", only_at(512, 2e-5, 0.01)), UPDATES, (),
        ("at width 512 no weight changed by more than 2e-05",), "no warm-up",
    ),
    (
        "adam eps", "cannot tell", ("adam_eps_ratio", "k_proj", only_at(512, 3.0, 100.0)), WEIGHT_UPDATES, ("k_proj",),
        ("Adam's eps slows the update of k_proj", "is 3 at width 512"), "smaller eps",
    ),
    (
        "o_norm eps", "cannot tell", ("o_norm_eps_ratio", "o_raw", only_at(512, 0.06, 1e3)), (),
        ("o_norm", "o_norm_gain", "mixer_out", "o_proj"), ("mean(o^2)/eps is 0.06 at width 512",), "o_raw = +1/2",
    ),
    (
        "gates saturated", "cannot tell", ("alpha_saturated", "alpha", only_at(256, 0.8, 0.1)),
        ("activation_grad", *WEIGHT_UPDATES), ("z_alpha", "a_proj", "A_log", "dt_bias"),
        ("80% of alpha lie beyond 1% or 99% at width 256",), "smaller init of the gates",
    ),
    (
        "gates saturated", "cannot tell", ("beta_saturated", "beta", 0.7),
        ("activation_grad", *WEIGHT_UPDATES), ("z_beta", "beta", "b_proj"), ("70% of beta",), "smaller init",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("name", "effect", "planted", "kinds", "sites", "texts", "advice"), PLANTED)
def test_what_is_planted_is_found(name, effect, planted, kinds, sites, texts, advice):
    runs = make_runs()
    # saturation puts activations in doubt too, after step 0
    found, *beside = find(runs, diagnostics(runs, *planted))
    assert [(each.name, each.kinds, each.later) for each in beside] == (
        [("saturated", ("activation", "activation_update"), True)] if name == "saturated" else []
    )
    assert (found.name, found.effect, found.kinds, found.sites) == (name, effect, kinds, sites)
    for text in texts:
        assert text in found.text
    assert advice in found.advice
    assert str(found) == f"{found.text}; {found.advice}"


@pytest.mark.parametrize(
    ("stat", "site", "value"),
    [
        ("relative_update", "q_proj", 0.49), ("relative_update", "q_proj", 1.1e-4), ("adam_eps_ratio", "q_proj", 11.0),
        ("o_norm_eps_ratio", "o_raw", 11.0), ("alpha_saturated", "alpha", 0.49),
        # all of a weight that starts at zero is change; behind it no gradient arrives in the first step
        ("relative_update", "readout", 1.0), ("adam_eps_ratio", "q_proj", 0.0),
    ],
)  # fmt: skip
def test_what_is_good_enough_is_not_found(stat, site, value):
    runs = make_runs()
    assert find(runs, diagnostics(runs, stat, site, value)) == []


def test_the_last_recorded_step_says_how_much_was_trained():
    runs = make_runs()
    first, last = (diagnostics(runs, "relative_update", "q_proj", v, step=s) for s, v in ((1, 1e-6), (8, 0.01)))
    assert find(runs, first, last) == []
    settled = (diagnostics(runs, "relative_update", "q_proj", v, step=s) for s, v in ((1, 0.6), (8, 0.01)))
    assert find(runs, *settled) == []
    still = diagnostics(runs, "relative_update", "q_proj", 1e-6, step=8)
    assert the_only(find(runs, first, still)).name == "nothing trained"


@pytest.mark.parametrize(("dtype", "still", "moved"), [("float32", 1e-6, 1e-3), ("float64", 1e-14, 1e-6)])
def test_how_little_is_nothing_goes_by_the_last_bit_of_a_weight(dtype, still, moved):
    runs = make_runs(dtype=dtype)
    assert the_only(find(runs, diagnostics(runs, "relative_update", "q_proj", still))).name == "nothing trained"
    assert find(runs, diagnostics(runs, "relative_update", "q_proj", moved)) == []


def test_missing_and_diverged_runs_are_no_pass():
    runs = make_runs()
    found = the_only(find(runs, missing=1))
    assert (found.name, found.effect, found.text) == ("missing runs", "no pass", "1 run of s is missing")
    runs.loc[[1, 2], "status"] = "failed"
    assert the_only(find(runs, missing=1)).text == "3 runs of s are missing"
    runs = make_runs()
    runs.loc[[0, 5], "status"] = "diverged"
    found = the_only(find(runs))
    assert (found.effect, found.text) == ("no pass", "2 of 16 runs diverged, at width 64, 128")
    assert found.kinds == found.sites == ()


def test_failed_runs_measure_nothing():
    runs = make_runs()
    runs.loc[runs["seed"] == 2, "status"] = "failed"
    assert [f.name for f in find(runs, diagnostics(runs, "alpha_saturated", "alpha", 0.1))] == ["missing runs"]
    others = runs[runs["status"] == "failed"]
    assert find(runs, diagnostics(others, "realised_lr", "q_proj", 7.0), name="realised", table=GDN_MUP) == []


@pytest.mark.parametrize(
    ("copied", "text"), [({1: 0}, "seeds 0, 1 gave"), ({1: 0, 2: 0, 3: 0}, "all seeds gave"), ({}, None)]
)
def test_seeds_that_repeat_another_are_found(copied, text):
    runs = make_runs()
    coords = good_coords(runs).set_index("run_id")
    for seed, source in copied.items():
        for width in WIDTHS:
            values = coords.loc[f"gdn-mup-{width}-{source}", "value"]
            coords.loc[f"gdn-mup-{width}-{seed}", "value"] = values.to_numpy()
    found = examine(runs, coords.reset_index())
    if text is None:
        assert found == ()
    else:
        assert the_only(found).effect == "cannot tell"
        assert text in the_only(found).text


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ([500] * 4, "500 at width 64, 500 at width 128"),
        ([500, 900, 900, 2000], "900 at width 128, 900 at width 256"),
        ([500, 900, 1500, 2000], None),
    ],
)
def test_parameter_counts_must_grow(counts, text):
    runs = make_runs()
    runs["n_params"] = runs["width"].map(dict(zip(WIDTHS, counts, strict=True)))
    found = find(runs)
    assert bool(found) == bool(text)
    if text:
        assert (the_only(found).name, found[0].effect, found[0].kinds) == ("width", "cannot tell", ())
        assert text in found[0].text
        assert "head-dim mode" in found[0].advice


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_a_width_that_misses_one_matrix_is_found(mode):
    runs = make_runs(mode=mode)

    def n_values(site, run):
        return 64 * (run["width"] / 64) ** growth(site, mode)

    right = [diagnostics(runs, "n_values", site, lambda r, s=site: n_values(s, r), step=0) for site in PARAMETERS]
    assert find(runs, *right) == []
    for width in WIDTHS[1:]:  # at the largest width, or at one between
        missed = diagnostics(
            runs, "n_values", "v_proj", lambda r, w=width: 64 if r["width"] == w else n_values("v_proj", r), step=0
        )
        found = the_only(find(runs, *(rows for rows in right if rows["site"].iloc[0] != "v_proj"), missed))
        assert (found.name, found.effect, found.kinds, found.sites) == ("width", "cannot tell", (), ())
        assert f"v_proj has 64 values at width 64 and 64 at {width}" in found.text
        assert "width^0 instead of width^2" in found.text


@pytest.mark.parametrize(("optimizer", "effect"), [("sgd", "cannot tell"), ("adamw", "warning")])
def test_clipping_hides_slopes_under_sgd(optimizer, effect):
    runs = make_runs(optimizer=optimizer)
    runs["clipped_fraction"] = np.where(runs["width"] == 256, 0.3, 0.05)
    found = the_only(find(runs))
    assert (found.name, found.effect, found.kinds, found.sites) == ("clipping", effect, UPDATES, ())
    assert "most at width 256 (30% of the steps)" in found.text
    assert found.advice == "set clip = 0"
    assert find(runs.assign(clipped_fraction=0.05)) == []
    assert find(runs.assign(clipped_fraction=np.nan)) == []  # not recorded


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("tokens", {"batch_size": 8, "seq_len": 64}, "512 tokens a step at base width 64"),
        ("warm-up", {"warmup_steps": 2}, "2 steps of warm-up"),
    ],
)
def test_settings_that_bias_slopes_are_warned_of(name, changes, text):
    found = the_only(find(make_runs(**changes)))
    assert (found.name, found.effect) == (name, "warning")
    assert text in found.text
    assert found.advice.startswith(("use ", "set "))


def test_what_counts_most_comes_first():
    runs = make_runs(weight_decay=0.1, warmup_steps=1)
    rows = [realised(runs, "q_proj", field) for field in ("lr", "weight_decay")]
    found = find(runs, *rows, diagnostics(runs, "beta_saturated", "beta", 0.9), missing=1, table=GDN_MUP)
    effects = [EFFECTS.index(finding.effect) for finding in found]
    assert effects == sorted(effects)
    assert set(effects) == {0, 1, 2, 3}


def test_little_or_odd_input_is_no_crash():
    runs = make_runs()
    coords = good_coords(runs)
    assert examine(runs, coords.iloc[:0]) == ()
    assert {finding.name for finding in examine(runs, coords.assign(value=np.nan))} == {"no number"}
    one_width = runs[runs["width"] == 64]
    assert examine(one_width, coords) == ()
    assert examine(runs, coords[coords["step"] == 0], table=GDN_MUP) == ()
    activations = coords[coords["kind"] == "activation"]
    assert examine(runs, activations, table=GDN_MUP) == ()
    unknown = diagnostics(runs, "realised_lr", "another_weight", 3.0)
    assert find(runs, unknown, diagnostics(runs, "n_values", "another_weight", 3, step=0), table=GDN_MUP) == []
    assert examine(runs.assign(status="failed"), coords)[0].text == f"{len(WIDTHS) * len(SEEDS)} runs of s are missing"


def test_what_cannot_be_examined_is_refused():
    runs = make_runs()
    with pytest.raises(ValueError, match="runs of 2 groups; pass those of one"):
        examine(pd.concat([runs, make_runs(optimizer="sgd")]), good_coords(runs))
    with pytest.raises(ValueError, match="runs has no column 'n_params'; pass the tables"):
        examine(runs.drop(columns="n_params"), good_coords(runs))
    with pytest.raises(ValueError, match="coords has no column 'stat'"):
        examine(runs, good_coords(runs).drop(columns="stat"))


@pytest.mark.parametrize("widths", [(64, 96, 160), (64, 128, 256)])
def test_heads_that_are_no_whole_repetition_start_at_other_sizes_and_that_is_no_finding(widths):
    # as model.build repeats the base width's draws: 4, 6 and 10 heads hold them in other proportions
    draws = np.array([0.3, 1.9, 2.4, 2.7])
    runs = make_runs(widths=widths, seeds=(0, 1), mode="heads", base_width=64, n_params=0)
    runs["n_params"] = runs["width"] ** 2
    start = make_coords(runs, {("weight", "rms", "A_log", 0, 0): 0.0})

    def sizes(shrunk):
        heads = [np.resize(draws, 4 * width // 64) * (64 / width) ** shrunk for width in runs["width"]]
        return start.assign(value=[float(np.sqrt(np.mean(each**2))) for each in heads])

    assert not [found for found in examine(runs, sizes(0.0)) if found.name == "gate scalars"]
    shrunk = [found for found in examine(runs, sizes(0.5)) if found.name == "gate scalars"]
    assert len(shrunk) == (1 if widths[1] % 64 == 0 else 0)  # seen at whole repetitions only
