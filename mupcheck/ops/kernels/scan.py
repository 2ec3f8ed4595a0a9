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
from mupcheck.ops.kernels.tiles import (
    load_gate,
    load_keys,
    load_square,
    load_values,
    place_of_state,
    store_state,
    store_values,
)


@triton.jit(do_not_specialize=["T"])
def scan(
    q1,
    q2,
    k1,
    k2,
    v,
    gates,
    inverse,
    reads,
    initial_state,
    o,
    states1,
    states2,
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
    SAVE: tl.constexpr,
    LOADS: tl.constexpr,
    STORES: tl.constexpr,
):
    """Write o [B, T, H, V] and, where asked to SAVE, states [B, H, N, K, V] and writes [B, T, H, V]; and final_state.

    q, k and the states, which enter each chunk, come twice, for the parts K1 and K2. `reads` [B, H, N, C, C] is P, or
    None where it is to be made here. What is read is a descriptor where LOADS says so, else a pointer, what is written
    where STORES does; initial_state (or None) and final_state (or None) are pointers to [B, H, K, V] in float32, gates
    to what `invert` left.
    """
    at_v = tl.program_id(0) * BV
    sequence = tl.program_id(1)
    b = sequence // H
    h = sequence % H
    n_chunks = tl.cdiv(T, C)
    step = tl.arange(0, C)
    dtype: tl.constexpr = v.dtype if LOADS else v.dtype.element_ty

    if initial_state is not None:
        place, there = place_of_state(initial_state, sequence, 0, K1, at_v, K, V, BV)
        s1 = tl.load(place, mask=there, other=0.0)
    else:
        s1 = tl.zeros((BV, K1), tl.float32)
    if K2 > 0:
        if initial_state is not None:
            place, there = place_of_state(initial_state, sequence, K1, K2, at_v, K, V, BV)
            s2 = tl.load(place, mask=there, other=0.0)
        else:
            s2 = tl.zeros((BV, K2), tl.float32)

    for n in range(n_chunks):
        start = n * C
        chunk = sequence * n_chunks + n
        keys1 = load_keys(k1, b, start, h, T, 0, K1, H, K, C, LOADS)
        queries1 = load_keys(q1, b, start, h, T, 0, K1, H, K, C, LOADS)
        if K2 > 0:
            keys2 = load_keys(k2, b, start, h, T, K1, K2, H, K, C, LOADS)
            queries2 = load_keys(q2, b, start, h, T, K1, K2, H, K, C, LOADS)
        values = load_values(v, b, start, h, at_v, T, H, V, C, BV, LOADS)
        x = load_square(inverse, chunk, C, LOADS)
        write = load_gate(gates, chunk, 2, C)
        decay_in = load_gate(gates, chunk, 3, C)
        decay_out = load_gate(gates, chunk, 4, C)
        decay_all = tl.load(gates + (chunk.to(tl.int64) * 5 + 4) * C - 1)

        if reads is None:
            p = tl.dot(keys1, tl.trans(queries1), input_precision=PRECISION)
            if K2 > 0:
                p = tl.dot(keys2, tl.trans(queries2), p, input_precision=PRECISION)
            whole = load_gate(gates, chunk, 0, C)
            rest = load_gate(gates, chunk, 1, C)
            later = step[:, None] <= step[None, :]  # the writer's step in rows, the reader's in columns
            p *= decay_between(whole[None, :], rest[None, :], whole[:, None], rest[:, None], later)
            p_low = p.to(dtype)
        else:
            p_low = load_square(reads, chunk, C, LOADS)

        s1_low = s1.to(dtype)
        recalled = tl.dot(s1_low, tl.trans(keys1), input_precision=PRECISION)
        if SAVE:
            store_state(states1, s1_low, chunk, at_v, 0, K1, K, V, BV, STORES)
        if K2 > 0:
            s2_low = s2.to(dtype)
            recalled = tl.dot(s2_low, tl.trans(keys2), recalled, input_precision=PRECISION)
            if SAVE:
                store_state(states2, s2_low, chunk, at_v, K1, K2, K, V, BV, STORES)
        rhs = write[None, :] * (values - decay_in[None, :] * recalled)
        u = tl.dot(rhs.to(dtype), x, input_precision=PRECISION)
        u_low = u.to(dtype)
        if SAVE:
            store_values(writes, u_low, b, start, h, at_v, T, H, V, C, BV, STORES)

        read = tl.dot(s1_low, tl.trans(queries1), input_precision=PRECISION)
        if K2 > 0:
            read = tl.dot(s2_low, tl.trans(queries2), read, input_precision=PRECISION)
        out = tl.dot(u_low, p_low, read * decay_in[None, :], input_precision=PRECISION)
        store_values(o, out.to(dtype), b, start, h, at_v, T, H, V, C, BV, STORES)
        u_out = (u * decay_out[None, :]).to(dtype)
        s1 = tl.dot(u_out, keys1, s1 * decay_all, input_precision=PRECISION)
        if K2 > 0:
            s2 = tl.dot(u_out, keys2, s2 * decay_all, input_precision=PRECISION)

    if final_state is not None:
        place, there = place_of_state(final_state, sequence, 0, K1, at_v, K, V, BV)
        tl.store(place, s1, mask=there)
        if K2 > 0:
            place, there = place_of_state(final_state, sequence, K1, K2, at_v, K, V, BV)
            tl.store(place, s2, mask=there)
