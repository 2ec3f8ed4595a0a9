"""Rows looked up by token on a GPU, with a gradient whose sums always have the same order.

torch's own gradient of an embedding adds up with atomics where there are few tokens, in whatever order they come.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mupcheck.ops.fused import product_dtype

# up to which the sum is a product with a matrix of zeros and ones, [vocab, tokens]; for more, tokens are sorted
LARGEST_ONE_HOT = 1024


def lookup(weight: Tensor, tokens: Tensor) -> Tensor:
    """Return rows [R, N, D] of weight [R, vocab, D] at tokens [R, N]; differentiable once in weight."""
    out: Tensor = _Lookup.apply(weight, tokens, product_dtype(weight))
    return out


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, tokens: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(tokens)
        ctx.vocab_size, ctx.dtype = weight.shape[1], dtype
        return F.embedding(flat_rows(tokens, weight.shape[1]), weight.reshape(-1, weight.shape[2]))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (tokens,) = ctx.saved_tensors
        return sum_by_token(grads[0], tokens, ctx.vocab_size, ctx.dtype), None, None


def flat_rows(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return where rows lie in weight [R * vocab, D]; tokens [R, N]."""
    return tokens + torch.arange(len(tokens), device=tokens.device)[:, None] * vocab_size


def sum_by_token(grad: Tensor, tokens: Tensor, vocab_size: int, dtype: torch.dtype) -> Tensor:
    """Return the sums of grad [R, N, D] over the places of each token, [R, vocab, D] in grad's dtype.

    Args:
        tokens: [R, N].
        dtype: what products are computed in: bfloat16 rounds grad to it, of float32 all bits count.
    """
    n_replicas, _, width = grad.shape
    if vocab_size > LARGEST_ONE_HOT or grad.dtype != torch.float32:
        sums = grad.new_zeros(n_replicas * vocab_size, width)
        rows = flat_rows(tokens, vocab_size).flatten()
        # with accumulate torch sorts them first, and adds one after another
        sums.index_put_((rows,), grad.reshape(-1, width), accumulate=True)
        return sums.view(n_replicas, vocab_size, width)
    vocabulary = torch.arange(vocab_size, device=tokens.device)[:, None]
    one_hot = (tokens[:, None] == vocabulary).to(torch.bfloat16)  # [R, vocab, N]
    # three numbers of 8 bits hold the 24 of a float32, and each times 0 or 1 is exact
    parts, rest = [], grad
    for _ in range(1 if dtype == torch.bfloat16 else 3):
        parts.append(rest.to(torch.bfloat16))
        rest = rest - parts[-1] if dtype != torch.bfloat16 else rest
    sums = _product(one_hot, torch.cat(parts, dim=2) if len(parts) > 1 else parts[0])
    return sums if len(parts) == 1 else sums.unflatten(2, (3, width)).sum(2)


def _product(x: Tensor, y: Tensor) -> Tensor:
    """Return x y in float32, of bfloat16."""
    with torch.autocast(x.device.type, enabled=False):
        return torch.bmm(x, y, out_dtype=torch.float32) if x.is_cuda else torch.bmm(x.float(), y.float())
