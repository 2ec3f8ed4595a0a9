"""Inputs of the gated delta rule from easy to hard, and what is right for them."""

import torch
from torch import Tensor

from mupcheck.ops.reference import gated_delta_rule_reference

PAPER_SHAPES = [(32, 64), (48, 96), (64, 128), (96, 192), (128, 256), (192, 384)]
ODD_SHAPES = [(128, 128), (24, 40), (100, 72), (16, 16), (8, 300)]
# of keys how alike (the cosine of two of them, on average), of log_alpha how strong, of beta whether it is 1
SETTINGS = {
    "plain": {"alike": 0.0, "decay": 0.5, "full": False},
    "alike": {"alike": 0.95, "decay": 0.0, "full": True},
    "alike, some decay": {"alike": 0.9, "decay": 0.05, "full": True},
    "forgets at once": {"alike": 0.5, "decay": 40.0, "full": False},
}


def rule_inputs(
    batch: int, time: int, heads: int, key_dim: int, value_dim: int, *, alike: float, decay: float, full: bool
) -> list[Tensor]:
    """Return q, k, v, log_alpha, beta and an initial state in float64."""
    generator = torch.Generator().manual_seed(1000 * time + key_dim)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def unit(x: Tensor) -> Tensor:
        return torch.nn.functional.normalize(x, dim=-1)

    steps = (batch, time, heads)
    q, common, k = (unit(normal(*shape, key_dim)) for shape in (steps, (batch, 1, heads), steps))
    k = unit(alike**0.5 * common + (1 - alike) ** 0.5 * k)
    beta = torch.ones(steps, dtype=torch.float64) if full else torch.sigmoid(normal(*steps))
    log_alpha = -decay * normal(*steps).square()
    return [q, k, normal(*steps, value_dim), log_alpha, beta, normal(batch, heads, key_dim, value_dim)]


def rounded(inputs: list[Tensor], dtype: torch.dtype, device: str = "cpu") -> list[Tensor]:
    """Round q, k and v to a dtype, gates and state to float32."""
    return [x.to(device, dtype if i < 3 else torch.float32) for i, x in enumerate(inputs)]


def right(inputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return o and the final state, in float64."""
    q, k, v, log_alpha, beta, state = (x.double() for x in inputs)
    return gated_delta_rule_reference(q, k, v, log_alpha, beta, state)


def error(got: Tensor, expected: Tensor) -> float:
    """Return the norm of the difference over the norm of what is right; inf where a value is not finite."""
    if not got.isfinite().all():
        return float("inf")
    return float((got.double() - expected).norm() / expected.norm())
