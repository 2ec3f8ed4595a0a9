# mypy: disallow-untyped-defs=False
"""The gradient of an embedding without atomics: torch adds them up so where replicas are few, in an order of its own.

Of few rows it comes from products with one-hot matrices, of many from tokens that are sorted by their row.
"""

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sums import sum_of_programs

MOST_ROWS = 256  # of a vocabulary whose sums fit into the registers of one program
SPAN, TOKENS, BLOCK = 1024, 32, 32  # tokens that a program adds up, tokens and columns at a time
SORTED_TOKENS, SORTED_BLOCK = 8, 256  # of one row: most rows of many have few tokens or none


@triton.jit
def _gradient(
    tokens, grad, partial, n_tokens, vocab, width,
    SPAN: tl.constexpr, TOKENS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(2).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    rows = tl.arange(0, ROWS)
    summed = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, SPAN, TOKENS):
        at = tl.program_id(1) * SPAN + start + tl.arange(0, TOKENS)
        token = tl.load(tokens + replica * n_tokens + at, mask=at < n_tokens, other=-1)
        inside = (at < n_tokens)[:, None] & (columns < width)[None, :]
        change = tl.load(grad + (replica * n_tokens + at)[:, None] * width + columns[None, :], mask=inside, other=0.0)
        one_hot = tl.where(rows[:, None] == token[None, :], 1.0, 0.0)
        # three products of rounded parts: as exact as float32, and what one_hot holds is exact anyway
        summed += tl.dot(one_hot, change.to(tl.float32), input_precision="tf32x3")
    to = ((replica * tl.num_programs(1) + tl.program_id(1)) * vocab + rows)[:, None] * width + columns[None, :]
    tl.store(partial + to, summed, mask=(rows < vocab)[:, None] & (columns < width)[None, :])


@triton.jit
def _gradient_of_sorted(
    order, starts, ends, grad, out, n_tokens, vocab, width, TOKENS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    replica = tl.program_id(2).to(tl.int64)
    row = replica * vocab + tl.program_id(0)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    end = tl.load(ends + row)
    summed = tl.zeros([TOKENS, BLOCK], tl.float32)
    for start in range(tl.load(starts + row), end, TOKENS):
        at = start + tl.arange(0, TOKENS)
        token = tl.load(order + replica * n_tokens + at, mask=at < end, other=0)
        inside = (at < end)[:, None] & (columns < width)[None, :]
        change = tl.load(
            grad + (replica * n_tokens + token)[:, None] * width + columns[None, :], mask=inside, other=0.0
        )
        summed += change.to(tl.float32)
    tl.store(out + row * width + columns, tl.sum(summed, axis=0), mask=columns < width)


def embedding_gradient(tokens: Tensor, grad: Tensor, vocab: int) -> Tensor:
    """Return the sum over tokens of each row, float32 [R, vocab, D]; tokens [R, N], grad [R, N, D]."""
    n_replicas, n_tokens, width = grad.shape
    if vocab > MOST_ROWS:
        return _of_many_rows(tokens, grad, vocab)
    n_spans = triton.cdiv(n_tokens, SPAN)
    partial = grad.new_empty(n_replicas, n_spans, vocab, width, dtype=torch.float32)
    rows = max(16, triton.next_power_of_2(vocab))
    _gradient[triton.cdiv(width, BLOCK), n_spans, n_replicas](
        tokens, grad, partial, n_tokens, vocab, width, SPAN=SPAN, TOKENS=TOKENS, ROWS=rows, BLOCK=BLOCK,
        num_warps=8 if rows > 128 else 4,
    )  # fmt: skip
    return sum_of_programs(partial)


def _of_many_rows(tokens: Tensor, grad: Tensor, vocab: int) -> Tensor:
    n_replicas, n_tokens, width = grad.shape
    row_of, order = torch.sort(tokens, dim=1, stable=True)
    rows = torch.arange(vocab, device=tokens.device).expand(n_replicas, -1).contiguous()
    starts, ends = (torch.searchsorted(row_of, rows, right=right) for right in (False, True))
    out = grad.new_empty(n_replicas, vocab, width, dtype=torch.float32)
    _gradient_of_sorted[vocab, triton.cdiv(width, SORTED_BLOCK), n_replicas](
        order, starts, ends, grad, out, n_tokens, vocab, width, TOKENS=SORTED_TOKENS, BLOCK=SORTED_BLOCK, num_warps=4
    )
    return out


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, factor: Tensor | None) -> Tensor:
        n_replicas, vocab, width = weight.shape
        ctx.save_for_backward(tokens, factor)
        ctx.vocab = vocab
        rows = tokens + torch.arange(n_replicas, device=tokens.device)[:, None] * vocab
        x = F.embedding(rows, weight.reshape(-1, width))
        return x if factor is None else x.mul_(factor.view(-1, 1, 1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        tokens, factor = ctx.saved_tensors
        gradient = embedding_gradient(tokens, grads[0].contiguous(), ctx.vocab)
        return None, gradient if factor is None else gradient.mul_(factor.view(-1, 1, 1)), None


def embedding(tokens: Tensor, weight: Tensor, factor: Tensor | None) -> Tensor:
    """Return factor * weight's rows, [R, N, D]; tokens [R, N], weight [R, vocab, D]."""
    out: Tensor = _Embedding.apply(tokens.contiguous(), weight, factor)
    return out
