"""Sizes known as values: planted in the code of the model and seen, in all four settings, and not seen where right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from planted_code import SETTINGS, check_of, judged, train_check
from scipy import stats

from mupcheck.coordinates.values import LEVEL, _squares, wrong_values
from mupcheck.model import build, gdn, layers, lm


def found(results):
    return {(finding.name, finding.sites[0]): finding for finding in wrong_values(check_of(results))}


def start(**changes):
    """Return a check of step 0 alone, which is all that is looked at here."""
    return train_check(**{"record": (0, 1), "seeds": 2} | changes)


CLEAN = [
    *({"optimizer": optimizer, "mode": mode} for optimizer, mode in SETTINGS),
    {"tied": True},
    {"readout_std": 0.0, "n_layers": 4},
    {"dtype": "bfloat16", "mode": "heads"},
    {"dtype": "float64", "n_layers": 1},
    {"parametrizations": ["sp"], "optimizer": "sgd"},
    {"parametrizations": ["gdn-mup-code"]},
    {"projection_std": 0.02, "embedding_std": 0.02, "conv_std": 0.1, "logit_scale": 3.0, "base_width": 64},
    {"widths": (48, 96, 160), "mode": "heads", "base_width": 96, "n_heads": 6, "mlp_ratio": 3, "conv_size": 3},
    # o_norm's eps takes part, and is expected to
    {"projection_std": 0.004, "conv_std": 0.1, "parametrizations": ["mup"], "norm_eps": 1e-5},
]


@pytest.mark.parametrize("changes", CLEAN)
def test_nothing_is_found_where_all_is_right(changes):
    assert found(start(**changes)) == {}


def test_what_is_drawn_scatters_as_is_said():
    """Weights as chi2_n says, to the last quantile; layers less, since their tokens differ."""
    check = check_of(start(seeds=16))
    tests = _squares(check, check.table)
    drawn = tests[(tests["name"] == "initial size") & np.isfinite(tests["dof"])]
    p = stats.chi2.cdf(drawn["ratio"] * drawn["dof"], drawn["dof"])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    made = tests[tests["name"] == "layer size"]
    z = stats.norm.ppf(stats.chi2.cdf(made["ratio"] * made["dof"], made["dof"]))
    assert np.abs(z).max() < 2
    assert LEVEL / len(tests) < 1e-6


base_values = build._base_values


def half_the_std(name, module, run, *, of):
    values = base_values(name, module, run)
    return values / 2 if name.endswith(of) and run.width == 128 else values


SITES = ["q_proj", "b_proj", "embedding", "k_conv1d", "down_proj", "readout", "o_proj", "a_proj"]


@pytest.mark.parametrize(("site", "setting"), list(zip(SITES, SETTINGS * 2, strict=True)))
def test_a_weight_that_is_drawn_otherwise_at_one_width_is_named(site, setting, monkeypatch):
    monkeypatch.setattr(build, "_base_values", lambda *args: half_the_std(*args, of=site))
    optimizer, mode = setting
    results = start(optimizer=optimizer, mode=mode, seeds=4)
    finding = found(results)["initial size", site]
    assert finding.effect == "fail"
    assert finding.widths == (128,) and finding.steps == (0,)
    factor = float(finding.text.partition("(x")[2].rstrip(")"))
    assert factor == pytest.approx(0.5, rel=0.2)
    assert len(found(results)) == 1
    assert judged(results).verdict == "fail"


@pytest.mark.parametrize("site", ["A_log", "dt_bias"])
def test_a_gate_scalar_that_no_draw_gives_is_named(site, monkeypatch):
    """A for log A, and dt for its inverse softplus: the same at every width, so that no slope shows it."""
    wrong = {"A_log": lambda uniform: 16 * uniform, "dt_bias": lambda uniform: 0.001 + 0.1 * uniform}[site]
    monkeypatch.setitem(build.GATE_SCALAR_DRAWS, site, wrong)
    results = start(mode="heads", seeds=4, n_heads=1, head_k_dim=8)
    assert ("initial size", site) in found(results) or site == "A_log"  # A itself lies beyond log A now and then
    small = {"A_log": 20.0, "dt_bias": 0.2}[site]
    monkeypatch.setitem(build.GATE_SCALAR_DRAWS, site, lambda uniform: small * np.ones_like(uniform))
    assert set(found(start(optimizer="sgd"))) == {("initial size", site)}


def other_eps(eps):
    def rms_norm(x, gain, _eps):
        return layers.rms_norm(x, gain, eps)

    return rms_norm


@pytest.mark.parametrize(("optimizer", "mode"), SETTINGS)
def test_another_eps_of_a_norm_is_found(optimizer, mode, monkeypatch):
    monkeypatch.setattr(lm, "rms_norm", other_eps(1e-2))
    results = start(optimizer=optimizer, mode=mode)
    assert set(found(results)) == {("norm size", site) for site in ("norm1", "norm2", "final_norm")}
    assert judged(results).verdict == "fail"
    monkeypatch.undo()
    monkeypatch.setattr(gdn, "rms_norm", other_eps(1e-3))
    assert set(found(start(optimizer=optimizer, mode=mode))) == {("norm size", "o_norm")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_no_norm_of_o_is_found(mode, dtype, monkeypatch):
    monkeypatch.setattr(gdn, "rms_norm", lambda x, gain, _eps: x * gain[:, None, None])
    results = start(mode=mode, dtype=dtype)
    assert ("norm size", "o_norm") in found(results)
    assert judged(results).verdict == "fail"


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_keys_that_have_no_unit_norm_in_one_head_are_found(mode, monkeypatch):
    def all_but_one(x):
        out = layers.unit_norm(x)
        return torch.cat([1.05 * out[:, :, :1], out[:, :, 1:]], dim=2)

    monkeypatch.setattr(gdn, "unit_norm", all_but_one)
    assert set(found(start(mode=mode))) == {("norm size", "q_unit"), ("norm size", "k_unit")}


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_a_constant_behind_a_layer_is_found(mode, monkeypatch):
    act = layers.Linear.act

    def doubled(self, weight, x):
        y = act(self, weight, x)
        return 2 * y if self.output is not None and self.output.site == "logits" else y

    monkeypatch.setattr(layers.Linear, "act", doubled)
    finding = found(start(mode=mode))["layer size", "logits"]
    assert finding.effect == "fail" and "as at every width" in finding.text
    assert float(finding.text.partition("(x")[2].partition(")")[0]) == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("mode", ["head-dim", "heads"])
def test_another_function_than_silu_is_found_by_its_size(mode, monkeypatch):
    class Functions:
        silu = staticmethod(torch.nn.functional.relu)
        softplus, cross_entropy = torch.nn.functional.softplus, torch.nn.functional.cross_entropy

    monkeypatch.setattr(gdn, "F", Functions)
    monkeypatch.setattr(lm, "F", Functions)
    findings = found(start(mode=mode, seeds=8))
    assert {("layer size", "gate"), ("layer size", "mlp_hidden")} == set(findings)
    assert "over all layers and widths together" in findings["layer size", "mlp_hidden"].text


@pytest.mark.parametrize(("site", "made"), [("o_proj", "mixer_out"), ("g_proj", "gate"), ("embedding", "embedding")])
def test_a_constant_where_a_function_or_a_sum_is_between_is_found(site, made, monkeypatch):
    act = layers.Weight.forward

    def tripled(self, x=None):
        y = act(self, x)
        return 3 * y if self.site == site else y

    def named(model, *args, **kwargs):
        for name, module in model.named_modules():
            if isinstance(module, layers.Weight):
                module.site = name.rpartition(".")[2]
        return set_multipliers(model, *args, **kwargs)

    set_multipliers = build._set_multipliers
    monkeypatch.setattr(build, "_set_multipliers", named)
    monkeypatch.setattr(layers.Weight, "forward", tripled)
    assert set(found(start(seeds=4))) == {("layer size", made)}


def test_a_wrong_table_that_is_followed_is_no_wrong_value_and_one_that_is_not_is(tmp_path):
    rules = tmp_path / "wrong.toml"
    rules.write_text('name = "wrong"\nbase = "gdn-mup"\n[[rule]]\nrole = "hidden"\ninit = 0.0\nmultiplier = -0.5\n')
    results = start(parametrizations=[str(rules)])
    assert found(results) == {}
    check = check_of(results)
    other = check_of(start())
    named = {finding.sites[0] for finding in wrong_values(replace(check, table=other.table))}
    assert {"q_proj", "down_proj"} <= named


def test_files_of_older_versions_say_nothing():
    results = start()
    old = results.runs.assign(accumulation=None, logit_scale=None)
    coords = results.coords[~results.coords["stat"].isin(["expected_rms"])]
    check = check_of(type(results)(old, pd.DataFrame(), coords, results.sweeps))
    assert list(wrong_values(check)) == []
    without = check_of(type(results)(results.runs, pd.DataFrame(), results.coords.iloc[:0], results.sweeps))
    assert list(wrong_values(without)) == []


def test_a_batch_of_one_token_repeated_is_no_wrong_value(tmp_path):
    """o and gate are then large at the same few places, which their own sizes do not tell."""
    file = tmp_path / "spaces.txt"
    file.write_bytes(b" " * 4096)
    results = start(data=f"text:{file}", seeds=8, n_layers=4, projection_std=0.5)
    assert found(results) == {}
    measured = (results.coords["site"] == "mixer_out") & (results.coords["stat"] == "expected_rms")
    off = []
    for each in (results, replace(results, coords=results.coords[~measured])):
        check = check_of(each)
        tests = _squares(check, check.table)
        off.append(np.abs(tests.loc[tests["site"] == "mixer_out", "ratio"] - 1).max())
    assert off[1] > 3 * off[0]


def test_seeds_that_repeat_one_another_are_not_counted_as_many():
    results = start(seeds=3)
    of_seed = results.runs.pivot_table(index="width", columns="seed", values="run_id", aggfunc="first")
    source = {run_id: of_seed.loc[width, 0] for width in of_seed.index for run_id in of_seed.loc[width]}
    rows = dict(list(results.coords.groupby("run_id")))
    copied = pd.concat([rows[same].assign(run_id=run_id) for run_id, same in source.items()])
    check, one = check_of(replace(results, coords=copied)), check_of(results)
    copies, all_three = (_squares(each, each.table) for each in (check, one))
    drawn = (copies["name"] == "initial size") & np.isfinite(copies["dof"])
    assert (copies["dof"][drawn] * 3).tolist() == all_three["dof"][drawn].tolist()
    assert list(wrong_values(check)) == []
