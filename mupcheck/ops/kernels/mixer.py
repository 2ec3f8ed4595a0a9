"""What a Gated DeltaNet mixer gives the delta rule, from its input in one product and a few kernels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from mupcheck.ops.kernels.conv import conv_backward, conv_forward
from mupcheck.ops.kernels.gates import gates_backward, gates_forward
from mupcheck.ops.kernels.products import Factors, apart, side_by_side, weight_gradient


class Weights(NamedTuple):
    """Projections [R, D, n] and what follows them: conv filters [R, taps, C] and gate scalars [R, H] in float32."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    a: Tensor
    b: Tensor
    q_conv: Tensor
    k_conv: Tensor
    v_conv: Tensor
    a_log: Tensor
    dt_bias: Tensor


class _Columns(NamedTuple):
    """Where the product's columns are; the gates' are those of a, of b and of nothing."""

    q: slice
    k: slice
    v: slice
    g: slice
    gates: slice


def _columns(weights: Weights) -> _Columns:
    ends = [0]
    for weight in weights[:4]:
        ends.append(ends[-1] + weight.shape[2])
    return _Columns(*(slice(a, b) for a, b in zip(ends, [*ends[1:], None], strict=True)))


class JointGradient:
    """The gradient of one joint product, made by whoever comes first in the backward pass and filled by all."""

    def __init__(self) -> None:
        self.whole: Tensor | None = None
        self.like: Tensor | None = None
        self.g = slice(None)

    def of_g(self) -> Tensor:
        """Return where the gradient of g goes, [R, N, H * V]."""
        assert self.like is not None
        self.whole = torch.empty_like(self.like)
        return self.whole[..., self.g]

    def take(self, d_g: Tensor) -> Tensor:
        """Return the whole, with the gradient of g in its place."""
        assert self.like is not None
        whole, self.whole = self.whole, None
        if whole is None or d_g.data_ptr() != whole[..., self.g].data_ptr():
            whole = torch.empty_like(self.like) if whole is None else whole
            whole[..., self.g] = d_g
        return whole


class _Inputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, batch: int, sizes: tuple[int, int, int], factors: Factors, joint: Any, *given: Tensor
    ) -> tuple[Tensor, ...]:
        weights = Weights(*given)
        heads, k_dim, v_dim = sizes
        matrix = side_by_side(weights[:6], factors, x.dtype)
        y, columns = torch.bmm(x, matrix), _columns(weights)
        q = conv_forward(y[..., columns.q], weights.q_conv, batch=batch, head=k_dim)
        k = conv_forward(y[..., columns.k], weights.k_conv, batch=batch, head=k_dim)
        v = conv_forward(y[..., columns.v], weights.v_conv, batch=batch)
        log_alpha, beta = gates_forward(y[..., columns.gates], weights.a_log, weights.dt_bias)
        ctx.save_for_backward(x, y, matrix, *given)
        ctx.batch, ctx.k_dim, ctx.factors, ctx.joint = batch, k_dim, factors, joint
        joint.like, joint.g = y, columns.g
        lead = (len(q), q.shape[1], heads)
        gates = (log_alpha.view(lead), beta.view(lead))
        return q.view(*lead, k_dim), k.view(*lead, k_dim), v.view(*lead, v_dim), *gates, y[..., columns.g]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_q, d_k, d_v, d_log_alpha, d_beta, d_g = grads
        x, y, matrix, *given = ctx.saved_tensors
        weights, batch, k_dim = Weights(*given), ctx.batch, ctx.k_dim
        columns = _columns(weights)
        d_y = ctx.joint.take(d_g)

        def through(grad: Tensor, at: slice, conv: Tensor, head: int | None) -> Tensor:
            return conv_backward(grad.contiguous(), y[..., at], conv, d_y[..., at], batch=batch, head=head)

        d_q_conv = through(d_q, columns.q, weights.q_conv, k_dim)
        d_k_conv = through(d_k, columns.k, weights.k_conv, k_dim)
        d_v_conv = through(d_v, columns.v, weights.v_conv, None)
        gates = y[..., columns.gates], weights.a_log, weights.dt_bias, d_y[..., columns.gates]
        d_a_log, d_dt_bias = gates_backward(d_log_alpha.contiguous(), d_beta.contiguous(), *gates)
        of_projections = apart(weight_gradient(x, d_y), weights[:6], ctx.factors)
        dx = torch.bmm(d_y, matrix.transpose(1, 2))
        return dx, None, None, None, None, *of_projections, d_q_conv, d_k_conv, d_v_conv, d_a_log, d_dt_bias


def rule_inputs(
    x: Tensor, weights: Weights, factors: Factors, *, batch: int, heads: tuple[int, int, int]
) -> tuple[tuple[Tensor, ...], Tensor, JointGradient]:
    """Return (q, k, v, log_alpha, beta) as the delta rule takes them, the output gate's g, and where its gradient goes.

    Args:
        x: [R, B * T, D].
        weights: of the mixer.
        factors: multipliers [R] of the six projections; None is 1.
        batch: B.
        heads: (H, K, V).
    Returns:
        q, k [R * B, T, H, K] of unit norm, v [R * B, T, H, V] in x's dtype; log_alpha, beta [R * B, T, H] in float32;
        g [R, B * T, H * V], a part of longer rows; what `gated_rms_norm` takes as `gradient`.
    """
    joint = JointGradient()
    *inputs, g = _Inputs.apply(x, batch, heads, factors, joint, *weights)
    return tuple(inputs), g, joint
