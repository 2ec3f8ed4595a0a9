"""Where kernels are tested and against what: in float32 under triton's interpreter, on a GPU in bfloat16 too."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

# Of the norm of the difference over the norm. float32: a few roundings of 6e-8 in sums of up to a thousand terms.
# bfloat16: inputs are exact in both, what is kept between two kernels and what comes out is rounded by 2^-9 = 2e-3.
TOLERANCES = {torch.float32: 2e-6, torch.bfloat16: 1e-2}
WHERE = [
    pytest.param(("cpu", torch.float32), id="interpreter"),
    pytest.param(("cuda", torch.float32), id="float32", marks=pytest.mark.gpu),
    pytest.param(("cuda", torch.bfloat16), id="bfloat16", marks=pytest.mark.gpu),
]


def place(where: tuple[str, torch.dtype]) -> tuple[str, torch.dtype]:
    """Return device and dtype; compiled kernels take no CPU tensors, so a machine with a GPU has no interpreter."""
    if where[0] == "cpu" and torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")
    return where


def drawing(device: str, seed: int = 0) -> Callable[..., Tensor]:
    """Return a function that draws normal float32 numbers of a shape, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator).to(device)


def outside(shape: Sequence[int], *, like: Tensor, before: int = 3, after: int = 5) -> tuple[Tensor, Tensor]:
    """Return (whole, part): part [R, N, C] is some columns of a longer tensor that is NaN everywhere."""
    *lead, columns = shape
    whole = torch.full((*lead, before + columns + after), float("nan"), dtype=like.dtype, device=like.device)
    return whole, whole[..., before : before + columns]


def part_of_rows(x: Tensor) -> Tensor:
    """Return x as a part of longer rows, whose other numbers are NaN."""
    _, part = outside(x.shape, like=x)
    return part.copy_(x)


def off(got: Tensor, right: Tensor) -> float:
    """Return |got - right| / |right|, inf where a number is missing."""
    assert got.shape == right.shape
    got, right = got.detach().double(), right.detach().double()
    return float((got - right).norm() / right.norm()) if got.isfinite().all() else float("inf")


def through(compute: Callable[..., object], leaves: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """Return what `compute` makes of the leaves, and their gradients."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = compute(*leaves)
    outs = list(out) if isinstance(out, tuple) else [out]
    grads = torch.autograd.grad(outs, leaves, [u.to(o.dtype) for u, o in zip(upstream, outs, strict=True)])
    return [*outs, *grads]


def in_float64(compute: Callable[..., object], leaves: Sequence[Tensor], upstream: Sequence[Tensor]) -> list[Tensor]:
    """Return the same in float64."""
    return through(compute, [leaf.double() for leaf in leaves], upstream)
