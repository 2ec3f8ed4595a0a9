# mypy: disallow-untyped-defs=False
"""Depthwise causal convolution with SiLU, and for q and k the unit norm over a head, in one kernel each way.

The backward pass computes again what the forward pass did, from x: nothing but x is kept. What a token sends to the
tokens before it is computed where it arrives, once a tap: cheaper than a second pass through memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

UNIT_EPS = 1e-6  # as `model.layers.unit_norm` has it
SPAN = 128  # tokens that one program of the backward pass sums for the weight's gradient
FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 2048, 1024  # of a tile of 128 threads; more spills registers
LARGEST_BLOCK = 128  # channels of a program where no norm asks for a whole head


@triton.jit
def _convolved(x, weight, rows, channels, allowed, time, x_token, width, TAPS: tl.constexpr):
    """Return y at `rows`; x points at the first token of a sequence, weight at the taps of its replica."""
    y = tl.zeros([rows.shape[0], channels.shape[0]], tl.float32)
    for lag in tl.static_range(TAPS):
        past = rows - lag
        tap = tl.load(weight + (TAPS - 1 - lag) * width + channels, mask=allowed, other=0.0)
        inside = ((past >= 0) & (past < time))[:, None] & allowed[None, :]
        y += (
            tl.load(x + past[:, None].to(tl.int64) * x_token + channels[None, :], mask=inside, other=0.0) * tap[None, :]
        )
    return y


@triton.jit
def _conv_forward(
    x, weight, out, n_batch, time, width, group, x_replica, x_token, eps,
    TAPS: tl.constexpr, UNIT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(2).to(tl.int64)
    replica = sequence // n_batch
    within = tl.arange(0, BLOCK)
    channels = tl.program_id(0) * group + within
    allowed = (within < group) & (channels < width)
    rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    first = x + replica * x_replica + sequence % n_batch * time * x_token
    y = _convolved(first, weight + replica * TAPS * width, rows, channels, allowed, time, x_token, width, TAPS)
    y *= tl.sigmoid(y)
    if UNIT:
        y *= tl.rsqrt(tl.sum(y * y, axis=1) + eps)[:, None]
    inside = (rows < time)[:, None] & allowed[None, :]
    tl.store(
        out + (sequence * time + rows)[:, None] * width + channels[None, :], y.to(out.dtype.element_ty), mask=inside
    )


@triton.jit
def _conv_backward(
    grad, x, weight, dx, partial, n_batch, time, width, group, x_replica, x_token, dx_replica, dx_token, eps,
    TAPS: tl.constexpr, LINES: tl.constexpr, UNIT: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    sequence = tl.program_id(2).to(tl.int64)
    replica = sequence // n_batch
    within = tl.arange(0, BLOCK)
    channels = tl.program_id(0) * group + within
    allowed = (within < group) & (channels < width)
    first = x + replica * x_replica + sequence % n_batch * time * x_token
    d_first = dx + replica * dx_replica + sequence % n_batch * time * dx_token
    taps = weight + replica * TAPS * width
    line = tl.arange(0, LINES)
    summed = tl.zeros([LINES, BLOCK], tl.float32)
    for step in range(STEPS):
        rows = (tl.program_id(1) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        change = tl.zeros([ROWS, BLOCK], tl.float32)
        for ahead in tl.static_range(TAPS):
            later = rows + ahead
            inside = (later < time)[:, None] & allowed[None, :]
            y = _convolved(first, taps, later, channels, allowed, time, x_token, width, TAPS)
            opened = tl.sigmoid(y)
            at = (sequence * time + later)[:, None] * width + channels[None, :]
            d_y = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
            if UNIT:
                silu = y * opened
                root = tl.rsqrt(tl.sum(silu * silu, axis=1) + eps)[:, None]
                d_y = root * (d_y - silu * (root * root * tl.sum(d_y * silu, axis=1)[:, None]))
            d_y *= opened * (1.0 + y * (1.0 - opened))
            tap = tl.load(taps + (TAPS - 1 - ahead) * width + channels, mask=allowed, other=0.0)
            change += d_y * tap[None, :]
            if ahead == 0:
                for lag in tl.static_range(TAPS):
                    past = rows - lag
                    there = ((past >= 0) & (past < time))[:, None] & allowed[None, :]
                    before = tl.load(
                        first + past[:, None].to(tl.int64) * x_token + channels[None, :], mask=there, other=0.0
                    )
                    along = tl.sum(d_y * before.to(tl.float32), axis=0)
                    summed += tl.where(line[:, None] == TAPS - 1 - lag, along[None, :], 0.0)
        inside = (rows < time)[:, None] & allowed[None, :]
        at = rows[:, None].to(tl.int64) * dx_token + channels[None, :]
        tl.store(d_first + at, change.to(dx.dtype.element_ty), mask=inside)
    program = sequence * tl.num_programs(1) + tl.program_id(1)
    at = (program * TAPS + line)[:, None] * width + channels[None, :]
    tl.store(partial + at, summed, mask=(line < TAPS)[:, None] & allowed[None, :])


def tile(width: int, head: int | None, *, elements: int) -> dict[str, int]:
    """Return the channels that a program takes, and its tile of some `elements`; a unit norm needs the whole head."""
    group = head or min(LARGEST_BLOCK, triton.next_power_of_2(width))
    block = max(16, triton.next_power_of_2(group))
    return {"group": group, "ROWS": max(2, min(32, elements // block)), "BLOCK": block, "num_warps": 4}


def conv_forward(x: Tensor, weight: Tensor, *, batch: int, head: int | None = None) -> Tensor:
    """Return silu(conv(x)), of unit norm over each head of `head` channels where that is given.

    Args:
        x: [R, B * T, C]; rows may be part of longer ones.
        weight: [R, taps, C] float32.
        batch: B.
    Returns:
        [R * B, T, C], of x's dtype.
    """
    n_replicas, tokens, width = x.shape
    time = tokens // batch
    out = x.new_empty(n_replicas * batch, time, width)
    shape = tile(width, head, elements=FORWARD_ELEMENTS)
    grid = (triton.cdiv(width, shape["group"]), triton.cdiv(time, shape["ROWS"]), n_replicas * batch)
    _conv_forward[grid](
        x, weight, out, batch, time, width, x_replica=x.stride(0), x_token=x.stride(1), eps=UNIT_EPS,
        TAPS=weight.shape[1], UNIT=head is not None, **shape,
    )  # fmt: skip
    return out


def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, dx: Tensor, *, batch: int, head: int | None = None
) -> Tensor:
    """Write the gradient of x to dx [R, B * T, C], a part of longer rows or not, and return that of weight."""
    n_replicas, tokens, width = x.shape
    time, taps = tokens // batch, weight.shape[1]
    shape = tile(width, head, elements=BACKWARD_ELEMENTS)
    n_spans = triton.cdiv(time, SPAN)
    partial = x.new_empty(n_replicas, batch * n_spans, taps, width, dtype=torch.float32)
    _conv_backward[triton.cdiv(width, shape["group"]), n_spans, n_replicas * batch](
        grad, x, weight, dx, partial, batch, time, width, x_replica=x.stride(0), x_token=x.stride(1),
        dx_replica=dx.stride(0), dx_token=dx.stride(1), eps=UNIT_EPS, TAPS=taps, LINES=triton.next_power_of_2(taps),
        UNIT=head is not None, STEPS=min(SPAN // shape["ROWS"], triton.cdiv(time, shape["ROWS"])), **shape,
    )  # fmt: skip
    return partial.sum(1)
