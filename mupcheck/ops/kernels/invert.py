"""Chunk by chunk: X = (I + A)^-1, A = (beta K K^T) * decay below the diagonal, and P = (Q K^T) * decay down to it.

One program a chunk and head. X by halves, 1 to 2 to 4 and so on to C: with D the inverses of the diagonal blocks of one
size and L what lies below them in blocks of twice the size, the next inverses are D - D L D. That is exact, with
nothing that grows where keys are alike, which a power series for the inverse does. All blocks of a size are one batch
of products, so that few of them wait for each other. Inverses are kept transposed as well: the sums of a product in
half precision, transposed, lie in the very registers that the right side of the next one wants.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import LOWEST_LOG_DECAY, decay_of, store_gates

# the smallest side of a product
SIDE = tl.constexpr(16)


@triton.jit
def _write(to, blocks, first, ROW: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr):
    """Write blocks [N, SIZE, WIDTH] of a [C, C], each ROW and COLUMN from its step of `first` [N, 1, 1]."""
    row = first + ROW + tl.arange(0, blocks.shape[1])[None, :, None]
    column = first + COLUMN + tl.arange(0, blocks.shape[2])[None, None, :]
    tl.store(to + row * C + column, blocks.to(to.dtype.element_ty))


@triton.jit
def _products(
    q, k, reads, left, row, column, H: tl.constexpr, K: tl.constexpr, BK: tl.constexpr, PRECISION: tl.constexpr
):
    """Return K K^T of steps row [N, SIZE, 1] with steps column [N, SIZE, 1] and, where `reads` is there, Q K^T."""
    precision: tl.constexpr = "tf32" if PRECISION == "fp16" else PRECISION  # of no effect on products of bfloat16
    a = tl.zeros((row.shape[0], row.shape[1], row.shape[1]), tl.float32)
    p = tl.zeros((row.shape[0], row.shape[1], row.shape[1]), tl.float32)
    for i in range(tl.cdiv(K, BK)):
        at = i * BK + tl.arange(0, BK)[None, None, :]
        inside = (row < left) & (at < K)
        keys = tl.load(k + column * (H * K) + at, mask=(column < left) & (at < K), other=0.0)
        keys = tl.permute(keys, (0, 2, 1))
        if reads is not None:
            p = tl.dot(tl.load(q + row * (H * K) + at, mask=inside, other=0.0), keys, p, input_precision=precision)
        a = tl.dot(tl.load(k + row * (H * K) + at, mask=inside, other=0.0), keys, a, input_precision=precision)
    return a, p


@triton.jit
def _on_diagonal(
    q,
    k,
    gates,
    reads,
    left,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the diagonal blocks of -A, [C / SIDE, SIDE, SIDE], but for their own diagonal, which is not zero."""
    first = tl.arange(0, C // SIDE)[:, None, None] * SIDE
    row = first + tl.arange(0, SIDE)[None, :, None]
    column = first + tl.arange(0, SIDE)[None, None, :]
    a, p = _products(q, k, reads, left, row, row, H, K, BK, PRECISION)
    total = tl.load(gates + row) - tl.load(gates + column) + (tl.load(gates + C + row) - tl.load(gates + C + column))
    # where this overflows it is not used
    decay = tl.where(row >= column, tl.exp(tl.where(total < LOWEST_LOG_DECAY, LOWEST_LOG_DECAY, total)), 0.0)
    if reads is not None:
        tl.store(reads + row * C + column, (p * decay).to(reads.dtype.element_ty))
    return a * (-decay * tl.load(gates + 2 * C + row))


@triton.jit
def _below_diagonal(
    q,
    k,
    gates,
    reads,
    left,
    edge,
    SIZE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return blocks of -A, [N, SIZE, SIZE], whose rows begin at `edge`, [N, 1, 1], and whose columns end there.

    A decay to a row from a column is one to the row from the edge between them times one to the edge from the column.
    """
    row = edge + tl.arange(0, SIZE)[None, :, None]
    column = edge - SIZE + tl.arange(0, SIZE)[None, None, :]
    a, p = _products(q, k, reads, left, row, row - SIZE, H, K, BK, PRECISION)
    whole, rest = tl.load(gates + edge - 1), tl.load(gates + C + edge - 1)
    after = decay_of(tl.load(gates + row) - whole, tl.load(gates + C + row) - rest)
    before = decay_of(whole - tl.load(gates + column), rest - tl.load(gates + C + column))
    if reads is not None:
        tl.store(reads + row * C + column, (p * after * before).to(reads.dtype.element_ty))
    return a * (-after * tl.load(gates + 2 * C + row)) * before


@triton.jit
def _product(x, y, PRECISION: tl.constexpr, onto=None):
    """Multiply float32 blocks x and y^T; "fp16" rounds as tf32 does, and takes what a product left where it lies."""
    if PRECISION == "fp16":
        product = tl.dot(x.to(tl.float16), tl.permute(y.to(tl.float16), (0, 2, 1)), onto)
    else:
        product = tl.dot(x, tl.permute(y, (0, 2, 1)), onto, input_precision=PRECISION)
    return product


@triton.jit
def _doubled(x, x_t, a, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """From the inverses of the diagonal blocks of size HALF of a [N, SIDE, SIDE] to those of twice the size."""
    row = tl.arange(0, SIDE)[None, :, None]
    column = tl.arange(0, SIDE)[None, None, :]
    below = (row // (2 * HALF) == column // (2 * HALF)) & (row // HALF > column // HALF)
    right_t = _product(x_t, tl.where(below, a, 0.0), PRECISION)
    return _product(x, right_t, PRECISION, x), _product(right_t, x, PRECISION, x_t)


@triton.jit
def _pairs(x, PAIRS: tl.constexpr):
    """Split [2 PAIRS, SIDE, SIDE] in the first and the second of each pair."""
    return tl.split(tl.permute(tl.reshape(x, (PAIRS, 2, SIDE, SIDE)), (0, 2, 3, 1)))


@triton.jit(do_not_specialize=["T"])
def invert(
    q,
    k,
    log_alpha,
    beta,
    gates,
    inverse,
    reads,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write inverse [B, H, N, C, C] of k [B, T, H, K], log_alpha and beta [B, T, H]; C is 16, 32 or 64.

    It is zero above the diagonal, as is `reads`, of the same shape: P of q [B, T, H, K]; None where it is not wanted.
    `gates` [B, H, N, 5, C] gets what the other kernels read of log_alpha and beta: the running sums c of log_alpha,
    whole parts and what is left; beta, at least 1e-15; exp(c); exp(c_C - c).
    """
    n = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    first = (sequence // H * T + n * C) * H + sequence % H
    q += first * K
    k += first * K
    gates += (sequence * tl.num_programs(0) + n) * 5 * C
    inverse += (sequence * tl.num_programs(0) + n) * C * C
    if reads is not None:
        reads += (sequence * tl.num_programs(0) + n) * C * C
    left = T - n * C

    # what comes from afar is asked for before the first wait; steps beyond T decay and write nothing
    step = tl.arange(0, C)
    decay = tl.load(log_alpha + first + step * H, mask=step < left, other=0.0)
    write = tl.load(beta + first + step * H, mask=step < left, other=0.0)
    store_gates(decay, write, gates, C)
    tl.debug_barrier()  # the gates are read back by other threads, in the order that each block wants
    a = _on_diagonal(q, k, gates, reads, left, H, K, C, BK, PRECISION)
    row = tl.arange(0, SIDE)[None, :, None]
    column = tl.arange(0, SIDE)[None, None, :]
    x = tl.where(row == column, 1.0, tl.where((row // 2 == column // 2) & (row > column), a, 0.0))
    x_t = tl.permute(x, (0, 2, 1))
    x, x_t = _doubled(x, x_t, a, 2, PRECISION)
    x, x_t = _doubled(x, x_t, a, 4, PRECISION)
    x, x_t = _doubled(x, x_t, a, 8, PRECISION)
    _write(inverse, x, tl.arange(0, C // SIDE)[:, None, None] * SIDE, 0, 0, C)
    if PRECISION == "fp16":
        x, x_t = x.to(tl.float16), x_t.to(tl.float16)  # half the registers
    if C > 16:
        first = tl.arange(0, C // 32)[:, None, None] * 32
        _write(inverse, tl.zeros((C // 32, 16, 16), tl.float32), first, 0, 16, C)
        if reads is not None:
            _write(reads, tl.zeros((C // 32, 16, 16), tl.float32), first, 0, 16, C)
        below = _below_diagonal(q, k, gates, reads, left, first + 16, 16, H, K, C, BK, PRECISION)
        upper, lower = _pairs(x, C // 32)
        upper_t, lower_t = _pairs(x_t, C // 32)
        right_t = _product(upper_t, below, PRECISION)
        corner = _product(lower, right_t, PRECISION)
        _write(inverse, corner, first, 16, 0, C)
    if C > 32:
        zero = tl.zeros((1, 1, 1), tl.int32)
        _write(inverse, tl.zeros((1, 32, 32), tl.float32), zero, 0, 32, C)
        if reads is not None:
            _write(reads, tl.zeros((1, 32, 32), tl.float32), zero, 0, 32, C)
        corner_t = _product(right_t, lower, PRECISION)
        below = _below_diagonal(q, k, gates, reads, left, zero + 32, 32, H, K, C, BK, PRECISION)
        near, far = tl.split(tl.permute(tl.reshape(below, (2, 16, 2, 16)), (0, 1, 3, 2)))
        x0_t, _ = _pairs(upper_t, 1)
        x1_t, _ = _pairs(lower_t, 1)
        corner_t, _ = _pairs(corner_t, 1)
        _, x2 = _pairs(upper, 1)
        _, x3 = _pairs(lower, 1)
        _, corner = _pairs(corner, 1)
        right0_t = _product(tl.broadcast_to(x0_t, (2, 16, 16)), near, PRECISION)
        right0_t = _product(tl.broadcast_to(corner_t, (2, 16, 16)), far, PRECISION, right0_t)
        right1_t = _product(tl.broadcast_to(x1_t, (2, 16, 16)), far, PRECISION)
        upper0_t, lower0_t = _pairs(right0_t, 1)
        upper1_t, lower1_t = _pairs(right1_t, 1)
        _write(inverse, _product(x2, upper0_t, PRECISION), zero, 32, 0, C)
        _write(inverse, _product(x2, upper1_t, PRECISION), zero, 32, 16, C)
        lower0 = _product(x3, lower0_t, PRECISION, _product(corner, upper0_t, PRECISION))
        lower1 = _product(x3, lower1_t, PRECISION, _product(corner, upper1_t, PRECISION))
        _write(inverse, lower0, zero, 48, 0, C)
        _write(inverse, lower1, zero, 48, 16, C)
