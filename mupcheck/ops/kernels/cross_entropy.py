# mypy: disallow-untyped-defs=False
"""Readout and cross-entropy in chunks of tokens: logits of one chunk are all that exist at a time.

The forward pass makes the gradients as it goes, as each chunk's logits are at hand (and only where they are wanted):
the backward pass scales them by what comes down, one number per replica.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.products import weight_gradient

LOGITS_AT_ONCE = 2**28  # numbers of one chunk: 512 MiB in bfloat16; smaller chunks feed the device too little
LARGEST_BLOCK = 4096


@triton.jit
def _cross_entropy(
    logits, targets, factor, loss, n_rows, vocab, row_stride, first, n_tokens, scale,
    FACTOR: tl.constexpr, GRADIENT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = rows < n_rows
    begin = (replica * n_rows + rows)[:, None] * row_stride
    times = 1.0
    if FACTOR:
        times = tl.load(factor + replica)
    target = tl.load(targets + replica * n_tokens + first + rows, mask=there, other=0)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    right = tl.zeros([ROWS], tl.float32)
    for start in range(0, vocab, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        inside = there[:, None] & (columns < vocab)[None, :]
        z = tl.load(logits + begin + columns[None, :], mask=inside, other=float("-inf")).to(tl.float32)
        z = tl.where(inside, z * times, float("-inf"))
        new = tl.maximum(largest, tl.max(z, axis=1))
        # a row of nothing, or of -inf alone, has no largest
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(z - base[:, None]), axis=1)
        right += tl.sum(tl.where(columns[None, :] == target[:, None], z, 0.0), axis=1)
        largest = new
    # the largest and log(total) apart: their sum would round away what large logits differ by
    log_total = tl.log(tl.where(there, total, 1.0))
    largest = tl.where(there, largest, 0.0)
    tl.store(loss + replica * n_tokens + first + rows, log_total + (largest - right), mask=there)
    if GRADIENT:
        for start in range(0, vocab, BLOCK):
            columns = start + tl.arange(0, BLOCK)
            inside = there[:, None] & (columns < vocab)[None, :]
            z = tl.load(logits + begin + columns[None, :], mask=inside, other=0.0).to(tl.float32) * times
            change = tl.exp(z - largest[:, None] - log_total[:, None]) - tl.where(
                columns[None, :] == target[:, None], 1.0, 0.0
            )
            tl.store(
                logits + begin + columns[None, :], (change * (times * scale)).to(logits.dtype.element_ty), mask=inside
            )


def tile(vocab: int) -> dict[str, int]:
    """Return a tile of rows and of the columns that are looked at together, and its warps."""
    block = min(LARGEST_BLOCK, max(16, triton.next_power_of_2(vocab)))
    return {"ROWS": max(1, 2048 // block), "BLOCK": block, "num_warps": 4 if block <= 2048 else 8}


def cross_entropy_in_place(
    logits: Tensor, targets: Tensor, factor: Tensor | None, loss: Tensor, *, first: int, scale: float | None
) -> None:
    """Write -log softmax(factor * logits) at the targets to loss, and the gradients of its `scale` multiple to logits.

    Args:
        logits: [R, n, vocab], those of tokens `first` to `first + n`.
        targets: [R, N].
        factor: float32 [R]; None is 1.
        loss: float32 [R, N].
        first: the first token.
        scale: None leaves the logits as they are.
    """
    n_replicas, n_rows, vocab = logits.shape
    shape = tile(vocab)
    _cross_entropy[triton.cdiv(n_rows, shape["ROWS"]), n_replicas](
        logits, targets, factor, loss, n_rows, vocab, logits.stride(1), first, targets.shape[1],
        0.0 if scale is None else scale,
        FACTOR=factor is not None, GRADIENT=scale is not None, **shape,
    )  # fmt: skip


@triton.jit
def _scale(x, factor, size, BLOCK: tl.constexpr):
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    times = tl.load(factor + replica)
    at = x + replica * size + columns
    inside = columns < tl.where(times != 1.0, size, 0)  # mostly it is 1, and then nothing is to be done
    tl.store(at, (tl.load(at, mask=inside, other=0.0).to(tl.float32) * times).to(x.dtype.element_ty), mask=inside)


def scale_in_place(x: Tensor, factor: Tensor) -> Tensor:
    """Multiply x [R, ...] by factor [R] and return it; what is multiplied by 1 is not read."""
    size = x[0].numel()
    _scale[triton.cdiv(size, 8192), len(x)](x, factor.float().contiguous(), size, BLOCK=8192, num_warps=8)
    return x


class _ReadoutLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        targets: Tensor,
        factor: Tensor | None,
        multiplier: Tensor | None,
        tied: bool,
        wanted: bool,
    ) -> Tensor:
        scaled = weight if multiplier is None else weight * multiplier.view(-1, 1, 1)
        matrix = scaled.to(x.dtype)
        matrix = matrix.transpose(1, 2) if tied else matrix
        n_replicas, tokens, _ = x.shape
        at_once = max(1, min(tokens, LOGITS_AT_ONCE // (n_replicas * matrix.shape[2])))
        loss = x.new_empty(n_replicas, tokens, dtype=torch.float32)
        factor = None if factor is None else factor.float()
        dx = torch.empty_like(x) if wanted else None
        dw: Tensor | None = None
        for first in range(0, tokens, at_once):
            part = x[:, first : first + at_once]
            logits = torch.bmm(part, matrix)
            scale = 1.0 / tokens if wanted else None
            cross_entropy_in_place(logits, targets, factor, loss, first=first, scale=scale)
            if dx is not None:
                torch.bmm(logits, matrix.transpose(1, 2), out=dx[:, first : first + at_once])
                of_part = weight_gradient(logits, part) if tied else weight_gradient(part, logits)
                dw = of_part if dw is None else dw.add_(of_part)
        if dw is not None and multiplier is not None:
            dw *= multiplier.view(-1, 1, 1)
        ctx.save_for_backward(dx, dw)
        return loss.mean(1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw = ctx.saved_tensors
        return scale_in_place(dx, grads[0]), scale_in_place(dw, grads[0]), None, None, None, None, None


def readout_loss(
    x: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    factor: Tensor | None = None,
    multiplier: Tensor | None = None,
    tied: bool = False,
) -> Tensor:
    """Return the mean cross-entropy of logits factor * x (multiplier * weight) of each replica, [R] in nats.

    Args:
        x: [R, N, D], in the dtype of the product.
        weight: float32 [R, D, vocab], or [R, vocab, D] where tied.
        targets: int64 [R, N].
        factor: of the logits, [R]; None is 1. It acts on them in float32.
        multiplier: of the weight, [R]; None is 1.
        tied: whether the weight's rows are the tokens'.
    """
    wanted = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    out: Tensor = _ReadoutLoss.apply(x, weight, targets.contiguous(), factor, multiplier, tied, wanted)
    return out
