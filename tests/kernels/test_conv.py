"""The short convolution with SiLU and unit norm in one kernel each way, against torch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, in_float64, off, outside, part_of_rows, place

from mupcheck.model.layers import unit_norm

conv = pytest.importorskip("mupcheck.ops.kernels.conv")


def right(x, weight, *, batch, head, lead=0):
    """The sum over taps of shifted x, written as it is defined; `lead` looks ahead by so many tokens."""
    n_replicas, tokens, width = x.shape
    taps, time = weight.shape[1], tokens // batch
    padded = F.pad(x.view(n_replicas, batch, time, width), (0, 0, taps - 1, taps))
    y = sum(weight[:, j, None, None] * padded[:, :, j + lead : j + lead + time] for j in range(taps))
    y = F.silu(y).reshape(n_replicas * batch, time, width)
    return y if head is None else unit_norm(y.view(*y.shape[:2], -1, head)).view(y.shape)


def fused(x, weight, upstream, *, batch, head):
    """Output and gradients; x and dx are parts of longer rows whose other numbers are NaN."""
    x = part_of_rows(x)
    whole, dx = outside(x.shape, like=x)
    out = conv.conv_forward(x, weight, batch=batch, head=head)
    dweight = conv.conv_backward(upstream, x, weight, dx, batch=batch, head=head)
    assert int(whole.isnan().sum()) == whole.numel() - dx.numel() + int(dx.isnan().sum()), "wrote beside its columns"
    return [out, dx, dweight]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    ("batch", "time", "heads", "head", "taps", "unit"),
    [
        (2, 1, 2, 5, 4, True),
        (1, 3, 2, 10, 4, False),
        (2, 63, 1, 24, 4, True),
        (1, 130, 1, 20, 4, False),  # more than one program over time
        (1, 9, 1, 160, 2, False),  # more than one block of channels
        (2, 9, 3, 4, 6, True),
    ],
)
def test_conv_silu_and_unit_norm(where, batch, time, heads, head, taps, unit):
    device, dtype = place(where)
    draw = drawing(device)
    x, weight = draw(2, batch * time, heads * head).to(dtype), 0.5 * draw(2, taps, heads * head)
    upstream = draw(2 * batch, time, heads * head).to(dtype)
    of = {"batch": batch, "head": head if unit else None}
    got = fused(x, weight, upstream, **of)
    expected = in_float64(lambda *leaves: right(*leaves, **of), (x, weight), [upstream])
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    if time > 1:
        ahead = in_float64(lambda *leaves: right(*leaves, **of, lead=1), (x, weight), [upstream])
        assert max(map(off, got, ahead)) > 0.1


@pytest.mark.parametrize("where", WHERE)
def test_sequences_and_replicas_do_not_see_each_other(where):
    device, dtype = place(where)
    draw = drawing(device)
    x, weight, upstream = draw(3, 2 * 5, 10).to(dtype), draw(3, 4, 10), draw(6, 5, 10).to(dtype)
    of = {"batch": 2, "head": 5}
    clean, again = fused(x, weight, upstream, **of), fused(x, weight, upstream, **of)
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))
    x[1, 5:] = float("nan")  # the second sequence of the second replica
    out, dx, dweight = fused(x, weight, upstream, **of)
    others = [0, 1, 2, 4, 5]
    assert torch.equal(out[others], clean[0][others]) and out[3].isnan().all()
    assert torch.equal(dx.reshape(6, 5, 10)[others], clean[1].reshape(6, 5, 10)[others])
    assert torch.equal(dweight[[0, 2]], clean[2][[0, 2]]) and dweight[1].isnan().all()
