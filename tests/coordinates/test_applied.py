"""What was applied, from stored numbers: departures as a probe writes them, and first changes of runs without."""

import pandas as pd
import pytest
from planted_findings import GDN_MUP, diagnostics, find, the_only
from planted_findings import make_runs as make_any_runs

from mupcheck.coordinates.applied import DEPARTS
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import TABLES, factors

SITES = tuple(PARAMETERS)
IN_BLOCK = {site for site, of in PARAMETERS.items() if of.in_block}
LAYERS = (0, 1)
WEIGHT, GRADIENT = 0.1, 1e-3


def make_runs(**changes):
    return make_any_runs(widths=(64, 128, 512), seeds=(0, 1), **changes)


def places(site):
    return LAYERS if site in IN_BLOCK else (-1,)


def rows_of(runs, kind, step, value, stat="rms"):
    """Return rows of every weight, their value from a function of (run, site, layer)."""
    columns = {"kind": kind, "stat": stat, "step": step}
    planted = [
        columns | {"run_id": run["run_id"], "site": site, "layer": layer, "value": value(run, site, layer)}
        for _, run in runs.iterrows()
        for site in SITES
        for layer in places(site)
    ]
    return pd.DataFrame(planted)


def first(runs, change=lambda run, site, layer: 1.0, *, weight=WEIGHT, gradient=GRADIENT, eps_ratio=1e6, table=GDN_MUP):
    """Return the sizes of a first step as AdamW or Nesterov SGD takes it, times `change`."""

    def lr(run, site, layer):
        setting = {"optimizer": run["optimizer"], "mode": run["mode"], "decay_mode": run["decay_mode"]}
        by = factors(table, PARAMETERS[site].role, m=run["width"] / run["base_width"], **setting)
        size = 1.0 if run["optimizer"] == "adamw" else gradient * (1 + run["momentum"])
        # under AdamW only the rows of tokens that are there move
        rare = 0.2 if site == "embedding" and run["optimizer"] == "adamw" else 1.0
        return run["lr"] * by.lr * size * rare * change(run, site, layer)

    return (
        rows_of(runs, "weight", 0, lambda *_: weight),
        rows_of(runs, "weight_grad", 0, lambda *_: gradient),
        rows_of(runs, "weight_update", 1, lr),
        rows_of(runs, "diagnostic", 1, lambda *_: eps_ratio, stat="adam_eps_ratio"),
    )


def old(change=lambda run, site, layer: 1.0, *, optimizer="adamw", **options):
    """Return the findings on runs that were recorded before updates were compared."""
    kept = {name: options.pop(name) for name in ("weight", "gradient", "eps_ratio") if name in options}
    settings = {"optimizer": optimizer, "momentum": 0.9, "lr": 2.0**-8, "beta1": 0.9, "beta2": 0.95, "clip": None}
    runs = make_runs(**(settings | options))
    return find(runs, *first(runs, change, **kept), table=GDN_MUP, name="applied")


# --- first changes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("mode", ["head-dim", "heads"])
@pytest.mark.parametrize(
    "options",
    [{}, {"weight_decay": 0.1}, {"weight_decay": 0.1, "decay_mode": "independent"}, {"n_layers": 2}],
    ids=str,
)
def test_a_first_step_as_declared_is_no_finding(optimizer, mode, options):
    assert old(optimizer=optimizer, mode=mode, **options) == []
    # as far off as clean runs are: eps and gradients of 0 make AdamW's step smaller, rounding both
    assert old(lambda run, site, layer: 0.997, optimizer=optimizer, mode=mode, **options) == []


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_first_step_that_is_off_is_named(optimizer):
    def says(change, **options):
        return the_only(old(change, optimizer=optimizer, **options)).text

    assert says(lambda run, site, layer: 0.5).startswith("every weight moved by x0.50")
    assert says(lambda run, site, layer: 1.05 if site == "q_proj" else 1.0).startswith("q_proj moved by x1.05")
    assert says(lambda run, site, layer: 2.0 if layer == 1 else 1.0).startswith(
        "every weight of layer 1 moved by x2.00"
    )
    assert ", width 128, at step 1" in says(lambda run, site, layer: 0.5 if run["width"] == 128 else 1.0)
    found = the_only(old(lambda run, site, layer: 0.0 if (site, layer) == ("v_proj", 0) else 1.0, optimizer=optimizer))
    assert (found.effect, found.sites, found.layers, found.steps) == ("fail", ("v_proj",), (0,), (1,))
    assert "requires_grad" in found.advice


def test_a_gradient_near_eps_in_one_seed_is_no_step_that_is_too_small():
    # a gate scalar has few values: one without a gradient takes a share of the whole step
    assert old(lambda run, site, layer: 0.97 if site == "A_log" and run["seed"] == 1 else 1.0) == []
    assert len(old(lambda run, site, layer: 0.97 if site == "A_log" else 1.0)) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_wrong_base_width_is_one_finding_and_a_missing_correction_another(optimizer):
    def halved(run, site, layer):
        rule = GDN_MUP.rule(PARAMETERS[site].role, optimizer=optimizer, mode=run["mode"])
        return 2.0**rule.lr

    assert "as if the base width were 32 instead of 64" in the_only(old(halved, optimizer=optimizer)).text
    factor = (1 - 0.9) / (1 - 0.95) ** 0.5 if optimizer == "adamw" else 1 / 1.9
    said = the_only(old(lambda run, site, layer: factor, optimizer=optimizer)).advice
    assert {"adamw": "bias correction", "sgd": "Nesterov"}[optimizer] in said


def test_a_first_step_that_says_nothing_finds_nothing():
    def half(run, site, layer):
        return 0.5

    assert len(old(half)) == 1
    assert old(half, eps_ratio=10.0) == []  # eps may be why
    assert len(old(lambda *_: 2.0, eps_ratio=10.0)) == 1  # but never makes a step larger
    assert old(half, weight=1e5) == []  # rounding may be
    assert old(half, optimizer="sgd", clipped_fraction=0.1) == []
    assert old(half, optimizer="sgd", gradient=0.0) == []
    foreign = make_runs(optimizer="sgd", momentum=0.9, lr=2.0**-8)
    assert find(foreign.assign(momentum=None), *first(foreign, half), table=GDN_MUP, name="applied") == []
    # the decay of what is decayed may be, and says nothing of the gains
    decayed = the_only(old(half, optimizer="sgd", weight_decay=0.1))
    assert "norm1_gain" in decayed.sites
    assert "q_proj" not in decayed.sites
    warm = make_runs(warmup_steps=4, lr=2.0**-8)
    assert find(warm, *first(warm, lambda *_: 0.25), table=GDN_MUP, name="applied") == []
    assert "x4.00" in the_only(find(warm, *first(warm), table=GDN_MUP, name="applied")).text
    runs = make_runs(lr=2.0**-8)
    assert find(runs, *first(runs, half), name="applied") == []  # no table to say what it should have been
    assert find(runs, *first(runs, half)[:2], table=GDN_MUP, name="applied") == []


def test_steps_of_another_table_are_those_of_another_table():
    runs = make_runs(lr=2.0**-8)
    steps = first(runs, table=TABLES["sp"])
    assert find(runs, *steps, table=TABLES["sp"], name="applied") == []
    text = the_only(find(runs, *steps, table=GDN_MUP, name="applied")).text
    assert "x2.00 at width 128, x8.00 at width 512" in text


# --- departures as a probe writes them --------------------------------------------------------------------------------


def departs(runs, site, *, layer=0, step=1, **stats):
    """Return the rows of a weight that is off by all of its step, or as `stats` say."""
    whole = {"": 0.0, "misfit": 1.0, "step": step, "share": 1.0}
    lines = {f"{axis}_{name}": value for axis in ("rows", "columns") for name, value in (("wrong", 64), ("of", 64))}
    named = whole | lines | {f"{axis}_last": 63 for axis in ("rows", "columns")} | stats
    return pd.concat(
        diagnostics(runs, f"applied_{stat}".removesuffix("_"), site, value, layer=layer, step=step)
        for stat, value in named.items()
    )


def right(runs, sites=("k_proj", "v_proj"), step=1):
    return pd.concat(departs(runs, site, misfit=0.0, step=step).query("stat == 'applied_misfit'") for site in sites)


@pytest.mark.parametrize(
    ("site", "stats", "says"),
    [
        ("q_proj", {}, "q_proj moved by x0.00"),
        ("q_proj", {"rows_wrong": 16, "rows_first": 32, "rows_last": 47}, ", rows 32 to 47 at width 512"),
        ("q_proj", {"columns_wrong": 16, "columns_first": 16, "columns_last": 31}, "columns 16 to 31 at width 512"),
        (
            "q_proj",
            {"columns_wrong": 32, "columns_first": 32, "columns_last": 63, "columns_of": 64},
            "columns 32 to 63",
        ),
        ("q_proj", {"rows_wrong": 1, "rows_first": 5, "rows_last": 5}, ", row 5 at width 512"),
        # scattered lines are no part
        (
            "q_proj",
            {"rows_wrong": 16, "rows_first": 2, "rows_last": 60},
            "what table and optimizer give, at every width",
        ),
        ("A_log", {"rows_of": 1, "rows_wrong": 1, "columns_wrong": 1, "columns_last": 0}, "value 0 at width 512"),
    ],
)
def test_the_lines_that_are_off_are_named(site, stats, says):
    runs = make_runs()
    found = the_only(find(runs, departs(runs, site, **stats), right(runs), table=GDN_MUP, name="applied"))
    assert says in found.text
    assert found.sites == (site,)
    assert found.widths == (64, 128, 512)


def test_lines_that_are_a_head_are_said_to_be():
    runs = make_runs()
    size = int(runs.loc[runs["width"] == 512, "head_v_dim"].iloc[0])
    head = {"columns_first": size, "columns_last": 2 * size - 1, "columns_wrong": size, "columns_of": 4 * size}
    found = the_only(find(runs, departs(runs, "v_proj", **head), right(runs), table=GDN_MUP, name="applied"))
    assert f"columns {size} to {2 * size - 1} (head 1)" in found.text


def test_what_is_within_the_bound_is_no_finding_and_one_seed_is_enough():
    runs = make_runs()
    assert find(runs, departs(runs, "q_proj", misfit=DEPARTS), table=GDN_MUP, name="applied") == []
    alone = runs[(runs["seed"] == 1) & (runs["width"] == 128)]
    found = the_only(find(runs, departs(alone, "q_proj"), right(runs), table=GDN_MUP, name="applied"))
    assert ", width 128, " in found.text
    assert found.text.endswith("1 of 2 seeds")
    # no table is needed for what the probe compared
    assert the_only(find(runs, departs(alone, "q_proj"), right(runs), name="applied")).text == found.text


def test_steps_are_said_as_they_are():
    runs = make_runs()
    later = [right(runs, step=step) for step in (1, 2, 4)]
    on = [departs(runs, "q_proj", step=step) for step in (2, 4)]
    assert "from step 2 on" in the_only(find(runs, *later, *on, table=GDN_MUP, name="applied")).text
    assert ", at step 2" in the_only(find(runs, *later, on[0], table=GDN_MUP, name="applied")).text


def test_many_weights_that_are_off_in_many_ways_are_one_finding():
    runs = make_runs()
    off = [departs(runs, site, **{"": 0.1 * i, "share": 0.5 if i % 2 else 1.0}) for i, site in enumerate(IN_BLOCK)]
    found = the_only(find(runs, *off, right(runs, ("readout",)), table=GDN_MUP, name="applied"))
    assert "moved otherwise than table and optimizer give" in found.text
    assert set(found.sites) == IN_BLOCK
