"""From chunk to chunk: the state, what each step writes, and o; one program a block of V and head.

All of it is computed transposed. Then the state S^T [BV, K], the right-hand side R^T and the writes U^T [BV, C] are
rows of V that each dot takes as its left operand, out of the registers in which the dot before left it, and q, k and X
are right operands that come out of memory as they are:

    R^T = beta (V^T - exp(c) S^T K^T)    U^T = R^T X^T    O^T = exp(c) S^T Q^T + U^T P^T    P^T = (K Q^T) * decay^T
    S'^T = exp(c_C) S^T + (exp(c_C - c) U^T) K

K lies in one or two powers of two, K1 + K2, so that 48, 96 and 192 waste nothing on padding.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between


@triton.jit
def _keys(x, AT: tl.constexpr, SIZE: tl.constexpr, inside, H: tl.constexpr, K: tl.constexpr, C: tl.constexpr):
    """Read columns AT to AT + SIZE of a chunk of q or k, [C, SIZE]."""
    at = AT + tl.arange(0, SIZE)[None, :]
    mask = inside[:, None]
    if AT + SIZE > K:
        mask = mask & (at < K)
    return tl.load(x + tl.arange(0, C)[:, None] * (H * K) + at, mask=mask, other=0.0)


@triton.jit
def _state_at(AT: tl.constexpr, SIZE: tl.constexpr, at_v, K: tl.constexpr, V: tl.constexpr):
    """Where S^T [BV, SIZE] lies in a state [K, V], and what of it is there."""
    at = AT + tl.arange(0, SIZE)[None, :]
    return at * V + at_v[:, None], (at < K) & (at_v < V)[:, None]


@triton.jit(do_not_specialize=["T"])
def scan(
    q,
    k,
    v,
    gates,
    inverse,
    reads,
    initial_state,
    o,
    states,
    writes,
    final_state,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write o [B, T, H, V] and, where they are not None, states [B, H, N, K, V], writes [B, T, H, V], final_state.

    `reads` [B, H, N, C, C] is P, or None where it is to be made here; `states` are those that enter each chunk;
    initial_state (or None) and final_state are [B, H, K, V] in float32.
    """
    at_v = tl.program_id(0) * BV + tl.arange(0, BV)
    sequence = tl.program_id(1).to(tl.int64)
    b = sequence // H
    h = sequence % H
    first = b * T * H + h
    q += first * K
    k += first * K
    v += first * V
    o += first * V
    n_chunks = tl.cdiv(T, C)
    inverse += sequence * n_chunks * C * C
    if reads is not None:
        reads += sequence * n_chunks * C * C
    gates += sequence * n_chunks * 5 * C
    if states is not None:
        states += sequence * n_chunks * K * V
        writes += first * V

    step = tl.arange(0, C)
    # the blocks of 16 x 16 above the diagonal of X are not there
    at_x = step[:, None] * C + step[None, :]
    has_x = step[:, None] // 16 >= step[None, :] // 16
    at_1, has_1 = _state_at(0, K1, at_v, K, V)
    if initial_state is not None:
        s1 = tl.load(initial_state + sequence * K * V + at_1, mask=has_1, other=0.0)
    else:
        s1 = tl.zeros((BV, K1), tl.float32)
    if K2 > 0:
        at_2, has_2 = _state_at(K1, K2, at_v, K, V)
        if initial_state is not None:
            s2 = tl.load(initial_state + sequence * K * V + at_2, mask=has_2, other=0.0)
        else:
            s2 = tl.zeros((BV, K2), tl.float32)

    dtype = q.dtype.element_ty
    for n in range(n_chunks):
        inside = step < T - n * C
        k1 = _keys(k, 0, K1, inside, H, K, C)
        q1 = _keys(q, 0, K1, inside, H, K, C)
        if K2 > 0:
            k2 = _keys(k, K1, K2, inside, H, K, C)
            q2 = _keys(q, K1, K2, inside, H, K, C)
        at_tv = step[None, :] * (H * V) + at_v[:, None]
        has_tv = inside[None, :]
        if V % BV != 0:
            has_tv = has_tv & (at_v < V)[:, None]
        values = tl.load(v + at_tv, mask=has_tv, other=0.0)
        x = tl.load(inverse + at_x, mask=has_x, other=0.0)
        write = tl.load(gates + 2 * C + step)
        decay_in = tl.load(gates + 3 * C + step)
        decay_out = tl.load(gates + 4 * C + step)
        decay_all = tl.load(gates + 4 * C - 1)

        if reads is None:
            p = tl.dot(k1, tl.trans(q1), input_precision=PRECISION)
            if K2 > 0:
                p = tl.dot(k2, tl.trans(q2), p, input_precision=PRECISION)
            whole = tl.load(gates + step)
            rest = tl.load(gates + C + step)
            later = step[:, None] <= step[None, :]  # the writer's step in rows, the reader's in columns
            p *= decay_between(whole[None, :], rest[None, :], whole[:, None], rest[:, None], later)
            p_low = p.to(dtype)
        else:
            p_low = tl.trans(tl.load(reads + at_x, mask=has_x, other=0.0))
            reads += C * C

        s1_low = s1.to(dtype)
        recalled = tl.dot(s1_low, tl.trans(k1), input_precision=PRECISION)
        if states is not None:
            tl.store(states + at_1, s1_low, mask=has_1)
        if K2 > 0:
            s2_low = s2.to(dtype)
            recalled = tl.dot(s2_low, tl.trans(k2), recalled, input_precision=PRECISION)
            if states is not None:
                tl.store(states + at_2, s2_low, mask=has_2)
        rhs = write[None, :] * (values - decay_in[None, :] * recalled)
        u = tl.dot(rhs.to(dtype), tl.trans(x), input_precision=PRECISION)
        u_low = u.to(dtype)
        if states is not None:
            tl.store(writes + at_tv, u_low, mask=has_tv)
            states += K * V
            writes += C * H * V

        read = tl.dot(s1_low, tl.trans(q1), input_precision=PRECISION)
        if K2 > 0:
            read = tl.dot(s2_low, tl.trans(q2), read, input_precision=PRECISION)
        out = tl.dot(u_low, p_low, read * decay_in[None, :], input_precision=PRECISION)
        tl.store(o + at_tv, out.to(dtype), mask=has_tv)
        u_out = (u * decay_out[None, :]).to(dtype)
        s1 = tl.dot(u_out, k1, s1 * decay_all, input_precision=PRECISION)
        if K2 > 0:
            s2 = tl.dot(u_out, k2, s2 * decay_all, input_precision=PRECISION)

        q += C * H * K
        k += C * H * K
        v += C * H * V
        o += C * H * V
        inverse += C * C
        gates += 5 * C

    if final_state is not None:
        tl.store(final_state + sequence * K * V + at_1, s1, mask=has_1)
        if K2 > 0:
            tl.store(final_state + sequence * K * V + at_2, s2, mask=has_2)
