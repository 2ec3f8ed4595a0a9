"""Chunk by chunk: X = (I + A)^-1, A = (beta K K^T) * decay below the diagonal; one program a chunk and head.

A is made in blocks of 16 x 16. A diagonal block is inverted by halves, 1 to 2 to 4 to 8 to 16: with D the inverse of
the diagonal blocks of one size and L what lies between two of them, that of the next size is D - D L D. Blocks below
the diagonal follow by substitution. Both are exact, with nothing that grows where keys are alike, which a power series
for the inverse does.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between, decay_of, running_sums

SIDE = tl.constexpr(16)


@triton.jit
def _doubled(inverse, a, HALF: tl.constexpr, PRECISION: tl.constexpr):
    """From the inverse of the diagonal blocks of size HALF to that of those of twice the size."""
    row = tl.arange(0, SIDE)[:, None]
    column = tl.arange(0, SIDE)[None, :]
    between = (row // (2 * HALF) == column // (2 * HALF)) & (row // HALF != column // HALF)
    right = tl.dot(tl.where(between, a, 0.0), inverse, input_precision=PRECISION)
    return inverse - tl.dot(inverse, right, input_precision=PRECISION)


@triton.jit
def _inverted(a, PRECISION: tl.constexpr):
    """Invert I + a, with a [16, 16] zero on and above the diagonal."""
    row = tl.arange(0, SIDE)[:, None]
    column = tl.arange(0, SIDE)[None, :]
    inverse = tl.where(row == column, 1.0, 0.0) - tl.where(row // 2 == column // 2, a, 0.0)
    inverse = _doubled(inverse, a, 2, PRECISION)
    inverse = _doubled(inverse, a, 4, PRECISION)
    return _doubled(inverse, a, 8, PRECISION)


@triton.jit
def _steps(log_alpha, beta, gates, T, AT: tl.constexpr, C: tl.constexpr, H: tl.constexpr, whole_before, rest_before):
    """Read 16 steps of the gates, sum on top of those before, and write that; steps beyond T are all zero."""
    step = AT + tl.arange(0, SIDE)
    inside = step < T
    la = tl.load(log_alpha + step * H, mask=inside, other=0.0)
    write = tl.load(beta + step * H, mask=inside, other=0.0)
    whole, rest = running_sums(la)
    last = tl.arange(0, SIDE) == SIDE - 1
    whole += whole_before
    rest += rest_before
    tl.store(gates + step, whole)
    tl.store(gates + C + step, rest)
    tl.store(gates + 2 * C + step, write)
    tl.store(gates + 3 * C + step, decay_of(whole, rest))
    return whole, rest, write, tl.sum(tl.where(last, whole, 0.0), 0), tl.sum(tl.where(last, rest, 0.0), 0)


@triton.jit
def _decays_out(gates, whole, rest, last_whole, last_rest, AT: tl.constexpr, C: tl.constexpr):
    tl.store(gates + 4 * C + AT + tl.arange(0, SIDE), decay_of(last_whole - whole, last_rest - rest))


@triton.jit
def _decayed(block, whole_to, rest_to, beta_to, whole_from, rest_from, mask):
    between = decay_between(whole_to[:, None], rest_to[:, None], whole_from[None, :], rest_from[None, :], mask)
    return block * beta_to[:, None] * between


@triton.jit
def _write(inverse, block, BLOCK_ROW: tl.constexpr, BLOCK_COLUMN: tl.constexpr, C: tl.constexpr):
    row = BLOCK_ROW * SIDE + tl.arange(0, SIDE)[:, None]
    column = BLOCK_COLUMN * SIDE + tl.arange(0, SIDE)[None, :]
    tl.store(inverse + row * C + column, block.to(inverse.dtype.element_ty))


@triton.jit(do_not_specialize=["T"])
def invert(
    k,
    log_alpha,
    beta,
    gates,
    inverse,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write inverse [B, H, N, C, C] of k [B, T, H, K], log_alpha and beta [B, T, H]; C is 16, 32 or 64.

    It is zero above the diagonal. `gates` [B, H, N, 5, C] gets what the other kernels read of log_alpha and beta: the
    running sums c of log_alpha, whole parts and what is left; beta; exp(c); exp(c_C - c).
    """
    n = tl.program_id(0)
    b = (tl.program_id(1) // H).to(tl.int64)
    h = tl.program_id(1) % H
    k += (b * T * H + h) * K
    log_alpha += b * T * H + h
    beta += b * T * H + h
    inverse += (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + n) * C * C

    gates += (tl.program_id(1).to(tl.int64) * tl.num_programs(0) + n) * 5 * C

    start = n * C
    k += start.to(tl.int64) * H * K
    log_alpha += start * H
    beta += start * H
    rows = tl.arange(0, SIDE)[:, None]
    columns = tl.arange(0, SIDE)[None, :]
    a00 = tl.zeros((SIDE, SIDE), tl.float32)
    a10 = tl.zeros((SIDE, SIDE), tl.float32)
    a11 = tl.zeros((SIDE, SIDE), tl.float32)
    a20 = tl.zeros((SIDE, SIDE), tl.float32)
    a21 = tl.zeros((SIDE, SIDE), tl.float32)
    a22 = tl.zeros((SIDE, SIDE), tl.float32)
    a30 = tl.zeros((SIDE, SIDE), tl.float32)
    a31 = tl.zeros((SIDE, SIDE), tl.float32)
    a32 = tl.zeros((SIDE, SIDE), tl.float32)
    a33 = tl.zeros((SIDE, SIDE), tl.float32)
    for i in range(tl.cdiv(K, BK)):
        at = i * BK + tl.arange(0, BK)[None, :]
        k0 = tl.load(k + rows * (H * K) + at, mask=(start + rows < T) & (at < K), other=0.0)
        a00 = tl.dot(k0, tl.trans(k0), a00, input_precision=PRECISION)
        if C > 16:
            k1 = tl.load(k + (rows + 16) * (H * K) + at, mask=(start + 16 + rows < T) & (at < K), other=0.0)
            a10 = tl.dot(k1, tl.trans(k0), a10, input_precision=PRECISION)
            a11 = tl.dot(k1, tl.trans(k1), a11, input_precision=PRECISION)
        if C > 32:
            k2 = tl.load(k + (rows + 32) * (H * K) + at, mask=(start + 32 + rows < T) & (at < K), other=0.0)
            k3 = tl.load(k + (rows + 48) * (H * K) + at, mask=(start + 48 + rows < T) & (at < K), other=0.0)
            a20 = tl.dot(k2, tl.trans(k0), a20, input_precision=PRECISION)
            a21 = tl.dot(k2, tl.trans(k1), a21, input_precision=PRECISION)
            a22 = tl.dot(k2, tl.trans(k2), a22, input_precision=PRECISION)
            a30 = tl.dot(k3, tl.trans(k0), a30, input_precision=PRECISION)
            a31 = tl.dot(k3, tl.trans(k1), a31, input_precision=PRECISION)
            a32 = tl.dot(k3, tl.trans(k2), a32, input_precision=PRECISION)
            a33 = tl.dot(k3, tl.trans(k3), a33, input_precision=PRECISION)

    below = rows > columns
    everywhere = rows >= 0
    w0, r0, beta0, w, r = _steps(log_alpha, beta, gates, T - start, 0, C, H, 0.0, 0.0)
    x00 = _inverted(_decayed(a00, w0, r0, beta0, w0, r0, below), PRECISION)
    _write(inverse, x00, 0, 0, C)
    if C > 16:
        w1, r1, beta1, w, r = _steps(log_alpha, beta, gates, T - start, 16, C, H, w, r)
        a10 = _decayed(a10, w1, r1, beta1, w0, r0, everywhere)
        x11 = _inverted(_decayed(a11, w1, r1, beta1, w1, r1, below), PRECISION)
        right = tl.dot(a10, x00, input_precision=PRECISION)
        x10 = -tl.dot(x11, right, input_precision=PRECISION)
        _write(inverse, x10, 1, 0, C)
        _write(inverse, x11, 1, 1, C)
    if C > 32:
        w2, r2, beta2, w, r = _steps(log_alpha, beta, gates, T - start, 32, C, H, w, r)
        w3, r3, beta3, w, r = _steps(log_alpha, beta, gates, T - start, 48, C, H, w, r)
        a20 = _decayed(a20, w2, r2, beta2, w0, r0, everywhere)
        a21 = _decayed(a21, w2, r2, beta2, w1, r1, everywhere)
        a30 = _decayed(a30, w3, r3, beta3, w0, r0, everywhere)
        a31 = _decayed(a31, w3, r3, beta3, w1, r1, everywhere)
        a32 = _decayed(a32, w3, r3, beta3, w2, r2, everywhere)
        x22 = _inverted(_decayed(a22, w2, r2, beta2, w2, r2, below), PRECISION)
        x33 = _inverted(_decayed(a33, w3, r3, beta3, w3, r3, below), PRECISION)
        _write(inverse, x22, 2, 2, C)
        _write(inverse, x33, 3, 3, C)

        right = tl.dot(a21, x11, input_precision=PRECISION)
        x21 = -tl.dot(x22, right, input_precision=PRECISION)
        _write(inverse, x21, 2, 1, C)
        right = tl.dot(a32, x22, input_precision=PRECISION)
        x32 = -tl.dot(x33, right, input_precision=PRECISION)
        _write(inverse, x32, 3, 2, C)
        right = tl.dot(a21, x10, tl.dot(a20, x00, input_precision=PRECISION), input_precision=PRECISION)
        x20 = -tl.dot(x22, right, input_precision=PRECISION)
        _write(inverse, x20, 2, 0, C)
        right = tl.dot(a32, x21, tl.dot(a31, x11, input_precision=PRECISION), input_precision=PRECISION)
        x31 = -tl.dot(x33, right, input_precision=PRECISION)
        _write(inverse, x31, 3, 1, C)
        right = tl.dot(a31, x10, tl.dot(a30, x00, input_precision=PRECISION), input_precision=PRECISION)
        right = tl.dot(a32, x20, right, input_precision=PRECISION)
        x30 = -tl.dot(x33, right, input_precision=PRECISION)
        _write(inverse, x30, 3, 0, C)

    zero = tl.zeros((SIDE, SIDE), tl.float32)
    if C > 16:
        _write(inverse, zero, 0, 1, C)
    if C > 32:
        _write(inverse, zero, 0, 2, C)
        _write(inverse, zero, 0, 3, C)
        _write(inverse, zero, 1, 2, C)
        _write(inverse, zero, 1, 3, C)
        _write(inverse, zero, 2, 3, C)

    _decays_out(gates, w0, r0, w, r, 0, C)
    if C > 16:
        _decays_out(gates, w1, r1, w, r, 16, C)
    if C > 32:
        _decays_out(gates, w2, r2, w, r, 32, C)
        _decays_out(gates, w3, r3, w, r, 48, C)
