# mypy: allow-untyped-defs
"""What the backward kernels read of log_alpha and beta, where the forward pass did not keep it."""

import triton
import triton.language as tl

from mupcheck.ops.kernels.decay import decay_of, running_sums

# What a step writes is beta times something, and the gradient of beta is taken from that write, divided by beta.
LOWEST_BETA = tl.constexpr(1e-15)


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
    whole, rest = running_sums(tl.load(log_alpha + at, inside, 0.0))
    b = tl.load(beta + at, inside, 0.0)
    last_whole = tl.sum(tl.where(steps == C - 1, whole, 0.0), 0)
    last_rest = tl.sum(tl.where(steps == C - 1, rest, 0.0), 0)

    gates += ((batch * H + head) * N + n) * 5 * C
    tl.store(gates + steps, whole)
    tl.store(gates + C + steps, rest)
    tl.store(gates + 2 * C + steps, tl.where(tl.abs(b) < LOWEST_BETA, LOWEST_BETA, b))
    tl.store(gates + 3 * C + steps, decay_of(whole, rest))
    tl.store(gates + 4 * C + steps, decay_of(last_whole - whole, last_rest - rest))
