"""How the backward kernels are cut, by shape: pinned, never tuned while running."""

from typing import NamedTuple

import torch


class BackwardConfig(NamedTuple):
    """Blocks of V, warps and stages of the two kernels.

    With `split` the local kernel walks V once per part of K, which is then always in two parts.
    """

    scan_block: int
    scan_warps: int
    scan_stages: int
    local_block: int
    local_warps: int
    local_stages: int
    split: bool


# Of (K, V), in bfloat16.
BACKWARD_CONFIGS = {
    (32, 64): BackwardConfig(64, 4, 2, 32, 8, 2, False),
    (48, 96): BackwardConfig(32, 4, 2, 32, 8, 2, False),
    (64, 128): BackwardConfig(64, 4, 2, 32, 8, 2, False),
    (96, 192): BackwardConfig(64, 4, 2, 32, 8, 2, False),
    (128, 128): BackwardConfig(64, 4, 2, 32, 8, 2, False),
    (128, 256): BackwardConfig(64, 4, 2, 32, 8, 2, False),
    (192, 384): BackwardConfig(64, 8, 2, 32, 8, 2, True),
}


def k_parts(key_dim: int, *, split: bool = False) -> tuple[int, int]:
    """Cut K, at most 256, into two powers of two from 16 on, with little padding.

    The second part may be 0, or half of all with `split` (from K = 32 on).
    """
    first = max(16, 1 << (key_dim.bit_length() - 1))
    rest = max(16, 1 << (key_dim - first - 1).bit_length()) if key_dim > first else 0
    if rest and first + rest == 2 * first:
        first, rest = 2 * first, 0
    return (first // 2, first // 2) if split and not rest and first > 16 else (first, rest)


def backward_config(key_dim: int, value_dim: int, dtype: torch.dtype) -> BackwardConfig:
    """The config of a shape: the pinned one, or one that keeps registers and shared memory in bounds."""
    if dtype == torch.bfloat16 and (key_dim, value_dim) in BACKWARD_CONFIGS:
        return BACKWARD_CONFIGS[key_dim, value_dim]
    # float32 takes twice the shared memory and its products more registers.
    scan_block = 64 if value_dim > 32 else 32 if value_dim > 16 else 16
    if dtype == torch.float32:
        return BackwardConfig(32 if key_dim <= 128 else 16, 8, 1, 32, 8, 1, key_dim > 32)
    return BackwardConfig(scan_block, 4, 2, 32, 8, 2, key_dim > 128)
