"""What the probe says beside sizes: the rms that a norm must make of what comes in, and what weights are stored in."""

import pytest
import torch
from planted_code import train_check

from mupcheck.measuring.probes import Probe
from mupcheck.measuring.stored import least_stored_eps, stored_eps
from mupcheck.model import lm
from mupcheck.model.build import build_model, parameter_groups
from mupcheck.training.optim import make_optimizer


def test_the_format_of_stored_values_is_read_off_them():
    x = torch.randn(1, 64, 3, generator=torch.Generator().manual_seed(0))
    replicas = torch.cat([x, x.half().float(), x.bfloat16().float(), torch.zeros_like(x)])
    assert stored_eps(replicas).tolist() == [2.0**-23, 2.0**-10, 2.0**-7, 2.0**-7]
    assert stored_eps(torch.cat([x.double(), x.double() / 3])).tolist() == [2.0**-23, 2.0**-52]
    replicas[2, 0, 0] += 1e-6  # one value is enough
    assert stored_eps(replicas).tolist()[2] == 2.0**-23


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_expected_size_of_a_norm_is_the_recorded_one_with_any_eps(dtype):
    coords = train_check(dtype=dtype, norm_eps=0.1, widths=(32, 64), record=(0, 1)).coords
    key = ["run_id", "layer", "site"]
    expected = coords[(coords["stat"] == "expected_rms") & (coords["site"] != "mixer_out")].set_index(key)
    assert set(expected["step"]) == {0}
    assert set(expected.index.get_level_values("site")) == {
        *("norm1", "norm2", "final_norm", "o_norm", "q_unit", "k_unit"),
    }
    made = coords[(coords["kind"] == "activation") & (coords["stat"] == "rms") & (coords["step"] == 0)]
    made = made.set_index(key)["value"].reindex(expected.index)
    # in bfloat16 each of some 10^4 values is rounded by up to 2^-9
    tolerance = 1e-12 if dtype == "float64" else 1e-3
    assert made.to_numpy() == pytest.approx(expected["value"].to_numpy(), rel=tolerance)
    assert (made < 0.999).all(), "this eps takes part"


def test_it_is_not_that_of_another_norm(monkeypatch):
    monkeypatch.setattr(lm, "rms_norm", lambda x, gain, eps: x * gain[:, None])
    coords = train_check(widths=(32, 64), record=(0, 1)).coords
    rows = coords[(coords["site"] == "norm2") & (coords["step"] == 0)].set_index(["run_id", "layer", "kind", "stat"])
    values = rows["value"].unstack(["kind", "stat"])
    assert (values["diagnostic", "expected_rms"] - 1).abs().max() < 1e-5
    assert (values["activation", "rms"] - 1).abs().min() > 0.01


def test_a_sample_tells_what_is_not_rounded_and_the_whole_what_is():
    x = torch.randn(2, 64, 30, generator=torch.Generator().manual_seed(0))
    rounded = x.bfloat16().float()
    assert [each.tolist() for each in least_stored_eps([x, rounded])] == [[2.0**-23] * 2, [2.0**-7] * 2]
    rounded[1, 63, 28] += 1e-6  # no part of the sample, which so says too much, never too little
    assert least_stored_eps([rounded])[0].tolist() == [2.0**-7] * 2
    assert stored_eps(rounded).tolist() == [2.0**-7, 2.0**-23]
    assert least_stored_eps([torch.zeros(2, 3)])[0].tolist() == [2.0**-7] * 2


def test_a_weight_with_one_value_that_is_not_rounded_is_recorded_as_what_it_is(make_run):
    runs = [make_run(width=32), make_run(width=32, seed=1)]
    model = build_model(runs)
    probe, optimizer = Probe(model), make_optimizer(parameter_groups(model, runs), runs)
    optimizer.steps_taken = 1
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
        model.readout.weight[1, 31, 30] += 1e-6
    probe.start()
    model.loss(torch.zeros(2, 1, 9, dtype=torch.long)).sum().backward()
    probe.finish(optimizer, torch.ones(2, dtype=torch.float64))
    found = {(row.layer, row.site): row.values for row in probe.rows(1) if row.stat == "stored_eps"}
    assert found.pop((-1, "readout")) == [2.0**-7, 2.0**-23]
    assert set(map(tuple, found.values())) == {(2.0**-7, 2.0**-7)}
