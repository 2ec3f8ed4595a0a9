# mypy: allow-untyped-defs
"""The gradient of the state, carried back over the chunks; and with it that of v.

Everything is held transposed, states as [V block, K] and writes as [V block, C]: each product's left operand is then
the result of an earlier one and stays in registers, its right operand is q, k or the inverse as loaded, and the rows
of every product are the V block, 64 or more where V allows, whatever K is.
"""

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
def scan_backward(
    q1,
    q2,
    k1,
    k2,
    gates,
    inverse,
    reads,
    grad_o,
    grad_final_state,
    d_states1,
    d_states2,
    dv,
    d_initial_state,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    BV: tl.constexpr,
    C: tl.constexpr,
    PRECISION: tl.constexpr,
    TILED: tl.constexpr,
):
    """One program: one block of V of one head of one sequence; grid (blocks of V * B * H,), blocks innermost.

    Reads gates [B, H, N, 5, C], as the forward pass left them; and P = (Q K^T) * decay, reads [B, H, N, C, C],
    or, where that is None, computes it, in two parts. q, k and d_states come twice, for the parts K1 and K2.
    Writes d_states [B, H, N, K, V], of the state that leaves each chunk, and dv [B, T, H, V].
    All these are descriptors where TILED, else pointers, but for gates; grad_final_state and d_initial_state (or None)
    are pointers to [B, H, K, V] in float32.
    """
    BLOCKS: tl.constexpr = (V + BV - 1) // BV
    at_v = tl.program_id(0) % BLOCKS * BV
    sequence = tl.program_id(0) // BLOCKS
    batch = sequence // H
    h = sequence % H
    N = tl.cdiv(T, C)
    steps = tl.arange(0, C)
    dtype: tl.constexpr = dv.dtype if TILED else dv.dtype.element_ty

    if grad_final_state is not None:
        place, there = place_of_state(grad_final_state, sequence, 0, K1, at_v, K, V, BV)
        d_state1 = tl.load(place, there, 0.0)
    else:
        d_state1 = tl.zeros([BV, K1], tl.float32)
    if K2 > 0:
        if grad_final_state is not None:
            place, there = place_of_state(grad_final_state, sequence, K1, K2, at_v, K, V, BV)
            d_state2 = tl.load(place, there, 0.0)
        else:
            d_state2 = tl.zeros([BV, K2], tl.float32)

    for back in tl.range(N, disable_licm=True):
        n = N - 1 - back
        start = n * C
        chunk = sequence * N + n
        queries1 = load_keys(q1, batch, start, h, T, 0, K1, H, K, C, TILED)
        keys1 = load_keys(k1, batch, start, h, T, 0, K1, H, K, C, TILED)
        if K2 > 0:
            queries2 = load_keys(q2, batch, start, h, T, K1, K2, H, K, C, TILED)
            keys2 = load_keys(k2, batch, start, h, T, K1, K2, H, K, C, TILED)
        b = load_gate(gates, chunk, 2, C)
        decay_in = load_gate(gates, chunk, 3, C)
        decay_out = load_gate(gates, chunk, 4, C)
        through = tl.load(gates + (chunk.to(tl.int64) * 5 + 4) * C - 1)
        if reads is None:
            p = tl.dot(queries1, tl.trans(keys1), input_precision=PRECISION)
            if K2 > 0:
                p = tl.dot(queries2, tl.trans(keys2), p, input_precision=PRECISION)
            whole = load_gate(gates, chunk, 0, C)
            rest = load_gate(gates, chunk, 1, C)
            causal = steps[:, None] >= steps[None, :]
            # The zero makes the compiler compute exp where p is held, not elsewhere with a trip through shared memory.
            p *= decay_between(whole[:, None], rest[:, None] + p * 0.0, whole[None, :], rest[None, :], causal)
            p_high = p.to(dtype)
            if dtype != tl.float32:
                p_low = (p - p_high.to(tl.float32)).to(dtype)

        d_low1 = d_state1.to(dtype)
        d_write = tl.dot(d_low1, tl.trans(keys1), input_precision=PRECISION)  # [BV, C]
        store_state(d_states1, d_low1, chunk, at_v, 0, K1, K, V, BV, TILED)
        if K2 > 0:
            d_low2 = d_state2.to(dtype)
            d_write = tl.dot(d_low2, tl.trans(keys2), d_write, input_precision=PRECISION)
            store_state(d_states2, d_low2, chunk, at_v, K1, K2, K, V, BV, TILED)

        g = load_values(grad_o, batch, start, h, at_v, T, H, V, C, BV, TILED)  # [BV, C]
        # Sums over correlated keys cancel: in bfloat16 the operands that were computed are taken in two parts.
        if reads is not None:
            p_high = tl.trans(load_square(reads, chunk, C, TILED))
        d_write = tl.dot(g, p_high, d_write * decay_out[None, :], input_precision=PRECISION)
        if reads is None and dtype != tl.float32:
            d_write = tl.dot(g, p_low, d_write, input_precision=PRECISION)
        x = tl.trans(load_square(inverse, chunk, C, TILED))
        d_high = d_write.to(dtype)
        d_right = tl.dot(d_high, x, input_precision=PRECISION)
        if dtype != tl.float32:
            d_rest = (d_write - d_high.to(tl.float32)).to(dtype)
            d_right = tl.dot(d_rest, x, d_right, input_precision=PRECISION)
        d_right *= b[None, :]
        store_values(dv, d_right.to(dtype), batch, start, h, at_v, T, H, V, C, BV, TILED)

        g_in = (g.to(tl.float32) * decay_in[None, :]).to(dtype)
        right_in = (d_right * -decay_in[None, :]).to(dtype)
        d_state1 = tl.dot(g_in, queries1, d_state1 * through, input_precision=PRECISION)
        d_state1 = tl.dot(right_in, keys1, d_state1, input_precision=PRECISION)
        if K2 > 0:
            d_state2 = tl.dot(g_in, queries2, d_state2 * through, input_precision=PRECISION)
            d_state2 = tl.dot(right_in, keys2, d_state2, input_precision=PRECISION)

    if d_initial_state is not None:
        place, there = place_of_state(d_initial_state, sequence, 0, K1, at_v, K, V, BV)
        tl.store(place, d_state1, there)
        if K2 > 0:
            place, there = place_of_state(d_initial_state, sequence, K1, K2, at_v, K, V, BV)
            tl.store(place, d_state2, there)
