from itertools import combinations
from math import inf

import pytest

from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES, Role
from mupcheck.theory.required import ACTIVATIONS, KINDS, TABLE, TOLERANCES, WEIGHTS, Required, describe, required

UPDATES = ("activation_update", "weight_update", "effective_update")


def need(kind, site, *, stat="rms", optimizer="adamw", mode="head-dim", tied=False, step=1):
    found = required(kind, stat, site, optimizer=optimizer, mode=mode, tied=tied, step=step)
    return found and (found.low, found.high)


@pytest.mark.parametrize(
    ("kind", "site", "where", "head_dim", "heads"),
    [
        ("activation", "embedding", {}, (0, 0), (0, 0)),
        ("activation", "mixer_out", {"step": 0}, (0, 0), (0, 0)),
        ("activation", "v_conv", {"stat": "mean_abs"}, (0, 0), (0, 0)),
        ("activation", "k_unit", {}, (-0.5, -0.5), (0, 0)),
        ("activation", "z_beta", {"step": 0}, (-inf, 0), (-inf, 0)),
        ("activation", "logits", {"step": 0}, (-inf, 0), (-inf, 0)),
        ("activation", "logits", {"step": 0, "tied": True}, (-0.5, 0), (-0.5, 0)),
        ("activation_grad", "residual", {"step": 0}, (-1, -1), (-1, -1)),
        ("activation_grad", "z_alpha", {"step": 0}, None, (-1, -1)),
        ("activation_grad", "residual", {}, None, None),  # falls with the loss, which width changes
        ("weight_update", "down_proj", {}, (-1, -1), (-1, -1)),
        ("weight_update", "down_proj", {"stat": "spectral"}, (0, 0), (0, 0)),
        ("weight_update", "a_proj", {}, (-1, -1), (-1, -1)),
        ("weight_update", "dt_bias", {"optimizer": "sgd"}, (0, 0), (0, 0)),
        ("weight_update", "v_conv1d", {"optimizer": "sgd"}, (0, 0), (0, 0)),
        ("effective_update", "b_proj", {"optimizer": "sgd"}, (0, 0), (0, 0)),
        # theory.md, section 4: "not fit for a two-sided test at zero"
        ("activation", "state", {}, None, (0, 0)),
        ("activation", "qk", {}, None, (0, 0)),
        ("activation", "o_raw", {}, None, (0, 0)),
        ("activation", "alpha", {}, None, None),
        ("activation_update", "logits", {"tied": True}, None, None),
        ("activation_update", "mlp_out", {}, (0, 0), (0, 0)),
        ("activation_update", "mlp_out", {"optimizer": "sgd"}, None, None),
        ("activation_update", "o_norm", {}, None, (0, 0)),
        ("effective_update", "o_norm_gain", {"optimizer": "sgd"}, (0, 0), (-0.5, 0)),
        *(
            ("effective_update", site, {"optimizer": "sgd"}, (0, 0), (0, 0))
            for site in ("q_proj", "k_proj", "q_conv1d", "k_conv1d", "embedding", "readout", "norm1_gain")
        ),
        ("effective_update", "embedding", {"optimizer": "sgd", "tied": True}, None, None),
    ],
)
def test_what_the_theory_sheet_says(kind, site, where, head_dim, heads):
    assert need(kind, site, mode="head-dim", **where) == head_dim
    assert need(kind, site, mode="heads", **where) == heads


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("site", WEIGHTS)
def test_adamw_moves_every_weight_by_the_same_at_every_width(site, mode):
    assert need("effective_update", site, mode=mode) == (0, 0)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("mode", MODES)
def test_no_update_is_required_before_the_first_step(optimizer, mode):
    for kind in UPDATES:
        assert not any(need(kind, site, optimizer=optimizer, mode=mode, step=0) for site in (*ACTIVATIONS, *WEIGHTS))


def test_what_crosses_over_under_sgd_is_told_from_an_error_of_one_only():
    def tolerance(site, optimizer):
        found = required("effective_update", "rms", site, optimizer=optimizer, mode="heads", tied=False, step=1)
        return found.tolerance

    assert (tolerance("q_proj", "sgd"), tolerance("q_proj", "adamw"), tolerance("v_proj", "sgd")) == (0.5, 0.25, 0.25)
    for site in ("q_proj", "k_proj", "q_conv1d", "k_conv1d", "embedding", "readout", "norm1_gain"):
        role = PARAMETERS[site].role
        rules = {table.rule(role, optimizer="sgd", mode=mode).lr for table in TABLES.values() for mode in MODES}
        assert min(abs(a - b) for a, b in combinations(rules | {9}, 2)) >= 2 * tolerance(site, "sgd"), site


def test_each_quantity_is_in_one_row():
    seen = set()
    for row in TABLE:
        steps = {"always": (0, 1), "t = 0": (0,), "t > 0": (1,)}[row.when]
        optimizers = OPTIMIZERS if row.optimizer == "all" else (row.optimizer,)
        readouts = ("tied", "untied") if row.readout == "all" else (row.readout,)
        for stat in row.stats.split():
            for site in row.sites.split():
                for key in [(s, o, r) for s in steps for o in optimizers for r in readouts]:
                    quantity = (row.kind, stat, site, *key)
                    assert quantity not in seen
                    seen.add(quantity)


def test_the_table_uses_known_names():
    for row in TABLE:
        assert row.kind in KINDS
        assert set(row.sites.split()) <= set(ACTIVATIONS if row.kind.startswith("activation") else WEIGHTS)
        assert set(row.stats.split()) <= {"rms", "mean_abs", "spectral"}
        assert row.source


def test_names_are_those_of_the_model():
    from mupcheck.model import build_model
    from mupcheck.model.build import named_weights
    from mupcheck.model.layers import Site
    from mupcheck.spec.run import RunSpec

    run = RunSpec(parametrization="sp", table=TABLES["sp"], lr=0.1, seed=0, width=32, base_width=32)
    model = build_model([run], device="meta")
    assert {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, Site)} == set(ACTIVATIONS)
    assert {site for site, _, _ in named_weights(model)} == set(WEIGHTS)


def test_tolerances_tell_any_two_shipped_rules_apart():
    rules = [
        [t.rule(role, optimizer=o, mode=m) for t in TABLES.values()] for role in Role for o in OPTIMIZERS for m in MODES
    ]
    gaps = [abs(a.lr - b.lr) for row in rules for a, b in combinations(row, 2)]
    gaps += [abs(a.init - b.init) for row in rules for a, b in combinations(row, 2)]
    nearest = min(gap for gap in gaps if gap)
    assert nearest == 0.5
    assert all(0 < tolerance <= nearest / 2 for tolerance in TOLERANCES.values())
    assert set(TOLERANCES) == {row.kind for row in TABLE}


@pytest.mark.parametrize(
    ("given", "known"), [({"optimizer": "adam"}, "adamw, sgd"), ({"mode": "head_dim"}, "head-dim, heads")]
)
def test_a_name_that_would_silently_match_nothing_is_refused(given, known):
    with pytest.raises(ValueError, match=known):
        need("activation", "residual", **given)


def test_what_theory_does_not_state_is_none():
    assert need("weight_grad", "q_proj") is None
    assert need("diagnostic", "q_proj", stat="relative_update") is None
    assert need("activation", "no_such_site") is None


@pytest.mark.parametrize(
    ("low", "high", "text"), [(0, 0, "0 +- 0.25"), (-0.5, 0, "-0.5 to 0 +- 0.25"), (-inf, 0, "at most 0 + 0.25")]
)
def test_required_reads_well(low, high, text):
    assert str(Required(low, high, 0.25, "")) == text


def test_descriptions_fit_a_terminal():
    for kind in KINDS:
        for site in ACTIVATIONS if kind.startswith("activation") else WEIGHTS:
            assert len(describe(kind, site)) <= 100
    assert describe("activation_grad", "z_beta") == "size of the loss gradient at write strength before its sigmoid"
    with pytest.raises(ValueError, match="q_proj"):
        describe("weight", "qproj")
    with pytest.raises(ValueError, match="weight_update"):
        describe("update", "q_proj")
