"""What format a weight's values have been rounded to: the coarsest that holds every one of them.

A weight that lives in bfloat16 and is handed out in float32 has the machine epsilon of bfloat16.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

# formats that a weight's values may have been rounded to, the coarsest last
STORED = (torch.float32, torch.float16, torch.bfloat16)
SAMPLE = 64  # values of a replica's weight, enough to tell most weights that were not rounded


def stored_eps(weight: Tensor) -> Tensor:
    """Return the machine epsilon of the coarsest format that holds every value of each replica's weight, [R]."""
    return _coarsest(weight.flatten(1))


def least_stored_eps(weights: Sequence[Tensor]) -> list[Tensor]:
    """Return the same by a sample of each weight's values, [R] each, at the cost of one: what all hold, these do.

    Args:
        weights: [R, ...] each, of one dtype and device.
    """
    return list(_coarsest(torch.stack([_few(weight.flatten(1)) for weight in weights])))


def _coarsest(x: Tensor) -> Tensor:
    """[..., N] -> [...]."""
    found = torch.full_like(x[..., 0], torch.finfo(x.dtype).eps)
    for dtype in STORED:
        if torch.finfo(dtype).eps > torch.finfo(x.dtype).eps:
            found = torch.where((x.to(dtype).to(x.dtype) == x).all(-1), torch.finfo(dtype).eps, found)
    return found


def _few(x: Tensor) -> Tensor:
    """Return SAMPLE values of each replica of x [R, N], spread over all; again from the start where there are fewer."""
    spread = x[:, :: max(1, x.shape[1] // SAMPLE)][:, :SAMPLE]
    return spread if spread.shape[1] == SAMPLE else spread.repeat(1, -(-SAMPLE // spread.shape[1]))[:, :SAMPLE]
