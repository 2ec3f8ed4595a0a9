"""How each kernel of the forward pass is launched: one configuration per (K, V, dtype), nothing tuned at run time.

A configuration that a search picks differs from machine to machine and from day to day, and with it the last bits.
"""

from typing import NamedTuple

import torch


class ByChunk(NamedTuple):
    """Launch of `invert` or `read`: columns of q and k read at a time, warps and stages."""

    block_k: int
    num_warps: int
    num_stages: int


class Scan(NamedTuple):
    """Launch of `scan`: rows of V a program, warps and stages; and whether tiles come through descriptors."""

    block_v: int
    num_warps: int
    num_stages: int
    tiled: bool = True


class Config(NamedTuple):
    """Launch of the forward pass.

    Attributes:
        chunk: steps of time in a chunk.
        precision: of dots whose operands are float32.
        read: None where the scan makes P itself.
    """

    chunk: int
    precision: str
    invert: ByChunk
    read: ByChunk | None
    scan: Scan


BFLOAT16: dict[tuple[int, int], Scan] = {}
FLOAT32: dict[tuple[int, int], Scan] = {}


def config_of(key_dim: int, value_dim: int, dtype: torch.dtype) -> Config:
    """Return the configuration of a shape; shapes that are not listed get one that fits what a program may hold."""
    half = dtype != torch.float32
    block_k = block_of_keys(key_dim) if half else min(32, block_of_keys(key_dim))
    scan = (BFLOAT16 if half else FLOAT32).get((key_dim, value_dim))
    if scan is None:
        block_v = min(64, max(16, power_of_two(value_dim)))
        scan = Scan(block_v, 4, 2 if half else 1)
    read = ByChunk(block_k, 4, 2) if value_dim > scan.block_v else None
    return Config(64 if half else 32, "tf32" if half else "tf32x3", ByChunk(block_k, 1, 2), read, scan)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is not below a size."""
    return 1 << (size - 1).bit_length()


def parts_of_keys(key_dim: int) -> tuple[int, int]:
    """Split K in one or two powers of two, at least 16 each (the second may be 0): 48 = 32 + 16, 128 = 128 + 0."""
    first = max(16, power_of_two(key_dim))
    if first == key_dim or first == 16:
        return first, 0
    rest = max(16, power_of_two(key_dim - first // 2))
    return (first, 0) if rest >= first // 2 else (first // 2, rest)


def block_of_keys(key_dim: int) -> int:
    """Return how many columns of k `invert` reads at a time: a power of two that divides K, if there is one from 16."""
    for size in (64, 32, 16):
        if key_dim % size == 0:
            return size
    return 32
