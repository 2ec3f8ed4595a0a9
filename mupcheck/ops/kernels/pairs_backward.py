# mypy: allow-untyped-defs
"""What each pair of steps within a chunk owes: the [C, C] part of the gradients, chunks all at once.

With U the writes of a chunk and dV = beta dR the gradient of v (see chunk.py), at [i, j]:

    E = (dO U^T) * decay, i >= j      G = (dV U^T) * decay, i > j
    d_beta_i = dV_i . U_i / beta_i^2, as U_i is beta_i times what v_i differs by from what the state recalls
    d_log_alpha_t takes E_ij q_i . k_j - G_ij k_i . k_j of all i >= t > j: each such pair decays across step t

E and G go to local_backward through memory, which can read them transposed: a product's transposed result is never fed
to another product, which triton 3.4 to 3.7.0 miscompile on Hopper.
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between
from mupcheck.ops.kernels.tiles import load_gate, load_values


@triton.jit(do_not_specialize=["T"])
def pairs_backward(
    q,
    k,
    gates,
    writes,
    grad_o,
    dv,
    pairs,
    d_log_alpha,
    d_beta,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
    TILED: tl.constexpr,
):
    """One program: one chunk of one head; grid (B * N * H,), heads innermost: they share cache lines.

    q, k, writes, grad_o and dv are descriptors where TILED, else pointers.
    Writes pairs [B, H, N, 3, C, C], E rounded, G and what is left of E (which float32 has not: [B, H, N, 2, C, C]);
    d_beta; and the pairs' share of d_log_alpha.
    """
    N = tl.cdiv(T, C)
    h = tl.program_id(0) % H
    n = (tl.program_id(0) // H) % N
    batch = tl.program_id(0) // (H * N)
    dtype: tl.constexpr = dv.dtype if TILED else dv.dtype.element_ty
    start = n * C
    chunk = (batch * H + h) * N + n
    first = (batch.to(tl.int64) * T + start) * H + h
    d_log_alpha += first
    d_beta += first
    LAYERS: tl.constexpr = 2 if dtype == tl.float32 else 3
    pairs += chunk.to(tl.int64) * LAYERS * C * C

    steps = tl.arange(0, C)
    rows = steps * H
    inside = steps < T - start
    whole = load_gate(gates, chunk, 0, C)
    rest = load_gate(gates, chunk, 1, C)
    b = load_gate(gates, chunk, 2, C)

    if K <= BK:  # all that is read is asked for at once
        queries = tl.trans(load_values(q, batch, start, h, 0, T, H, K, C, BK, TILED))
        keys = tl.trans(load_values(k, batch, start, h, 0, T, H, K, C, BK, TILED))
    e = tl.zeros([C, C], tl.float32)
    g = tl.zeros([C, C], tl.float32)
    for block in range(0, V, BV):
        go = tl.trans(load_values(grad_o, batch, start, h, block, T, H, V, C, BV, TILED))
        dvs = tl.trans(load_values(dv, batch, start, h, block, T, H, V, C, BV, TILED))
        u = load_values(writes, batch, start, h, block, T, H, V, C, BV, TILED)
        e = tl.dot(go, u, e, input_precision=PRECISION)
        g = tl.dot(dvs, u, g, input_precision=PRECISION)

    b = tl.where(inside, b, 1.0)
    at_itself = tl.sum(tl.where(steps[:, None] == steps[None, :], g, 0.0), 1)
    tl.store(d_beta + rows, at_itself / b / b, inside)

    causal = steps[:, None] >= steps[None, :]
    below = steps[:, None] > steps[None, :]
    # The zero makes the compiler compute exp where e is held, not elsewhere with a trip through shared memory.
    decay = decay_between(whole[:, None], rest[:, None] + e * 0.0, whole[None, :], rest[None, :], causal)
    e *= decay
    g = tl.where(below, g * decay, 0.0)
    square = steps[:, None] * C + steps[None, :]
    e_high = e.to(dtype)
    tl.store(pairs + square, e_high)
    tl.store(pairs + C * C + square, g.to(dtype))
    if LAYERS == 3:
        tl.store(pairs + 2 * C * C + square, (e - e_high.to(tl.float32)).to(dtype))

    if K <= BK:
        qk = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
        kk = tl.dot(keys, tl.trans(keys), input_precision=PRECISION)
    else:
        qk = tl.zeros([C, C], tl.float32)
        kk = tl.zeros([C, C], tl.float32)
        for block in range(0, K, BK):
            queries = tl.trans(load_values(q, batch, start, h, block, T, H, K, C, BK, TILED))
            keys = tl.trans(load_values(k, batch, start, h, block, T, H, K, C, BK, TILED))
            qk = tl.dot(queries, tl.trans(keys), qk, input_precision=PRECISION)
            kk = tl.dot(keys, tl.trans(keys), kk, input_precision=PRECISION)
    # At [i, s] the sum over j <= s: with i > s what decays across the step after s.
    sums = tl.cumsum(tl.where(below, e * qk - g * kk, 0.0), 1)
    across = tl.sum(tl.where(below, sums, 0.0), 0)
    tl.store(d_log_alpha + rows + H, across, (steps + 1 < T - start) & (steps + 1 < C))
    tl.store(d_log_alpha + rows, across * 0.0, steps == 0)
