# mypy: allow-untyped-defs
"""The gradients of q and k, and the states' share of that of log_alpha; chunks and parts of K all at once.

With S the state that enters a chunk, dS' the gradient of the one that leaves it, U its writes (see chunk.py), dV the
gradient of v, and E and G from pairs_backward:

    dq = exp(c) (dO S^T) + E K
    dk = E^T Q - (G + G^T) K - exp(c) (dV S^T) + exp(c_C - c) (U dS'^T)
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.tiles import load_gate, load_square, load_values


@triton.jit
def _load_state(
    x, index, at_k, at_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILED: tl.constexpr
):
    """Read [BV, BK], transposed, of a stack of states [K, V]."""
    if TILED:
        state = tl.trans(x.load([index, at_k, at_v]).reshape(BK, BV))
    else:
        rows = at_k + tl.arange(0, BK)[None, :]
        cols = at_v + tl.arange(0, BV)[:, None]
        x += index.to(tl.int64) * K * V
        state = tl.load(x + rows * V + cols, (rows < K) & (cols < V), 0.0)
    return state


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
    batches,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    EARLY: tl.constexpr,
    PRECISION: tl.constexpr,
    TILED: tl.constexpr,
):
    """One program: a part of K of one chunk of one head; grid (B * N * H * parts,): neighbours share cache lines.

    With one part, adds to d_log_alpha [1, B, T, H] what it owes; with more, each writes its share to a layer of its own
    of [1 + parts, B, T, H]. EARLY: asks for all it reads at once, and holds it. All but gates, dq, dk and
    d_log_alpha are descriptors where TILED, else pointers.
    """
    PARTS: tl.constexpr = (K + BK - 1) // BK
    N = tl.cdiv(T, C)
    part = tl.program_id(0) % PARTS
    program = tl.program_id(0) // PARTS
    h = program % H
    n = (program // H) % N
    batch = program // (H * N)
    start = n * C
    chunk = (batch * H + h) * N + n
    at_k = part * BK
    LAYERS: tl.constexpr = 2 if dq.dtype.element_ty == tl.float32 else 3
    # Offsets within the chunk are small: only where it begins needs 64 bits.
    first = (batch.to(tl.int64) * T + start) * H + h
    dq += first * K
    dk += first * K
    d_log_alpha += first

    steps = tl.arange(0, C)
    rows = steps * H
    decay_in = load_gate(gates, chunk, 3, C)
    decay_out = load_gate(gates, chunk, 4, C)
    through = tl.load(gates + (chunk.to(tl.int64) * 5 + 4) * C - 1)

    if EARLY:
        queries = tl.trans(load_values(q, batch, start, h, at_k, T, H, K, C, BK, TILED))
        keys = tl.trans(load_values(k, batch, start, h, at_k, T, H, K, C, BK, TILED))
        e_t = load_square(pairs, chunk * LAYERS, C, TILED)
        g_t = load_square(pairs, chunk * LAYERS + 1, C, TILED)

    d_q = tl.zeros([C, BK], tl.float32)
    d_k = tl.zeros([C, BK], tl.float32)
    d_out = tl.zeros([C, BK], tl.float32)
    carried = tl.zeros([BK], tl.float32)
    for block in range(0, V, BV):
        go = tl.trans(load_values(grad_o, batch, start, h, block, T, H, V, C, BV, TILED))
        dvs = tl.trans(load_values(dv, batch, start, h, block, T, H, V, C, BV, TILED))
        u = tl.trans(load_values(writes, batch, start, h, block, T, H, V, C, BV, TILED))
        s = _load_state(states, chunk, at_k, block, K, V, BK, BV, TILED)
        d_s = _load_state(d_states, chunk, at_k, block, K, V, BK, BV, TILED)
        d_q = tl.dot(go, s, d_q, input_precision=PRECISION)
        d_k = tl.dot(dvs, s, d_k, input_precision=PRECISION)
        d_out = tl.dot(u, d_s, d_out, input_precision=PRECISION)
        carried += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 0)

    if not EARLY:
        queries = tl.trans(load_values(q, batch, start, h, at_k, T, H, K, C, BK, TILED))
        keys = tl.trans(load_values(k, batch, start, h, at_k, T, H, K, C, BK, TILED))
        e_t = load_square(pairs, chunk * LAYERS, C, TILED)
        g_t = load_square(pairs, chunk * LAYERS + 1, C, TILED)

    d_q *= decay_in[:, None]
    d_k *= decay_in[:, None]
    d_out *= decay_out[:, None]
    from_entering = tl.sum(d_q * queries.to(tl.float32) - d_k * keys.to(tl.float32), 1)
    to_leaving = tl.sum(d_out * keys.to(tl.float32), 1)
    everywhere = tl.sum(carried, 0) * through

    k_cols = at_k + tl.arange(0, BK)
    at = rows[:, None] * K + k_cols[None, :]
    in_rows = (steps < T - start)[:, None] & (k_cols < K)[None, :]
    d_q = tl.dot(tl.trans(e_t), keys, d_q, input_precision=PRECISION)
    if LAYERS == 3:  # the sum over correlated keys cancels
        e_rest = tl.trans(load_square(pairs, chunk * LAYERS + 2, C, TILED))
        d_q = tl.dot(e_rest, keys, d_q, input_precision=PRECISION)
    tl.store(dq + at, d_q.to(dq.dtype.element_ty), in_rows)
    d_k = tl.dot(e_t, queries, d_out - d_k, input_precision=PRECISION)
    d_k -= tl.dot(g_t, keys, tl.dot(tl.trans(g_t), keys, input_precision=PRECISION), input_precision=PRECISION)
    tl.store(dk + at, d_k.to(dk.dtype.element_ty), in_rows)

    # The step after s takes what decays across it from the entering state and to the leaving one.
    below = steps[:, None] > steps[None, :]
    across = tl.sum(tl.where(below, from_entering[:, None], to_leaving[:, None]), 0) + everywhere
    at_first = tl.zeros([C], tl.float32) + (tl.sum(from_entering, 0) + everywhere)
    in_next = (steps + 1 < T - start) & (steps + 1 < C)
    if PARTS == 1:
        across += tl.load(d_log_alpha + rows + H, in_next, 0.0)
    else:
        d_log_alpha += (1 + part) * batches.to(tl.int64) * T * H
    tl.store(d_log_alpha + rows + H, across, in_next)
    tl.store(d_log_alpha + rows, at_first, steps == 0)
