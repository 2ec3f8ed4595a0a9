# mypy: allow-untyped-defs
"""Sums of log decays within a chunk, kept exact however long and strong the decays are."""

import triton
import triton.language as tl


@triton.jit
def running_sums(log_alpha):
    """Running sums of [C] log decays in two float32 parts, whole numbers and the rest, whose sum is c.

    c can be in the thousands, where float32 holds four decimals. Whole numbers subtract exactly and the rest is small,
    so (whole_i - whole_j) + (rest_i - rest_j) is as good as a difference in float64.
    """
    bounded = tl.maximum(log_alpha, -60.0)  # as chunk.LOWEST_LOG_DECAY
    whole = tl.floor(bounded + 0.5)
    return tl.cumsum(whole, 0), tl.cumsum(bounded - whole, 0)


@triton.jit
def bounded_exp(log_decay):
    """Exp of a log decay, within [exp(-60), 1]; also finite where a difference above the diagonal is large."""
    return tl.exp(tl.minimum(tl.maximum(log_decay, -60.0), 0.0))
