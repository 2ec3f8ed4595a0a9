"""RMSNorm kernels: with the sum before, with the gate behind, against torch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, in_float64, off, part_of_rows, place, through

from mupcheck.model.layers import rms_norm

norms = pytest.importorskip("mupcheck.ops.kernels.norms")

EPS = 1e-6


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("tokens", "width"), [(1, 24), (3, 96), (65, 40)])
def test_the_norm_of_a_sum(where, tokens, width):
    device, dtype = place(where)
    draw = drawing(device)
    x, y, gain = draw(2, tokens, width), draw(2, tokens, width).to(dtype), 1 + 0.1 * draw(2, width)
    upstream = draw(2, tokens, width), draw(2, tokens, width).to(dtype)

    def right(x, y, gain, eps=EPS):
        return x + y, rms_norm(x + y, gain, eps)

    got = through(lambda *leaves: norms.add_rms_norm(*leaves, EPS, dtype), (x, y, gain), upstream)
    expected = in_float64(right, (x, y, gain), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    wrong = in_float64(lambda *leaves: right(*leaves, eps=0.1), (x, y, gain), upstream)
    assert max(map(off, got, wrong)) > 2 * TOLERANCES[dtype]
    assert got[0].dtype == torch.float32 and got[1].dtype == got[3].dtype == dtype


@pytest.mark.parametrize("where", WHERE)
def test_the_norm_alone_and_the_sum_alone(where):
    device, dtype = place(where)
    draw = drawing(device)
    x, y, gain, upstream = draw(2, 5, 24), draw(2, 5, 24).to(dtype), draw(2, 24), draw(2, 5, 24)
    got = through(lambda *leaves: norms.rms_norm(*leaves, EPS, dtype), (x, gain), [upstream.to(dtype)])
    expected = in_float64(lambda *leaves: rms_norm(*leaves, EPS), (x, gain), [upstream.to(dtype)])
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    # where nobody asks for the norm, or for the sum, its part of the gradient is nothing
    leaves = [leaf.requires_grad_() for leaf in (x, y)]
    total, normed = norms.add_rms_norm(*leaves, gain, EPS, dtype)
    assert all(
        torch.equal(g.float(), upstream.to(g.dtype).float()) for g in torch.autograd.grad(total, leaves, upstream)
    )
    total, normed = norms.add_rms_norm(*leaves, gain, EPS, dtype)
    (dx, _) = torch.autograd.grad(normed, leaves, upstream.to(dtype))
    wide = (x.double() + y.double()).detach().requires_grad_()
    (right,) = torch.autograd.grad(rms_norm(wide, gain.double(), EPS), wide, upstream.to(dtype).double())
    assert off(dx, right) < TOLERANCES[dtype]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 24), (3, 2, 5), (33, 3, 20)])
def test_the_gated_norm(where, tokens, heads, width):
    device, dtype = place(where)
    draw = drawing(device)
    o, g = draw(2, tokens, heads, width).to(dtype), draw(2, tokens, heads * width).to(dtype)
    gain, factor = 1 + 0.1 * draw(2, width), torch.tensor([0.5, 3.0], device=device)
    upstream = [draw(2, tokens, heads * width).to(dtype)]

    def right(o, g, gain, act=F.silu):
        normed = rms_norm(o * factor.double().view(-1, 1, 1, 1), gain, EPS)
        return normed.reshape(g.shape) * act(g)

    def fused(o, g, gain):
        return norms.gated_rms_norm(o, part_of_rows(g), gain, EPS, factor=factor)

    got, expected = through(fused, (o, g, gain), upstream), in_float64(right, (o, g, gain), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    wrong = in_float64(lambda *leaves: right(*leaves, act=torch.sigmoid), (o, g, gain), upstream)
    assert max(map(off, got, wrong)) > 2 * TOLERANCES[dtype]


@pytest.mark.parametrize("where", WHERE)
def test_a_replica_of_nan_stays_by_itself_and_results_repeat(where):
    device, dtype = place(where)
    draw = drawing(device)
    x, y, gain = draw(3, 70, 24), draw(3, 70, 24).to(dtype), draw(3, 24)
    upstream = draw(3, 70, 24), draw(3, 70, 24).to(dtype)

    def run(x):
        return through(lambda *leaves: norms.add_rms_norm(*leaves, EPS, dtype), (x, y, gain), upstream)

    clean, again, poisoned = run(x), run(x), run(x.index_fill(0, torch.tensor([1], device=device), float("nan")))
    assert all(torch.equal(a, b) for a, b in zip(clean, again, strict=True))
    assert all(torch.equal(a[[0, 2]], b[[0, 2]]) for a, b in zip(clean, poisoned, strict=True))
    assert all(b[1].isnan().any() for b in (poisoned[1], poisoned[2], poisoned[4]))
