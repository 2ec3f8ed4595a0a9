"""Causes named from planted slopes: those that a table with one wrong exponent implies."""

import dataclasses
from dataclasses import replace
from itertools import product

import numpy as np
import pandas as pd
import pytest

from mupcheck.coordinates.diagnosis import MAX_CAUSES, diagnose
from mupcheck.coordinates.readings import read_exponents
from mupcheck.theory.exponents import PARAMETERS, exponents_of
from mupcheck.theory.implied import walk
from mupcheck.theory.parametrization import MODES, MULTIPLIER_SITES, OPTIMIZERS, TABLES, Role
from mupcheck.theory.propagation import Corner
from mupcheck.theory.required import required

GDN_MUP = TABLES["gdn-mup"]
SETTINGS = list(product(OPTIMIZERS, MODES))
# the first step, in which nothing has been fitted yet and the terms of a gate's gradient have random signs
FIRST_STEP = Corner(fitted=False)


def changed(table, role, **by):
    """Return the table with exponents of one role moved by so much."""
    rules = {
        key: {**rows, role: replace(rows[role], **{field: getattr(rows[role], field) + e for field, e in by.items()})}
        for key, rows in table.rules.items()
    }
    return dataclasses.replace(table, name="changed", rules=rules)


def with_multiplier(table, site, by):
    multipliers = {mode: {**sites, site: sites.get(site, 0) + by} for mode, sites in table.multipliers.items()}
    return dataclasses.replace(table, name="changed", multipliers=multipliers)


def moved(table, role, optimizer, power):
    """Move m^power from the init of a role into its multiplier, and its lr with it: the same function."""
    return changed(table, role, init=-power, multiplier=power, lr=-power * (2 if optimizer == "sgd" else 1))


def slopes_of(table, optimizer, mode, *, tied=False, noise=0.0):
    """Return rows as `fit_slopes` gives them, of slopes that the table implies, judged against what is required."""
    setting = {"optimizer": optimizer, "mode": mode, "tied": tied}
    found = walk(exponents_of(table, optimizer=optimizer, mode=mode), FIRST_STEP, tied=tied)
    rng = np.random.default_rng(0)
    rows = []
    for (kind, stat, site, later), values in found.items():
        need = required(kind, stat, site, step=int(later), **setting)
        for layer, slope in enumerate(values):
            slope += noise * rng.standard_normal()
            verdict = "info"
            if need:
                inside = need.low - need.tolerance <= slope <= need.high + need.tolerance
                verdict = "pass" if inside else "fail"
            rows.append((kind, stat, site, layer, int(later), slope, verdict))
    return pd.DataFrame(rows, columns=["kind", "stat", "site", "layer", "step", "slope", "verdict"])


def causes_of(followed, optimizer, mode, *, table=None, tied=False, noise=0.0):
    """Return the causes and the failed slopes of runs that followed one table and were to follow another."""
    slopes = slopes_of(followed, optimizer, mode, tied=tied, noise=noise)
    causes = diagnose(slopes, slopes, table=table, optimizer=optimizer, mode=mode, tied=tied)
    return causes, slopes[slopes["verdict"] == "fail"]


def row_of(role, field, optimizer):
    return f"{role}, {field}" + (f" ({optimizer})" if field == "lr" else "")


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("field", ["init", "lr", "multiplier"])
@pytest.mark.parametrize("change", [-1.0, -0.5, 0.5, 1.0])
def test_a_wrong_exponent_is_the_first_cause(role, field, change):
    n_failed = 0
    for optimizer, mode in SETTINGS:
        wrong = changed(GDN_MUP, role, **{field: change})
        causes, failed = causes_of(wrong, optimizer, mode, table=wrong)
        n_failed += len(failed)
        if failed.empty:
            continue
        if role is Role.GATE and field == "init" and change < 0:
            continue  # a gate may start at nothing; what fails then is its gradient's doing
        first = causes[0]
        assert (first.row, first.change) == (row_of(role, field, optimizer), change), (optimizer, mode)
        assert "the code does not follow" not in first.text
        assert f"carries an extra m^{change:+g}".replace("+0.5", "+1/2").replace("-0.5", "-1/2") in first.text
        # nothing else is wrong, and nothing else is blamed
        assert len(causes) == 1, (optimizer, mode, [cause.row for cause in causes])
    # what a wrong scale of the decay's scalars does is no power of width, but for AdamW's updates
    assert n_failed or (role is Role.GATE_SCALAR and field == "init") or (role is Role.GATE and change < 0)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(
    ("field", "change"), [("init", 0.5), ("init", 1.0), ("lr", -0.5), ("lr", 1.0), ("multiplier", 0.5)]
)
def test_the_same_cause_is_read_off_the_slopes_alone(role, field, change):
    for (optimizer, mode), table in product(SETTINGS, (None, GDN_MUP)):
        wrong = changed(GDN_MUP, role, **{field: change})
        causes, failed = causes_of(wrong, optimizer, mode, table=table, noise=0.03)
        if failed.empty or (role, field, optimizer) == (Role.GATE_SCALAR, "multiplier", "sgd"):
            continue  # what scalars of another size pass back follows no law, so there is nothing to plant
        row = row_of(role, field, optimizer)
        if (role, field) == (Role.READOUT, "multiplier"):
            row = "multiplier logits"  # the same function: slopes cannot tell
        assert [(cause.row, cause.change) for cause in causes] == [(row, change)], (optimizer, mode)
        assert ("the code does not follow it" in causes[0].text) == (table is GDN_MUP)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("site", MULTIPLIER_SITES)
@pytest.mark.parametrize("change", [-1.0, -0.5, 0.5, 1.0])
def test_a_wrong_forward_multiplier_is_the_first_cause(site, change, tied):
    seen = set()
    for optimizer, mode in SETTINGS:
        wrong = with_multiplier(GDN_MUP, site, change)
        for table in (wrong, None):
            causes, failed = causes_of(wrong, optimizer, mode, table=table, tied=tied)
            if len(failed):
                seen.add((optimizer, mode))
                assert [(cause.row, cause.change) for cause in causes] == [(f"multiplier {site}", change)]
    # in head-dim mode o before its norm is not pinned, and behind its norm its size is gone
    assert seen == {(optimizer, mode) for optimizer, mode in SETTINGS if site != "o_raw" or mode == "heads"}


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_what_differs_by_the_symmetry_alone_is_no_cause(role, optimizer):
    for mode, power in product(MODES, (-1.0, 1.0)):
        same = moved(GDN_MUP, role, optimizer, power)
        # a fault elsewhere makes something fail
        other = Role.HIDDEN if role is Role.EMBEDDING else Role.EMBEDDING
        wrong = changed(same, other, lr=1.0)
        for table in (wrong, None):
            causes, failed = causes_of(wrong, optimizer, mode, table=table)
            blamed = {cause.row for cause in causes}
            assert blamed <= {row_of(other, "lr", optimizer)}
            assert len(failed) == 0 or blamed or optimizer == "sgd"
        # and a fault on top of it is named as what it is
        wrong = changed(same, role, lr=-0.5)
        causes, failed = causes_of(wrong, optimizer, mode, table=wrong)
        mine = [site for site, of in PARAMETERS.items() if of.role is role]
        if (failed["kind"].isin(["weight_update", "effective_update"]) & failed["site"].isin(mine)).any():
            assert causes[0].row == row_of(role, "lr", optimizer)


def test_gdn_mup_has_no_cause():
    for (optimizer, mode), tied in product(SETTINGS, (False, True)):
        causes, failed = causes_of(GDN_MUP, optimizer, mode, table=GDN_MUP, tied=tied, noise=0.03)
        assert failed.empty
        assert causes == ()


@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_table_and_a_table_not_followed_are_told_apart(mode):
    wrong = changed(GDN_MUP, Role.SHORT_CONV, lr=-1.0)
    (by_table,), _ = causes_of(wrong, "adamw", mode, table=wrong)
    assert "your table has exponent -1 there, gdn-mup 0" in by_table.text
    assert "the code" not in by_table.text
    (by_code,), _ = causes_of(wrong, "adamw", mode, table=GDN_MUP)
    assert by_code.row == by_table.row == "short_conv, lr (adamw)"
    assert "your table has exponent 0 there, as gdn-mup: the code does not follow it" in by_code.text
    (neither,), _ = causes_of(changed(GDN_MUP, Role.SHORT_CONV, lr=1.0), "adamw", mode, table=wrong)
    assert "your table has exponent -1 there, gdn-mup 0: the code follows neither" in neither.text
    assert neither.change == 1.0
    same = moved(GDN_MUP, Role.SHORT_CONV, "adamw", 0.5)
    (moved_code,), _ = causes_of(changed(same, Role.SHORT_CONV, lr=-1.0), "adamw", mode, table=same)
    assert "which is right with its other entries: the code does not follow it" in moved_code.text


def test_one_weight_of_a_role_is_named_alone():
    slopes = slopes_of(GDN_MUP, "adamw", "heads")
    one = (
        (slopes["site"] == "v_proj")
        & (slopes["step"] == 1)
        & slopes["kind"].isin(["weight_update", "effective_update"])
    )
    slopes.loc[one, "slope"] += 1
    slopes.loc[one, "verdict"] = "fail"
    (cause,) = diagnose(slopes, slopes, optimizer="adamw", mode="heads", tied=False, table=GDN_MUP)
    assert cause.text.startswith("the adamw lr of v_proj carries an extra m^+1: effective_update of v_proj +1.00, ")
    assert "the code does not follow it" in cause.text
    assert str(cause).endswith("(look at: hidden, lr (adamw))")


def test_the_two_weights_of_the_mlp_are_named_together():
    # only the product of what they make is recorded: a code that scales one of them by m
    slopes = slopes_of(GDN_MUP, "adamw", "heads")
    made = (slopes["site"].isin(["mlp_hidden", "mlp_out"])) & slopes["kind"].isin(["activation"])
    slopes.loc[made, ["slope", "verdict"]] = [1.0, "fail"]
    for table in (GDN_MUP, None):
        (cause,) = diagnose(slopes, slopes, optimizer="adamw", mode="heads", tied=False, table=table)
        assert "the output of gate_proj, up_proj together carries an extra m^+1" in cause.text
        assert cause.row == "hidden, multiplier"
    assert "follow" not in cause.text


SHIPPED = {  # what is named, whatever else
    ("sp", "adamw"): {"hidden, init", "hidden, lr (adamw)", "multiplier logits"},
    ("sp", "sgd"): {"hidden, init", "multiplier logits"},
    ("sp-fanin", "adamw"): {"hidden, lr (adamw)", "gate, lr (adamw)"},
    ("gdn-mup-code", "adamw"): {"multiplier mixer_out", "norm_gain, lr (adamw)", "short_conv, lr (adamw)"},
    ("gdn-mup-code", "sgd"): {"multiplier mixer_out", "norm_gain, lr (sgd)"},
    ("mup", "sgd"): {"gate_scalar, lr (sgd)"},
    ("mup-strict", "sgd"): {"gate_scalar, lr (sgd)"},
}


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize("name", TABLES)
def test_shipped_tables_are_diagnosed_as_what_they_are(name, optimizer, mode):
    causes, failed = causes_of(TABLES[name], optimizer, mode, table=TABLES[name])
    assert SHIPPED.get((name, optimizer), set()) <= {cause.row for cause in causes}
    assert bool(causes) == bool(len(failed))
    assert len(causes) <= MAX_CAUSES
    explained = [cause.n_explained for cause in causes]
    assert explained == sorted(explained, reverse=True)
    assert not any("the code" in cause.text for cause in causes)
    if optimizer == "adamw" and name.startswith("mup"):
        assert not causes


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_exponents_are_read_as_the_table_has_them(optimizer):
    for name, mode in product(("sp", "gdn-mup", "mup"), MODES):
        follows = exponents_of(TABLES[name], optimizer=optimizer, mode=mode)
        readings = read_exponents(slopes_of(TABLES[name], optimizer, mode), optimizer=optimizer, mode=mode)
        assert set(readings) == set(PARAMETERS)
        for site, reading in readings.items():
            # gates close with width under sp, and pass gradients that are no power of it
            for field in ("init", "lr"):
                read, entry = getattr(reading, field), getattr(follows.entries[site], field)
                assert read == pytest.approx(entry) or (np.isnan(read) and (name, optimizer) == ("sp", "sgd")), site


def test_little_or_odd_input_is_no_crash():
    wrong = changed(GDN_MUP, Role.HIDDEN, init=1.0, lr=1.0)
    for optimizer, mode in SETTINGS:
        setting = {"optimizer": optimizer, "mode": mode, "tied": False, "table": wrong}
        slopes = slopes_of(wrong, optimizer, mode)
        assert diagnose(slopes.iloc[:0], slopes.iloc[:0], **setting) == ()
        # the table speaks for what was not recorded
        for part in (slopes[slopes["step"] == 0], slopes[slopes["step"] > 0], slopes[slopes["kind"] == "activation"]):
            causes = diagnose(part, part, **setting)
            assert causes and causes[0].row in ("hidden, init", row_of("hidden", "lr", optimizer))
        nothing = slopes.assign(slope=np.nan, verdict="cannot tell")
        assert diagnose(nothing, nothing, **setting) == ()
        unread = slopes.assign(slope=np.nan)
        assert diagnose(unread, unread, **(setting | {"table": None})) == ()


def test_what_may_differ_from_gdn_mup_is_not_blamed():
    # gates may start at nothing
    (cause,) = causes_of(changed(GDN_MUP, Role.GATE, init=-0.5, lr=1.0), "adamw", "head-dim")[0]
    assert cause.row == "gate, lr (adamw)"
    # mup has no multiplier on o, whose size its norm takes away: whatever else fails has another cause
    slopes = slopes_of(TABLES["mup"], "adamw", "head-dim")
    slopes.loc[slopes["site"] == "norm2", "verdict"] = "fail"
    assert diagnose(slopes, slopes, optimizer="adamw", mode="head-dim", tied=False, table=TABLES["mup"]) == ()


def test_the_slopes_per_layer_are_diagnosed_where_no_pooled_one_failed():
    slopes = slopes_of(changed(GDN_MUP, Role.HIDDEN, lr=1.0), "adamw", "heads")
    pooled = slopes.assign(verdict="pass")
    (cause,) = diagnose(pooled, slopes, optimizer="adamw", mode="heads", tied=False)
    assert cause.row == "hidden, lr (adamw)"
