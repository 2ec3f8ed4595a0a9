# mypy: disallow-untyped-defs=False
"""silu(g) * u of the two halves of one tensor, each way in one pass; the backward pass gives the product again too."""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid

ROWS, BLOCK = 4, 512


@triton.jit
def _swiglu_forward(gu, out, sums, n_rows, hidden, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    within = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = tl.program_id(2).to(tl.int64) * n_rows + within
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (within < n_rows)[:, None] & (columns < hidden)[None, :]
    at = rows[:, None] * (2 * hidden) + columns[None, :]
    g = tl.load(gu + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu + at + hidden, mask=inside, other=0.0).to(tl.float32)
    result = (g * sigmoid(g) * u).to(out.dtype.element_ty)
    tl.store(out + rows[:, None] * hidden + columns[None, :], result, mask=inside)
    if sums is not None:
        stored = result.to(tl.float32)
        program = (tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)) * tl.num_programs(1) + tl.program_id(1)
        tl.store(sums + program, tl.sum(stored * stored))


@triton.jit
def _swiglu_backward(grad, gu, out, d_gu, n_rows, hidden, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < n_rows)[:, None] & (columns < hidden)[None, :]
    at = rows[:, None] * (2 * hidden) + columns[None, :]
    to = rows[:, None] * hidden + columns[None, :]
    g = tl.load(gu + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu + at + hidden, mask=inside, other=0.0).to(tl.float32)
    d = tl.load(grad + to, mask=inside, other=0.0).to(tl.float32)
    opened = sigmoid(g)
    silu = g * opened
    tl.store(out + to, (silu * u).to(out.dtype.element_ty), mask=inside)
    tl.store(d_gu + at, (d * u * opened * (1.0 + g * (1.0 - opened))).to(d_gu.dtype.element_ty), mask=inside)
    tl.store(d_gu + at + hidden, (d * silu).to(d_gu.dtype.element_ty), mask=inside)


def swiglu_forward(gu: Tensor, room: Callable[[int, int], Tensor] | None = None) -> Tensor:
    """Return silu(g) * u, [R, N, F]; gu [R, N, 2 F] is g and then u.

    `room` takes (programs, values of a replica) and returns where their sums of squares go, float32 [R, programs].
    """
    n_replicas, n_rows, hidden = *gu.shape[:2], gu.shape[-1] // 2
    out = gu.new_empty(n_replicas, n_rows, hidden)
    grid = (triton.cdiv(n_rows, ROWS), triton.cdiv(hidden, BLOCK), n_replicas)
    sums = room(grid[0] * grid[1], n_rows * hidden) if room else None
    _swiglu_forward[grid](gu, out, sums, n_rows, hidden, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)
    return out


def swiglu_backward(grad: Tensor, gu: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of gu, and the forward pass's result once more: cheaper to compute again than to keep."""
    hidden = gu.shape[-1] // 2
    n_rows = gu.shape[0] * gu.shape[1]
    out, d_gu = torch.empty_like(grad), torch.empty_like(gu)
    grid = (triton.cdiv(n_rows, ROWS), triton.cdiv(hidden, BLOCK))
    _swiglu_backward[grid](grad, gu, out, d_gu, n_rows, hidden, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)
    return d_gu, out
