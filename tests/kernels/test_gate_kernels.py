"""The gates' arithmetic in one kernel each way, against torch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, in_float64, off, outside, part_of_rows, place

gates = pytest.importorskip("mupcheck.ops.kernels.gates")


def right(z, a_log, dt_bias, write=torch.sigmoid):
    heads = a_log.shape[1]
    return -a_log.exp()[:, None] * F.softplus(z[..., :heads] + dt_bias[:, None]), write(z[..., heads : 2 * heads])


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("tokens", "heads", "columns"), [(1, 1, 2), (3, 6, 16), (150, 4, 9)])
def test_both_gates(where, tokens, heads, columns):
    device, dtype = place(where)
    draw = drawing(device)
    z = 3 * draw(2, tokens, columns).to(dtype)
    a_log, dt_bias = draw(2, heads), draw(2, heads) - 3
    upstream = draw(2, tokens, heads), draw(2, tokens, heads)
    _, dz = outside(z.shape, like=z)
    values = gates.gates_forward(part_of_rows(z), a_log, dt_bias)
    got = [*values, dz, *gates.gates_backward(*upstream, part_of_rows(z), a_log, dt_bias, dz)]
    expected = in_float64(right, (z, a_log, dt_bias), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    assert not dz[..., 2 * heads :].any()
    wrong = in_float64(lambda *leaves: right(*leaves, write=torch.tanh), (z, a_log, dt_bias), upstream)
    assert max(map(off, got, wrong)) > 0.1


@pytest.mark.parametrize("where", WHERE[:2])
def test_small_and_large_arguments_keep_their_digits(where):
    device, _ = place(where)
    z = torch.tensor([-60.0, -20.0, -7.0, -4.6, -1.0, 0.0, 1.0, 20.0, 80.0], device=device)
    both = torch.stack([z, z], dim=-1)[None]
    zero = torch.zeros(1, 1, device=device)
    log_alpha, beta = gates.gates_forward(both, zero, zero)
    # relative, number by number: rounding, and exp's own error in proportion to its argument
    for got, expected in ((log_alpha, -F.softplus(z.double(), threshold=100)), (beta, torch.sigmoid(z.double()))):
        assert ((got.flatten() - expected).abs() / expected.abs()).max() < 1e-5
