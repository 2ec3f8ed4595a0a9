"""Custom tables from TOML files: what they change, how they may be written, what is refused."""

import pytest

from mupcheck.theory.parametrization import (
    MODES,
    MULTIPLIER_SITES,
    OPTIMIZERS,
    TABLES,
    Role,
    Table,
)
from mupcheck.theory.rules_file import find_table

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
