"""Each identity holds as the code is and is seen to break when the code is broken where it looks."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mupcheck.model import build, lm
from mupcheck.proof import identities
from mupcheck.proof.identities import (
    Setting,
    base_width,
    check_identities,
    difference,
    nan_neighbour,
    order,
    replicas,
    symmetry,
)
from mupcheck.spec.sweep import SweepSpec
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, Role, factors
from mupcheck.theory.rules_file import find_table
from mupcheck.training.optim import Optimizer

NAMES = ["base width", "symmetry", "replicas", "nan neighbour", "order"]
# exponents that are no multiples of 1/2, a role's own multiplier, and an lr that trains nothing well
CUSTOM = """
name = "mine"
base = "gdn-mup"
[[rule]]
role = "hidden"
init = -0.3
lr = -0.83
[[rule]]
role = "gate"
eps = 0.7
multiplier = 0.13
[multiplier]
mixer_out = -1
"""


@pytest.fixture
def setting(corpus):
    return Setting("sgd", "head-dim", corpus)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_all_hold_for_a_custom_table(tmp_path, corpus, optimizer, mode):
    path = tmp_path / "mine.toml"
    path.write_text(CUSTOM)
    found = check_identities(str(path), optimizer=optimizer, mode=mode, corpus=corpus)
    assert [identity.name for identity in found] == NAMES
    for identity in found:
        assert identity.holds is True, identity
        assert (identity.parametrization, identity.optimizer, identity.mode) == ("mine", optimizer, mode)
        assert math.isfinite(identity.measured) and identity.next_step == ""


def test_a_factor_that_is_not_1_at_the_base_width_breaks_it(monkeypatch, setting):
    def off(table, role, **where):
        found = factors(table, role, **where)
        return dataclasses.replace(found, lr=found.lr * 1.001) if table.name == "sp" and role == Role.GATE else found

    monkeypatch.setattr(build, "factors", off)
    identity = base_width("sp", setting)
    assert identity.holds is False
    assert identity.measured > 0
    assert "mupcheck rules -p sp" in identity.next_step
    assert base_width("mup", setting).holds


def test_decay_is_part_of_the_base_width_identity(monkeypatch, setting):
    def off(table, role, **where):
        found = factors(table, role, **where)
        return dataclasses.replace(found, weight_decay=2.0) if table.name == "sp" else found

    monkeypatch.setattr(build, "factors", off)
    assert base_width("sp", setting).holds is False


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("field", ["lr", "multiplier"])
def test_a_symmetry_partner_that_lacks_a_factor_is_found_and_its_role_named(
    monkeypatch, corpus, optimizer, role, field
):
    moved = identities.moved

    def broken(table, which, power):
        partner = moved(table, which, power)
        if which != role or power < 0:
            return partner
        rules = {
            key: {**rows, role: dataclasses.replace(rows[role], **{field: getattr(table.rules[key][role], field)})}
            for key, rows in partner.rules.items()
        }
        return dataclasses.replace(partner, rules=rules)

    monkeypatch.setattr(identities, "moved", broken)
    identity = symmetry("gdn-mup", Setting(optimizer, "head-dim", corpus))
    assert identity.holds is False
    assert identity.next_step.startswith(f"the init, lr, eps or multiplier of {role} is")


def test_an_eps_that_stays_is_found(monkeypatch, corpus):
    # at 1e-8 eps takes no part in the step; a factor 4 on it moves the losses by about 1e-7, far above rounding
    moved = identities.moved

    def broken(table, role, power):
        rules = {
            key: {**rows, role: dataclasses.replace(rows[role], eps=table.rules[key][role].eps)}
            for key, rows in moved(table, role, power).rules.items()
        }
        return dataclasses.replace(moved(table, role, power), rules=rules)

    monkeypatch.setattr(identities, "moved", broken)
    assert symmetry("gdn-mup", Setting("adamw", "head-dim", corpus)).holds is False
    assert symmetry("gdn-mup", Setting("sgd", "head-dim", corpus)).holds is True  # SGD has none


def normed_over_replicas(x, gain, eps):
    inverse = torch.rsqrt(x.square().mean((0, -1), keepdim=True) + eps)
    return x * inverse * gain.view(gain.shape[0], *([1] * (x.dim() - 2)), -1)


def test_a_norm_over_replicas_is_found(monkeypatch, setting):
    monkeypatch.setattr(lm, "rms_norm", normed_over_replicas)
    assert replicas("gdn-mup", setting).holds is False
    found = nan_neighbour("gdn-mup", setting)
    assert found.holds is False
    assert "NaN crosses" in found.next_step


def test_a_global_gradient_norm_over_replicas_is_found(monkeypatch, setting):
    norm = Optimizer.gradient_norm
    monkeypatch.setattr(Optimizer, "gradient_norm", lambda self: norm(self).mean().expand(len(norm(self))))
    assert replicas("gdn-mup", setting).holds is False


def test_a_seed_from_the_place_in_the_sweep_is_found(monkeypatch, setting):
    runs = SweepSpec.runs

    def seeded_by_place(self, **data):
        return [run.model_copy(update={"seed": place}) for place, run in enumerate(runs(self, **data))]

    monkeypatch.setattr(SweepSpec, "runs", seeded_by_place)
    assert order("gdn-mup", setting).holds is False


def test_draws_that_go_on_from_run_to_run_are_found(monkeypatch, setting):
    state = np.random.default_rng(0)
    monkeypatch.setattr(build, "_generator", lambda *_key: state)
    identity = order("gdn-mup", setting)
    assert identity.holds is False
    assert math.isfinite(identity.measured)  # the runs are the same ones, their numbers are not


def test_a_run_that_others_shift_is_found(monkeypatch, setting):
    # nothing of it shows when the same sweep is reversed
    generator = build._generator
    widest = []
    group_runs = identities.group_runs

    def watched(runs, device):
        widest.append(max(run.width for run in runs))
        return group_runs(runs, device)

    monkeypatch.setattr(identities, "group_runs", watched)
    monkeypatch.setattr(build, "_generator", lambda *key: generator(*key, widest[-1]))
    assert order("gdn-mup", setting).holds is False


def test_where_nothing_is_finite_it_cannot_be_told(monkeypatch, setting):
    monkeypatch.setitem(identities.LRS, "sgd", 1e200)
    for law in (base_width, symmetry, replicas, nan_neighbour, order):
        identity = law("gdn-mup", setting)
        assert identity.holds is None, identity
        assert math.isnan(identity.measured)
        assert "not finite" in identity.next_step


def test_a_neighbour_that_does_not_diverge_proves_nothing(monkeypatch, setting):
    monkeypatch.setattr(identities, "BLOWS_UP", 2.0**-9)
    assert nan_neighbour("gdn-mup", setting).holds is None


def test_differences():
    a = np.array([[1.0, 2.0, 4.0]])
    assert difference(a, a) == 0
    assert difference(a, a * [1, 1, 1.25]) == pytest.approx(0.2)
    assert difference(a, a[:, :2]) == 0  # it ended there
    assert difference(a * np.nan, a) == math.inf
    assert math.isnan(difference(a * np.nan, a * np.inf))


def test_an_unknown_table_is_refused(corpus):
    with pytest.raises(ValueError, match="known: sp, sp-fanin"):
        check_identities("mu", optimizer="sgd", mode="heads", corpus=corpus)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_small_models_train(corpus, optimizer, mode):
    # what does not move is equal to anything
    setting = Setting(optimizer, mode, corpus)
    run = identities._run(find_table("gdn-mup"), setting, width=64, steps=20)
    losses = identities.numbers([run], setting)[0, :, 0]
    assert losses[-4:].mean() < losses[0] - 0.05


@pytest.mark.parametrize("law", [base_width, symmetry])
@pytest.mark.parametrize("tied", [False, True])
def test_tied_and_untied_models_are_both_looked_at(monkeypatch, setting, law, tied):
    forward = lm.LanguageModel.forward

    def tilted(self, tokens):
        logits = forward(self, tokens)
        return logits * (1 + torch.arange(len(logits)) / 8).view(-1, 1, 1) if self.spec.tied == tied else logits

    monkeypatch.setattr(lm.LanguageModel, "forward", tilted)
    assert law("gdn-mup", setting).holds is False
