"""Decays within a chunk, as every kernel needs them: exp of differences of running sums of log_alpha.

A running sum can be in the thousands, where float32 holds four decimals. So whole numbers and what is left of them are
summed apart: whole numbers subtract exactly, the rest is small. As in `mupcheck.ops.chunk`, exp(-60) stands for every
smaller decay. Comparisons instead of maximum and minimum let a NaN through: a run that diverged has to be seen.
"""

# mypy: allow-untyped-defs

import triton
import triton.language as tl

LOWEST_LOG_DECAY = tl.constexpr(-60.0)
LOWEST_BETA = tl.constexpr(1e-15)


@triton.jit
def running_sums(log_alpha):
    """Sum log_alpha [C] over time: the sums of its whole parts (exact) and of what is left, [C] each."""
    log_alpha = tl.where(log_alpha < LOWEST_LOG_DECAY, LOWEST_LOG_DECAY, log_alpha)
    whole = tl.floor(log_alpha + 0.5)
    return tl.cumsum(whole, 0), tl.cumsum(log_alpha - whole, 0)


@triton.jit
def decay_of(whole, rest):
    """Return exp(whole + rest), not below exp(-60)."""
    total = whole + rest
    return tl.exp(tl.where(total < LOWEST_LOG_DECAY, LOWEST_LOG_DECAY, total))


@triton.jit
def decay_between(whole_to, rest_to, whole_from, rest_from, mask):
    """Return exp of the sum between two steps where mask holds, else 0; masked before exp, which could overflow."""
    total = (whole_to - whole_from) + (rest_to - rest_from)
    total = tl.where(mask, tl.where(total < LOWEST_LOG_DECAY, LOWEST_LOG_DECAY, total), 0.0)
    return tl.where(mask, tl.exp(total), 0.0)


@triton.jit
def store_gates(log_alpha, write, gates, C: tl.constexpr):
    """Write what the kernels read of a chunk's log_alpha and beta [C], gates [5, C]: see `invert`."""
    step = tl.arange(0, C)
    whole, rest = running_sums(log_alpha)
    # the way back divides what a step writes by beta
    write = tl.where(tl.abs(write) < LOWEST_BETA, LOWEST_BETA, write)
    last_whole = tl.sum(tl.where(step == C - 1, whole, 0.0), 0)
    last_rest = tl.sum(tl.where(step == C - 1, rest, 0.0), 0)
    tl.store(gates + step, whole)
    tl.store(gates + C + step, rest)
    tl.store(gates + 2 * C + step, write)
    tl.store(gates + 3 * C + step, decay_of(whole, rest))
    tl.store(gates + 4 * C + step, decay_of(last_whole - whole, last_rest - rest))
