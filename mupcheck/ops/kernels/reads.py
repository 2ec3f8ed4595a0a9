"""Chunk by chunk: P = (Q K^T) * decay, what each step reads of the writes before it; one program a chunk and head.

Where V takes several programs of the scan, it is made here once instead of in each of them.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_between


@triton.jit(do_not_specialize=["T"])
def read(
    q,
    k,
    gates,
    reads,
    T,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    BK: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Write reads [B, H, N, C, C] of q, k [B, T, H, K] and the gates that `invert` left; zero above the diagonal."""
    n = tl.program_id(0)
    sequence = tl.program_id(1).to(tl.int64)
    first = (sequence // H * T + n * C) * H + sequence % H
    q += first * K
    k += first * K
    gates += (sequence * tl.num_programs(0) + n) * 5 * C
    reads += (sequence * tl.num_programs(0) + n) * C * C

    step = tl.arange(0, C)
    inside = (step < T - n * C)[:, None]
    p = tl.zeros((C, C), tl.float32)
    for i in range(tl.cdiv(K, BK)):
        at = i * BK + tl.arange(0, BK)[None, :]
        mask = inside
        if K % BK != 0:
            mask = inside & (at < K)
        q_part = tl.load(q + step[:, None] * (H * K) + at, mask=mask, other=0.0)
        k_part = tl.load(k + step[:, None] * (H * K) + at, mask=mask, other=0.0)
        p = tl.dot(q_part, tl.trans(k_part), p, input_precision=PRECISION)
    whole = tl.load(gates + step)
    rest = tl.load(gates + C + step)
    earlier = step[:, None] >= step[None, :]
    p *= decay_between(whole[:, None], rest[:, None], whole[None, :], rest[None, :], earlier)
    tl.store(reads + step[:, None] * C + step[None, :], p.to(reads.dtype.element_ty))
