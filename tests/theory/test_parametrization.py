"""The shipped tables against theory.md section 2, written down a second time; hashes and factors."""

import math
from dataclasses import replace
from fractions import Fraction

import pytest

from mupcheck.theory.parametrization import (
    MODES,
    MULTIPLIER_SITES,
    OPTIMIZERS,
    TABLES,
    Role,
    Table,
    factors,
    rules_hash,
)
from mupcheck.theory.rules_file import find_table, parse_table, rules

# role: init / SGD lr / AdamW lr, exponents of m as theory.md section 2 prints them
GDN_MUP_HEAD_DIM = """
    embedding       0     +1    0
    readout         0     +1    0
    hidden          -1/2  0     -1
    short_conv      0     +1    0
    norm_gain       0     +1    0
    head_norm_gain  0     +1    0
    gate            -1/2  -1/2  -1
    gate_scalar     0     +1/2  0
"""
GDN_MUP_HEADS = """
    embedding       0     +1    0
    readout         0     +1    0
    hidden          -1/2  0     -1
    short_conv      0     +1    0
    norm_gain       0     +1    0
    head_norm_gain  0     0     0
    gate            -1/2  0     -1
    gate_scalar     0     +1    0
"""
SP = "\n".join(f"{role} 0 0 0" for role in Role)
# fan-in grows for matrices only: four taps, one-hot rows and vectors keep theirs
SP_FANIN = """
    embedding       0     0     0
    readout         -1/2  0     0
    hidden          -1/2  0     0
    short_conv      0     0     0
    norm_gain       0     0     0
    head_norm_gain  0     0     0
    gate            -1/2  0     0
    gate_scalar     0     0     0
"""
ORIGINAL_GATES = "gate -1/2 0 -1 \n gate_scalar 0 0 0"
STRICT_GATES = "gate -1 -1 -1 \n gate_scalar 0 0 0"
CODE_ROWS = "short_conv -1/2 0 -1 \n norm_gain 0 0 -1 \n head_norm_gain 0 0 -1"

# name, mode: rows, later ones in place of earlier ones; forward multipliers
EXPECTED = {
    ("sp", "head-dim"): ((SP,), {}),
    ("sp", "heads"): ((SP,), {}),
    ("sp-fanin", "head-dim"): ((SP_FANIN,), {}),
    ("sp-fanin", "heads"): ((SP_FANIN,), {}),
    ("mup", "head-dim"): ((GDN_MUP_HEAD_DIM, ORIGINAL_GATES), {"logits": "-1"}),
    ("mup", "heads"): ((GDN_MUP_HEADS, ORIGINAL_GATES), {"logits": "-1"}),
    ("mup-strict", "head-dim"): ((GDN_MUP_HEAD_DIM, STRICT_GATES), {"logits": "-1"}),
    ("mup-strict", "heads"): ((GDN_MUP_HEADS, ORIGINAL_GATES), {"logits": "-1"}),
    ("gdn-mup", "head-dim"): ((GDN_MUP_HEAD_DIM,), {"logits": "-1", "o_raw": "+1/2"}),
    ("gdn-mup", "heads"): ((GDN_MUP_HEADS,), {"logits": "-1"}),
    # 1/m after o_proj, and the kernel's K^-1/2 where K grows, in place of m^1/2
    ("gdn-mup-code", "head-dim"): (
        (GDN_MUP_HEAD_DIM, CODE_ROWS),
        {"logits": "-1", "o_raw": "-1/2", "mixer_out": "-1"},
    ),
    ("gdn-mup-code", "heads"): ((GDN_MUP_HEADS, CODE_ROWS), {"logits": "-1", "mixer_out": "-1"}),
}


def read_rows(*texts):
    """Return role -> (init, sgd, adamw) of rows written as above."""
    rows = {}
    for line in "\n".join(texts).splitlines():
        if line.strip():
            role, *exponents = line.split()
            rows[role] = tuple(float(Fraction(exponent)) for exponent in exponents)
    return rows


def test_the_tables_are_the_six_of_the_theory():
    assert list(TABLES) == ["sp", "sp-fanin", "mup", "mup-strict", "gdn-mup", "gdn-mup-code"]
    assert set(EXPECTED) == {(name, mode) for name in TABLES for mode in MODES}


@pytest.mark.parametrize(("name", "mode"), EXPECTED)
def test_a_table_is_the_one_in_the_theory(name, mode):
    texts, multipliers = EXPECTED[name, mode]
    expected = read_rows(*texts)
    assert set(expected) == set(Role)
    for role, (init, sgd, adamw) in expected.items():
        for optimizer, lr in (("sgd", sgd), ("adamw", adamw)):
            rule = rules(name, optimizer=optimizer, mode=mode)[role]
            assert (rule.init, rule.lr, rule.multiplier) == (init, lr, 0), (role, optimizer)
    for site in MULTIPLIER_SITES:
        assert TABLES[name].multiplier(site, mode=mode) == float(Fraction(multipliers.get(site, "0"))), site


@pytest.mark.parametrize("mode", MODES)
def test_eps_falls_as_the_gradient_does_and_not_under_sp(mode):
    # theory.md section 4: dL/dX of a hidden activation falls as 1/d, that of z as d^-1/2 in head-dim mode
    eps = {role: rule.eps for role, rule in rules("gdn-mup", optimizer="adamw", mode=mode).items()}
    assert eps[Role.HIDDEN] == eps[Role.EMBEDDING] == eps[Role.NORM_GAIN] == -1
    assert eps[Role.GATE] == eps[Role.GATE_SCALAR] == (-1 / 2 if mode == "head-dim" else -1)
    for name in ("sp", "sp-fanin"):
        assert {rule.eps for rule in rules(name, optimizer="adamw", mode=mode).values()} == {0}


@pytest.mark.parametrize("name", TABLES)
def test_every_row_has_a_source_and_every_table_a_summary(name):
    assert TABLES[name].summary
    for optimizer in OPTIMIZERS:
        for mode in MODES:
            for role, rule in rules(name, optimizer=optimizer, mode=mode).items():
                assert rule.source.strip(), (role, optimizer, mode)


def test_what_is_unknown_is_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"unknown parametrization 'nope'; known: sp, sp-fanin, mup, .*\.toml"):
        find_table("nope")
    with pytest.raises(ValueError, match="optimizer = 'muon' is unknown; known: adamw, sgd"):
        rules("mup", optimizer="muon", mode="heads")
    with pytest.raises(ValueError, match="mode = 'head_dim' is unknown; known: head-dim, heads"):
        rules("mup", optimizer="sgd", mode="head_dim")


# --- hashes and factors -----------------------------------------------------------------------------------------------


def hashes(table: Table) -> dict:
    return {
        (optimizer, mode): rules_hash(table, optimizer=optimizer, mode=mode)
        for optimizer in OPTIMIZERS
        for mode in MODES
    }


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODES)
def test_the_hash_changes_with_any_exponent_seen_and_with_no_other(optimizer, mode):
    base = TABLES["gdn-mup"]
    before = hashes(base)
    key, seen = (optimizer, mode), {before[optimizer, mode]}
    for role in Role:
        for field in ("init", "lr", "eps", "multiplier"):
            rule = base.rules[key][role]
            rows = {**base.rules[key], role: replace(rule, **{field: getattr(rule, field) + 0.5})}
            after = hashes(replace(base, rules={**base.rules, key: rows}))
            assert {other for other in after if after[other] != before[other]} == {key}, (role, field)
            seen.add(after[key])
    for site in MULTIPLIER_SITES:
        sites = {**base.multipliers[mode], site: base.multiplier(site, mode=mode) + 0.5}
        after = hashes(replace(base, multipliers={**base.multipliers, mode: sites}))
        assert {other for other in after if after[other] != before[other]} == {(each, mode) for each in OPTIMIZERS}
        seen.add(after[key])
    assert len(seen) == 1 + 4 * len(Role) + len(MULTIPLIER_SITES)  # no two changes have the same hash


def test_words_and_ways_of_writing_a_number_do_not_change_the_hash():
    base = TABLES["mup"]
    rules_in_floats = {
        key: {
            role: replace(rule, init=float(rule.init), lr=float(rule.lr), source="elsewhere")
            for role, rule in rows.items()
        }
        for key, rows in base.rules.items()
    }
    zeros = {mode: {"o_raw": 0.0, "mixer_out": -0.0 + 0.0, **sites} for mode, sites in base.multipliers.items()}
    other = Table("another-name", rules_in_floats, zeros, "another summary")
    assert hashes(other) == hashes(base)


def test_a_custom_table_that_changes_nothing_has_its_base_s_hash_and_names_differ():
    copy = parse_table({"name": "copy", "base": "mup-strict"}, "copy.toml")
    assert hashes(copy) == hashes(TABLES["mup-strict"])
    by_key = [tuple(hashes(table).values()) for table in TABLES.values()]
    assert len(set(by_key)) == len(TABLES)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("decay_mode", ["coupled", "independent"])
def test_factors_are_powers_of_m(name, decay_mode):
    table, m = TABLES[name], 4.0  # a power of 4: every factor below is exact
    for optimizer in OPTIMIZERS:
        for mode in MODES:
            for role in Role:
                rule = table.rule(role, optimizer=optimizer, mode=mode)
                options = {"optimizer": optimizer, "mode": mode, "decay_mode": decay_mode}
                at_base = factors(table, role, m=1.0, **options)
                assert (at_base.init, at_base.lr, at_base.eps, at_base.multiplier, at_base.weight_decay) == (1,) * 5
                wide = factors(table, role, m=m, **options)
                assert (wide.init, wide.lr) == (m**rule.init, m**rule.lr)
                assert (wide.eps, wide.multiplier) == (m**rule.eps, m**rule.multiplier)
                # what one step takes off a weight, lr * wd: falls with lr, or is the same at every width
                assert wide.lr * wide.weight_decay == (1.0 if decay_mode == "independent" else wide.lr)


def test_factors_at_a_width_below_the_base_and_between_powers():
    table = TABLES["gdn-mup"]
    options = {"optimizer": "adamw", "mode": "head-dim", "decay_mode": "independent"}
    for m in (0.5, 1.5, 6.0):
        hidden = factors(table, Role.HIDDEN, m=m, **options)
        assert math.isclose(hidden.init**2 * m, 1, rel_tol=1e-12)
        assert math.isclose(hidden.lr * m, 1, rel_tol=1e-12)
        assert math.isclose(hidden.weight_decay, m, rel_tol=1e-12)
