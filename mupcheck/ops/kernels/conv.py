# mypy: disallow-untyped-defs=False
"""Depthwise causal convolution with SiLU, and for q and k the unit norm over a head, in one kernel each way.

The backward pass computes again what the forward pass did, from x: nothing but x is kept. A program walks along time
and holds the last few tokens in registers; filters longer than that are computed tap by tap.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid
from mupcheck.ops.kernels.sums import sum_of_programs

UNIT_EPS = 1e-6  # as `model.layers.unit_norm` has it
# tokens that a row of a program walks along; behind them the backward pass walks 3 more. Long ones leave too few
# programs where replicas are few.
FORWARD_SEGMENT, BACKWARD_SEGMENT = 8, 16
FORWARD_UNROLL, BACKWARD_UNROLL = 4, 1  # tokens a turn of the loop: four need no moves, but more registers
MOST_TAPS = 4  # that registers hold
SPAN = 128  # tokens of one program where there are more taps
FORWARD_ELEMENTS, BACKWARD_ELEMENTS = 1024, 512  # of a tile of 128 threads
ELEMENTS_OF_MANY = 1024  # of one where there are more taps
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
def _conv_forward_of_many(
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
    y *= sigmoid(y)
    if UNIT:
        y *= tl.rsqrt(tl.sum(y * y, axis=1) + eps)[:, None]
    inside = (rows < time)[:, None] & allowed[None, :]
    tl.store(
        out + (sequence * time + rows)[:, None] * width + channels[None, :], y.to(out.dtype.element_ty), mask=inside
    )


@triton.jit
def _row(first, row, stride, time, allowed):
    """Return one token of each segment in float32, zeros where there is none."""
    there = allowed & (row >= 0) & (row < time)
    return tl.load(first + row.to(tl.int64) * stride, mask=there, other=0.0).to(tl.float32)


@triton.jit
def _tap(taps, lag, width, allowed, TAPS: tl.constexpr):
    """Return the weight of the token `lag` steps back, 0 where there are fewer."""
    return tl.load(taps + (TAPS - 1 - lag) * width, mask=allowed & (lag < TAPS), other=0.0)


@triton.jit
def _conv_forward(
    x, weight, out, n_batch, time, width, group, x_replica, x_token, eps,
    TAPS: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, UNROLL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk ROWS segments of LENGTH tokens at once, with the last three x at hand."""
    sequence = tl.program_id(2).to(tl.int64)
    replica = sequence // n_batch
    within = tl.arange(0, BLOCK)
    channels = tl.program_id(0) * group + within
    allowed = ((within < group) & (channels < width))[None, :]
    first = x + replica * x_replica + sequence % n_batch * time * x_token + channels[None, :]
    o_first = out + sequence * time * width + channels[None, :]
    taps = weight + replica * TAPS * width + channels[None, :]
    w0, w1 = _tap(taps, 0, width, allowed, TAPS), _tap(taps, 1, width, allowed, TAPS)
    w2, w3 = _tap(taps, 2, width, allowed, TAPS), _tap(taps, 3, width, allowed, TAPS)
    start = ((tl.program_id(1) * ROWS + tl.arange(0, ROWS)) * LENGTH)[:, None]
    x0, x1 = _row(first, start, x_token, time, allowed), _row(first, start - 1, x_token, time, allowed)
    x2, x3 = _row(first, start - 2, x_token, time, allowed), _row(first, start - 3, x_token, time, allowed)
    for step in tl.range(LENGTH, loop_unroll_factor=UNROLL):
        row = start + step
        x_next = _row(first, row + 1, x_token, time, allowed)  # on its way while this token is worked on
        y = w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        y *= sigmoid(y)
        if UNIT:
            y *= tl.rsqrt(tl.sum(y * y, axis=1) + eps)[:, None]
        tl.store(o_first + row.to(tl.int64) * width, y.to(out.dtype.element_ty), mask=allowed & (row < time))
        x3, x2, x1, x0 = x2, x1, x0, x_next


@triton.jit
def _conv_backward(
    grad, x, weight, dx, partial, n_batch, time, width, group, x_replica, x_token, dx_replica, dx_token, eps,
    TAPS: tl.constexpr, UNIT: tl.constexpr, LENGTH: tl.constexpr, UNROLL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Walk ROWS segments of LENGTH tokens at once, with the last three x and the last three gradients of y at hand."""
    sequence = tl.program_id(2).to(tl.int64)
    replica = sequence // n_batch
    within = tl.arange(0, BLOCK)
    channels = tl.program_id(0) * group + within
    allowed = ((within < group) & (channels < width))[None, :]
    first = x + replica * x_replica + sequence % n_batch * time * x_token + channels[None, :]
    d_first = dx + replica * dx_replica + sequence % n_batch * time * dx_token + channels[None, :]
    g_first = grad + sequence * time * width + channels[None, :]
    taps = weight + replica * TAPS * width + channels[None, :]
    w0, w1 = _tap(taps, 0, width, allowed, TAPS), _tap(taps, 1, width, allowed, TAPS)
    w2, w3 = _tap(taps, 2, width, allowed, TAPS), _tap(taps, 3, width, allowed, TAPS)
    start = ((tl.program_id(1) * ROWS + tl.arange(0, ROWS)) * LENGTH)[:, None]
    x1 = _row(first, start - 1, x_token, time, allowed)
    x2 = _row(first, start - 2, x_token, time, allowed)
    x3 = _row(first, start - 3, x_token, time, allowed)
    x0, g0 = _row(first, start, x_token, time, allowed), _row(g_first, start, width, time, allowed)
    s0 = tl.zeros([ROWS, BLOCK], tl.float32)
    s1, s2, s3 = s0, s0, s0
    # nothing is stored before all three are gradients. Not zeros: triton (3.6, 3.7) takes what moves on from one to the
    # next, and begins alike, for what never changes
    d1, d2, d3 = x1, x2, x3
    for step in tl.range(LENGTH + 3, loop_unroll_factor=UNROLL):
        row = start + step
        # the next token is on its way while this one is worked on
        x_next = _row(first, row + 1, x_token, time, allowed)
        g_next = _row(g_first, row + 1, width, time, allowed)
        y = w0 * x0 + w1 * x1 + w2 * x2 + w3 * x3
        opened = sigmoid(y)
        d0 = g0
        if UNIT:
            silu = y * opened
            root = tl.rsqrt(tl.sum(silu * silu, axis=1) + eps)[:, None]
            d0 = root * (g0 - silu * (root * root * tl.sum(g0 * silu, axis=1)[:, None]))
        d0 *= opened * (1.0 + y * (1.0 - opened))
        change = w0 * d3 + w1 * d2 + w2 * d1 + w3 * d0
        inside = allowed & (row - 3 < time) & (step >= 3)
        tl.store(d_first + (row - 3).to(tl.int64) * dx_token, change.to(dx.dtype.element_ty), mask=inside)
        own = tl.where(step < LENGTH, d0, 0.0)
        s0 += own * x0
        s1 += own * x1
        s2 += own * x2
        s3 += own * x3
        x3, x2, x1, x0, g0 = x2, x1, x0, x_next, g_next
        d3, d2, d1 = d2, d1, d0
    summed = partial + (sequence * tl.num_programs(1) + tl.program_id(1)) * TAPS * width + channels
    allowed = (within < group) & (channels < width)
    tl.store(summed + (TAPS - 1) * width, tl.sum(s0, axis=0), mask=allowed)
    tl.store(summed + (TAPS - 2) * width, tl.sum(s1, axis=0), mask=allowed & (TAPS > 1))
    tl.store(summed + (TAPS - 3) * width, tl.sum(s2, axis=0), mask=allowed & (TAPS > 2))
    tl.store(summed + (TAPS - 4) * width, tl.sum(s3, axis=0), mask=allowed & (TAPS > 3))


@triton.jit
def _conv_backward_of_many(
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
            opened = sigmoid(y)
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
    return {"group": group, "ROWS": max(1, min(32, elements // block)), "BLOCK": block, "num_warps": 4}


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
    if weight.shape[1] <= MOST_TAPS:
        shape = tile(width, head, elements=FORWARD_ELEMENTS)
        length = min(FORWARD_SEGMENT, triton.cdiv(time, shape["ROWS"]))
        kernel, extra = _conv_forward, {"LENGTH": length, "UNROLL": FORWARD_UNROLL}
    else:
        shape = tile(width, head, elements=ELEMENTS_OF_MANY)
        length = 1
        kernel, extra = _conv_forward_of_many, {}
    span = shape["ROWS"] * length
    kernel[triton.cdiv(width, shape["group"]), triton.cdiv(time, span), n_replicas * batch](
        x, weight, out, batch, time, width, x_replica=x.stride(0), x_token=x.stride(1), eps=UNIT_EPS,
        TAPS=weight.shape[1], UNIT=head is not None, **extra, **shape,
    )  # fmt: skip
    return out


def conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, dx: Tensor, *, batch: int, head: int | None = None
) -> Tensor:
    """Write the gradient of x to dx [R, B * T, C], a part of longer rows or not, and return that of weight."""
    n_replicas, tokens, width = x.shape
    time, taps = tokens // batch, weight.shape[1]
    shape = tile(width, head, elements=BACKWARD_ELEMENTS)
    if taps <= MOST_TAPS:
        length = min(BACKWARD_SEGMENT, triton.cdiv(time, shape["ROWS"]))
        kernel, extra = _conv_backward, {"LENGTH": length, "UNROLL": BACKWARD_UNROLL}
    else:
        length = triton.cdiv(min(SPAN, time), shape["ROWS"])
        kernel, extra = _conv_backward_of_many, {"STEPS": length, "LINES": triton.next_power_of_2(taps)}
    n_spans = triton.cdiv(time, shape["ROWS"] * length)
    partial = x.new_empty(n_replicas, batch * n_spans, taps, width, dtype=torch.float32)
    kernel[triton.cdiv(width, shape["group"]), n_spans, n_replicas * batch](
        grad, x, weight, dx, partial, batch, time, width, x_replica=x.stride(0), x_token=x.stride(1),
        dx_replica=dx.stride(0), dx_token=dx.stride(1), eps=UNIT_EPS, TAPS=taps, UNIT=head is not None,
        **extra, **shape,
    )  # fmt: skip
    return sum_of_programs(partial)
