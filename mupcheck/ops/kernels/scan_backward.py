# mypy: allow-untyped-defs
"""The gradient of the state, carried back over the chunks; and with it that of v.

Everything is held transposed, states as [V block, K] and writes as [V block, C]: each product's left operand is then
the result of an earlier one and stays in registers, its right operand is q, k or the inverse as loaded, and the rows
of every product are the V block, 64 or more where V allows, whatever K is.
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between


@triton.jit(do_not_specialize=["T"])
def scan_backward(
    q,
    k,
    gates,
    inverse,
    reads,
    grad_o,
    grad_final_state,
    d_states,
    dv,
    d_initial_state,
    T,
    H,
    K: tl.constexpr,
    V: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    HAS_FINAL: tl.constexpr,
    NEED_INITIAL: tl.constexpr,
    READS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One program: one block of V of one head of one sequence; grid (B * H * blocks of V,).

    Reads gates [B, H, N, 5, C]: running sums of log_alpha in two parts, beta, and decays from the chunk's start and to
    its end; and READS parts of P = (Q K^T) * decay, reads [B, H, N, READS, C, C] (0: computes them).
    Writes d_states [B, H, N, K, V], of the state that leaves each chunk, and dv [B, T, H, V].
    """
    N = tl.cdiv(T, C)
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    sequence = (tl.program_id(0) // BLOCKS).to(tl.int64)
    batch, head = sequence // H, sequence % H
    dtype = q.dtype.element_ty

    steps = tl.arange(0, C)
    v_cols = (tl.program_id(0) % BLOCKS) * BV + tl.arange(0, BV)
    k1_cols = tl.arange(0, K1)
    in_v = v_cols < V
    in_k1 = k1_cols < K
    causal = steps[:, None] >= steps[None, :]

    # Pointers to the last chunk; offsets within one chunk are small: only where it begins needs 64 bits.
    first = (batch * T + (N - 1) * C) * H + head
    chunk = sequence * N + N - 1
    q += first * K
    k += first * K
    grad_o += first * V
    dv += first * V
    gates += chunk * 5 * C
    inverse += chunk * C * C
    reads += chunk * READS * C * C
    d_states += chunk * K * V
    rows = steps * H
    at_k1 = rows[:, None] * K + k1_cols[None, :]
    at_v = rows[:, None] * V + v_cols[None, :]
    at_v_t = rows[None, :] * V + v_cols[:, None]
    square = steps[:, None] * C + steps[None, :]
    written = steps[:, None] // 16 >= steps[None, :] // 16  # of the inverse

    at_state1 = k1_cols[None, :] * V + v_cols[:, None]
    in_state1 = in_k1[None, :] & in_v[:, None]
    if HAS_FINAL:
        d_state1 = tl.load(grad_final_state + sequence * K * V + at_state1, in_state1, 0.0)
    else:
        d_state1 = tl.zeros([BV, K1], tl.float32)
    if K2 > 0:
        k2_cols = K1 + tl.arange(0, K2)
        in_k2 = k2_cols < K
        at_k2 = rows[:, None] * K + k2_cols[None, :]
        at_state2 = k2_cols[None, :] * V + v_cols[:, None]
        in_state2 = in_k2[None, :] & in_v[:, None]
        if HAS_FINAL:
            d_state2 = tl.load(grad_final_state + sequence * K * V + at_state2, in_state2, 0.0)
        else:
            d_state2 = tl.zeros([BV, K2], tl.float32)

    for back in tl.range(N, disable_licm=True):
        inside = steps < T - (N - 1 - back) * C
        q1 = tl.load(q + at_k1, inside[:, None] & in_k1[None, :], 0.0)
        k1 = tl.load(k + at_k1, inside[:, None] & in_k1[None, :], 0.0)
        if READS == 0:
            p = tl.dot(q1, tl.trans(k1), input_precision=PRECISION)
        if K2 > 0:
            q2 = tl.load(q + at_k2, inside[:, None] & in_k2[None, :], 0.0)
            k2 = tl.load(k + at_k2, inside[:, None] & in_k2[None, :], 0.0)
            if READS == 0:
                p = tl.dot(q2, tl.trans(k2), p, input_precision=PRECISION)
        if READS == 0:
            whole = tl.load(gates + steps)
            rest = tl.load(gates + C + steps)
            # The zero makes the compiler compute exp where p is held, not elsewhere with a trip through shared memory.
            p *= decay_between(whole[:, None], rest[:, None] + p * 0.0, whole[None, :], rest[None, :], causal)
            p_high = p.to(dtype)
            if dtype != tl.float32:
                p_low = (p - p_high.to(tl.float32)).to(dtype)
        b = tl.load(gates + 2 * C + steps)
        decay_in = tl.load(gates + 3 * C + steps)
        decay_out = tl.load(gates + 4 * C + steps)
        through = tl.load(gates + 4 * C - 1)

        d_low1 = d_state1.to(dtype)
        d_write = tl.dot(d_low1, tl.trans(k1), input_precision=PRECISION)  # [BV, C]
        tl.store(d_states + at_state1, d_low1, in_state1)
        if K2 > 0:
            d_low2 = d_state2.to(dtype)
            d_write = tl.dot(d_low2, tl.trans(k2), d_write, input_precision=PRECISION)
            tl.store(d_states + at_state2, d_low2, in_state2)
        g = tl.trans(tl.load(grad_o + at_v, inside[:, None] & in_v[None, :], 0.0))  # [BV, C]
        # Sums over correlated keys cancel: in bfloat16 the operands that were computed are taken in two parts.
        if READS > 0:
            p_high = tl.load(reads + square)
        d_write = tl.dot(g, p_high, d_write * decay_out[None, :], input_precision=PRECISION)
        if READS == 2:
            p_low = tl.load(reads + C * C + square)
        if READS != 1 and dtype != tl.float32:
            d_write = tl.dot(g, p_low, d_write, input_precision=PRECISION)
        x = tl.load(inverse + square, written, 0.0)
        d_high = d_write.to(dtype)
        d_right = tl.dot(d_high, x, input_precision=PRECISION)
        if dtype != tl.float32:
            d_rest = (d_write - d_high.to(tl.float32)).to(dtype)
            d_right = tl.dot(d_rest, x, d_right, input_precision=PRECISION)
        d_right *= b[None, :]
        tl.store(dv + at_v_t, d_right.to(dtype), inside[None, :] & in_v[:, None])

        g_in = (g.to(tl.float32) * decay_in[None, :]).to(dtype)
        right_in = (d_right * -decay_in[None, :]).to(dtype)
        d_state1 = tl.dot(g_in, q1, d_state1 * through, input_precision=PRECISION)
        d_state1 = tl.dot(right_in, k1, d_state1, input_precision=PRECISION)
        if K2 > 0:
            d_state2 = tl.dot(g_in, q2, d_state2 * through, input_precision=PRECISION)
            d_state2 = tl.dot(right_in, k2, d_state2, input_precision=PRECISION)

        q -= C * H * K
        k -= C * H * K
        grad_o -= C * H * V
        dv -= C * H * V
        gates -= 5 * C
        inverse -= C * C
        reads -= READS * C * C
        d_states -= K * V

    if NEED_INITIAL:
        tl.store(d_initial_state + sequence * K * V + at_state1, d_state1, in_state1)
        if K2 > 0:
            tl.store(d_initial_state + sequence * K * V + at_state2, d_state2, in_state2)
