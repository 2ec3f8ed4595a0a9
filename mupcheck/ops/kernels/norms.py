# mypy: disallow-untyped-defs=False
"""RMSNorm over [R, N, D] in one pass each way: with the residual sum before it, and with the output gate behind it.

Sums are in float32 and in a fixed order. Gradients of gains are sums over tokens: each program sums `SPAN` rows, torch
sums the programs' rows, so nothing is added atomically and no replica sees another.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid
from mupcheck.ops.kernels.sums import sum_of_programs

SPAN, HEAD_SPAN = 32, 128  # rows that one program of a backward pass sums for a gain's gradient; of heads


@triton.jit
def _norm_forward(
    x, y, gain, total, out, inverse, n_rows, width, eps, ADD: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        value += tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(total + at, value, mask=inside)
    root = tl.rsqrt(tl.sum(value * value, axis=1) / width + eps)
    gains = tl.load(gain + replica * width + columns, mask=columns < width, other=0.0)
    tl.store(out + at, (value * root[:, None] * gains[None, :]).to(out.dtype.element_ty), mask=inside)
    tl.store(inverse + replica * n_rows + rows, root, mask=rows < n_rows)


@triton.jit
def _norm_backward(
    grad, residual, x, gain, inverse, dx, dy, partial, n_rows, width, n_spans,
    RESIDUAL: tl.constexpr, COPY: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    gains = tl.load(gain + replica * width + columns, mask=columns < width, other=0.0)
    summed = tl.zeros([ROWS, BLOCK], tl.float32)  # rows are added up once, at the end: it takes a barrier
    for step in range(STEPS):
        rows = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
        root = tl.load(inverse + (replica * n_rows + rows)[:, None], mask=(rows < n_rows)[:, None], other=0.0)
        upstream = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        normed = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) * root
        scaled = upstream * gains[None, :]
        change = (scaled - normed * (tl.sum(scaled * normed, axis=1) / width)[:, None]) * root
        if RESIDUAL:
            change += tl.load(residual + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(dx + at, change.to(dx.dtype.element_ty), mask=inside)
        if COPY:
            tl.store(dy + at, change.to(dy.dtype.element_ty), mask=inside)
        summed += upstream * normed
    tl.store(
        partial + (replica * n_spans + tl.program_id(0)) * width + columns, tl.sum(summed, axis=0), mask=columns < width
    )


@triton.jit
def _gated_forward(
    o, g, gain, factor, out, inverse, n_rows, heads, width, g_replica, g_token, eps,
    FACTOR: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
    at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
    g_row = replica * g_replica + (rows // heads).to(tl.int64) * g_token + rows % heads * width
    value = tl.load(o + at, mask=inside, other=0.0).to(tl.float32)
    if FACTOR:
        value *= tl.load(factor + replica)
    gate = tl.load(g + g_row[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
    gains = tl.load(gain + replica * width + columns, mask=columns < width, other=0.0)
    root = tl.rsqrt(tl.sum(value * value, axis=1) / width + eps)
    result = value * root[:, None] * gains[None, :] * gate * sigmoid(gate)
    tl.store(out + at, result.to(out.dtype.element_ty), mask=inside)
    tl.store(inverse + replica * n_rows + rows, root, mask=rows < n_rows)


@triton.jit
def _gated_backward(
    grad, o, g, gain, factor, inverse, d_o, d_g, partial, n_rows, heads, width, n_spans,
    g_replica, g_token, dg_replica, dg_token,
    FACTOR: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    gains = tl.load(gain + replica * width + columns, mask=columns < width, other=0.0)
    scale = 1.0
    if FACTOR:
        scale = tl.load(factor + replica)
    summed = tl.zeros([ROWS, BLOCK], tl.float32)  # rows are added up once, at the end: it takes a barrier
    for step in range(STEPS):
        rows = (tl.program_id(0) * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
        token, head = (rows // heads).to(tl.int64), rows % heads
        root = tl.load(inverse + (replica * n_rows + rows)[:, None], mask=(rows < n_rows)[:, None], other=0.0) * scale
        upstream = tl.load(grad + at, mask=inside, other=0.0).to(tl.float32)
        normed = tl.load(o + at, mask=inside, other=0.0).to(tl.float32) * root
        gate = tl.load(
            g + (replica * g_replica + token * g_token + head * width)[:, None] + columns[None, :],
            mask=inside, other=0.0,
        ).to(tl.float32)  # fmt: skip
        opened = sigmoid(gate)
        opening = upstream * opened
        through = opening * gate
        scaled = through * gains[None, :]
        change = (scaled - normed * (tl.sum(scaled * normed, axis=1) / width)[:, None]) * root
        tl.store(d_o + at, change.to(d_o.dtype.element_ty), mask=inside)
        of_gate = (opening * gains[None, :]) * normed * (1.0 + gate - gate * opened)
        tl.store(
            d_g + (replica * dg_replica + token * dg_token + head * width)[:, None] + columns[None, :],
            of_gate.to(d_g.dtype.element_ty), mask=inside,
        )  # fmt: skip
        summed += through * normed
    tl.store(
        partial + (replica * n_spans + tl.program_id(0)) * width + columns, tl.sum(summed, axis=0), mask=columns < width
    )


def tile(width: int, elements: int = 2048, a_thread: int = 16) -> dict[str, int]:
    """Return a tile of whole rows, some `elements` numbers, and its warps: so many numbers a thread."""
    block = max(16, triton.next_power_of_2(width))
    rows = min(SPAN, max(1, elements // block))
    return {"ROWS": rows, "BLOCK": block, "num_warps": max(1, min(16, rows * block // (32 * a_thread)))}


def _tile_backward(width: int) -> dict[str, int]:
    """Return a tile for a backward pass, which holds more of each number: with 16 a thread too few programs fit."""
    return tile(width, 1024, 8)


def norm_forward(x: Tensor, y: Tensor | None, gain: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return total = x + y (x itself where y is None), rms_norm(total) in `dtype`, and 1 / rms [R, N]; x [R, N, D]."""
    n_replicas, n_rows, width = x.shape
    total = x if y is None else torch.empty_like(x)
    out, inverse = torch.empty_like(x, dtype=dtype), x.new_empty(n_replicas, n_rows, dtype=torch.float32)
    shape = tile(width)
    grid = (triton.cdiv(n_rows, shape["ROWS"]), n_replicas)
    _norm_forward[grid](x, y, gain, total, out, inverse, n_rows, width, eps, ADD=y is not None, **shape)
    return total, out, inverse


def norm_backward(
    grad: Tensor, residual: Tensor | None, x: Tensor, gain: Tensor, inverse: Tensor, *, copy: torch.dtype | None = None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Return dx (with `residual` added), dx in the dtype `copy` if one is asked for, and dgain [R, D]."""
    n_replicas, n_rows, width = x.shape
    dx = torch.empty_like(x)
    dy = None if copy is None else torch.empty_like(x, dtype=copy)
    shape = _tile_backward(width)
    n_spans = triton.cdiv(n_rows, SPAN)
    partial = x.new_empty(n_replicas, n_spans, width, dtype=torch.float32)
    _norm_backward[n_spans, n_replicas](
        grad, residual, x, gain, inverse, dx, dy, partial, n_rows, width, n_spans,
        RESIDUAL=residual is not None, COPY=copy is not None, STEPS=SPAN // shape["ROWS"], **shape,
    )  # fmt: skip
    return dx, dy, sum_of_programs(partial)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
        x, gain = x.contiguous(), gain.float().contiguous()
        _, out, inverse = norm_forward(x, None, gain, eps, dtype)
        ctx.save_for_backward(x, gain, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        dx, _, dgain = norm_backward(grads[0].contiguous(), None, *ctx.saved_tensors)
        return dx, dgain, None, None


class _AddRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        gain = gain.float().contiguous()
        total, out, inverse = norm_forward(x.contiguous(), y.contiguous(), gain, eps, dtype)
        ctx.save_for_backward(total, gain, inverse)
        ctx.y_dtype = y.dtype
        return total, out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        residual, grad = grads
        if grad is None:
            return residual, None if residual is None else residual.to(ctx.y_dtype), None, None, None
        total, gain, inverse = ctx.saved_tensors
        residual = None if residual is None else residual.contiguous()
        copy = None if ctx.y_dtype == total.dtype else ctx.y_dtype
        dx, dy, dgain = norm_backward(grad.contiguous(), residual, total, gain, inverse, copy=copy)
        return dx, dx if dy is None else dy, dgain, None, None


class _GatedRmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, o: Tensor, g: Tensor, gain: Tensor, factor: Tensor | None, eps: float, gradient: Any
    ) -> Tensor:
        n_replicas, tokens, heads, width = o.shape
        o, gain = o.contiguous(), gain.float().contiguous()
        factor = None if factor is None else factor.float().contiguous()
        out, inverse = torch.empty_like(o, dtype=g.dtype), o.new_empty(o.shape[:3], dtype=torch.float32)
        shape = tile(width)
        grid = (triton.cdiv(tokens * heads, shape["ROWS"]), n_replicas)
        _gated_forward[grid](
            o, g, gain, factor, out, inverse, tokens * heads, heads, width, g.stride(0), g.stride(1), eps,
            FACTOR=factor is not None, **shape,
        )  # fmt: skip
        ctx.save_for_backward(o, g, gain, factor, inverse)
        ctx.gradient = gradient
        return out.view(n_replicas, tokens, heads * width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        o, g, gain, factor, inverse = ctx.saved_tensors
        n_replicas, tokens, heads, width = o.shape
        d_o = torch.empty_like(o)
        d_g = g.new_empty(g.shape) if ctx.gradient is None else ctx.gradient()
        shape = _tile_backward(width)
        n_spans = triton.cdiv(tokens * heads, HEAD_SPAN)
        partial = o.new_empty(n_replicas, n_spans, width, dtype=torch.float32)
        _gated_backward[n_spans, n_replicas](
            grads[0].contiguous(), o, g, gain, factor, inverse, d_o, d_g, partial, tokens * heads, heads, width,
            n_spans, g.stride(0), g.stride(1), d_g.stride(0), d_g.stride(1),
            FACTOR=factor is not None, STEPS=HEAD_SPAN // shape["ROWS"], **shape,
        )  # fmt: skip
        return d_o, d_g, sum_of_programs(partial), None, None, None


def rms_norm(x: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Return x / rms(x) * gain in `dtype`, the rms over the last axis; x [R, N, D], gain [R, D]."""
    out: Tensor = _RmsNorm.apply(x, gain, eps, dtype)
    return out


def add_rms_norm(x: Tensor, y: Tensor, gain: Tensor, eps: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return x + y in x's dtype and its rms_norm in `dtype`; x, y [R, N, D], gain [R, D]."""
    total, out = _AddRmsNorm.apply(x, y, gain, eps, dtype)
    return total, out


def gated_rms_norm(
    o: Tensor, g: Tensor, gain: Tensor, eps: float, *, factor: Tensor | None = None, gradient: Any = None
) -> Tensor:
    """Return rms_norm(factor * o) * gain * silu(g), [R, N, H * V] in g's dtype.

    Args:
        o: [R, N, H, V].
        g: [R, N, H * V]; rows may be part of longer ones.
        gain: [R, V]; one for all heads.
        factor: [R], the multiplier at `o_raw`; None is 1.
        gradient: makes the tensor that takes the gradient of g; None is an empty one like it.
    """
    out: Tensor = _GatedRmsNorm.apply(o, g, gain, factor, eps, gradient)
    return out
