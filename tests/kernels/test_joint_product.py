"""What a mixer gives the delta rule, and the gradient of the joint product behind it."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, off, place

from mupcheck.model.layers import unit_norm

mixer = pytest.importorskip("mupcheck.ops.kernels.mixer")
norms = pytest.importorskip("mupcheck.ops.kernels.norms")

HEADS, K, V, TAPS, WIDTH, BATCH, TIME = 2, 3, 5, 3, 10, 1, 3


def drawn(device):
    draw = drawing(device)
    shapes = [(WIDTH, n) for n in (HEADS * K, HEADS * K, HEADS * V, HEADS * V, HEADS, HEADS)]
    shapes += [(TAPS, HEADS * n) for n in (K, K, V)] + [(HEADS,), (HEADS,)]
    return draw(2, BATCH * TIME, WIDTH), [draw(2, *shape) / 2 for shape in shapes], draw


def by_torch(x, weights):
    q, k, v, g, a, b = (x @ weight for weight in weights[:6])

    def conv(y, weight):
        padded = F.pad(y.view(2, BATCH, TIME, -1), (0, 0, TAPS - 1, 0))
        y = F.silu(sum(weight[:, j, None, None] * padded[:, :, j : j + TIME] for j in range(TAPS)))
        return y.reshape(2 * BATCH, TIME, HEADS, -1)

    q, k, v = (conv(y, weight) for y, weight in zip((q, k, v), weights[6:9], strict=True))
    log_alpha = -weights[9].exp()[:, None] * F.softplus(a + weights[10][:, None])
    gates = (gate.view(2 * BATCH, TIME, HEADS) for gate in (log_alpha, torch.sigmoid(b)))
    return unit_norm(q), unit_norm(k), v, *gates, g


def gradients(x, weights, upstream, *, own_buffer, g_used_twice=False):
    """Gradients of x and the weights where the gated norm writes the gradient of g into the product's, or beside it."""
    leaves = [leaf.clone().requires_grad_() for leaf in (x, *weights)]
    inputs, g, product = mixer.rule_inputs(
        leaves[0], mixer.Weights._make(leaves[1:]), [None] * 6, batch=BATCH, heads=(HEADS, K, V)
    )
    o, gain = upstream[5].view(2, BATCH * TIME, HEADS, V).to(g.dtype), torch.ones(2, V, device=x.device)
    gated = norms.gated_rms_norm(o, g, gain, 1e-6, gradient=None if own_buffer else product.of_g)
    outs, ups = [*inputs, gated], [*upstream[:5], upstream[5].to(g.dtype)]
    if g_used_twice:
        outs, ups = [*outs, g], [*ups, torch.ones_like(g)]
    return torch.autograd.grad(outs, leaves, [u.to(out.dtype) for u, out in zip(ups, outs, strict=True)])


@pytest.mark.parametrize("where", WHERE)
def test_what_the_rule_gets_and_every_gradient(where):
    device, dtype = place(where)
    x, weights, draw = drawn(device)
    leaves = [leaf.requires_grad_() for leaf in (x.to(dtype), *weights)]
    inputs, g, _ = mixer.rule_inputs(
        leaves[0], mixer.Weights._make(leaves[1:]), [None] * 6, batch=BATCH, heads=(HEADS, K, V)
    )
    wide = [leaf.detach().double().requires_grad_() for leaf in leaves]
    right = by_torch(wide[0], wide[1:])
    upstream = [draw(*out.shape) for out in right]
    got = [
        *inputs,
        g,
        *torch.autograd.grad(
            [*inputs, g], leaves, [u.to(o.dtype) for u, o in zip(upstream, [*inputs, g], strict=True)]
        ),
    ]
    expected = [*right, *torch.autograd.grad(right, wide, [u.double() for u in upstream])]
    # bfloat16 rounds what the product gives once more, which the convolution's SiLU and the norm pass on
    tolerance = TOLERANCES[dtype] * (3 if dtype == torch.bfloat16 else 1)
    assert max(map(off, got, expected)) < tolerance
    assert inputs[3].dtype == inputs[4].dtype == torch.float32


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("g_used_twice", [False, True])
def test_it_does_not_matter_who_makes_the_gradient(where, g_used_twice):
    device, dtype = place(where)
    x, weights, draw = drawn(device)
    lead = (2 * BATCH, TIME, HEADS)
    upstream = [draw(*lead, n) for n in (K, K, V)] + [draw(*lead), draw(*lead), draw(2, BATCH * TIME, HEADS * V)]
    beside = gradients(x.to(dtype), weights, upstream, own_buffer=True, g_used_twice=g_used_twice)
    within = gradients(x.to(dtype), weights, upstream, own_buffer=False, g_used_twice=g_used_twice)
    assert all(torch.equal(a, b) for a, b in zip(beside, within, strict=True))
    other = gradients(x.to(dtype), weights, upstream, own_buffer=True, g_used_twice=not g_used_twice)
    assert not torch.equal(beside[4], other[4])  # of g's projection
