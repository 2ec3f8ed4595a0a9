"""Chunk by chunk: X = (I + A)^-1, A = (beta K K^T) * decay below the diagonal, and P = (Q K^T) * decay down to it.

One program a chunk and head. X by halves, 1 to 2 to 4 and so on to C: with D the inverses of the diagonal blocks of one
size and L what lies below them in blocks of twice the size, the next inverses are D - D L D. That is exact, with
nothing that grows where keys are alike, which a power series for the inverse does. All blocks of a size are one batch
of products, so that few of them wait for each other.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between, store_gates

# the smallest side of a product
SIDE = tl.constexpr(16)


@triton.jit
def _write(
    inverse, blocks, SIZE: tl.constexpr, STRIDE: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, C: tl.constexpr
):
    """Write blocks [C / STRIDE, SIZE, SIZE], each ROW and COLUMN from the diagonal's steps 0, STRIDE, ..."""
    first = tl.arange(0, C // STRIDE)[:, None, None] * STRIDE
    row = first + ROW + tl.arange(0, SIZE)[None, :, None]
    column = first + COLUMN + tl.arange(0, SIZE)[None, None, :]
    tl.store(inverse + row * C + column, blocks.to(inverse.dtype.element_ty))


@triton.jit
def _products(
    q,
    k,
    reads,
    left,
    SIZE: tl.constexpr,
    STRIDE: tl.constexpr,
    BELOW: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return blocks of K K^T and, where `reads` is there, of Q K^T: those that `_blocks` makes of them."""
    first = tl.arange(0, C // STRIDE)[:, None, None] * STRIDE
    row = first + BELOW + tl.arange(0, SIZE)[None, :, None]
    column = first + tl.arange(0, SIZE)[None, :, None]
    a = tl.zeros((C // STRIDE, SIZE, SIZE), tl.float32)
    p = tl.zeros((C // STRIDE, SIZE, SIZE), tl.float32)
    precision: tl.constexpr = "tf32" if PRECISION == "fp16" else PRECISION  # of no effect on products of bfloat16
    for i in range(tl.cdiv(K, BK)):
        at = i * BK + tl.arange(0, BK)[None, None, :]
        inside = (row < left) & (at < K)
        keys = tl.load(k + column * (H * K) + at, mask=(column < left) & (at < K), other=0.0)
        keys = tl.permute(keys, (0, 2, 1))
        a = tl.dot(tl.load(k + row * (H * K) + at, mask=inside, other=0.0), keys, a, input_precision=precision)
        if reads is not None:
            p = tl.dot(tl.load(q + row * (H * K) + at, mask=inside, other=0.0), keys, p, input_precision=precision)
    return a, p


@triton.jit
def _blocks(a, p, gates, reads, SIZE: tl.constexpr, STRIDE: tl.constexpr, BELOW: tl.constexpr, C: tl.constexpr):
    """Return blocks of A, [C / STRIDE, SIZE, SIZE], one every STRIDE steps, BELOW the diagonal by so many or on it.

    Those on the diagonal are zero on and above their own. The same blocks of P are written to `reads`, if it is there.
    """
    first = tl.arange(0, C // STRIDE)[:, None, None] * STRIDE
    row = first + BELOW + tl.arange(0, SIZE)[None, :, None]
    column = first + tl.arange(0, SIZE)[None, None, :]
    between = decay_between(
        tl.load(gates + row),
        tl.load(gates + C + row),
        tl.load(gates + column),
        tl.load(gates + C + column),
        row >= column,
    )
    if reads is not None:
        _write(reads, p * between, SIZE, STRIDE, BELOW, 0, C)
        if BELOW > 0:
            _write(reads, tl.zeros_like(p), SIZE, STRIDE, 0, BELOW, C)
    a *= tl.load(gates + 2 * C + row) * between
    return tl.where(row > column, a, 0.0)


@triton.jit
def _product(x, y, PRECISION: tl.constexpr):
    """Multiply float32 blocks; "fp16" rounds as tf32 does, with half the registers and a third of the shuffles."""
    if PRECISION == "fp16":
        product = tl.dot(x.to(tl.float16), y.to(tl.float16))
    else:
        product = tl.dot(x, y, input_precision=PRECISION)
    return product


@triton.jit
def _doubled(inverses, a, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """From the inverses of the diagonal blocks of size HALF of a [N, SIDE, SIDE] to those of twice the size."""
    row = tl.arange(0, SIDE)[None, :, None]
    column = tl.arange(0, SIDE)[None, None, :]
    below = (row // (2 * HALF) == column // (2 * HALF)) & (row // HALF != column // HALF)
    right = _product(tl.where(below, a, 0.0), inverses, PRECISION)
    return inverses - _product(inverses, right, PRECISION)


@triton.jit
def _pairs(inverses, PAIRS: tl.constexpr, SIZE: tl.constexpr):
    """Split [2 PAIRS, SIZE, SIZE] in the first and the second of each pair."""
    return tl.split(tl.permute(tl.reshape(inverses, (PAIRS, 2, SIZE, SIZE)), (0, 2, 3, 1)))


@triton.jit
def _beside(x, y, PAIRS: tl.constexpr, SIZE: tl.constexpr):
    """Put x and y, [PAIRS, SIZE, SIZE], beside each other: [PAIRS, SIZE, 2 SIZE]."""
    return tl.reshape(tl.permute(tl.join(x, y), (0, 1, 3, 2)), (PAIRS, SIZE, 2 * SIZE))


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
    a, p = _products(q, k, reads, left, SIDE, SIDE, 0, H, K, C, BK, PRECISION)
    store_gates(decay, write, gates, C)
    tl.debug_barrier()  # the gates are read back by other threads, in the order that each block wants
    a = _blocks(a, p, gates, reads, SIDE, SIDE, 0, C)
    row = tl.arange(0, SIDE)[None, :, None]
    column = tl.arange(0, SIDE)[None, None, :]
    x = tl.where(row == column, 1.0, 0.0) - tl.where(row // 2 == column // 2, a, 0.0)
    x = _doubled(x, a, 2, PRECISION)
    x = _doubled(x, a, 4, PRECISION)
    x = _doubled(x, a, 8, PRECISION)
    if C == 16:
        _write(inverse, x, 16, 16, 0, 0, C)
    else:
        a, p = _products(q, k, reads, left, 16, 32, 16, H, K, C, BK, PRECISION)
        below = _blocks(a, p, gates, reads, 16, 32, 16, C)
        upper, lower = _pairs(x, C // 32, 16)
        right = _product(below, upper, PRECISION)
        corner = -_product(lower, right, PRECISION)
        if C == 32:
            _write(inverse, upper, 16, 32, 0, 0, C)
            _write(inverse, tl.zeros_like(upper), 16, 32, 0, 16, C)
            _write(inverse, corner, 16, 32, 16, 0, C)
            _write(inverse, lower, 16, 32, 16, 16, C)
        else:
            rows = tl.join(_beside(upper, tl.zeros_like(upper), 2, 16), _beside(corner, lower, 2, 16))
            x = tl.reshape(tl.permute(rows, (0, 3, 1, 2)), (2, 32, 32))
            a, p = _products(q, k, reads, left, 32, 64, 32, H, K, C, BK, PRECISION)
            below = _blocks(a, p, gates, reads, 32, 64, 32, C)
            upper, lower = _pairs(x, 1, 32)
            right = _product(below, upper, PRECISION)
            corner = -_product(lower, right, PRECISION)
            _write(inverse, upper, 32, 64, 0, 0, C)
            _write(inverse, tl.zeros_like(upper), 32, 64, 0, 32, C)
            _write(inverse, corner, 32, 64, 32, 0, C)
            _write(inverse, lower, 32, 64, 32, 32, C)
