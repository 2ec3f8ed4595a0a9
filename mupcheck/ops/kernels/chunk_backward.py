# mypy: allow-untyped-defs
"""From the states' gradients to those of q, k, beta and log_alpha: chunks and parts of K all at once.

With S the state that enters a chunk, dS' the gradient of the one that leaves it, U its writes (see chunk.py) and
dV = beta dR the gradient of v, with pairs of steps [j, i], written at j and read at i:

    E = (U dO^T) * decay, j <= i      G = (U dV^T) * decay, j < i
    dq^T = exp(c) (S dO^T) + K^T E
    dk = (exp(c_C - c) (U dS'^T) + E Q - G K) - (exp(c) (S dV^T) + K^T G)^T
    d_beta_i = dV_i . U_i / beta_i^2, as U_i is beta_i times what v_i differs by from what the state recalls

The first half of dk comes of what step j writes, the second of what it recalls. Were c_i larger, all that step i reads
and recalls would grow, and what others read of its write shrink by as much: so the gradient of c_i is q_i . dq_i +
k_i . (the second half - the first), and that of log_alpha_t the sum of these from t on, and of what the chunk's end
owes. There, what steps from t on owe each other cancels; so E and G go in two parts, and the same ones into every
product. What a step owes itself would cancel too, and where all is forgotten at once leave nothing but its rounding.
So the end's part is summed over the steps before t alone; and in float32 the diagonal of E, what steps read of their
own writes, joins dq and dk after these sums. In bfloat16 that would cost a tenth more instructions and twice the
spills, for an error below a fifth of the bound: float16 under the interpreter was off by 1.8e-3 at most, of 1e-2.

A product's transposed result is never fed to another product, which triton 3.4 to 3.7.0 miscompile on Hopper.
"""

import triton
import triton.language as tl

from mupcheck.ops.kernels.tiles import load_gate, load_values


@triton.jit
def _load_state(
    x, index, at_k, at_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, TILED: tl.constexpr
):
    """Read [BK, BV] of a stack of states [K, V]."""
    if TILED:
        state = x.load([index, at_k, at_v]).reshape(BK, BV)
    else:
        rows = at_k + tl.arange(0, BK)[:, None]
        cols = at_v + tl.arange(0, BV)[None, :]
        x += index.to(tl.int64) * K * V
        state = tl.load(x + rows * V + cols, (rows < K) & (cols < V), 0.0)
    return state


@triton.jit
def _in_two(x, dtype: tl.constexpr):
    """Split x in two of a dtype with fewer bits: the bits that fit, cheaper than rounding, and what is left."""
    if dtype == tl.float32:
        high, rest = x, x
    else:
        kept: tl.constexpr = -(1 << 16) if dtype == tl.bfloat16 else -(1 << 13)
        cut = (x.to(tl.int32, bitcast=True) & kept).to(tl.float32, bitcast=True)
        high, rest = cut.to(dtype), (x - cut).to(dtype)
    return high, rest


@triton.jit
def _all_but_last(before1, last1, before2, last2):
    """Combine two runs, each as the sum of all but its last number, and that one."""
    return before1 + last1 + before2, last2


@triton.jit(do_not_specialize=["T", "batches"])
def chunk_backward(
    q,
    k,
    gates,
    states,
    writes,
    grad_o,
    d_states,
    dv,
    dq,
    dk,
    d_log_alpha,
    d_beta,
    T,
    batches,
    H: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    BV: tl.constexpr,
    PRECISION: tl.constexpr,
    TILED: tl.constexpr,
):
    """One program: a part of K of one chunk of one head; grid (B * N * H * parts,): neighbours share cache lines.

    Writes dq and dk [B, T, H, K], the parts' shares of d_log_alpha [parts, B, T, H], and d_beta [B, T, H]. q, k,
    states, writes, grad_o, d_states and dv are descriptors where TILED, all else are pointers.
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
    dtype: tl.constexpr = dq.dtype.element_ty
    # Offsets within the chunk are small: only where it begins needs 64 bits.
    first = (batch.to(tl.int64) * T + start) * H + h
    dq += first * K
    dk += first * K
    d_log_alpha += part * batches.to(tl.int64) * T * H + first
    d_beta += first

    queries = load_values(q, batch, start, h, at_k, T, H, K, C, BK, TILED)
    keys = load_values(k, batch, start, h, at_k, T, H, K, C, BK, TILED)
    carried = tl.zeros([BK], tl.float32)
    # Where V is one block, products wait for their turn, which spares registers and shared memory.
    if V <= BV:
        u = load_values(writes, batch, start, h, 0, T, H, V, C, BV, TILED)
        go = load_values(grad_o, batch, start, h, 0, T, H, V, C, BV, TILED)
        s = _load_state(states, chunk, at_k, 0, K, V, BK, BV, TILED)
        dvs = load_values(dv, batch, start, h, 0, T, H, V, C, BV, TILED)
        d_s = _load_state(d_states, chunk, at_k, 0, K, V, BK, BV, TILED)
        carried += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)
        e = tl.dot(tl.trans(u), go, input_precision=PRECISION)
    else:
        e = tl.zeros([C, C], tl.float32)
        g = tl.zeros([C, C], tl.float32)
        d_q = tl.zeros([BK, C], tl.float32)
        d_recall = tl.zeros([BK, C], tl.float32)
        d_write = tl.zeros([C, BK], tl.float32)
        for block in range(0, V, BV):
            u = load_values(writes, batch, start, h, block, T, H, V, C, BV, TILED)
            go = load_values(grad_o, batch, start, h, block, T, H, V, C, BV, TILED)
            s = _load_state(states, chunk, at_k, block, K, V, BK, BV, TILED)
            dvs = load_values(dv, batch, start, h, block, T, H, V, C, BV, TILED)
            d_s = _load_state(d_states, chunk, at_k, block, K, V, BK, BV, TILED)
            carried += tl.sum(s.to(tl.float32) * d_s.to(tl.float32), 1)
            e = tl.dot(tl.trans(u), go, e, input_precision=PRECISION)
            d_q = tl.dot(s, go, d_q, input_precision=PRECISION)
            g = tl.dot(tl.trans(u), dvs, g, input_precision=PRECISION)
            d_recall = tl.dot(s, dvs, d_recall, input_precision=PRECISION)
            d_write = tl.dot(tl.trans(u), tl.trans(d_s), d_write, input_precision=PRECISION)

    steps = tl.arange(0, C)
    rows = steps * H
    inside = steps < T - start
    cols = at_k + tl.arange(0, BK)
    at = rows[:, None] * K + cols[None, :]
    there = inside[:, None] & (cols < K)[None, :]
    itself = steps[:, None] == steps[None, :]
    later = steps[:, None] <= steps[None, :]
    decay_in = load_gate(gates, chunk, 3, C)
    whole = load_gate(gates, chunk, 0, C)
    rest = load_gate(gates, chunk, 1, C)

    # The zero makes the compiler compute exp where e is held, not elsewhere with a trip through shared memory.
    between = (whole[None, :] - whole[:, None]) + (rest[None, :] - rest[:, None] + e * 0.0)
    decay = tl.exp(tl.where(later, between, float("-inf")))
    e *= decay
    if dtype == tl.float32:
        own = tl.sum(tl.where(itself, e, 0.0), 1)
        e = tl.where(itself, 0.0, e)
    e_high, e_rest = _in_two(e, dtype)
    if V <= BV:
        d_q = tl.dot(s, go, input_precision=PRECISION)
    d_q = tl.dot(keys, e_high, d_q * decay_in[None, :], input_precision=PRECISION)
    if dtype != tl.float32:
        d_q = tl.dot(keys, e_rest, d_q, input_precision=PRECISION)
    d_q = tl.trans(d_q)
    change = tl.sum(d_q * tl.trans(queries).to(tl.float32), 1)
    if dtype == tl.float32:
        d_q += own[:, None] * tl.trans(keys)
    tl.store(dq + at, d_q.to(dtype), there)
    d_pairs = tl.dot(e_high, tl.trans(queries), input_precision=PRECISION)
    if dtype != tl.float32:
        d_pairs = tl.dot(e_rest, tl.trans(queries), d_pairs, input_precision=PRECISION)

    if V <= BV:
        g = tl.dot(tl.trans(u), dvs, input_precision=PRECISION)
    b = tl.where(inside, load_gate(gates, chunk, 2, C), 1.0)
    tl.store(d_beta + rows, tl.sum(tl.where(itself, g, 0.0), 1) / b / b, inside & (part == 0))
    g_high, g_rest = _in_two(tl.where(itself, 0.0, g * -decay), dtype)
    if V <= BV:
        d_recall = tl.dot(s, dvs, input_precision=PRECISION)
    d_recall = tl.dot(keys, g_high, d_recall * -decay_in[None, :], input_precision=PRECISION)
    d_pairs = tl.dot(g_high, tl.trans(keys), d_pairs, input_precision=PRECISION)
    if dtype != tl.float32:
        d_recall = tl.dot(keys, g_rest, d_recall, input_precision=PRECISION)
        d_pairs = tl.dot(g_rest, tl.trans(keys), d_pairs, input_precision=PRECISION)
    d_recall = tl.trans(d_recall)
    change += tl.sum((d_recall - d_pairs) * tl.trans(keys).to(tl.float32), 1)
    d_k = d_recall + d_pairs
    if dtype == tl.float32:
        d_k += own[:, None] * tl.trans(queries)

    if V <= BV:
        d_write = tl.dot(tl.trans(u), tl.trans(d_s), input_precision=PRECISION)
    d_write *= load_gate(gates, chunk, 4, C)[:, None]
    tl.store(dk + at, (d_k + d_write).to(dtype), there)
    to_end = tl.sum(d_write * tl.trans(keys).to(tl.float32), 1)
    through = tl.load(gates + (chunk.to(tl.int64) * 5 + 4) * C - 1)
    to_end_before, _ = tl.associative_scan((tl.zeros([C], tl.float32), to_end), 0, _all_but_last)
    owed = tl.cumsum(change, 0, reverse=True) + to_end_before
    tl.store(d_log_alpha + rows, owed + tl.sum(carried, 0) * through, inside)
