# mypy: disallow-untyped-defs=False
"""Several projections of one input as one matrix product, forward and backward, over [R, ...].

The weights, each with its multiplier and rounded to the dtype of the product, stand side by side in one matrix whose
columns are filled up to a multiple of `ALIGNED`: narrow ones, such as those of the gates, cost next to nothing there
and much on their own. Each weight gets a gradient of its own, in float32 and with its multiplier.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.swiglu import swiglu_backward, swiglu_forward

ALIGNED = 16  # columns: what tensor cores and vectorised loads ask for, in bytes, of bfloat16 and of float32
WIDE = 512  # columns from which a weight's gradient fills the device with a product of its own

Factors = Sequence[Tensor | None]


ROWS, BLOCK = 16, 128


@triton.jit
def _side_by_side(weights, sizes, factors, joint, depth, columns, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Copy one block of columns of one weight; the block after the last fills what is left with zeros."""
    replica = tl.program_id(2).to(tl.int64)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    block = tl.program_id(0)
    to = joint + (replica * depth + rows)[:, None] * columns
    first, start = 0, 0
    for i in tl.static_range(len(weights)):
        n_blocks = tl.cdiv(sizes[i], BLOCK)
        if (block >= first) & (block < first + n_blocks):
            within = ((block - first) * BLOCK + tl.arange(0, BLOCK))[None, :]
            inside = (rows < depth)[:, None] & (within < sizes[i])
            value = tl.load(weights[i] + (replica * depth + rows)[:, None] * sizes[i] + within, mask=inside, other=0.0)
            if factors[i] is not None:
                value *= tl.load(factors[i] + replica)
            tl.store(to + start + within, value.to(joint.dtype.element_ty), mask=inside)
        first += n_blocks
        start += sizes[i]
    if block == first:
        rest = (start + tl.arange(0, BLOCK))[None, :]
        zeros = tl.zeros([ROWS, BLOCK], tl.float32).to(joint.dtype.element_ty)
        tl.store(to + rest, zeros, mask=(rows < depth)[:, None] & (rest < columns))


def side_by_side(weights: Sequence[Tensor], factors: Factors, dtype: torch.dtype) -> Tensor:
    """Return [R, D, columns] in `dtype`: the weights [R, D, n] times their factors [R], and columns of zeros."""
    n_replicas, depth, _ = weights[0].shape
    sizes = tuple(weight.shape[2] for weight in weights)
    columns = -(-sum(sizes) // ALIGNED) * ALIGNED
    joint = weights[0].new_empty(n_replicas, depth, columns, dtype=dtype)
    grid = (
        sum(triton.cdiv(size, BLOCK) for size in sizes) + (columns > sum(sizes)),
        triton.cdiv(depth, ROWS),
        n_replicas,
    )
    given = tuple(weight.contiguous() for weight in weights), sizes, tuple(factors)
    _side_by_side[grid](*given, joint, depth, columns, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)
    return joint


def weight_gradients(x: Tensor, grad: Tensor, weights: Sequence[Tensor], factors: Factors) -> list[Tensor]:
    """Return the gradient of each of `weights`, float32 [R, D, n], from that of the product with all of them.

    Wide ones come from a product each, written where they stay; what is narrow is one product, and then cut apart.

    Args:
        x: [R, N, D], what was multiplied.
        grad: [R, N, columns], of `side_by_side`'s columns or of those that are used.
        weights, factors: as given to `side_by_side`.
    """
    found: list[Tensor] = []
    for first, last, start, end in _runs([weight.shape[2] for weight in weights]):
        whole = weight_gradient(x, grad[..., start:end])
        sizes = [weight.shape[2] for weight in weights[first:last]]
        for own, factor in zip(
            whole.split([*sizes, whole.shape[2] - sum(sizes)], dim=2), factors[first:last], strict=False
        ):
            found.append(_scaled(own, factor))
    return found


def _runs(sizes: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first weight, last weight, first column, last column) of what is one product; the ends are excluded."""
    first, start, column = 0, 0, 0
    for index, size in enumerate(sizes):
        wide = size >= WIDE and size % ALIGNED == 0 and column % ALIGNED == 0
        if wide:
            if first < index:
                yield first, index, start, column
            yield index, index + 1, column, column + size
            first, start = index + 1, column + size
        column += size
    if first < len(sizes):
        yield first, len(sizes), start, -(-column // ALIGNED) * ALIGNED


def _scaled(own: Tensor, factor: Tensor | None) -> Tensor:
    if factor is None:
        return own.contiguous()
    return torch.mul(own, factor.view(-1, 1, 1), out=own.new_empty(own.shape))


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
        return dx, None, weight_gradients(x, grads[0], [weight], [factor])[0]


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        factors: Factors,
        kept: list[Tensor],
        room: Callable[[int, int], Tensor] | None,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
    ) -> Tensor:
        # g and u are the halves of one tensor: no columns are filled up between them
        joint, matrix = _halves(gate, up, factors, x.dtype), side_by_side([down], factors[2:], x.dtype)
        gu = torch.bmm(x, joint)
        ctx.save_for_backward(x, gu, joint, matrix, gate, up, down)
        ctx.factors = factors
        kept.append(gu)
        return torch.bmm(swiglu_forward(gu, room), matrix)[..., : down.shape[2]]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, gu, joint, matrix, gate, up, down = ctx.saved_tensors
        grad = grads[0].contiguous()
        d_hidden = torch.bmm(grad, matrix[..., : down.shape[2]].transpose(1, 2))
        d_gu, hidden = swiglu_backward(d_hidden, gu)
        (d_down,) = weight_gradients(hidden, grad, [down], ctx.factors[2:])
        d_gate, d_up = weight_gradients(x, d_gu, [gate, up], ctx.factors[:2])
        return torch.bmm(d_gu, joint.transpose(1, 2)), None, None, None, d_gate, d_up, d_down


def _halves(gate: Tensor, up: Tensor, factors: Factors, dtype: torch.dtype) -> Tensor:
    joint = side_by_side([gate, up], factors[:2], dtype)
    used = gate.shape[2] + up.shape[2]
    return joint if joint.shape[2] == used else joint[..., :used].contiguous()


def projection(x: Tensor, weight: Tensor, factor: Tensor | None) -> Tensor:
    """Return x (factor * weight), [R, N, n] in x's dtype; x [R, N, D], weight [R, D, n], factor [R] (None is 1)."""
    out: Tensor = _Projection.apply(x, factor, weight)
    return out


def swiglu(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    factors: Factors,
    kept: list[Tensor] | None = None,
    *,
    room: Callable[[int, int], Tensor] | None = None,
) -> Tensor:
    """Return (silu(x gate) * (x up)) down, [R, N, D] in x's dtype; each weight times its factor [R] (None is 1).

    What both halves of the first product are is added to `kept`; `room` is that of `swiglu_forward`.
    """
    out: Tensor = _SwiGlu.apply(x, factors, [] if kept is None else kept, room, gate, up, down)
    return out
