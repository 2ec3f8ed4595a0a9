# mypy: disallow-untyped-defs=False
"""Mean squares of what passes sites, read where it lies, once; what is derived from it is made on the way, not written.

Each program leaves the sum of squares of its values in float32, in a place of its own, and `roots` adds them up for all
sites in one launch. How values are shared among programs depends on the shape of one replica alone, so the sums of a
replica do not depend on how many there are.
"""

from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from mupcheck.ops.kernels.sigmoid import sigmoid

# Takes (programs, values of a replica) and returns where programs leave their sums, float32 [R, programs].
Room = Callable[[int, int], Tensor]

STEPS, ROWS, BLOCK = 4, 8, 256  # tiles of a program, and their shape
ELEMENTS = 2048  # of a tile of whole rows
SUMMED = 1024


@triton.jit
def _leave(out, total, index, n_programs):
    tl.store(out + tl.program_id(1).to(tl.int64) * n_programs + index, tl.sum(total))


@triton.jit
def _rounded(x, like):
    """Return float32 x as it would be stored."""
    return x.to(like.dtype.element_ty).to(tl.float32)


@triton.jit
def _square_sums(
    xs, outs, rows_of, widths, replica_strides, row_strides,
    STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    first = 0
    for i in tl.static_range(len(xs)):
        n_columns = tl.cdiv(widths[i], BLOCK)
        n_programs = tl.cdiv(tl.cdiv(rows_of[i], ROWS) * n_columns, STEPS)
        index = tl.program_id(0) - first
        if (index >= 0) & (index < n_programs):
            x = xs[i] + replica * replica_strides[i]
            total = tl.zeros([ROWS, BLOCK], tl.float32)
            for step in tl.static_range(STEPS):
                tile = index * STEPS + step
                rows = tile // n_columns * ROWS + tl.arange(0, ROWS)
                columns = tile % n_columns * BLOCK + tl.arange(0, BLOCK)
                inside = (rows < rows_of[i])[:, None] & (columns < widths[i])[None, :]
                at = rows.to(tl.int64)[:, None] * row_strides[i] + columns[None, :]
                value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
                total += value * value
            _leave(outs[i], total, index, n_programs)
        first += n_programs


@triton.jit
def _conv_sums(
    xs, weights, outs, conv_outs, n_rows, time, width, x_replica, x_token,
    TAPS: tl.constexpr, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of x, and of silu of its convolution over time; several x, each with its weights [R, TAPS, C]."""
    replica = tl.program_id(1).to(tl.int64)
    n_columns = tl.cdiv(width, BLOCK)
    index, n_programs = tl.program_id(0), tl.num_programs(0)
    columns = index % n_columns * BLOCK + tl.arange(0, BLOCK)
    allowed = columns < width
    for i in tl.static_range(len(xs)):
        if tl.program_id(2) == i:
            x = xs[i] + replica * x_replica + columns[None, :]
            taps = weights[i] + replica * TAPS * width + columns
            total, conv_total = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
            for step in tl.static_range(STEPS):
                rows = (index // n_columns * STEPS + step) * ROWS + tl.arange(0, ROWS)
                inside = (rows < n_rows)[:, None] & allowed[None, :]
                y = tl.zeros([ROWS, BLOCK], tl.float32)
                for lag in tl.static_range(TAPS):
                    there = inside & (rows % time >= lag)[:, None]
                    at = (rows - lag).to(tl.int64)[:, None] * x_token
                    value = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
                    tap = tl.load(taps + (TAPS - 1 - lag) * width, mask=allowed, other=0.0)
                    y += value * tap[None, :]
                    if lag == 0:
                        total += value * value
                y = _rounded(y * sigmoid(y), xs[i])
                conv_total += y * y
            _leave(outs[i], total, index, n_programs)
            _leave(conv_outs[i], conv_total, index, n_programs)


@triton.jit
def _dot_sums(
    q, k, q_out, k_out, out, n_rows, width, STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Of q and k, and of their inner products over a row."""
    replica, index = tl.program_id(1).to(tl.int64), tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    q_total, k_total = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for step in tl.static_range(STEPS):
        rows = (index * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
        query = tl.load(q + at, mask=inside, other=0.0).to(tl.float32)
        key = tl.load(k + at, mask=inside, other=0.0).to(tl.float32)
        q_total += query * query
        k_total += key * key
        dot = tl.sum(query * key, axis=1)
        total += dot * dot
    _leave(q_out, q_total, index, tl.num_programs(0))
    _leave(k_out, k_total, index, tl.num_programs(0))
    _leave(out, total, index, tl.num_programs(0))


@triton.jit
def _output_sums(
    o, g, gain, factor, o_out, norm_out, g_out, n_rows, heads, width, g_replica, g_token, eps,
    STEPS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Of o times its factor, of its norm over a head, and of silu(g)."""
    replica, index = tl.program_id(1).to(tl.int64), tl.program_id(0)
    columns = tl.arange(0, BLOCK)
    gains = tl.load(gain + replica * width + columns, mask=columns < width, other=0.0)
    o_total, norm_total = tl.zeros([ROWS, BLOCK], tl.float32), tl.zeros([ROWS, BLOCK], tl.float32)
    g_total = tl.zeros([ROWS, BLOCK], tl.float32)
    for step in tl.static_range(STEPS):
        rows = (index * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (rows < n_rows)[:, None] & (columns < width)[None, :]
        at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
        value = tl.load(o + at, mask=inside, other=0.0).to(tl.float32)
        if factor is not None:
            value = _rounded(value * tl.load(factor + replica), o)
        g_row = replica * g_replica + (rows // heads).to(tl.int64) * g_token + rows % heads * width
        gate = tl.load(g + g_row[:, None] + columns[None, :], mask=inside, other=0.0).to(tl.float32)
        gate = _rounded(gate * sigmoid(gate), g)
        root = tl.rsqrt(tl.sum(value * value, axis=1) / width + eps)
        normed = _rounded(value * root[:, None] * gains[None, :], o)
        normed = tl.where(inside, normed, 0.0)  # beyond the end 1 / sqrt(eps) may be infinite
        o_total += value * value
        norm_total += normed * normed
        g_total += gate * gate
    _leave(o_out, o_total, index, tl.num_programs(0))
    _leave(norm_out, norm_total, index, tl.num_programs(0))
    _leave(g_out, g_total, index, tl.num_programs(0))


@triton.jit
def _gate_sums(
    z, log_alpha, beta, z_alpha_out, z_beta_out, alpha_out, beta_out, n_rows, heads, z_replica, z_token,
    ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica, index = tl.program_id(1).to(tl.int64), tl.program_id(0)
    rows, columns = index * ROWS + tl.arange(0, ROWS), tl.arange(0, BLOCK)
    inside = (rows < n_rows)[:, None] & (columns < heads)[None, :]
    of_z = replica * z_replica + rows.to(tl.int64)[:, None] * z_token + columns[None, :]
    at = (replica * n_rows + rows)[:, None] * heads + columns[None, :]
    z_alpha = tl.load(z + of_z, mask=inside, other=0.0).to(tl.float32)
    z_beta = tl.load(z + of_z + heads, mask=inside, other=0.0).to(tl.float32)
    alpha = tl.where(inside, tl.exp(tl.load(log_alpha + at, mask=inside, other=0.0)), 0.0)
    write = tl.load(beta + at, mask=inside, other=0.0)
    _leave(z_alpha_out, z_alpha * z_alpha, index, tl.num_programs(0))
    _leave(z_beta_out, z_beta * z_beta, index, tl.num_programs(0))
    _leave(alpha_out, alpha * alpha, index, tl.num_programs(0))
    _leave(beta_out, write * write, index, tl.num_programs(0))


@triton.jit
def _roots(addresses, programs, values, out, BLOCK: tl.constexpr):
    replica = tl.program_id(1).to(tl.int64)
    n = tl.load(programs + tl.program_id(0))
    sums = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(tl.float32)) + replica * n
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, n, BLOCK):
        at = start + tl.arange(0, BLOCK)
        total += tl.load(sums + at, mask=at < n, other=0.0)
    mean = tl.sum(total) / tl.load(values + tl.program_id(0))
    tl.store(out + tl.program_id(0) * tl.num_programs(1) + replica, tl.sqrt_rn(mean))


def square_sums(xs: Sequence[Tensor], rooms: Sequence[Room]) -> None:
    """Leave the sums of squares of each x [R, n, C] in one launch; x may be some columns of longer rows."""
    xs = [_long_rows(x) for x in xs]
    outs = [room(_programs(*x.shape[1:]), x[0].numel()) for x, room in zip(xs, rooms, strict=True)]
    grid = (sum(out.shape[1] for out in outs), len(outs[0]))
    shapes = zip(*((x.shape[1], x.shape[2], x.stride(0), x.stride(1)) for x in xs), strict=True)
    _square_sums[grid](tuple(xs), tuple(outs), *shapes, STEPS=STEPS, ROWS=ROWS, BLOCK=BLOCK, num_warps=4)


def conv_sums(
    xs: Sequence[Tensor], weights: Sequence[Tensor], rooms: Sequence[Room], conv_rooms: Sequence[Room], *, batch: int
) -> None:
    """Leave those of each x [R, B * T, C], columns of rows of one length, and of silu of its convolution over time.

    Args:
        weights: filters [R, taps, C] in float32.
        batch: B.
    """
    x = xs[0]
    n_replicas, n_rows, width = x.shape
    count, values = triton.cdiv(n_rows, ROWS * STEPS) * triton.cdiv(width, BLOCK), x[0].numel()
    outs, conv_outs = (tuple(room(count, values) for room in some) for some in (rooms, conv_rooms))
    given = tuple(weight.contiguous() for weight in weights)
    _conv_sums[count, n_replicas, len(xs)](
        tuple(xs), given, outs, conv_outs, n_rows, n_rows // batch, width, x.stride(0), x.stride(1),
        TAPS=given[0].shape[1], STEPS=STEPS, ROWS=ROWS, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def dot_sums(q: Tensor, k: Tensor, q_room: Room, k_room: Room, room: Room, *, replicas: int) -> None:
    """Leave those of q and k [R * B, T, H, K], contiguous, and of their inner products over K."""
    width = q.shape[-1]
    n_rows = q.numel() // (replicas * width)
    shape = _whole_rows(width)
    count = triton.cdiv(n_rows, shape["ROWS"] * STEPS)
    outs = q_room(count, n_rows * width), k_room(count, n_rows * width), room(count, n_rows)
    _dot_sums[count, replicas](q, k, *outs, n_rows, width, STEPS=STEPS, num_warps=4, **shape)


def output_sums(
    o: Tensor, g: Tensor, gain: Tensor, eps: float, rooms: Sequence[Room], *, factor: Tensor | None
) -> None:
    """Leave those of factor * o, its RMSNorm over V, and silu(g).

    Args:
        o: [R, N, H, V].
        g: [R, N, H * V], which may be some columns of longer rows.
        gain, factor: [R, V] and [R] in float32; a factor of None is 1.
        rooms: of the three.
    """
    n_replicas, tokens, heads, width = o.shape
    n_rows, shape = tokens * heads, _whole_rows(width)
    count = triton.cdiv(n_rows, shape["ROWS"] * STEPS)
    outs = [room(count, n_rows * width) for room in rooms]
    gain = gain.float().contiguous()
    _output_sums[count, n_replicas](
        o.contiguous(), g, gain, factor, *outs, n_rows, heads, width, g.stride(0), g.stride(1), eps,
        STEPS=STEPS, num_warps=4, **shape,
    )  # fmt: skip


def gate_sums(z: Tensor, log_alpha: Tensor, beta: Tensor, rooms: Sequence[Room]) -> None:
    """Leave those of z_alpha, z_beta, exp(log_alpha) and beta.

    Args:
        z: [R, N, columns], the first H of them z_alpha and the next z_beta; it may be a part of longer rows.
        log_alpha, beta: float32, contiguous, R * N * H numbers.
        rooms: of the four.
    """
    n_replicas, n_rows, _ = z.shape
    heads = log_alpha.shape[-1]
    shape = _whole_rows(heads)
    outs = [room(triton.cdiv(n_rows, shape["ROWS"]), n_rows * heads) for room in rooms]
    _gate_sums[outs[0].shape[1], n_replicas](
        z, log_alpha, beta, *outs, n_rows, heads, z.stride(0), z.stride(1), num_warps=4, **shape
    )


def roots(addresses: Tensor, programs: Tensor, values: Tensor, *, replicas: int) -> Tensor:
    """Return the roots of mean squares, float32 [sites, R], from what programs left.

    Args:
        addresses: int64 [sites], of float32 [R, programs] each.
        programs: int32 [sites].
        values: float32 [sites], how many there are of one replica.
    """
    out = torch.empty(len(addresses), replicas, dtype=torch.float32, device=addresses.device)
    _roots[len(addresses), replicas](addresses, programs, values, out, BLOCK=SUMMED, num_warps=4)
    return out


def _programs(n_rows: int, width: int) -> int:
    return triton.cdiv(triton.cdiv(n_rows, ROWS) * triton.cdiv(width, BLOCK), STEPS)


def _long_rows(x: Tensor) -> Tensor:
    """Return x [R, n, C] as rows that fill tiles, where it is contiguous and can be cut so."""
    fits = x.is_contiguous() and x[0].numel() % BLOCK == 0
    return x.view(len(x), -1, BLOCK) if fits else x


def _whole_rows(width: int) -> dict[str, int]:
    block = max(16, triton.next_power_of_2(width))
    return {"ROWS": max(1, ELEMENTS // block), "BLOCK": block}
