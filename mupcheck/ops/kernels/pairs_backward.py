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
    H,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: one chunk of one head; grid (B * N * H,), heads innermost: they share cache lines.

    Writes pairs [B, H, N, 2, C, C]: E and G; d_beta; and the pairs' share of d_log_alpha.
    """
    N = tl.cdiv(T, C)
    head = (tl.program_id(0) % H).to(tl.int64)
    n = (tl.program_id(0) // H) % N
    batch = (tl.program_id(0) // (H * N)).to(tl.int64)
    dtype = q.dtype.element_ty

    # Offsets within the chunk are small: only where it begins needs 64 bits.
    first = (batch * T + n * C) * H + head
    q += first * K
    k += first * K
    writes += first * V
    grad_o += first * V
    dv += first * V
    d_log_alpha += first
    d_beta += first
    chunk = (batch * H + head) * N + n
    gates += chunk * 5 * C
    pairs += chunk * 2 * C * C

    steps = tl.arange(0, C)
    rows = steps * H
    inside = steps < T - n * C
    whole = tl.load(gates + steps)
    rest = tl.load(gates + C + steps)
    b = tl.load(gates + 2 * C + steps, inside, 1.0)

    if K <= BK:  # all that is read is asked for at once
        at_k = rows[:, None] * K + tl.arange(0, BK)[None, :]
        in_rows_k = inside[:, None] & (tl.arange(0, BK) < K)[None, :]
        q_part = tl.load(q + at_k, in_rows_k, 0.0)
        k_part = tl.load(k + at_k, in_rows_k, 0.0)
    e = tl.zeros([C, C], tl.float32)
    g = tl.zeros([C, C], tl.float32)
    for block in range(0, V, BV):
        cols = block + tl.arange(0, BV)
        at = rows[:, None] * V + cols[None, :]
        in_rows = inside[:, None] & (cols < V)[None, :]
        go = tl.load(grad_o + at, in_rows, 0.0)
        dvs = tl.load(dv + at, in_rows, 0.0)
        u = tl.load(writes + at, in_rows, 0.0)
        e = tl.dot(go, tl.trans(u), e, input_precision=PRECISION)
        g = tl.dot(dvs, tl.trans(u), g, input_precision=PRECISION)

    at_itself = tl.sum(tl.where(steps[:, None] == steps[None, :], g, 0.0), 1)
    tl.store(d_beta + rows, at_itself / b / b, inside)

    causal = steps[:, None] >= steps[None, :]
    below = steps[:, None] > steps[None, :]
    # The zero makes the compiler compute exp where e is held, not elsewhere with a trip through shared memory.
    decay = decay_between(whole[:, None], rest[:, None] + e * 0.0, whole[None, :], rest[None, :], causal)
    e *= decay
    g = tl.where(below, g * decay, 0.0)
    square = steps[:, None] * C + steps[None, :]
    tl.store(pairs + square, e.to(dtype))
    tl.store(pairs + C * C + square, g.to(dtype))

    if K <= BK:
        qk = tl.dot(q_part, tl.trans(k_part), input_precision=PRECISION)
        kk = tl.dot(k_part, tl.trans(k_part), input_precision=PRECISION)
    else:
        qk = tl.zeros([C, C], tl.float32)
        kk = tl.zeros([C, C], tl.float32)
        for block in range(0, K, BK):
            cols = block + tl.arange(0, BK)
            at_k = rows[:, None] * K + cols[None, :]
            in_rows_k = inside[:, None] & (cols < K)[None, :]
            q_part = tl.load(q + at_k, in_rows_k, 0.0)
            k_part = tl.load(k + at_k, in_rows_k, 0.0)
            qk = tl.dot(q_part, tl.trans(k_part), qk, input_precision=PRECISION)
            kk = tl.dot(k_part, tl.trans(k_part), kk, input_precision=PRECISION)
    # At [i, s] the sum over j <= s: with i > s what decays across the step after s.
    sums = tl.cumsum(tl.where(below, e * qk - g * kk, 0.0), 1)
    across = tl.sum(tl.where(below, sums, 0.0), 0)
    tl.store(d_log_alpha + rows + H, across, (steps + 1 < T - n * C) & (steps + 1 < C))
    tl.store(d_log_alpha + rows, across * 0.0, steps == 0)
