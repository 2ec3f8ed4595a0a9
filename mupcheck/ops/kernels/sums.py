# mypy: disallow-untyped-defs=False
"""The sum of what each program of a kernel left, always in the same order: what atomic additions would not give."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, BLOCK = 256, 32  # enough loads at once that few turns of the loop wait for memory


@triton.jit
def _sum(partial, out, n_rows, width, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    summed = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, n_rows, ROWS):
        rows = start + tl.arange(0, ROWS)
        at = (replica * n_rows + rows)[:, None] * width + columns[None, :]
        summed += tl.load(partial + at, mask=(rows < n_rows)[:, None] & (columns < width)[None, :], other=0.0)
    tl.store(out + replica * width + columns, tl.sum(summed, axis=0), mask=columns < width)


def sum_of_programs(partial: Tensor) -> Tensor:
    """Return the sum of partial [R, P, ...] over P, float32 [R, ...]."""
    n_replicas, n_rows = partial.shape[:2]
    out = partial.new_empty(n_replicas, *partial.shape[2:], dtype=torch.float32)
    width = out[0].numel()
    _sum[triton.cdiv(width, BLOCK), n_replicas](partial, out, n_rows, width, ROWS=ROWS, BLOCK=BLOCK, num_warps=8)
    return out
