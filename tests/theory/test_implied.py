"""What tables imply: by hand, by laws, and against slopes measured on real models of every shipped table."""

import dataclasses
import random
from dataclasses import replace
from itertools import product
from math import log2

import pytest
import torch

from mupcheck.measuring.probes import Probe
from mupcheck.model.build import build_model, named_weights
from mupcheck.theory.exponents import PARAMETERS, exponents_of, growth
from mupcheck.theory.implied import corners, implied, walk
from mupcheck.theory.parametrization import MODES, MULTIPLIER_SITES, OPTIMIZERS, TABLES, Role
from mupcheck.theory.propagation import Corner
from mupcheck.theory.required import ACTIVATIONS, WEIGHTS, required
from mupcheck.theory.rules_file import parse_table

SETTINGS = list(product(OPTIMIZERS, MODES))
# Every weight acts on what it met at initialisation, and random terms stay random: the corner that is done by hand.
BY_HAND = Corner(moved=False, fitted=False)
HIDDEN = [site for site, of in PARAMETERS.items() if of.role is Role.HIDDEN]


def walked(name, optimizer, mode, corner=BY_HAND, **options):
    """Return {(kind, site, step > 0): exponent of the rms in the first block}."""
    table = TABLES[name] if isinstance(name, str) else name
    found = walk(exponents_of(table, optimizer=optimizer, mode=mode), corner, **options)
    return {(kind, site, later): values[0] for (kind, stat, site, later), values in found.items() if stat == "rms"}


def changed(table, role, optimizer="all", **by):
    """Return the table with exponents of one role moved by so much, under one optimizer or all."""
    rules = {
        key: {**rows, role: replace(rows[role], **{field: getattr(rows[role], field) + e for field, e in by.items()})}
        if optimizer in ("all", key[0])
        else rows
        for key, rows in table.rules.items()
    }
    return dataclasses.replace(table, name=f"{table.name}-changed", rules=rules)


def some_corners(mode, *, tied):
    """Return the first and the last of the corners, so each limit on both sides, and a few between."""
    every = corners(mode, tied=tied)
    return [every[0], every[-1], *random.Random(0).sample(every, 4)]


# By hand

START = {  # activations at initialisation: head-dim mode, heads mode (theory.md, section 4)
    "sp": {
        "embedding": (0, 0), "norm1": (0, 0), "q_pre": (1 / 2, 1 / 2), "k_conv": (1 / 2, 1 / 2),
        "v_pre": (1 / 2, 1 / 2), "gate": (1 / 2, 1 / 2), "q_unit": (-1 / 2, 0), "z_beta": (1 / 2, 1 / 2),
        "qk": (-1 / 2, 0), "state": (0, 1 / 2), "o_raw": (0, 1 / 2), "o_norm": (0, 0), "mixer_out": (1, 1),
        "mlp_hidden": (1, 1), "mlp_out": (3 / 2, 3 / 2), "residual": (3 / 2, 3 / 2), "logits": (1 / 2, 1 / 2),
    },
    "sp-fanin": {
        **dict.fromkeys(("embedding", "q_pre", "gate", "mixer_out", "mlp_out", "residual", "logits"), (0, 0)),
        "z_alpha": (0, 0), "o_raw": (-1 / 2, 0),
    },
    "gdn-mup": {
        **dict.fromkeys(("embedding", "v_conv", "gate", "mixer_out", "mlp_hidden", "mlp_out", "residual"), (0, 0)),
        "z_alpha": (0, 0), "o_raw": (0, 0), "logits": (-1 / 2, -1 / 2),
    },
    "mup": {"o_raw": (-1 / 2, 0), "z_alpha": (0, 0), "mixer_out": (0, 0), "logits": (-1 / 2, -1 / 2)},
    "mup-strict": {"z_alpha": (-1 / 2, 0), "z_beta": (-1 / 2, 0), "mixer_out": (0, 0)},
    # the mixer's extra 1/m; filters that shrink; k^-1/2 on o
    "gdn-mup-code": {"mixer_out": (-1, -1), "v_conv": (-1 / 2, -1 / 2), "o_raw": (-3 / 2, -1 / 2), "residual": (0, 0)},
}  # fmt: skip


@pytest.mark.parametrize("name", START)
@pytest.mark.parametrize("mode", MODES)
def test_activations_at_initialisation_by_hand(name, mode):
    found = walked(name, "adamw", mode)
    for site, both in START[name].items():
        assert found["activation", site, False] == both[MODES.index(mode)], site


EFFECTIVE = {  # lr + 1 for what is multiplied by a growing fan-in + the size of the input (theory.md, section 4)
    ("gdn-mup", "adamw"): dict.fromkeys(PARAMETERS, (0, 0)),
    ("mup", "adamw"): dict.fromkeys(PARAMETERS, (0, 0)),
    ("mup-strict", "adamw"): dict.fromkeys(PARAMETERS, (0, 0)),
    ("sp-fanin", "adamw"): {
        **dict.fromkeys([*HIDDEN, "a_proj", "b_proj", "readout"], (1, 1)),
        **dict.fromkeys(("embedding", "q_conv1d", "norm1_gain", "o_norm_gain", "A_log"), (0, 0)),
    },
    ("sp", "adamw"): {
        "q_proj": (1, 1), "o_proj": (3 / 2, 3 / 2), "down_proj": (2, 2), "v_conv1d": (1 / 2, 1 / 2), "readout": (1, 1),
        "embedding": (0, 0), "final_norm_gain": (0, 0), "dt_bias": (0, 0),
    },
    ("gdn-mup-code", "adamw"): {
        "q_conv1d": (-1, -1), "v_conv1d": (-1, -1), "norm1_gain": (-1, -1), "final_norm_gain": (-1, -1),
        "o_norm_gain": (-1, -1), "o_proj": (-1, -1), "q_proj": (0, 0), "a_proj": (0, 0), "A_log": (0, 0),
    },
    # the gates' gradients are d^-1/2 in head-dim mode, 1/d in heads mode (theory.md, section 3)
    ("gdn-mup", "sgd"): {
        **dict.fromkeys([*HIDDEN, "a_proj", "b_proj", "A_log", "dt_bias", "readout", "v_conv1d", "norm2_gain"], (0, 0)),
        "o_norm_gain": (0, -1 / 2),
    },
    ("mup", "sgd"): {"a_proj": (1 / 2, 0), "b_proj": (1 / 2, 0), "A_log": (-1 / 2, -1), "v_proj": (0, 0)},
    # gates init at d^-1 instead of d^-1/2 leave their gradient as it is; lr is d^-1 instead of d^-1/2
    ("mup-strict", "sgd"): {"a_proj": (-1 / 2, 0), "A_log": (-1 / 2, -1), "dt_bias": (-1 / 2, -1)},
    # dL/d(final_norm) is of the size of the readout, 1 under sp and d^-1/2 under sp-fanin
    ("sp-fanin", "sgd"): {"readout": (1, 1), "down_proj": (1 / 2, 1 / 2), "final_norm_gain": (-1 / 2, -1 / 2)},
    ("sp", "sgd"): {"readout": (1, 1), "final_norm_gain": (0, 0), "down_proj": (3 / 2, 3 / 2)},
}  # fmt: skip


@pytest.mark.parametrize(("name", "optimizer"), EFFECTIVE)
@pytest.mark.parametrize("mode", MODES)
def test_effective_updates_by_hand(name, optimizer, mode):
    # readings of one block, where no other block's growth comes in
    found = walked(name, optimizer, mode, n_layers=1)
    for site, both in EFFECTIVE[name, optimizer].items():
        assert found["effective_update", site, True] == pytest.approx(both[MODES.index(mode)]), site


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_gdn_mup_by_hand(mode):
    found = walked("gdn-mup", "sgd", mode)
    for site in ("residual", "mixer_out", "mlp_out", "gate", "v_conv"):
        assert found["activation_grad", site, False] == -1, site
    gates = -1 / 2 if mode == "head-dim" else -1
    assert found["activation_grad", "z_beta", False] == gates
    strict = walked("gdn-mup", "sgd", mode, replace(BY_HAND, values=1.0), n_layers=1)
    assert strict["activation_grad", "z_beta", False] == (0 if mode == "head-dim" else -1)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tied", [False, True])
def test_gdn_mup_under_adamw_updates_all_alike_in_every_corner(mode, tied):
    found = implied(exponents_of(TABLES["gdn-mup"], optimizer="adamw", mode=mode), tied=tied)
    updates = {site: range_ for (kind, _, site, _), range_ in found.items() if kind == "effective_update"}
    assert updates == dict.fromkeys(set(PARAMETERS) - ({"readout"} if tied else set()), (0.0, 0.0))


@pytest.mark.parametrize("mode", MODES)
def test_tied_logits_by_hand(mode):
    follows = exponents_of(TABLES["gdn-mup"], optimizer="adamw", mode=mode)
    found = implied(follows, tied=True)
    # the embedding's rows move with final_norm, a sum over d of one sign; at the start only a token's own logit has one
    assert found["activation", "rms", "logits", False] == (-1 / 2, 0)
    assert walk(follows, Corner(), tied=True)["activation_update", "rms", "logits", True] == [0]
    assert not any(site == "readout" for _, _, site, _ in found)


def test_the_change_of_alpha_may_outgrow_what_bounds_it():
    # an exponential of its gate: measured +1.9 +- 0.2 under sp with SGD, one layer, widths 64-256, 8 seeds
    low, high = implied(exponents_of(TABLES["sp"], optimizer="sgd", mode="head-dim"), n_layers=1)[
        "activation_update", "rms", "alpha", True
    ]
    assert low < 1 < 1.9 < high


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("mode", MODES)
def test_a_wrong_lr_moves_the_effective_update_of_its_role_alone(role, mode):
    right = walked("gdn-mup", "adamw", mode)
    for error in (-1.0, 0.5):
        wrong = walked(changed(TABLES["gdn-mup"], role, lr=error), "adamw", mode)
        for site, of in PARAMETERS.items():
            shift = wrong["effective_update", site, True] - right["effective_update", site, True]
            assert shift == (error if of.role is role else 0), site


# Laws


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("mode", "tied"), [("head-dim", True), ("heads", False)])
def test_a_factor_moved_between_init_multiplier_and_lr_changes_no_function(role, optimizer, mode, tied):
    power = -0.5
    lr = -power * (2 if optimizer == "sgd" else 1)
    for name in ("sp", "gdn-mup-code"):
        before = exponents_of(TABLES[name], optimizer=optimizer, mode=mode)
        after = exponents_of(
            changed(TABLES[name], role, init=-power, multiplier=power, lr=lr), optimizer=optimizer, mode=mode
        )
        mine = [site for site, of in PARAMETERS.items() if of.role is role]
        on_weights = {"weight": -power, "weight_update": -power, "weight_grad": power}
        for corner in some_corners(mode, tied=tied):
            moved = walk(after, corner, tied=tied)
            for key, values in walk(before, corner, tied=tied).items():
                shift = on_weights.get(key[0], 0.0) if key[2] in mine else 0.0
                assert moved[key] == pytest.approx([value + shift for value in values], abs=1e-9), (name, key)
        broken = changed(TABLES[name], role, init=-power, multiplier=power)
        assert walked(broken, optimizer, mode) != pytest.approx(walked(name, optimizer, mode), abs=1e-9)


def outside(name, optimizer, mode, tied):
    """Return the quantities whose required range does not meet the implied one, and how many are required."""
    found = implied(exponents_of(TABLES[name], optimizer=optimizer, mode=mode), tied=tied)
    n_required, wrong = 0, set()
    for (kind, stat, site, later), (low, high) in found.items():
        need = required(kind, stat, site, optimizer=optimizer, mode=mode, tied=tied, step=int(later))
        if need:
            n_required += 1
            if low > need.high or high < need.low:
                wrong.add((kind, stat, site, later))
    return wrong, n_required


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize("tied", [False, True])
def test_gdn_mup_implies_all_that_is_required_and_sp_does_not(optimizer, mode, tied):
    wrong, n_required = outside("gdn-mup", optimizer, mode, tied)
    assert not wrong
    assert n_required > 60
    assert len(outside("sp", optimizer, mode, tied)[0]) > 20


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_the_parameters_are_those_of_the_model(make_run, mode, tied):
    shape = {"base_width": 32, "n_layers": 2, "n_heads": 4, "mode": mode, "tied": tied}
    narrow, wide = (
        {(site, layer): module for site, layer, module in named_weights(build_model([run], "meta"))}
        for run in (make_run(width=32, **shape), make_run(width=128, **shape))
    )
    assert {site for site, _ in narrow} == set(PARAMETERS) - ({"readout"} if tied else set())
    for (site, layer), module in narrow.items():
        of, other = PARAMETERS[site], wide[site, layer]
        assert module.role is of.role, site
        assert of.in_block == (layer >= 0), site
        grown = [log2(b / a) / 2 for a, b in zip(module.weight.shape[1:], other.weight.shape[1:], strict=True)]
        sides = [0.0, *grown] if len(grown) == 1 else grown
        follows = exponents_of(TABLES["sp"], optimizer="sgd", mode=mode)
        assert [follows.grown(of.fan_in), follows.grown(of.fan_out)] == sides, site
        assert growth(site, mode) == sum(sides)


def test_weights_act_on_the_sites_that_they_are_said_to(make_run):
    model = build_model([make_run(width=32, base_width=32)])
    probe, seen = Probe(model), {}
    for layer, site, module in probe.sites:
        module.register_forward_hook(lambda _module, _args, out, at=(layer, site): seen.update({at: out.detach()}))
    probe.start()
    model(torch.arange(8)[None, None])
    named = {site: of.acts_on for site, of in PARAMETERS.items() if of.acts_on and not of.acts_on.startswith("<")}
    assert len(named) == 13
    for site, acts_on in named.items():
        layer = 0 if PARAMETERS[site].in_block else -1
        recorded = seen.get((layer, acts_on))
        assert torch.equal(probe.inputs[layer, site].flatten(), recorded.flatten()), site


def test_names_are_those_of_the_coords_table():
    found = implied(exponents_of(TABLES["gdn-mup"], optimizer="sgd", mode="heads"))
    for kind, _, site, _ in found:
        assert site in (ACTIVATIONS if kind.startswith("activation") else WEIGHTS)
    sizes = {site for kind, stat, site, later in found if (kind, stat, later) == ("activation", "rms", False)}
    assert sizes == set(ACTIVATIONS)
    assert {site for kind, _, site, _ in found if kind == "effective_update"} == set(WEIGHTS)


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_depth_does_not_blow_up_what_is_implied(optimizer, mode):
    # that terms of the gates' gradients align must not compound from block to block
    widest = {}
    for n_layers in (1, 2, 12):
        found = implied(exponents_of(TABLES["gdn-mup"], optimizer=optimizer, mode=mode), n_layers=n_layers)
        grads = [high - low for (kind, *_), (low, high) in found.items() if kind == "activation_grad"]
        widest[n_layers] = max(grads)
    assert widest[1] <= 0.5
    assert widest[2] <= 0.7
    assert widest[12] <= 0.9


@pytest.mark.parametrize(
    ("role", "site", "other"), [("gate", "v_proj", "down_proj"), ("gate_scalar", "a_proj", "v_proj")]
)
def test_what_no_law_gives_is_left_out(role, site, other):
    # gates that close with width, and a decay whose scalars change size, pass gradients that are no power of width
    table = parse_table({"name": "x", "base": "gdn-mup", "rule": [{"role": role, "init": 0.5}]}, "test")
    for optimizer in OPTIMIZERS:
        found = implied(exponents_of(table, optimizer=optimizer, mode="heads"))
        assert ("weight_grad", "rms", site, False) not in found
        assert ("weight_grad", "rms", other, False) in found
        # AdamW's step does not depend on the size of the gradient
        assert (("effective_update", "rms", site, True) in found) == (optimizer == "adamw")


@pytest.mark.parametrize(
    ("given", "message"),
    [({"optimizer": "adam"}, "unknown optimizer 'adam'; known: adamw, sgd"), ({"mode": "wide"}, "unknown mode 'wide'")],
)
def test_a_setting_that_is_none_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        exponents_of(TABLES["sp"], **({"optimizer": "sgd", "mode": "heads"} | given))


def test_site_multipliers_reach_their_site():
    for site, (optimizer, mode) in product(MULTIPLIER_SITES, SETTINGS):
        right = walked("gdn-mup", optimizer, mode)
        table = parse_table({"name": "x", "base": "gdn-mup", "multiplier": {site: -2}}, "test")
        shift = -2 - TABLES["gdn-mup"].multiplier(site, mode=mode)
        wrong = walked(table, optimizer, mode)
        assert wrong["activation", site, False] - right["activation", site, False] == shift
