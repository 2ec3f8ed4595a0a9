"""Norms whose gradients are written out, against autograd of the formula, and the scale of a wide product."""

import pytest
import torch
from torch import Tensor

from mupcheck.model.layers import Linear, Multiplier, rms_norm, unit_norm
from mupcheck.theory.parametrization import Role


def plain_rms_norm(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain.view(len(gain), *[1] * (x.dim() - 2), -1)


def plain_unit_norm(x: Tensor) -> Tensor:
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def gradients(function, *inputs: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    out.backward(torch.cos(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape))
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("shape", [(2, 5, 8), (3, 4, 2, 7), (1, 1, 1)])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 0.0])
def test_norms_and_their_gradients_are_those_of_the_formula(shape, scale):
    x = scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gain = torch.linspace(0.5, 2.0, shape[0] * shape[-1], dtype=torch.float64).view(shape[0], shape[-1])
    cases = [
        (lambda x, gain: rms_norm(x, gain, 1e-6), lambda x, gain: plain_rms_norm(x, gain, 1e-6), (x, gain)),
        (unit_norm, plain_unit_norm, (x,)),
    ]
    for written, plain, inputs in cases:
        for got, expected in zip(gradients(written, *inputs), gradients(plain, *inputs), strict=True):
            assert expected.isfinite().all()
            # float64 rounds at 1e-16, and 1 / |x| is up to 1e3 here
            torch.testing.assert_close(got, expected, rtol=1e-11, atol=1e-13)


def test_the_comparison_sees_a_gradient_without_the_part_along_x():
    x, gain = torch.randn(2, 5, 8, dtype=torch.float64), torch.ones(2, 8, dtype=torch.float64)
    got = gradients(
        lambda x, gain: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6).detach() * gain[:, None], x, gain
    )
    expected = gradients(lambda x, gain: plain_rms_norm(x, gain, 1e-6), x, gain)
    torch.testing.assert_close(got[0], expected[0])
    assert (got[1] - expected[1]).abs().max() > 1e-2


def test_a_half_precision_norm_has_half_precision_gradients():
    x = torch.randn(2, 5, 8).bfloat16()
    out, dx, dgain = gradients(lambda x, gain: rms_norm(x, gain, 1e-6), x, torch.ones(2, 8))
    assert (out.dtype, dx.dtype, dgain.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)


@pytest.mark.parametrize(("d_in", "d_out"), [(3, 8), (8, 3)])
def test_an_output_multiplier_scales_the_output_on_whichever_side_it_is_applied(d_in, d_out):
    multiplier = Multiplier("logits")
    layer = Linear(2, d_in, d_out, role=Role.READOUT, std=1.0, output=multiplier)
    multiplier.factor = torch.tensor([0.3, 5.0])
    torch.nn.init.normal_(layer.weight, generator=torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, d_in, generator=torch.Generator().manual_seed(1))
    expected = torch.bmm(x, layer.weight) * multiplier.factor[:, None, None]
    # float32 rounds at 6e-8; a few roundings differ
    torch.testing.assert_close(layer(x), expected, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(layer(x), torch.bmm(x, layer.weight))  # control: it does scale
