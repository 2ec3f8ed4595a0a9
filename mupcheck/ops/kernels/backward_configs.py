"""How the backward kernels are cut, by shape: pinned, never tuned while running."""

from typing import NamedTuple

import torch


class BackwardConfig(NamedTuple):
    """Blocks of K and V, warps and stages of the two kernels.

    `registers`: at most so many a thread, for more programs at a time.
    chunk_k_block is at least 64 in bfloat16, however small K: with 16 or 32 some kernels fault on Hopper, though every
    address in their PTX is in bounds.
    scan_reads: whether the scan takes P as the forward pass rounded it; else it makes P again, in two parts, which
    halves the error of dv and d_beta.
    `tiled`: tiles come through tensor descriptors, which spares registers, but one after the other outside of loops.
    """

    scan_block: int
    scan_warps: int
    scan_stages: int
    scan_tiled: bool
    chunk_k_block: int
    chunk_block: int
    chunk_warps: int
    chunk_stages: int
    chunk_registers: int | None = None
    chunk_tiled: bool = False
    scan_reads: bool = True


# Of (K, V), in bfloat16: the fastest of some twenty tried on an H100 at 32 x 1024 tokens and 6 heads.
BACKWARD_CONFIGS = {
    (32, 64): BackwardConfig(64, 4, 3, True, 64, 64, 4, 2, 168),
    (48, 96): BackwardConfig(128, 4, 2, True, 64, 128, 4, 1),
    (64, 128): BackwardConfig(128, 8, 3, True, 64, 64, 4, 2),
    (96, 192): BackwardConfig(128, 8, 3, True, 64, 64, 4, 2),
    (128, 128): BackwardConfig(64, 4, 3, True, 64, 128, 4, 2),
    (128, 256): BackwardConfig(128, 8, 3, True, 64, 64, 4, 2),
    (192, 384): BackwardConfig(128, 8, 2, True, 64, 64, 4, 2),
}


def backward_config(key_dim: int, value_dim: int, dtype: torch.dtype) -> BackwardConfig:
    """The config of a shape: the pinned one, or one that keeps registers and shared memory in bounds."""
    if dtype == torch.bfloat16 and (key_dim, value_dim) in BACKWARD_CONFIGS:
        return BACKWARD_CONFIGS[key_dim, value_dim]
    if dtype == torch.float32:
        scan_block = 32 if key_dim <= 128 else 16
        return BackwardConfig(scan_block, 8, 1, False, 32 if key_dim > 16 else 16, 32, 4, 2)
    scan_block = 64 if value_dim > 32 else 32 if value_dim > 16 else 16
    return BackwardConfig(scan_block, 4, 2, key_dim > 96, 64, 32, 4, 3, scan_reads=False)
