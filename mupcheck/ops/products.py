"""Matrix products on a CPU: which library computes them.

torch hands float32 products to MKL, which keeps AVX-512 for Intel's own processors: on an AMD with AVX-512 its rate is
half of oneDNN's, or less. torch calls oneDNN for them where a precision of "bf16" is allowed; that takes AMX, so on a
processor without it the very same float32 product comes out, at float32's precision. Both are looked at here, the
processor and a product. Elsewhere nothing changes, and float64 and a GPU never notice.

oneDNN sums in an order that depends on the other matrices of a batch once a side is shorter than NARROWEST (measured
with oneDNN 3.12; MKL does so too where rows fill no whole registers): those stay with MKL.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

NARROWEST = 12
# float32 rounds at 6e-8, bfloat16 at 4e-3; sums of 64 products of numbers around one, relative to the largest
FLOAT32_ERROR = 1e-6


def fast_products(narrowest: int) -> AbstractContextManager[None]:
    """Return a context in which float32 products of matrices on a CPU take the faster library.

    Args:
        narrowest: the shortest side of any of those matrices.
    """
    return _OneDNN() if narrowest >= NARROWEST and onednn_is_faster() else nullcontext()


def product(x: Tensor, y: Tensor) -> Tensor:
    """Return x [R, N, M] times y [R, M, L]; differentiable once. A matrix of R depends on no other, bit for bit."""
    plain = x.device.type == "cpu" and x.dtype == y.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if plain and min(*x.shape[1:], y.shape[2]) >= NARROWEST and onednn_is_faster():
        return _Product.apply(x, y)
    return torch.bmm(x, y)


@cache
def onednn_is_faster() -> bool:
    """Say whether oneDNN computes float32 products here, faster than MKL and as precisely."""
    about: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    amd = str(about.get("cpu_name", "")).startswith("AMD") and about.get("avx512_f", False)
    if not amd or any(about.get(name, True) for name in ("amx_tile", "amx_bf16", "amx_fp16")):
        return False
    x, y = torch.cos(torch.arange(2 * 3 * 64 * 64, dtype=torch.float32)).view(2, 3, 64, 64)
    with _OneDNN():
        got = torch.bmm(x, y).double()
    exact = torch.bmm(x.double(), y.double())
    return bool((got - exact).abs().max() <= FLOAT32_ERROR * exact.abs().max())


class _OneDNN:
    """Let oneDNN compute products of float32 matrices on a CPU; the setting is torch's, for all threads."""

    def __init__(self) -> None:
        self.settings: Any = torch.backends.mkldnn

    def __enter__(self) -> None:
        self.before = self.settings.matmul.fp32_precision
        self.settings.matmul.fp32_precision = "bf16"

    def __exit__(self, *_: object) -> None:
        self.settings.matmul.fp32_precision = self.before


class _Product(torch.autograd.Function):
    """A product whose gradients are products of the same library."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        ctx.save_for_backward(x, y)
        with _OneDNN():
            return torch.bmm(x, y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, y = ctx.saved_tensors
        with _OneDNN():
            grad_x = torch.bmm(grad, y.mT) if ctx.needs_input_grad[0] else None
            grad_y = torch.bmm(x.mT, grad) if ctx.needs_input_grad[1] else None
        return grad_x, grad_y
