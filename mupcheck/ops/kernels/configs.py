"""How each kernel of the forward pass is launched: one configuration per (K, V, dtype), nothing tuned at run time.

A configuration that a search picks differs from machine to machine and from day to day, and with it the last bits.
"""

from typing import NamedTuple

import torch


class Invert(NamedTuple):
    """Launch of `invert`: columns of q and k read at a time, warps, stages, and a cap on registers a thread or None."""

    block_k: int
    num_warps: int
    num_stages: int
    registers: int | None = None


class Scan(NamedTuple):
    """Launch of `scan`: rows of V a program, warps, stages; what goes through descriptors, see tiles.py; registers.

    A launch with descriptors costs its host more; a store through one waits for the store before it.
    """

    block_v: int
    num_warps: int
    num_stages: int
    loads: bool = True
    stores: bool = True
    registers: int | None = None


class Config(NamedTuple):
    """Launch of the forward pass.

    Attributes:
        chunk: steps of time in a chunk.
        precision: of products whose operands are float32. "fp16" has the digits of tf32, and in Triton a layout that
            needs no exchange between threads; its range is enough where the recurrence itself does not blow up.
        reads: whether `invert` makes P; otherwise each program of the scan does, and the way back again.
    """

    chunk: int
    precision: str
    invert: Invert
    scan: Scan
    reads: bool


# Of (K, V), in bfloat16: the fastest of what was tried on an H100 or an H200 at 32 x 1024 tokens and 6 heads.
SCANS = {
    (32, 64): Scan(64, 4, 3),
    (48, 96): Scan(128, 8, 3, stores=False),
    (64, 128): Scan(64, 4, 3, stores=False),
    (96, 192): Scan(128, 8, 3, stores=False),
    (128, 128): Scan(64, 4, 3),
    (128, 256): Scan(128, 8, 3),
    (192, 384): Scan(128, 8, 2),
}


def config_of(key_dim: int, value_dim: int, dtype: torch.dtype) -> Config:
    """Return the configuration of a shape; shapes that are not listed get one that fits what a program may hold."""
    if dtype == torch.float32:
        # twice the memory, and products in three parts: half the chunk
        block_k, block_v = min(32, block_of_keys(key_dim)), min(64, max(16, power_of_two(value_dim)))
        return Config(32, "tf32x3", Invert(block_k, 1, 2), Scan(block_v, 4, 1), reads=value_dim > block_v)
    scan = SCANS.get((key_dim, value_dim))
    if scan is None:
        scan = Scan(min(64, max(16, power_of_two(value_dim))), 4, 2)
    # where K is read in three parts, two of them are asked for ahead
    invert = Invert(64, 1, 3, 168) if key_dim == 192 else Invert(block_of_keys(key_dim), 1, 2)
    return Config(64, "fp16", invert, scan, reads=True)


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
