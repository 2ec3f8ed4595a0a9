"""What the probe says beside sizes: the rms that a norm must make of what comes in, and what weights are stored in."""

import pytest
import torch
from planted_code import train_check

from mupcheck.measuring.stored import stored_eps
from mupcheck.model import lm


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
    expected = coords[coords["stat"] == "expected_rms"].set_index(key)
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
