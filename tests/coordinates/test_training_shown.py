"""What a training shows of itself: a loss that rises, a weight that stays, decay that is not declared, rounding."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_code import SETTINGS, check_of, judged, train_check

from mupcheck.coordinates.training import (
    REPLACED,
    decayed,
    loss_falls,
    never_moved,
    replaced,
    rounded,
    rounded_activations,
)
from mupcheck.model import build
from mupcheck.training import optim

PARTS = (loss_falls, never_moved, decayed, rounded)


def found(results, *parts):
    check = check_of(results)
    return [finding for part in parts or PARTS for finding in part(check)]


CLEAN = [
    *({"optimizer": optimizer, "mode": mode, "record": (0, 1, 2, 4)} for optimizer, mode in SETTINGS),
    {"tied": True, "weight_decay": 0.1},
    {"readout_std": 0.0},
    {"readout_std": 0.0, "record": (0, 1)},
    {"dtype": "bfloat16", "optimizer": "sgd"},
    {"parametrizations": ["sp"]},
    {"parametrizations": ["sp"], "optimizer": "sgd", "mode": "heads"},
    # a gain's first step is then one bit of bfloat16
    {"lrs": [2.0**-7], "record": (0, 1)},
    {"seq_len": 1, "batch_size": 4},
]


@pytest.mark.parametrize("changes", CLEAN)
def test_nothing_is_found_where_all_is_right(changes):
    assert [str(finding) for finding in found(train_check(**changes))] == []


# The loss


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_an_update_of_the_wrong_sign_fails(optimizer, mode, monkeypatch):
    kind = {"adamw": optim.AdamW, "sgd": optim.SGD}[optimizer]
    update = kind._update
    monkeypatch.setattr(kind, "_update", lambda self, i, w, g, lr: update(self, i, w, g, -lr))
    results = train_check(optimizer=optimizer, mode=mode)
    (finding,) = found(results, loss_falls)
    assert (finding.name, finding.effect, finding.steps) == ("loss", "fail", (1,))
    assert "rises in step 1 at every width and seed" in finding.text and "sign" in finding.advice
    assert judged(results).verdict == "fail"
    # nothing is said where the steps were not loaded
    assert found(replace(results, steps=pd.DataFrame()), loss_falls) == []


def test_a_loss_that_rises_since_the_lr_is_too_large_is_no_wrong_sign():
    results = train_check(optimizer="sgd", lrs=[16.0])
    assert {finding.effect for finding in found(results, loss_falls)} == {"no pass"}


def test_a_loss_that_is_no_number_is_no_pass():
    results = train_check(record=(0, 1))
    steps = results.steps.copy()
    steps.loc[steps.index[-1], "loss"] = np.nan
    (finding,) = found(replace(results, steps=steps), loss_falls)
    assert (finding.effect, len(finding.widths), len(finding.steps)) == ("no pass", 1, 1)
    assert "no number" in finding.text


@pytest.mark.parametrize("n_seeds", [1, 2, 8])
def test_a_loss_that_only_scatters_at_one_width_is_no_pass(n_seeds):
    results = train_check(seeds=n_seeds, record=(0, 1))
    runs, rng = results.runs, np.random.default_rng(1)
    at = results.steps["run_id"].isin(runs.loc[runs["width"] == 64, "run_id"])
    # from one start up in half of the seeds, the first one's among them
    loss = results.steps["loss"].mask(at, 5.5 + 0.01 * np.abs(rng.standard_normal(len(results.steps))))
    loss = loss.mask(at & (results.steps["step"] == 0), 5.505)
    (finding,) = found(replace(results, steps=results.steps.assign(loss=loss)), loss_falls)
    assert (finding.effect, finding.widths) == ("no pass", (64,))


# Weights that stay

STILL = list(zip(["v_proj", "norm2_gain", "A_log", "embedding"], SETTINGS, strict=True))


@pytest.mark.parametrize(("site", "setting"), STILL)
def test_a_weight_that_never_moves_is_named(site, setting, monkeypatch):
    groups = optim.make_optimizer

    def frozen(given, runs):
        made = groups(given, runs)
        for i, group in enumerate(made.groups):
            if group.site == site and group.layer in (-1, 1):
                made.lr[i] = made.lr[i] * 0
        made.realised = lambda scale: optim.Optimizer.realised(groups(given, runs), scale)  # what it declares
        return made

    monkeypatch.setattr("mupcheck.training.train.make_optimizer", frozen)
    optimizer, mode = setting
    results = train_check(optimizer=optimizer, mode=mode)
    (finding,) = found(results, never_moved)
    assert (finding.name, finding.effect, finding.sites) == ("never moves", "fail", (site,))
    assert finding.layers == ((1,) if site != "embedding" else ())
    assert finding.widths == (32, 64, 128)
    assert judged(results).verdict == "fail"


# Decay


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize("role", ["norm_gain", "gate_scalar", "short_conv"])
def test_decay_on_what_should_have_none_is_named(role, optimizer, mode, monkeypatch):
    monkeypatch.setattr(build, "DECAYED", {*build.DECAYED, role})
    results = train_check(optimizer=optimizer, mode=mode, weight_decay=0.1, decay_mode="independent", record=(0, 1))
    findings = found(results, decayed)
    sites = {"norm_gain": {"norm1_gain", "norm2_gain", "final_norm_gain"}, "gate_scalar": {"A_log", "dt_bias"}}
    sites["short_conv"] = {"q_conv1d", "k_conv1d", "v_conv1d"}
    assert {finding.sites[0] for finding in findings} == sites[role]
    assert {finding.effect for finding in findings} == {"fail"}
    assert judged(results).verdict == "fail"


def test_a_matrix_that_has_none_is_named(monkeypatch):
    monkeypatch.setattr(build, "DECAYED", build.DECAYED - {"gate"})
    results = train_check(weight_decay=0.1, decay_mode="independent", record=(0, 1))
    assert {finding.sites[0] for finding in found(results, decayed)} == {"a_proj", "b_proj"}
    assert found(train_check(record=(0, 1)), decayed) == [], "where none was asked for, none is missed"


# Rounding


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_kept_in_bfloat16_are_found_whatever_the_number_type(optimizer, mode, dtype, monkeypatch):
    kind = {"adamw": optim.AdamW, "sgd": optim.SGD}[optimizer]
    update = kind._update

    def in_bfloat16(self, i, w, g, lr):
        update(self, i, w, g, lr)
        w.data = w.data.to(torch.bfloat16).to(w.dtype)

    monkeypatch.setattr(kind, "_update", in_bfloat16)
    findings = found(train_check(optimizer=optimizer, mode=mode, dtype=dtype), rounded)
    assert findings and all("bfloat16" in finding.text for finding in findings)
    assert {(finding.name, finding.effect) for finding in findings} == {("rounded", "cannot tell")}


def test_an_lr_below_the_last_bit_of_float32_is_found_and_not_in_float64():
    tiny = {"lrs": [2.0**-24], "record": (0, 1)}
    sites = {finding.sites[0] for finding in found(train_check(**tiny), rounded)}
    assert "norm1_gain" in sites or "A_log" in sites
    assert found(train_check(**tiny, dtype="float64"), rounded) == []


def test_activations_in_bfloat16_are_warned_of_where_they_hardly_change():
    def warned(**changes):
        return [finding.effect for finding in found(train_check(**changes), rounded_activations)]

    assert warned(dtype="bfloat16", lrs=[2.0**-14]) == ["warning"]
    assert warned(dtype="bfloat16", lrs=[2.0**-8]) == [], "the number type alone is no reason"
    assert warned(lrs=[2.0**-14]) == []


# What comes into the weights


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_a_step_that_replaces_the_inputs_is_found_and_no_wrong_rule_is_seen_in_it(optimizer, mode):
    setting = {"optimizer": optimizer, "mode": mode, "seeds": 4, "record": (0, 1)}
    assert found(train_check(**setting), replaced) == []
    lr = {"adamw": 2.0**-6, "sgd": 1.0}[optimizer]
    results = train_check(**setting, n_layers=4, projection_std=0.05, embedding_std=0.02, tied=True, lrs=[lr])
    (finding,) = found(results, replaced)
    assert (finding.name, finding.effect, finding.widths, finding.steps) == ("replaced", "cannot tell", (32,), (1,))
    assert finding.kinds == ("effective_update",) and "smaller lr, such as 2^-" in finding.advice
    pooled = judged(results).pooled
    assert "fail" not in set(pooled.loc[pooled["kind"] == "effective_update", "verdict"])


def test_the_lr_that_is_named_leaves_the_inputs_as_they_are():
    setting = {"seeds": 2, "record": (0, 1), "n_layers": 4, "projection_std": 0.05, "embedding_std": 0.02, "tied": True}

    def named(lr):
        findings = found(train_check(**setting, lrs=[lr], dtype="float64"), replaced)
        return [2.0 ** int(finding.advice.rpartition("2^")[2]) for finding in findings]

    (first,) = named(2.0**-5)
    second = named(first)
    assert second == [] or named(*second) == [], "the second one that is named does at the latest"


def test_a_table_that_is_wrong_replaces_nothing_at_the_width_where_all_agree():
    results = train_check(parametrizations=["sp"], optimizer="sgd", record=(0, 1))
    change, size = (
        results.coords[(results.coords["kind"] == kind) & (results.coords["stat"] == "rms")]
        for kind in ("activation_update", "activation")
    )
    key = ["run_id", "layer", "site"]
    change, size = change[change["step"] == 1].set_index(key)["value"], size[size["step"] == 0].set_index(key)["value"]
    assert (change / size).max() > REPLACED, "at wider ones it does"
    assert found(results, replaced) == []
