"""Gradients that layers write out by hand, against those of autograd."""

import pytest
import torch

from mupcheck.model.layers import rms_norm, unit_norm


def plain_rms_norm(x, gain):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * gain.view(len(gain), *[1] * (x.dim() - 2), -1)


def plain_unit_norm(x, _):
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 3, 5), (1, 1, 1, 4), (2, 3, 2, 4)])
@pytest.mark.parametrize(
    ("norm", "plain"),
    [(lambda x, gain: rms_norm(x, gain, 1e-6), plain_rms_norm), (lambda x, _: unit_norm(x), plain_unit_norm)],
)
def test_norms(shape, norm, plain):
    draw = torch.Generator().manual_seed(0)
    x, upstream = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    gain = torch.randn(shape[0], shape[-1], generator=draw, dtype=torch.float64)
    leaves = [x.requires_grad_(), gain.requires_grad_()]
    found, right = (
        torch.autograd.grad(function(*leaves), leaves, upstream, allow_unused=True) for function in (norm, plain)
    )
    for got, expected in zip(found, right, strict=True):
        assert (got is None) == (expected is None)
        assert got is None or torch.allclose(got, expected, rtol=1e-12, atol=1e-14)
