# mypy: allow-untyped-defs
"""The gradients of q and k, and the states' share of that of log_alpha; chunks and parts of K all at once.

With S the state that enters a chunk, dS' the gradient of the one that leaves it, U its writes (see chunk.py), dV the
gradient of v, and E and G from pairs_backward:

    dq = exp(c) (dO S^T) + E K
    dk = E^T Q - (G + G^T) K - exp(c) (dV S^T) + exp(c_C - c) (U dS'^T)
"""

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["T", "batches"])
def local_backward(
    q,
    k,
    gates,
    states,
    writes,
    grad_o,
    d_states,
    dv,
    pairs,
    dq,
    dk,
    d_log_alpha,
    T,
    H,
    batches,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    EARLY: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: a part of K of one chunk of one head; grid (B * N * H * parts,): neighbours share cache lines.

    With one part, adds to d_log_alpha [1, B, T, H] what it owes; with more, each writes its share to a layer of its own
    of [1 + parts, B, T, H]. EARLY: asks for all it reads at once, and holds it.
    """
    PARTS: tl.constexpr = (K + BK - 1) // BK
    N = tl.cdiv(T, C)
    part = tl.program_id(0) % PARTS
    program = tl.program_id(0) // PARTS
    head = (program % H).to(tl.int64)
    n = (program // H) % N
    batch = (program // (H * N)).to(tl.int64)
    dtype = q.dtype.element_ty

    # Offsets within the chunk are small: only where it begins needs 64 bits.
    first = (batch * T + n * C) * H + head
    chunk = (batch * H + head) * N + n
    q += first * K
    k += first * K
    dq += first * K
    dk += first * K
    writes += first * V
    grad_o += first * V
    dv += first * V
    d_log_alpha += first
    states += chunk * K * V
    d_states += chunk * K * V
    pairs += chunk * 2 * C * C
    gates += chunk * 5 * C

    steps = tl.arange(0, C)
    rows = steps * H
    inside = steps < T - n * C
    k_cols = part * BK + tl.arange(0, BK)
    in_k = k_cols < K
    decay_in = tl.load(gates + 3 * C + steps)
    decay_out = tl.load(gates + 4 * C + steps)
    through = tl.load(gates + 4 * C - 1)

    at_k = rows[:, None] * K + k_cols[None, :]
    in_rows_k = inside[:, None] & in_k[None, :]
    square = steps[:, None] * C + steps[None, :]
    if EARLY:
        q_part = tl.load(q + at_k, in_rows_k, 0.0)
        k_part = tl.load(k + at_k, in_rows_k, 0.0)
        e = tl.load(pairs + square)
        g = tl.load(pairs + C * C + square)

    d_q = tl.zeros([C, BK], tl.float32)
    d_k = tl.zeros([C, BK], tl.float32)
    d_out = tl.zeros([C, BK], tl.float32)
    carried = tl.zeros([BK], tl.float32)
    for block in range(0, V, BV):
        cols = block + tl.arange(0, BV)
        in_v = cols < V
        at = rows[:, None] * V + cols[None, :]
        in_rows = inside[:, None] & in_v[None, :]
        at_state = k_cols[:, None] * V + cols[None, :]
        in_state = in_k[:, None] & in_v[None, :]
        go = tl.load(grad_o + at, in_rows, 0.0)
        dvs = tl.load(dv + at, in_rows, 0.0)
        u = tl.load(writes + at, in_rows, 0.0)
        s = tl.load(states + at_state, in_state, 0.0)
        d_s = tl.load(d_states + at_state, in_state, 0.0)
        d_q = tl.dot(go, tl.trans(s), d_q, input_precision=PRECISION)
        d_k = tl.dot(dvs, tl.trans(s), d_k, input_precision=PRECISION)
        d_out = tl.dot(u, tl.trans(d_s), d_out, input_precision=PRECISION)
        carried += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)

    if not EARLY:
        q_part = tl.load(q + at_k, in_rows_k, 0.0)
        k_part = tl.load(k + at_k, in_rows_k, 0.0)
        e = tl.load(pairs + square)
        g = tl.load(pairs + C * C + square)

    d_q *= decay_in[:, None]
    d_k *= decay_in[:, None]
    d_out *= decay_out[:, None]
    from_entering = tl.sum(d_q * q_part.to(tl.float32) - d_k * k_part.to(tl.float32), 1)
    to_leaving = tl.sum(d_out * k_part.to(tl.float32), 1)
    everywhere = tl.sum(carried, 0) * through

    d_q = tl.dot(e, k_part, d_q, input_precision=PRECISION)
    tl.store(dq + at_k, d_q.to(dtype), in_rows_k)
    d_k = d_out - d_k
    d_k = tl.dot(tl.trans(e), q_part, d_k, input_precision=PRECISION)
    d_k -= tl.dot(tl.trans(g), k_part, tl.dot(g, k_part, input_precision=PRECISION), input_precision=PRECISION)
    tl.store(dk + at_k, d_k.to(dtype), in_rows_k)

    # The step after s takes what decays across it from the entering state and to the leaving one.
    below = steps[:, None] > steps[None, :]
    across = tl.sum(tl.where(below, from_entering[:, None], to_leaving[:, None]), 0) + everywhere
    at_first = tl.zeros([C], tl.float32) + (tl.sum(from_entering, 0) + everywhere)
    in_next = (steps + 1 < T - n * C) & (steps + 1 < C)
    if PARTS == 1:
        across += tl.load(d_log_alpha + rows + H, in_next, 0.0)
    else:
        d_log_alpha += (1 + part) * batches.to(tl.int64) * T * H
    tl.store(d_log_alpha + rows + H, across, in_next)
    tl.store(d_log_alpha + rows, at_first, steps == 0)
