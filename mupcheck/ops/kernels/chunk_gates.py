# mypy: allow-untyped-defs
"""What the backward kernels read of log_alpha and beta, where the forward pass did not keep it."""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import store_gates


@triton.jit(do_not_specialize=["T"])
def write_gates(log_alpha, beta, gates, T, H, C: tl.constexpr):
    """One program: one chunk of one head; grid (B * N * H,).

    Writes gates [B, H, N, 5, C]: the running sums of log_alpha, whole parts and the rest; beta, at least 1e-15; decays
    from the chunk's start and to its end. Steps beyond T decay nothing.
    """
    N = tl.cdiv(T, C)
    head = (tl.program_id(0) % H).to(tl.int64)
    n = (tl.program_id(0) // H) % N
    batch = (tl.program_id(0) // (H * N)).to(tl.int64)
    steps = tl.arange(0, C)
    at = (batch * T + n * C + steps) * H + head
    inside = steps < T - n * C
    gates += ((batch * H + head) * N + n) * 5 * C
    store_gates(tl.load(log_alpha + at, inside, 0.0), tl.load(beta + at, inside, 0.0), gates, C)
