"""What a Gated DeltaNet mixer gives the delta rule, from its input in one product and a few kernels."""

from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mupcheck.ops.kernels.conv import conv_backward, conv_forward
from mupcheck.ops.kernels.gates import gates_backward, gates_forward
from mupcheck.ops.kernels.products import Factors, side_by_side, weight_gradients


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


class Parts(NamedTuple):
    """What belongs to each projection of a joint product; the gates' are z_alpha, z_beta and columns of zeros."""

    q: Tensor
    k: Tensor
    v: Tensor
    g: Tensor
    gates: Tensor


class JointProduct:
    """The product of all projections [R, N, columns]; its gradient is made by who comes first, and filled by all."""

    def __init__(self) -> None:
        self.value: Tensor | None = None
        self.gradient: Tensor | None = None
        self.empty: Callable[[], Tensor] | None = None
        self.ends: list[int] = []

    def parts(self, of: Tensor | None = None) -> Parts:
        """Return the parts of the product, or of a tensor of its shape."""
        of = self.value if of is None else of
        assert of is not None
        starts = [0, *self.ends]
        return Parts._make(of[..., a:b] for a, b in zip(starts, [*self.ends, None], strict=True))

    def of_g(self) -> Tensor:
        """Return where the gradient of g goes, [R, N, H * V]."""
        assert self.empty is not None
        self.gradient = self.empty()
        return self.parts(self.gradient).g

    def whole_gradient(self, d_g: Tensor) -> Tensor:
        """Return the gradient with g's in its place and the rest to be filled in."""
        assert self.empty is not None
        whole, self.gradient = self.gradient, None
        if whole is None or d_g.data_ptr() != self.parts(whole).g.data_ptr():
            whole = self.empty()
            self.parts(whole).g.copy_(d_g)
        return whole


class _Inputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        batch: int,
        sizes: tuple[int, int, int],
        factors: Factors,
        product: JointProduct,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        weights = Weights(*given)
        heads, k_dim, v_dim = sizes
        matrix = side_by_side(weights[:6], factors, x.dtype)
        y = product.value = torch.bmm(x, matrix)
        product.empty = partial(torch.empty, y.shape, dtype=y.dtype, device=y.device)
        product.ends = [*accumulate(weight.shape[2] for weight in weights[:4])]
        parts = product.parts()
        q = conv_forward(parts.q, weights.q_conv, batch=batch, head=k_dim)
        k = conv_forward(parts.k, weights.k_conv, batch=batch, head=k_dim)
        v = conv_forward(parts.v, weights.v_conv, batch=batch)
        log_alpha, beta = gates_forward(parts.gates, weights.a_log, weights.dt_bias)
        ctx.save_for_backward(x, y, matrix, *given)
        ctx.batch, ctx.k_dim, ctx.factors, ctx.product = batch, k_dim, factors, product
        lead = (len(q), q.shape[1], heads)
        gates = (log_alpha.view(lead), beta.view(lead))
        return q.view(*lead, k_dim), k.view(*lead, k_dim), v.view(*lead, v_dim), *gates, parts.g

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_q, d_k, d_v, d_log_alpha, d_beta, d_g = grads
        x, y, matrix, *given = ctx.saved_tensors
        weights, batch, k_dim = Weights(*given), ctx.batch, ctx.k_dim
        d_y = ctx.product.whole_gradient(d_g)
        parts, d_parts = ctx.product.parts(y), ctx.product.parts(d_y)

        d_q_conv = conv_backward(d_q.contiguous(), parts.q, weights.q_conv, d_parts.q, batch=batch, head=k_dim)
        d_k_conv = conv_backward(d_k.contiguous(), parts.k, weights.k_conv, d_parts.k, batch=batch, head=k_dim)
        d_v_conv = conv_backward(d_v.contiguous(), parts.v, weights.v_conv, d_parts.v, batch=batch)
        gates = parts.gates, weights.a_log, weights.dt_bias, d_parts.gates
        d_a_log, d_dt_bias = gates_backward(d_log_alpha.contiguous(), d_beta.contiguous(), *gates)
        of_projections = weight_gradients(x, d_y, weights[:6], ctx.factors)
        dx = torch.bmm(d_y, matrix.transpose(1, 2))
        return dx, None, None, None, None, *of_projections, d_q_conv, d_k_conv, d_v_conv, d_a_log, d_dt_bias


def rule_inputs(
    x: Tensor, weights: Weights, factors: Factors, *, batch: int, heads: tuple[int, int, int]
) -> tuple[tuple[Tensor, ...], Tensor, JointProduct]:
    """Return (q, k, v, log_alpha, beta) as the delta rule takes them, the output gate's g, and the joint product.

    Args:
        x: [R, B * T, D].
        weights: of the mixer.
        factors: multipliers [R] of the six projections; None is 1.
        batch: B.
        heads: (H, K, V).
    Returns:
        q, k [R * B, T, H, K] of unit norm, v [R * B, T, H, V] in x's dtype; log_alpha, beta [R * B, T, H] in float32;
        g [R, B * T, H * V], a part of longer rows; the product, whose `of_g` `gated_rms_norm` takes as `gradient`.
    """
    product = JointProduct()
    *inputs, g = _Inputs.apply(x, batch, heads, factors, product, *weights)
    return tuple(inputs), g, product
