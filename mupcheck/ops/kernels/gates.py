# mypy: disallow-untyped-defs=False
"""The gates' arithmetic, both gates in one pass each way: log_alpha = -exp(A_log) softplus(z + dt_bias), sigmoid(z)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid
from mupcheck.ops.kernels.sums import sum_of_programs

SPAN = 128  # tokens of a program


@triton.jit
def _softplus(z):
    """log(1 + exp(z)); of a small e = exp(-|z|) log(1 + e) would keep few digits, so a series stands for it."""
    e = tl.exp(-tl.abs(z))
    series = e * (1.0 - e * (0.5 - e * (1.0 / 3.0 - e * 0.25)))
    return tl.maximum(z, 0.0) + tl.where(e < 0.01, series, tl.log(1.0 + e))


@triton.jit
def _gates_forward(
    z, a_log, dt_bias, log_alpha, beta, tokens, heads, z_replica, z_token, SPAN: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    columns = tl.arange(0, BLOCK)
    allowed = columns < heads
    inside = (rows < tokens)[:, None] & allowed[None, :]
    rate = tl.exp(tl.load(a_log + replica * heads + columns, mask=allowed, other=0.0))
    bias = tl.load(dt_bias + replica * heads + columns, mask=allowed, other=0.0)
    at = replica * z_replica + rows[:, None].to(tl.int64) * z_token + columns[None, :]
    z_alpha = tl.load(z + at, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    z_beta = tl.load(z + at + heads, mask=inside, other=0.0).to(tl.float32)
    to = (replica * tokens + rows)[:, None] * heads + columns[None, :]
    tl.store(log_alpha + to, -rate[None, :] * _softplus(z_alpha), mask=inside)
    tl.store(beta + to, sigmoid(z_beta), mask=inside)


@triton.jit
def _gates_backward(
    d_log_alpha, d_beta, z, a_log, dt_bias, dz, partial, tokens, heads, columns_of_dz, z_replica, z_token, dz_replica,
    dz_token, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * SPAN + tl.arange(0, SPAN)
    columns = tl.arange(0, BLOCK)
    allowed = columns < heads
    there = (rows < tokens)[:, None]
    inside = there & allowed[None, :]
    rate = tl.exp(tl.load(a_log + replica * heads + columns, mask=allowed, other=0.0))
    bias = tl.load(dt_bias + replica * heads + columns, mask=allowed, other=0.0)
    at = replica * z_replica + rows[:, None].to(tl.int64) * z_token + columns[None, :]
    z_alpha = tl.load(z + at, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
    z_beta = tl.load(z + at + heads, mask=inside, other=0.0).to(tl.float32)
    of = (replica * tokens + rows)[:, None] * heads + columns[None, :]
    d_alpha = tl.load(d_log_alpha + of, mask=inside, other=0.0).to(tl.float32) * -rate[None, :]
    d_bias = d_alpha * sigmoid(z_alpha)
    written = sigmoid(z_beta)
    d_z_beta = tl.load(d_beta + of, mask=inside, other=0.0).to(tl.float32) * written * (1.0 - written)
    to = replica * dz_replica + rows[:, None].to(tl.int64) * dz_token + columns[None, :]
    tl.store(dz + to, d_bias.to(dz.dtype.element_ty), mask=inside)
    tl.store(dz + to + heads, d_z_beta.to(dz.dtype.element_ty), mask=inside)
    rest = there & (columns + 2 * heads < columns_of_dz)[None, :]
    tl.store(dz + to + 2 * heads, tl.zeros([SPAN, BLOCK], tl.float32).to(dz.dtype.element_ty), mask=rest)
    at = ((replica * tl.num_programs(0) + tl.program_id(0)) * 2) * heads + columns
    tl.store(partial + at, tl.sum(d_alpha * _softplus(z_alpha), axis=0), mask=allowed)
    tl.store(partial + at + heads, tl.sum(d_bias, axis=0), mask=allowed)


def gates_forward(z: Tensor, a_log: Tensor, dt_bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return log_alpha and beta, float32 [R, N, H] each.

    Args:
        z: [R, N, 2 * H or more], z_alpha's columns and then z_beta's; rows may be part of longer ones.
        a_log, dt_bias: float32 [R, H].
    """
    n_replicas, tokens, _ = z.shape
    heads = a_log.shape[1]
    log_alpha, beta = (z.new_empty(n_replicas, tokens, heads, dtype=torch.float32) for _ in range(2))
    _gates_forward[triton.cdiv(tokens, SPAN), n_replicas](
        z, a_log, dt_bias, log_alpha, beta, tokens, heads, z.stride(0), z.stride(1), **_tile(heads, 0)
    )
    return log_alpha, beta


def gates_backward(
    d_log_alpha: Tensor, d_beta: Tensor, z: Tensor, a_log: Tensor, dt_bias: Tensor, dz: Tensor
) -> tuple[Tensor, Tensor]:
    """Write the gradient of z to dz, zeros where it has more columns, and return those of a_log and dt_bias, [R, H]."""
    n_replicas, tokens, n_columns = dz.shape
    heads = a_log.shape[1]
    n_spans = triton.cdiv(tokens, SPAN)
    partial = z.new_empty(n_replicas, n_spans, 2, heads, dtype=torch.float32)
    _gates_backward[n_spans, n_replicas](
        d_log_alpha, d_beta, z, a_log, dt_bias, dz, partial, tokens, heads, n_columns, z.stride(0), z.stride(1),
        dz.stride(0), dz.stride(1), **_tile(heads, n_columns - 2 * heads),
    )  # fmt: skip
    d_a_log, d_dt_bias = sum_of_programs(partial).unbind(1)
    return d_a_log, d_dt_bias


def _tile(heads: int, padding: int) -> dict[str, int]:
    block = max(16, triton.next_power_of_2(heads), triton.next_power_of_2(padding))
    return {"SPAN": SPAN, "BLOCK": block, "num_warps": 4}
