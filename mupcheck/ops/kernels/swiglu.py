# mypy: disallow-untyped-defs=False
"""silu(g) * u of the two halves of one tensor, each way in one pass; the backward pass gives the product again too."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid

ROWS, BLOCK = 4, 512


@triton.jit
def _swiglu_forward(gu, out, n_rows, hidden, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = (rows < n_rows)[:, None] & (columns < hidden)[None, :]
    at = rows[:, None] * (2 * hidden) + columns[None, :]
    g = tl.load(gu + at, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(gu + at + hidden, mask=inside, other=0.0).to(tl.float32)
    tl.store(
        out + rows[:, None] * hidden + columns[None, :], (g * sigmoid(g) * u).to(out.dtype.element_ty), mask=inside
    )


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


def swiglu_forward(gu: Tensor) -> Tensor:
    """Return silu(g) * u, [R, N, F]; gu [R, N, 2 F] is g and then u."""
    hidden = gu.shape[-1] // 2
    n_rows = gu.shape[0] * gu.shape[1]
    out = gu.new_empty(*gu.shape[:2], hidden)
    grid = (triton.cdiv(n_rows, ROWS), triton.cdiv(hidden, BLOCK))
    _swiglu_forward[grid](gu, out, n_rows, hidden, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)
    return out


def swiglu_backward(grad: Tensor, gu: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of gu, and the forward pass's result once more: cheaper to compute again than to keep."""
    hidden = gu.shape[-1] // 2
    n_rows = gu.shape[0] * gu.shape[1]
    out, d_gu = torch.empty_like(grad), torch.empty_like(gu)
    grid = (triton.cdiv(n_rows, ROWS), triton.cdiv(hidden, BLOCK))
    _swiglu_backward[grid](grad, gu, out, d_gu, n_rows, hidden, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)
    return d_gu, out
