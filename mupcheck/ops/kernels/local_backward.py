# mypy: allow-untyped-defs
"""B3: what each chunk's inputs owe, from the states and their gradients at its two ends; chunks are independent.

With S the state that enters a chunk, dS' the gradient of the one that leaves it, U its writes and dR the gradient of
its right-hand side (see chunk.py), all [C, C] below with the factor decay_ij:

    E = dO U^T, F = dR U^T (strictly lower)
    dq = exp(c) (dO S^T) + E K          d(beta k) = -exp(c) (dR S^T) - F K
    dk = E^T Q - F^T (beta K) + exp(c_C - c) (U dS'^T) + beta d(beta k)

E^T and F^T are products of their own: a product's transposed result is never fed to another product, which triton
3.4 to 3.7.0 miscompile on Hopper.
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import bounded_exp, running_sums


@triton.jit
def _sums_below(terms, ones, PRECISION: tl.constexpr):
    """[C, C] float32 times a [C, C] matrix of zeros and ones; in bfloat16 as a sum of two parts, right to 2^-17."""
    high = terms.to(ones.dtype)
    sums = tl.dot(high, ones, input_precision=PRECISION)
    if ones.dtype != tl.float32:
        low = (terms - high.to(tl.float32)).to(ones.dtype)
        sums = tl.dot(low, ones, sums, input_precision=PRECISION)
    return sums


@triton.jit
def _finish(
    q,
    k,
    dq,
    dk,
    at,
    inside,
    d_q_in,
    d_k_in,
    d_k_out,
    d_qk,
    d_kk,
    d_qk_t,
    d_kk_t,
    decay_in,
    decay_out,
    b,
    PRECISION: tl.constexpr,
):
    """Complete and store dq and dk for one part of K; returns its shares of three sums over K, each [C]."""
    q_part = tl.load(q + at, inside, 0.0)
    k_part = tl.load(k + at, inside, 0.0)
    from_entering = tl.sum(d_q_in * q_part.to(tl.float32), 1) - b * tl.sum(d_k_in * k_part.to(tl.float32), 1)
    to_leaving = tl.sum(d_k_out * k_part.to(tl.float32), 1)

    d_q = tl.dot(d_qk, k_part, d_q_in * decay_in[:, None], input_precision=PRECISION)
    tl.store(dq + at, d_q.to(dq.dtype.element_ty), inside)
    d_beta_k = tl.dot(d_kk, k_part, d_k_in * decay_in[:, None], input_precision=PRECISION)  # with its sign turned
    d_k = d_k_out * decay_out[:, None] - d_beta_k * b[:, None]
    d_k = tl.dot(d_qk_t, q_part, d_k, input_precision=PRECISION)
    d_k = tl.dot(d_kk_t, k_part, d_k, input_precision=PRECISION)
    tl.store(dk + at, d_k.to(dk.dtype.element_ty), inside)
    return from_entering, to_leaving, tl.sum(d_beta_k * k_part.to(tl.float32), 1)


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

    K is taken in two parts K1 and K2 (0: one part). With SPLIT each has its own walk over V, which needs fewer
    registers and reads writes, grad_o and d_rhs twice.
    """
    N = tl.cdiv(T, C)
    head = (tl.program_id(0) % H).to(tl.int64)
    n = (tl.program_id(0) // H) % N
    batch = (tl.program_id(0) // (H * N)).to(tl.int64)
    dtype = q.dtype.element_ty

    steps = tl.arange(0, C)
    t = n * C + steps
    inside = t < T
    rows = (batch * T + t) * H + head
    state = ((batch * H + head) * N + n) * K * V
    v_cols = tl.arange(0, BV)
    k1_cols = tl.arange(0, K1)
    in_k1 = k1_cols < K
    states += state
    d_states += state

    b = tl.load(beta + rows, inside, 0.0)
    e = tl.zeros([C, C], tl.float32)
    f = tl.zeros([C, C], tl.float32)
    e_t = tl.zeros([C, C], tl.float32)
    f_t = tl.zeros([C, C], tl.float32)
    d_q1 = tl.zeros([C, K1], tl.float32)
    d_k1 = tl.zeros([C, K1], tl.float32)
    d_out1 = tl.zeros([C, K1], tl.float32)
    if K2 > 0:
        k2_cols = K1 + tl.arange(0, K2)
        in_k2 = k2_cols < K
        d_q2 = tl.zeros([C, K2], tl.float32)
        d_k2 = tl.zeros([C, K2], tl.float32)
        d_out2 = tl.zeros([C, K2], tl.float32)
    right_dots = tl.zeros([C], tl.float32)
    carried1 = tl.zeros([K1], tl.float32)
    if K2 > 0:
        carried2 = tl.zeros([K2], tl.float32)

    for block in range(0, V, BV):
        cols = block + v_cols
        in_v = cols < V
        at = rows[:, None] * V + cols[None, :]
        in_rows = inside[:, None] & in_v[None, :]
        g = tl.load(grad_o + at, in_rows, 0.0)
        r = tl.load(d_rhs + at, in_rows, 0.0)
        u = tl.load(writes + at, in_rows, 0.0)
        value = tl.load(v + at, in_rows, 0.0)
        at_state = k1_cols[:, None] * V + cols[None, :]
        in_state = in_k1[:, None] & in_v[None, :]
        s = tl.load(states + at_state, in_state, 0.0)
        d_s = tl.load(d_states + at_state, in_state, 0.0)

        e = tl.dot(g, tl.trans(u), e, input_precision=PRECISION)
        f = tl.dot(r, tl.trans(u), f, input_precision=PRECISION)
        e_t = tl.dot(u, tl.trans(g), e_t, input_precision=PRECISION)
        f_t = tl.dot(u, tl.trans(r), f_t, input_precision=PRECISION)
        d_q1 = tl.dot(g, tl.trans(s), d_q1, input_precision=PRECISION)
        d_k1 = tl.dot(r, tl.trans(s), d_k1, input_precision=PRECISION)
        d_out1 = tl.dot(u, tl.trans(d_s), d_out1, input_precision=PRECISION)
        carried1 += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)
        if K2 > 0 and not SPLIT:
            at_state = k2_cols[:, None] * V + cols[None, :]
            in_state = in_k2[:, None] & in_v[None, :]
            s = tl.load(states + at_state, in_state, 0.0)
            d_s = tl.load(d_states + at_state, in_state, 0.0)
            d_q2 = tl.dot(g, tl.trans(s), d_q2, input_precision=PRECISION)
            d_k2 = tl.dot(r, tl.trans(s), d_k2, input_precision=PRECISION)
            d_out2 = tl.dot(u, tl.trans(d_s), d_out2, input_precision=PRECISION)
            carried2 += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)

        right = r.to(tl.float32)
        right_dots += tl.sum(right * value.to(tl.float32), 1)
        tl.store(dv + at, (right * b[:, None]).to(dtype), in_rows)

    a = tl.load(log_alpha + rows, inside, 0.0)
    whole, rest = running_sums(a)
    last_whole = tl.sum(tl.where(steps == C - 1, whole, 0.0), 0)
    last_rest = tl.sum(tl.where(steps == C - 1, rest, 0.0), 0)
    decay_in = bounded_exp(whole + rest)
    decay_out = bounded_exp((last_whole - whole) + (last_rest - rest))
    decay = bounded_exp((whole[:, None] - whole[None, :]) + (rest[:, None] - rest[None, :]))
    decay_t = bounded_exp((whole[None, :] - whole[:, None]) + (rest[None, :] - rest[:, None]))
    e = tl.where(steps[:, None] >= steps[None, :], e * decay, 0.0)
    f = tl.where(steps[:, None] > steps[None, :], f * decay, 0.0)
    e_t = tl.where(steps[:, None] <= steps[None, :], e_t * decay_t, 0.0).to(dtype)
    f_t = tl.where(steps[:, None] < steps[None, :], f_t * decay_t * -b[None, :], 0.0).to(dtype)

    # A term that decays from j to i holds every log_alpha_t with i >= t > j: at [i, s] the sum over j <= s.
    at1 = rows[:, None] * K + k1_cols[None, :]
    in_rows1 = inside[:, None] & in_k1[None, :]
    q_part = tl.load(q + at1, in_rows1, 0.0)
    k_part = tl.load(k + at1, in_rows1, 0.0)
    qk = tl.dot(q_part, tl.trans(k_part), input_precision=PRECISION)
    kk = tl.dot(k_part, tl.trans(k_part), input_precision=PRECISION)
    if K2 > 0:
        at2 = rows[:, None] * K + k2_cols[None, :]
        in_rows2 = inside[:, None] & in_k2[None, :]
        q_part = tl.load(q + at2, in_rows2, 0.0)
        k_part = tl.load(k + at2, in_rows2, 0.0)
        qk = tl.dot(q_part, tl.trans(k_part), qk, input_precision=PRECISION)
        kk = tl.dot(k_part, tl.trans(k_part), kk, input_precision=PRECISION)
    terms = e * qk - f * kk * b[:, None]
    terms = tl.where(steps[:, None] > steps[None, :], terms, 0.0)
    up_to = tl.where(steps[:, None] <= steps[None, :], 1.0, 0.0).to(dtype)
    sums = _sums_below(terms, up_to, PRECISION)
    e_low = e.to(dtype)
    f_low = f.to(dtype)

    from_entering, to_leaving, k_dots = _finish(
        q, k, dq, dk, at1, in_rows1, d_q1, d_k1, d_out1, e_low, f_low, e_t, f_t, decay_in, decay_out, b, PRECISION
    )
    carried = tl.sum(carried1, 0)
    if K2 > 0:
        if SPLIT:
            for block in range(0, V, BV):
                cols = block + v_cols
                in_v = cols < V
                at = rows[:, None] * V + cols[None, :]
                in_rows = inside[:, None] & in_v[None, :]
                g = tl.load(grad_o + at, in_rows, 0.0)
                r = tl.load(d_rhs + at, in_rows, 0.0)
                u = tl.load(writes + at, in_rows, 0.0)
                at_state = k2_cols[:, None] * V + cols[None, :]
                in_state = in_k2[:, None] & in_v[None, :]
                s = tl.load(states + at_state, in_state, 0.0)
                d_s = tl.load(d_states + at_state, in_state, 0.0)
                d_q2 = tl.dot(g, tl.trans(s), d_q2, input_precision=PRECISION)
                d_k2 = tl.dot(r, tl.trans(s), d_k2, input_precision=PRECISION)
                d_out2 = tl.dot(u, tl.trans(d_s), d_out2, input_precision=PRECISION)
                carried2 += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)
        more_from, more_to, more_dots = _finish(
            q, k, dq, dk, at2, in_rows2, d_q2, d_k2, d_out2, e_low, f_low, e_t, f_t, decay_in, decay_out, b, PRECISION
        )
        from_entering += more_from
        to_leaving += more_to
        k_dots += more_dots
        carried += tl.sum(carried2, 0)

    tl.store(d_beta + rows, right_dots - k_dots, inside)

    # The step after s takes what decays across it from within (above), from the entering and to the leaving state.
    from_entering *= decay_in
    to_leaving *= decay_out
    carried *= bounded_exp(last_whole + last_rest)
    across = tl.where(steps[:, None] > steps[None, :], sums + from_entering[:, None], to_leaving[:, None])
    across = tl.sum(across, 0) + carried
    tl.store(d_log_alpha + rows + H, across, (t + 1 < T) & (steps + 1 < C))
    tl.store(d_log_alpha + rows, tl.zeros([C], tl.float32) + (tl.sum(from_entering, 0) + carried), steps == 0)
