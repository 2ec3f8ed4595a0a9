"""Tiles of tensors in and out of a program: through tensor descriptors (TILED), or through pointers.

Descriptors leave addresses, and what lies beyond T, K and V, to the copy engine of Hopper and later GPUs: that spares a
third of the instructions of the scan, and at K = 192 some 150 registers a thread.
"""

# mypy: allow-untyped-defs

from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor


def fit_copy_engine(*tensors: Tensor) -> bool:
    """Say whether the tensors begin, and their rows lie, at multiples of 16 bytes."""
    return all(x.data_ptr() % 16 == 0 and x.shape[-1] * x.element_size() % 16 == 0 for x in tensors)


def tile(x: Tensor | None, *shape: int, tiled: bool) -> Any:
    """Return a descriptor of tiles of x where `tiled`, else x, as where it is None and for a part of size 0."""
    return x if x is None or not tiled or 0 in shape else TensorDescriptor.from_tensor(x, list(shape))


@triton.jit
def load_keys(
    x,
    b,
    start,
    h,
    T,
    AT: tl.constexpr,
    SIZE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    C: tl.constexpr,
    TILED: tl.constexpr,
):
    """Read [C, SIZE] of q or k [B, T, H, K], from step `start` and column AT."""
    if TILED:
        keys = x.load([b, start, h, AT]).reshape(C, SIZE)
    else:
        step = tl.arange(0, C)[:, None]
        at = AT + tl.arange(0, SIZE)[None, :]
        mask = start + step < T
        if AT + SIZE > K:
            mask = mask & (at < K)
        x += ((b.to(tl.int64) * T + start) * H + h) * K
        keys = tl.load(x + step * (H * K) + at, mask=mask, other=0.0)
    return keys


@triton.jit
def _place_of_values(x, b, start, h, at_v, T, H: tl.constexpr, V: tl.constexpr, C: tl.constexpr, BV: tl.constexpr):
    step = tl.arange(0, C)
    mask = (start + step < T)[None, :]
    at = at_v + tl.arange(0, BV)[:, None]
    if V % BV != 0:
        mask = mask & (at < V)
    return x + ((b.to(tl.int64) * T + start) * H + h) * V + step[None, :] * (H * V) + at, mask


@triton.jit
def load_values(
    x,
    b,
    start,
    h,
    at_v,
    T,
    H: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    TILED: tl.constexpr,
):
    """Read [BV, C], transposed, of a tensor [B, T, H, V], from step `start` and column at_v."""
    if TILED:
        values = tl.trans(x.load([b, start, h, at_v]).reshape(C, BV))
    else:
        place, mask = _place_of_values(x, b, start, h, at_v, T, H, V, C, BV)
        values = tl.load(place, mask=mask, other=0.0)
    return values


@triton.jit
def store_values(
    x,
    values,
    b,
    start,
    h,
    at_v,
    T,
    H: tl.constexpr,
    V: tl.constexpr,
    C: tl.constexpr,
    BV: tl.constexpr,
    TILED: tl.constexpr,
):
    """Write values [BV, C], transposed, into a tensor [B, T, H, V]."""
    if TILED:
        x.store([b, start, h, at_v], tl.trans(values).reshape(1, C, 1, BV))
    else:
        place, mask = _place_of_values(x, b, start, h, at_v, T, H, V, C, BV)
        tl.store(place, values, mask=mask)


@triton.jit
def load_square(x, index, C: tl.constexpr, TILED: tl.constexpr):
    """Read [C, C], transposed, of a stack of such."""
    if TILED:
        square = x.load([index, 0, 0]).reshape(C, C)
    else:
        step = tl.arange(0, C)
        square = tl.load(x + index.to(tl.int64) * C * C + step[:, None] * C + step[None, :])
    return tl.trans(square)


@triton.jit
def load_gate(x, chunk, WHICH: tl.constexpr, C: tl.constexpr):
    """Read row WHICH, [C], of a chunk's gates; through pointers, which for so small a tile are cheaper."""
    return tl.load(x + (chunk.to(tl.int64) * 5 + WHICH) * C + tl.arange(0, C))


@triton.jit
def place_of_state(
    x, index, AT: tl.constexpr, SIZE: tl.constexpr, at_v, K: tl.constexpr, V: tl.constexpr, BV: tl.constexpr
):
    """Where S^T [BV, SIZE] lies in a stack of states [K, V], from row AT and column at_v, and what of it is there."""
    at = AT + tl.arange(0, SIZE)[None, :]
    columns = at_v + tl.arange(0, BV)[:, None]
    return x + index.to(tl.int64) * K * V + at * V + columns, (at < K) & (columns < V)


@triton.jit
def store_state(
    x,
    state,
    index,
    at_v,
    AT: tl.constexpr,
    SIZE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BV: tl.constexpr,
    TILED: tl.constexpr,
):
    """Write S^T [BV, SIZE] into a stack of states [K, V]."""
    if TILED:
        x.store([index, AT, at_v], tl.trans(state).reshape(1, SIZE, BV))
    else:
        place, mask = place_of_state(x, index, AT, SIZE, at_v, K, V, BV)
        tl.store(place, state, mask=mask)
