"""Several projections of one input as one matrix product, forward and backward, over [R, ...].

The weights, each with its multiplier and rounded to the dtype of the product, stand side by side in one matrix whose
columns are filled up to a multiple of `ALIGNED`: narrow ones, such as those of the gates, cost next to nothing there
and much on their own. Each weight gets a gradient of its own, in float32 and with its multiplier.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mupcheck.ops.kernels.swiglu import swiglu_backward, swiglu_forward

ALIGNED = 16  # columns: what tensor cores and vectorised loads ask for, in bytes, of bfloat16 and of float32

Factors = Sequence[Tensor | None]


def side_by_side(weights: Sequence[Tensor], factors: Factors, dtype: torch.dtype) -> Tensor:
    """Return [R, D, columns] in `dtype`: the weights [R, D, n] times their factors [R], and columns of zeros."""
    n_replicas, width, _ = weights[0].shape
    used = sum(weight.shape[2] for weight in weights)
    joint = weights[0].new_empty(n_replicas, width, -(-used // ALIGNED) * ALIGNED, dtype=dtype)
    start = 0
    for weight, factor in zip(weights, factors, strict=True):
        columns = joint[:, :, start : start + weight.shape[2]]
        if factor is None:
            columns.copy_(weight)
        else:
            torch.mul(weight, factor.view(-1, 1, 1), out=columns)
        start += weight.shape[2]
    joint[:, :, start:] = 0
    return joint


def apart(gradient: Tensor, weights: Sequence[Tensor], factors: Factors) -> list[Tensor]:
    """Return each weight's gradient from that of `side_by_side`."""
    found, start = [], 0
    for weight, factor in zip(weights, factors, strict=True):
        columns = gradient[:, :, start : start + weight.shape[2]]
        own = torch.empty_like(weight)
        if factor is None:
            own.copy_(columns)
        else:
            torch.mul(columns, factor.view(-1, 1, 1), out=own)
        found.append(own)
        start += weight.shape[2]
    return found


def weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Return x^T grad in float32, [R, D, n]; x [R, N, D], grad [R, N, n]."""
    x = x.transpose(1, 2)
    return torch.bmm(x, grad) if x.dtype == torch.float32 else torch.bmm(x, grad, out_dtype=torch.float32)


class _Projection(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor | None, weight: Tensor) -> Tensor:
        matrix = side_by_side([weight], [factor], x.dtype)
        ctx.save_for_backward(x, matrix, factor, weight)
        return torch.bmm(x, matrix)[..., : weight.shape[2]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, matrix, factor, weight = ctx.saved_tensors
        columns = matrix[..., : weight.shape[2]]
        dx = torch.bmm(grads[0], columns.transpose(1, 2))
        return dx, None, apart(weight_gradient(x, grads[0]), [weight], [factor])[0]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, factors: Factors, kept: list[Tensor], gate: Tensor, up: Tensor, down: Tensor
    ) -> Tensor:
        # g and u are the halves of one tensor: no columns are filled up between them
        joint, matrix = _halves(gate, up, factors, x.dtype), side_by_side([down], factors[2:], x.dtype)
        gu = torch.bmm(x, joint)
        ctx.save_for_backward(x, gu, joint, matrix, gate, up, down)
        ctx.factors = factors
        kept.append(gu)
        return torch.bmm(swiglu_forward(gu), matrix)[..., : down.shape[2]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gu, joint, matrix, gate, up, down = ctx.saved_tensors
        grad = grads[0].contiguous()
        d_hidden = torch.bmm(grad, matrix[..., : down.shape[2]].transpose(1, 2))
        d_gu, hidden = swiglu_backward(d_hidden, gu)
        (d_down,) = apart(weight_gradient(hidden, grad), [down], ctx.factors[2:])
        d_gate, d_up = apart(weight_gradient(x, d_gu), [gate, up], ctx.factors[:2])
        return torch.bmm(d_gu, joint.transpose(1, 2)), None, None, d_gate, d_up, d_down


def _halves(gate: Tensor, up: Tensor, factors: Factors, dtype: torch.dtype) -> Tensor:
    joint = side_by_side([gate, up], factors[:2], dtype)
    used = gate.shape[2] + up.shape[2]
    return joint if joint.shape[2] == used else joint[..., :used].contiguous()


def projection(x: Tensor, weight: Tensor, factor: Tensor | None) -> Tensor:
    """Return x (factor * weight), [R, N, n] in x's dtype; x [R, N, D], weight [R, D, n], factor [R] (None is 1)."""
    out: Tensor = _Projection.apply(x, factor, weight)
    return out


def swiglu(
    x: Tensor, gate: Tensor, up: Tensor, down: Tensor, factors: Factors, kept: list[Tensor] | None = None
) -> Tensor:
    """Return (silu(x gate) * (x up)) down, [R, N, D] in x's dtype; each weight times its factor [R] (None is 1).

    What both halves of the first product are is added to `kept`.
    """
    out: Tensor = _SwiGlu.apply(x, factors, [] if kept is None else kept, gate, up, down)
    return out
