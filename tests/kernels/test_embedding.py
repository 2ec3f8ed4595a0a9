"""The gradient of an embedding without atomics, against the sums that define it."""

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import TOLERANCES, WHERE, drawing, off, place

kernel = pytest.importorskip("mupcheck.ops.kernels.embedding")


@pytest.mark.parametrize("where", WHERE[:2])
@pytest.mark.parametrize(("vocab", "tokens", "width"), [(5, 1, 3), (50, 70, 40), (256, 40, 24), (300, 40, 24)])
def test_rows_and_their_gradient(where, vocab, tokens, width, monkeypatch):
    monkeypatch.setattr(kernel, "SPAN", 64)  # so that few tokens are more than one program's
    device, dtype = place(where)
    draw = drawing(device)
    weight, upstream = draw(2, vocab, width), draw(2, tokens, width)
    factor = torch.tensor([0.5, 3.0], device=device)
    ids = torch.randint(0, vocab, (2, tokens, 2), generator=torch.Generator().manual_seed(0)).to(device)[..., 0]
    leaf = weight.clone().requires_grad_()
    out = kernel.embedding(ids, leaf, factor)
    (got,) = torch.autograd.grad(out, leaf, upstream)
    times = factor.view(-1, 1, 1)
    assert torch.equal(out, torch.stack([F.embedding(i, w) for i, w in zip(ids, weight, strict=True)]) * times)
    expected = torch.zeros(2, vocab, width, dtype=torch.float64, device=device)
    for replica in range(2):
        expected[replica].index_add_(0, ids[replica], upstream[replica].double() * factor[replica].double())
    assert off(got, expected) < TOLERANCES[dtype]
    (again,) = torch.autograd.grad(kernel.embedding(ids, leaf, factor), leaf, upstream)
    assert torch.equal(got, again)
    upstream[1, 0] = float("nan")
    (poisoned,) = torch.autograd.grad(kernel.embedding(ids, leaf, factor), leaf, upstream)
    assert torch.equal(poisoned[0], got[0]) and poisoned[1].isnan().any()
