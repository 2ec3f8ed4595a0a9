"""Joint products and SwiGLU, each weight with a gradient of its own, against torch's operations in float64."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, in_float64, off, place, through

products = pytest.importorskip("mupcheck.ops.kernels.products")


def scaled(weight, factor):
    return weight if factor is None else weight * factor.to(weight.dtype).view(-1, 1, 1)


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("wide", [1000, 16, 1])
def test_weights_side_by_side_and_their_gradients_apart(where, wide, monkeypatch):
    device, dtype = place(where)
    monkeypatch.setattr(products, "WIDE", wide)  # one product for all, some products, one each where columns allow it
    draw = drawing(device)
    sizes = [16, 32, 5, 16, 2]
    weights = [draw(2, 24, n) for n in sizes]
    factors = [None, torch.tensor([0.5, 4.0], device=device), None, None, torch.tensor([3.0, 1.0], device=device)]
    joint = products.side_by_side(weights, factors, dtype)
    assert joint.shape == (2, 24, 80) and not joint[..., 71:].any()
    expected = torch.cat([scaled(w, f).to(dtype) for w, f in zip(weights, factors, strict=True)], dim=2)
    assert torch.equal(joint[..., :71], expected)
    x, grad = draw(2, 7, 24).to(dtype), F.pad(draw(2, 7, 71), (0, 9)).to(dtype)
    found = products.weight_gradients(x, grad, weights, factors)
    whole = x.double().mT @ grad[..., :71].double()
    for own, part, factor in zip(found, whole.split(sizes, dim=2), factors, strict=True):
        assert own.is_contiguous() and own.dtype == torch.float32
        assert off(own, scaled(part, factor)) < TOLERANCES[torch.float32]


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("factor", [None, [0.5, 3.0]])
def test_a_projection(where, factor):
    device, dtype = place(where)
    draw = drawing(device)
    factor = None if factor is None else torch.tensor(factor, device=device)
    x, weight, upstream = draw(2, 7, 24).to(dtype), draw(2, 24, 20), [draw(2, 7, 20).to(dtype)]
    got = through(lambda x, w: products.projection(x, w, factor), (x, weight), upstream)
    expected = in_float64(lambda x, w: x @ scaled(w, factor), (x, weight), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    assert got[2].dtype == torch.float32


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(("tokens", "width", "hidden"), [(1, 24, 96), (7, 10, 25)])
def test_swiglu(where, tokens, width, hidden):
    device, dtype = place(where)
    draw = drawing(device)
    x, upstream = draw(2, tokens, width).to(dtype), [draw(2, tokens, width).to(dtype)]
    weights = [draw(2, width, hidden) / 5, draw(2, width, hidden) / 5, draw(2, hidden, width) / 5]
    factors = [None, torch.tensor([0.5, 3.0], device=device), torch.tensor([2.0, 0.7], device=device)]

    def right(x, gate, up, down, act=F.silu):
        gate, up, down = (scaled(w, f) for w, f in zip((gate, up, down), factors, strict=True))
        return (act(x @ gate) * (x @ up)) @ down

    got = through(lambda x, *w: products.swiglu(x, *w, factors), (x, *weights), upstream)
    expected = in_float64(right, (x, *weights), upstream)
    assert max(map(off, got, expected)) < TOLERANCES[dtype]
    wrong = in_float64(lambda *leaves: right(*leaves, act=F.gelu), (x, *weights), upstream)
    assert max(map(off, got, wrong)) > 2 * TOLERANCES[dtype]
