# mypy: allow-untyped-defs
"""B3: what each chunk's inputs owe, from the states and their gradients at its two ends; chunks are independent.

With S the state that enters a chunk, dS' the gradient of the one that leaves it, U its writes and dR the gradient of
its right-hand side (see chunk.py), all [C, C] below with the factor decay_ij:

    E = dO U^T, F = dR U^T (strictly lower), G_ij = beta_i F_ij
    dq = exp(c) (dO S^T) + E K
    dk = E^T Q - (G + G^T) K - exp(c) beta (dR S^T) + exp(c_C - c) (U dS'^T)

E and G go through memory: a product's transposed result is never fed to another product, which triton 3.4 to 3.7.0
miscompile on Hopper; and where no product feeds another, the compiler spreads warps over columns too. They have a walk
over V of their own, so that registers hold either them or the sums [C, K], which are more for K above 64.
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between, decay_of, running_sums


@triton.jit
def _finish(q, k, dq, dk, at, inside, d_q_in, d_k_in, d_k_out, e, g, decay_in, decay_out, b, PRECISION: tl.constexpr):
    """Complete and store dq and dk for one part of K; returns its shares of three sums over K, each [C]."""
    q_part = tl.load(q + at, inside, 0.0)
    k_part = tl.load(k + at, inside, 0.0)
    q_dots = tl.sum(d_q_in * q_part.to(tl.float32), 1)
    k_dots = tl.sum(d_k_in * k_part.to(tl.float32), 1)
    to_leaving = tl.sum(d_k_out * k_part.to(tl.float32), 1)

    d_q = tl.dot(e, k_part, input_precision=PRECISION) + d_q_in * decay_in[:, None]
    tl.store(dq + at, d_q.to(dq.dtype.element_ty), inside)
    d_k = d_k_out * decay_out[:, None] - d_k_in * (decay_in * b)[:, None]
    d_k += tl.dot(tl.trans(e), q_part, input_precision=PRECISION)
    d_k -= tl.dot(g, k_part, input_precision=PRECISION)
    d_k -= tl.dot(tl.trans(g), k_part, input_precision=PRECISION)
    tl.store(dk + at, d_k.to(dk.dtype.element_ty), inside)
    return q_dots, k_dots, to_leaving


@triton.jit
def local_backward(
    q,
    k,
    v,
    log_alpha,
    beta,
    states,
    writes,
    grad_o,
    d_states,
    d_rhs,
    between,
    dq,
    dk,
    dv,
    d_log_alpha,
    d_beta,
    T,
    H,
    K: tl.constexpr,
    V: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    SPLIT: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: one chunk of one head of one sequence; grid (B * N * H,), heads innermost: they share cache lines.

    K is taken in two parts K1 and K2 (0: one part). With SPLIT each has a walk over V of its own, which needs fewer
    registers and reads writes, grad_o and d_rhs once more. `between` [B, H, N, 2, C, C] is scratch memory.
    """
    N = tl.cdiv(T, C)
    head = (tl.program_id(0) % H).to(tl.int64)
    n = (tl.program_id(0) // H) % N
    batch = (tl.program_id(0) // (H * N)).to(tl.int64)
    dtype = q.dtype.element_ty

    # Offsets within the chunk are small: only where it begins needs 64 bits.
    first = (batch * T + n * C) * H + head
    chunk = (batch * H + head) * N + n
    q += first * K
    k += first * K
    dq += first * K
    dk += first * K
    v += first * V
    dv += first * V
    grad_o += first * V
    d_rhs += first * V
    writes += first * V
    log_alpha += first
    beta += first
    d_log_alpha += first
    d_beta += first
    states += chunk * K * V
    d_states += chunk * K * V
    between += chunk * 2 * C * C

    steps = tl.arange(0, C)
    rows = steps * H
    inside = steps < T - n * C
    v_cols = tl.arange(0, BV)
    k1_cols = tl.arange(0, K1)
    in_k1 = k1_cols < K
    at1 = rows[:, None] * K + k1_cols[None, :]
    in_rows1 = inside[:, None] & in_k1[None, :]
    if K2 > 0:
        k2_cols = K1 + tl.arange(0, K2)
        in_k2 = k2_cols < K
        at2 = rows[:, None] * K + k2_cols[None, :]
        in_rows2 = inside[:, None] & in_k2[None, :]

    b = tl.load(beta + rows, inside, 0.0)
    a = tl.load(log_alpha + rows, inside, 0.0)
    whole, rest = running_sums(a)
    last_whole = tl.sum(tl.where(steps == C - 1, whole, 0.0), 0)
    last_rest = tl.sum(tl.where(steps == C - 1, rest, 0.0), 0)
    decay_in = decay_of(whole, rest)
    decay_out = decay_of(last_whole - whole, last_rest - rest)

    e = tl.zeros([C, C], tl.float32)
    f = tl.zeros([C, C], tl.float32)
    right_dots = tl.zeros([C], tl.float32)
    for block in range(0, V, BV):
        cols = block + v_cols
        in_rows = inside[:, None] & (cols < V)[None, :]
        at = rows[:, None] * V + cols[None, :]
        go = tl.load(grad_o + at, in_rows, 0.0)
        right = tl.load(d_rhs + at, in_rows, 0.0)
        u = tl.load(writes + at, in_rows, 0.0)
        value = tl.load(v + at, in_rows, 0.0)
        e = tl.dot(go, tl.trans(u), e, input_precision=PRECISION)
        f = tl.dot(right, tl.trans(u), f, input_precision=PRECISION)
        right_dots += tl.sum(right.to(tl.float32) * value.to(tl.float32), 1)
        tl.store(dv + at, (right.to(tl.float32) * b[:, None]).to(dtype), in_rows)

    # The zero makes the compiler compute exp where e is held, not elsewhere with a trip through shared memory.
    causal = steps[:, None] >= steps[None, :]
    decay = decay_between(whole[:, None], rest[:, None] + e * 0.0, whole[None, :], rest[None, :], causal)
    below = steps[:, None] > steps[None, :]
    e *= decay
    f = tl.where(below, f * decay, 0.0)
    g = f * b[:, None]
    square = steps[:, None] * C + steps[None, :]
    tl.store(between + square, e.to(dtype))
    tl.store(between + C * C + square, g.to(dtype))

    q_part = tl.load(q + at1, in_rows1, 0.0)
    k_part = tl.load(k + at1, in_rows1, 0.0)
    qk = tl.dot(q_part, tl.trans(k_part), input_precision=PRECISION)
    kk = tl.dot(k_part, tl.trans(k_part), input_precision=PRECISION)
    if K2 > 0:
        q_part = tl.load(q + at2, in_rows2, 0.0)
        k_part = tl.load(k + at2, in_rows2, 0.0)
        qk += tl.dot(q_part, tl.trans(k_part), input_precision=PRECISION)
        kk += tl.dot(k_part, tl.trans(k_part), input_precision=PRECISION)
    # A term that decays from j to i holds every log_alpha_t with i >= t > j: at [i, s] the sum over j <= s.
    sums = tl.cumsum(tl.where(below, e * qk - g * kk, 0.0), 1)
    across = tl.sum(tl.where(below, sums, 0.0), 0)
    tl.store(d_beta + rows, right_dots - tl.sum(f * kk, 1), inside)

    d_q1 = tl.zeros([C, K1], tl.float32)
    d_k1 = tl.zeros([C, K1], tl.float32)
    d_out1 = tl.zeros([C, K1], tl.float32)
    carried1 = tl.zeros([K1], tl.float32)
    if K2 > 0:
        d_q2 = tl.zeros([C, K2], tl.float32)
        d_k2 = tl.zeros([C, K2], tl.float32)
        d_out2 = tl.zeros([C, K2], tl.float32)
        carried2 = tl.zeros([K2], tl.float32)
    for block in range(0, V, BV):
        cols = block + v_cols
        in_v = cols < V
        in_rows = inside[:, None] & in_v[None, :]
        at = rows[:, None] * V + cols[None, :]
        go = tl.load(grad_o + at, in_rows, 0.0)
        right = tl.load(d_rhs + at, in_rows, 0.0)
        u = tl.load(writes + at, in_rows, 0.0)
        at_state = k1_cols[:, None] * V + cols[None, :]
        in_state = in_k1[:, None] & in_v[None, :]
        s = tl.load(states + at_state, in_state, 0.0)
        d_s = tl.load(d_states + at_state, in_state, 0.0)
        d_q1 = tl.dot(go, tl.trans(s), d_q1, input_precision=PRECISION)
        d_k1 = tl.dot(right, tl.trans(s), d_k1, input_precision=PRECISION)
        d_out1 = tl.dot(u, tl.trans(d_s), d_out1, input_precision=PRECISION)
        carried1 += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)
        if K2 > 0 and not SPLIT:
            at_state = k2_cols[:, None] * V + cols[None, :]
            in_state = in_k2[:, None] & in_v[None, :]
            s2 = tl.load(states + at_state, in_state, 0.0)
            d_s2 = tl.load(d_states + at_state, in_state, 0.0)
            d_q2 = tl.dot(go, tl.trans(s2), d_q2, input_precision=PRECISION)
            d_k2 = tl.dot(right, tl.trans(s2), d_k2, input_precision=PRECISION)
            d_out2 = tl.dot(u, tl.trans(d_s2), d_out2, input_precision=PRECISION)
            carried2 += tl.sum(s2.to(tl.float32) * d_s2.to(tl.float32), 1)

    tl.debug_barrier()  # other threads' share of `between`, and of d_beta
    e_low = tl.load(between + square)
    g_low = tl.load(between + C * C + square)
    q_dots, k_dots, to_leaving = _finish(
        q, k, dq, dk, at1, in_rows1, d_q1, d_k1, d_out1, e_low, g_low, decay_in, decay_out, b, PRECISION
    )
    carried = tl.sum(carried1, 0)
    if K2 > 0:
        if SPLIT:
            for block in range(0, V, BV):
                cols = block + v_cols
                in_v = cols < V
                in_rows = inside[:, None] & in_v[None, :]
                at = rows[:, None] * V + cols[None, :]
                go = tl.load(grad_o + at, in_rows, 0.0)
                right = tl.load(d_rhs + at, in_rows, 0.0)
                u = tl.load(writes + at, in_rows, 0.0)
                at_state = k2_cols[:, None] * V + cols[None, :]
                in_state = in_k2[:, None] & in_v[None, :]
                s2 = tl.load(states + at_state, in_state, 0.0)
                d_s2 = tl.load(d_states + at_state, in_state, 0.0)
                d_q2 = tl.dot(go, tl.trans(s2), d_q2, input_precision=PRECISION)
                d_k2 = tl.dot(right, tl.trans(s2), d_k2, input_precision=PRECISION)
                d_out2 = tl.dot(u, tl.trans(d_s2), d_out2, input_precision=PRECISION)
                carried2 += tl.sum(s2.to(tl.float32) * d_s2.to(tl.float32), 1)
        more_q, more_k, more_to = _finish(
            q, k, dq, dk, at2, in_rows2, d_q2, d_k2, d_out2, e_low, g_low, decay_in, decay_out, b, PRECISION
        )
        q_dots += more_q
        k_dots += more_k
        to_leaving += more_to
        carried += tl.sum(carried2, 0)

    so_far = tl.load(d_beta + rows, inside, 0.0)
    tl.store(d_beta + rows, so_far - decay_in * k_dots, inside)

    # The step after s takes what decays across it from within (above), from the entering and to the leaving state.
    from_entering = decay_in * (q_dots - b * k_dots)
    to_leaving *= decay_out
    carried *= decay_of(last_whole, last_rest)
    across += tl.sum(tl.where(below, from_entering[:, None], to_leaving[:, None]), 0) + carried
    tl.store(d_log_alpha + rows + H, across, (steps + 1 < T - n * C) & (steps + 1 < C))
    at_first = tl.zeros([C], tl.float32) + (tl.sum(from_entering, 0) + carried)
    tl.store(d_log_alpha + rows, at_first, steps == 0)
