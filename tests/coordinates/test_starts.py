"""What a check may start from and then shows no slopes: each is named, with what to do, and nothing else is blamed."""

import numpy as np
import pandas as pd
import pytest
from planted_slopes import EFFECTIVE, RESIDUAL, make_coords, make_runs, results

from mupcheck.coordinates.judge import judge
from mupcheck.theory.parametrization import TABLES, rules_hash, table_to_json
from mupcheck.theory.rules_file import parse_table

A_LOG = ("weight", "rms", "A_log", 0, 0)
LOGITS = ("activation", "rms", "logits", -1, 0)


def runs_of(table, optimizer="adamw", **changes):
    name = table if isinstance(table, str) else table.name
    table = TABLES[name] if isinstance(table, str) else table
    rules = rules_hash(table, optimizer=optimizer, mode="head-dim")
    return make_runs(parametrization=name, optimizer=optimizer, rules_hash=rules, **changes)


def judged(runs, slopes, *tables, change=None, noise=0.01):
    coords = make_coords(runs, slopes, noise=noise)
    if change is not None:
        coords = change(coords)
    (found,) = judge(results(runs, coords, s={"tables": {table.name: table_to_json(table) for table in tables}}))
    return found


def named(judgement):
    return {finding.name: finding for finding in judgement.findings}


# A value that is no number


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_a_weight_that_holds_no_number_is_named(value):
    def spoil(coords):
        of_one = (coords["site"] == "A_log") & (coords["run_id"] == "gdn-mup-128-2")
        return coords.assign(value=coords["value"].mask(of_one, value))

    found = judged(make_runs(), {RESIDUAL: 0.0, EFFECTIVE: 0.0, A_LOG: 0.0}, change=spoil)
    assert found.verdict != "pass"
    assert named(found)["no number"].text == (
        f"A_log holds a value that is no finite number: its rms is {value:g} at width 128, seed 2, step 0"
    )
    assert "the log of 0 is -inf" in named(found)["no number"].advice
    assert "no number" not in named(judged(make_runs(), {RESIDUAL: 0.0, EFFECTIVE: 0.0, A_LOG: 0.0}))


@pytest.mark.parametrize(
    "quantity",
    [
        ("weight_grad", "rms", "q_proj", 0, 1), ("activation", "mean_abs", "alpha", 1, 2),
        ("diagnostic", "realised_eps", "q_proj", 0, 1), ("weight", "rms", "q_proj", 0, 1),
    ],
)  # fmt: skip
def test_a_value_that_is_no_number_is_no_pass_where_nothing_is_required_of_it(quantity):
    slopes = {RESIDUAL: 0.0, EFFECTIVE: 0.0, quantity: 0.0}
    assert judged(make_runs(), slopes).verdict == "pass"
    kind, stat, site, layer, step = quantity

    def spoil(coords):
        at = (coords["kind"] == kind) & (coords["stat"] == stat) & (coords["run_id"] == "gdn-mup-256-1")
        return coords.assign(value=coords["value"].mask(at & (coords["site"] == site), np.nan))

    found = judged(make_runs(), slopes, change=spoil)
    assert found.verdict == "cannot tell"
    finding = named(found)["no number"]
    assert (finding.effect, finding.sites, finding.widths, finding.steps) == ("no pass", (site,), (256,), (step,))
    assert finding.layers == (layer,)
    assert found.reason == finding.text


# A readout that starts at zero

BEFORE = ("activation_grad", "rms", "gate", 0, 0)
FIRST = ("effective_update", "rms", "q_proj", 0, 1)
SECOND = ("effective_update", "rms", "q_proj", 0, 2)
READOUT = ("weight", "rms", "readout", -1, 0)


def test_a_readout_that_starts_at_zero_is_named_with_the_steps_to_record():
    def still(coords):
        first = (coords["step"] == 1) | (coords["kind"] == "activation_grad") | (coords["site"] == "readout")
        return coords.assign(value=coords["value"].mask(first, 0.0))

    found = judged(make_runs(), {BEFORE: -1.0, FIRST: 0.0, SECOND: 0.0, READOUT: 0.0}, change=still)
    assert (found.verdict, found.reason) == (
        "cannot tell",
        "the readout starts at 0: no gradient passes it at step 0, so that at step 1 nothing else has moved",
    )
    assert found.next_step == "record steps from 2 on (--record 2,3,4), or set readout_std above 0"
    late = judged(make_runs(readout_std=0.0), {SECOND: 0.0, RESIDUAL: 0.0})
    assert late.verdict == "pass" and "zero readout" not in named(late), "from step 2 on there is nothing to say"


def test_nothing_trained_is_not_blamed_on_the_lr_where_the_readout_starts_at_zero():
    def still(coords):
        of_update = coords[coords["kind"] == "effective_update"]
        diagnostics = of_update.assign(kind="diagnostic", stat="relative_update", value=0.0)
        return pd.concat([coords.assign(value=coords["value"].where(coords["kind"] == "activation", 0.0)), diagnostics])

    slopes = {RESIDUAL: 0.0, FIRST: 0.0}
    assert "nothing trained" in named(judged(make_runs(), slopes, change=still))
    zero = named(judged(make_runs(readout_std=0.0), slopes, change=still))
    assert "nothing trained" not in zero and "zero readout" in zero


# A base width above the widths


def test_below_the_base_width_the_smallest_term_of_a_sum_is_no_fault():
    """The residual stream of sp is its embedding there, and only at larger widths its branches."""
    slopes = {("activation", "rms", "residual", 0, 0): 0.05, EFFECTIVE: 1.0}
    assert "not as implied" in named(judged(runs_of("sp", base_width=64), slopes))
    assert "not as implied" not in named(judged(runs_of("sp", base_width=1024), slopes))
    wrong = slopes | {("activation", "rms", "residual", 0, 0): -1.0}
    assert "not as implied" in named(judged(runs_of("sp", base_width=1024), wrong)), "a fault is found there too"


def test_large_logits_below_the_base_width_put_sgd_s_changes_in_doubt():
    slopes = {LOGITS: -0.5, EFFECTIVE: -1.0, RESIDUAL: 0.0}

    def grown(coords):
        return coords.assign(value=coords["value"] * np.where(coords["site"] == "logits", 50.0, 1.0))

    found = judged(runs_of("gdn-mup", "sgd", base_width=1024), slopes, change=grown)
    assert found.verdict == "cannot tell"
    assert "use --base-width 64, the smallest width" in found.next_step
    for optimizer, base, change in (("adamw", 1024, grown), ("sgd", 64, grown), ("sgd", 1024, None)):
        found = judged(runs_of("gdn-mup", optimizer, base_width=base), slopes, change=change)
        assert found.verdict == "fail", (optimizer, base)
    flat = judged(runs_of("gdn-mup", "sgd", base_width=1024), slopes | {LOGITS: 0.0}, change=grown)
    assert flat.verdict == "fail", "what is the same at every width tilts no slope"


# A tied readout


def test_a_tied_table_whose_own_logits_grow_is_not_accused():
    grown = parse_table(
        {"name": "grown", "base": "gdn-mup", "rule": [{"role": "embedding", "optimizer": "all", "init": 0.5}]}, "test"
    )
    gain = ("weight_grad", "rms", "final_norm_gain", -1, 0)
    moved = ("weight_update", "rms", "embedding", -1, 1)
    slopes = {EFFECTIVE: 0.0, RESIDUAL: 0.0, gain: 0.0, moved: -0.5}  # the table alone would have -1/2 and 0
    found = judged(runs_of(grown, tied=True), slopes, grown)
    assert not {"not as implied", "not followed"} & set(named(found))
    assert not any("does not follow" in str(cause) for cause in found.causes)
    shipped = judged(runs_of("sp-fanin", tied=True), {EFFECTIVE: 1.0, moved: -0.5})
    assert "not followed" not in named(shipped)
    # where they do not grow, or nothing is tied, a code that does not follow its table is found
    for table, tied in (("gdn-mup", True), ("sp-fanin", False)):
        assert "not followed" in named(judged(runs_of(table, tied=tied), {EFFECTIVE: 0.0, moved: -0.5})), table
