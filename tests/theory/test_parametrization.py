"""The shipped tables against theory.md section 2, written down a second time; custom tables; hashes and factors."""

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


# --- custom tables ----------------------------------------------------------------------------------------------------

CONTRACT_EXAMPLE = """
name  = "gates-as-hidden"
base  = "gdn-mup"                     # a shipped table to start from
[[rule]]
role = "gate"                         # embedding readout hidden short_conv norm_gain head_norm_gain gate gate_scalar
optimizer = "sgd"                     # sgd | adamw | all
lr = 0.0                              # exponents of m: init, lr, multiplier; what is left out keeps the base's value
[multiplier]
logits = -1.0                         # forward multipliers: logits, o_raw, mixer_out
"""


ROLES = "embedding, readout, hidden, short_conv, norm_gain, head_norm_gain, gate, gate_scalar"
HEAD = 'name = "mine"\nbase = "sp"\n'
RULE = HEAD + '[[rule]]\nrole = "gate"\n'


@pytest.fixture
def read(tmp_path):
    """Return a function that writes a rules file and reads it as `-p my_rules.toml` does."""

    def read(text: str) -> Table:
        path = tmp_path / "my_rules.toml"
        path.write_text(text, encoding="utf-8")
        return find_table(str(path))

    return read


def changed(table: Table, base: Table) -> dict:
    """Return (optimizer, mode, role, exponent) -> value of everything in which a table differs from its base."""
    return {
        (*key, role, field): getattr(rule, field)
        for key, rows in table.rules.items()
        for role, rule in rows.items()
        for field in ("init", "lr", "eps", "multiplier")
        if getattr(rule, field) != getattr(base.rules[key][role], field)
    }


def test_the_contract_s_example_changes_what_it_says_and_nothing_else(read):
    table, base = read(CONTRACT_EXAMPLE), TABLES["gdn-mup"]
    assert table.name == "gates-as-hidden"
    # in heads mode the gate's SGD lr is 0 already
    assert changed(table, base) == {("sgd", "head-dim", Role.GATE, "lr"): 0}
    assert "custom" in table.rule(Role.GATE, optimizer="sgd", mode="head-dim").source
    assert table.rule(Role.HIDDEN, optimizer="sgd", mode="head-dim") == base.rule(
        Role.HIDDEN, optimizer="sgd", mode="head-dim"
    )
    for mode in MODES:
        assert [table.multiplier(site, mode=mode) for site in MULTIPLIER_SITES] == [
            base.multiplier(site, mode=mode) for site in MULTIPLIER_SITES
        ]


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "all", None])
@pytest.mark.parametrize("mode", [*MODES, "all", None])
def test_a_rule_is_for_one_optimizer_and_mode_or_for_all(read, optimizer, mode):
    lines = [f'{key} = "{value}"' for key, value in (("optimizer", optimizer), ("mode", mode)) if value]
    table = read("\n".join(['name = "mine"', 'base = "sp"', "[[rule]]", 'role = "hidden"', "init = -0.5", *lines]))
    optimizers = OPTIMIZERS if optimizer in ("all", None) else (optimizer,)
    modes = MODES if mode in ("all", None) else (mode,)
    expected = {(each, other, Role.HIDDEN, "init"): -0.5 for each in optimizers for other in modes}
    assert changed(table, TABLES["sp"]) == expected


def test_all_exponents_can_be_set_and_later_rules_win(read):
    table = read("""
        name = "mine"
        base = "mup"
        [[rule]]
        role = "embedding"
        init = -1
        lr = 2
        eps = 0.25
        multiplier = 1
        [[rule]]
        role = "embedding"
        optimizer = "adamw"
        lr = 0.5
        [multiplier]
        o_raw = 0.5
        mixer_out = -2
    """)
    for mode in MODES:
        adamw, sgd = (table.rule(Role.EMBEDDING, optimizer=optimizer, mode=mode) for optimizer in OPTIMIZERS)
        assert (adamw.init, adamw.lr, adamw.eps, adamw.multiplier) == (-1, 0.5, 0.25, 1)
        assert (sgd.init, sgd.lr, sgd.eps, sgd.multiplier) == (-1, 2, 0.25, 1)
        assert [table.multiplier(site, mode=mode) for site in ("logits", "o_raw", "mixer_out")] == [-1, 0.5, -2]
    assert {key[2] for key in changed(table, TABLES["mup"])} == {Role.EMBEDDING}


def test_a_rule_for_each_mode_or_optimizer_is_no_second_one(read):
    parts = [f'[[rule]]\nrole = "gate"\noptimizer = "{o}"\nmode = "{m}"\nlr = 1\n' for o in OPTIMIZERS for m in MODES]
    table = read(HEAD + "".join(parts))
    assert {table.rule(Role.GATE, optimizer=o, mode=m).lr for o in OPTIMIZERS for m in MODES} == {1}


@pytest.mark.parametrize(("text", "value"), [("-1/2", -0.5), ("+3/2", 1.5), ("1", 1), (" 0.25 ", 0.25), ("-0", 0)])
def test_an_exponent_may_be_written_as_tables_print_it(read, text, value):
    table = read(RULE + f'lr = "{text}"\n[multiplier]\nlogits = "{text}"')
    assert table.rule(Role.GATE, optimizer="sgd", mode="heads").lr == table.multiplier("logits", mode="heads") == value


@pytest.mark.parametrize(
    "change",
    [lambda text: "\ufeff" + text, lambda text: text.replace("\n", "\r\n"), lambda text: "\ufeff\r\n" + text.rstrip()],
    ids=["byte order mark", "Windows", "both"],
)
def test_a_file_saved_on_windows_is_read(read, tmp_path, change):
    plain = read(RULE + "lr = 1")
    (tmp_path / "windows.toml").write_bytes(change(RULE + "lr = 1").encode())
    again = find_table(str(tmp_path / "windows.toml"))
    assert changed(again, TABLES["sp"]) == changed(plain, TABLES["sp"]) != {}


def test_reading_a_custom_table_leaves_the_shipped_ones_alone(read):
    before = {key: dict(rows) for key, rows in TABLES["gdn-mup"].rules.items()}
    multipliers = {mode: dict(sites) for mode, sites in TABLES["gdn-mup"].multipliers.items()}
    read('name = "mine"\nbase = "gdn-mup"\n[[rule]]\nrole = "gate"\nlr = 3\n[multiplier]\nlogits = 3')
    assert before == {key: dict(rows) for key, rows in TABLES["gdn-mup"].rules.items()}
    assert multipliers == {mode: dict(sites) for mode, sites in TABLES["gdn-mup"].multipliers.items()}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs a name of its own"),
        ('base = "sp"', "needs a name of its own"),
        ('name = ""\nbase = "sp"', "needs a name of its own"),
        *(
            (f'name = {name}\nbase = "sp"', "is not allowed; a name is letters, digits")
            for name in (
                '"  "',
                '"a\\nb"',
                "3",
                '"../up"',
                '"a/b"',
                '"two words"',
                '"\u00b5"',
                f'"{"a" * 101}"',
                '"a\\n"',
            )
        ),
        ('name = "mup"\nbase = "sp"', "'mup' is a shipped table"),
        ('name = "mine"', "base = None is not a shipped table; known: sp, sp-fanin, mup, mup-strict"),
        ('name = "mine"\nbase = "nope"', "base = 'nope' is not a shipped table; known: sp, sp-fanin"),
        ('name = "mine"\nbase = ["sp"]', "is not a shipped table"),
        ('name = "mine"\nbase = { sp = 1 }', "is not a shipped table"),
        (HEAD + "rules = []", "unknown key 'rules'; known: base, multiplier, name, rule, summary"),
        (HEAD + "rule = 3", "[[rule]]"),
        (HEAD + '[rule]\nrole = "gate"', "[[rule]]"),
        (HEAD + "[[rule]]\nlr = 1", f"role = None is unknown; known: {ROLES}"),
        (HEAD + '[[rule]]\nrole = "gates"', f"role = 'gates' is unknown; known: {ROLES}"),
        (HEAD + '[[rule]]\nrole = ["gate"]', f"known: {ROLES}"),
        (RULE + "learning_rate = 1", "unknown key 'learning_rate'; known: eps, init, lr, mode, multiplier"),
        (RULE + 'optimizer = "muon"', "optimizer = 'muon' is unknown; known: adamw, sgd, all"),
        (RULE + 'mode = "head_dim"', "mode = 'head_dim' is unknown; known: head-dim, heads, all"),
        *(
            (RULE + f"{exponent} = {value}", f"{exponent} = ")
            for exponent in ("init", "lr", "eps", "multiplier")
            for value in ("nan", "inf", "-inf", "true", '"one"', '"1/0"', '"9/1"', '"1/2/3"', "[1]", "1e9")
        ),
        (HEAD + "multiplier = 1", "logits, o_raw, mixer_out"),
        (HEAD + "[multiplier]\nlogit = 1", "unknown key 'logit'; known: logits, mixer_out, o_raw"),
        *((HEAD + f"[multiplier]\nlogits = {value}", "multiplier.logits = ") for value in ("nan", "false", '"x"')),
        (RULE + "lr = -1/2", 'a fraction is written in quotes: "-1/2"'),
        *(
            (
                HEAD + f'[[rule]]\nrole = "gate"\n{first}\n[[rule]]\nrole = "gate"\n{second}',
                "[[rule]] 1 and [[rule]] 2 are",
            )
            for first, second in (
                ("lr = 1", "lr = 2"),
                ("lr = 1", "init = 1"),
                ('optimizer = "sgd"\nlr = 1', 'optimizer = "sgd"\nlr = 1'),
                ('optimizer = "sgd"\nlr = 1', "lr = 2"),
                ('mode = "heads"\nlr = 1', "lr = 2"),
            )
        ),
        ("name = ", "is not valid TOML"),
        ('name = "a"\nname = "b"', "is not valid TOML"),
    ],
)
def test_a_faulty_rules_file_is_refused_in_one_line_that_names_it(read, text, said):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(text)
    assert said in str(caught.value)
    assert "my_rules.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_rules_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"cannot read the rules file .*missing\.toml: No such file"):
        find_table(str(tmp_path / "missing.toml"))
    folder = tmp_path / "folder.toml"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"cannot read the rules file .*folder\.toml: "):
        find_table(str(folder))
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b'name = "\xff"')
    with pytest.raises(ValueError, match=r"binary\.toml is not valid TOML"):
        find_table(str(binary))


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
