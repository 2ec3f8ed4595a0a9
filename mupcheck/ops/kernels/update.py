# mypy: disallow-untyped-defs=False
"""One step of AdamW or SGD over a weight [R, ...] in one pass, and the gradients' norm of each replica.

Every factor is one number per replica, on the device. A replica whose step is 0 is not touched, whatever its gradient:
that is how a dead one stays as it is.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _adamw(
    weight, gradient, mean, mean_square, clip, keep, step_size, eps, size, beta2, rest1, rest2,
    CLIP: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(step_size + replica)
    inside = columns < tl.where(step != 0.0, size, 0)
    at = replica * size + columns
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    if CLIP:
        g *= tl.load(clip + replica)
    w = tl.load(weight + at, mask=inside, other=0.0)
    m = tl.load(mean + at, mask=inside, other=0.0)
    v = tl.load(mean_square + at, mask=inside, other=0.0)
    m += (g - m) * rest1
    v = v * beta2 + g * g * rest2
    if KEEP:
        w *= tl.load(keep + replica)
    w -= step * (m / (tl.sqrt_rn(v) + tl.load(eps + replica)))
    tl.store(weight + at, w, mask=inside)
    tl.store(mean + at, m, mask=inside)
    tl.store(mean_square + at, v, mask=inside)


@triton.jit
def _sgd(
    weight, gradient, velocity, clip, decay, lr, size, momentum,
    CLIP: tl.constexpr, DECAY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    replica = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    step = tl.load(lr + replica)
    inside = columns < tl.where(step != 0.0, size, 0)
    at = replica * size + columns
    g = tl.load(gradient + at, mask=inside, other=0.0).to(tl.float32)
    if CLIP:
        g *= tl.load(clip + replica)
    w = tl.load(weight + at, mask=inside, other=0.0)
    if DECAY:
        g += w * tl.load(decay + replica)
    v = tl.load(velocity + at, mask=inside, other=0.0) * momentum + g
    tl.store(velocity + at, v, mask=inside)
    tl.store(weight + at, w - step * (g + momentum * v), mask=inside)


def adamw_update(
    weight: Tensor,
    gradient: Tensor,
    mean: Tensor,
    mean_square: Tensor,
    *,
    clip: Tensor | None,
    keep: Tensor | None,
    step_size: Tensor,
    eps: Tensor,
    beta1: float,
    beta2: float,
) -> None:
    """Update weight and moments in place:  w = keep w - step_size m / (sqrt(v) + eps),  moments of clip * gradient.

    Args:
        weight, mean, mean_square: float32 [R, ...].
        gradient: [R, ...], float32 or bfloat16.
        clip: factor on the gradient; None is 1.
        keep: 1 - lr * weight decay; None is 1.
        step_size: lr with the bias corrections, lr * sqrt(1 - beta2^t) / (1 - beta1^t); where it is 0 nothing changes.
        eps: eps * sqrt(1 - beta2^t). All four are float32 [R].
    """
    size = weight[0].numel()
    _adamw[triton.cdiv(size, BLOCK), len(weight)](
        weight, gradient.contiguous(), mean, mean_square, clip, keep, step_size, eps, size,
        beta2, 1 - beta1, 1 - beta2, CLIP=clip is not None, KEEP=keep is not None, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def sgd_update(
    weight: Tensor,
    gradient: Tensor,
    velocity: Tensor,
    *,
    clip: Tensor | None,
    decay: Tensor | None,
    lr: Tensor,
    momentum: float,
) -> None:
    """Update weight and velocity in place, with Nesterov momentum:  v = momentum v + g,  w -= lr (g + momentum v).

    Args:
        weight, velocity: float32 [R, ...].
        gradient: [R, ...], float32 or bfloat16; g is clip * gradient + decay * weight.
        clip, decay, lr: float32 [R]; None is 1 of clip and 0 of decay; where lr is 0 nothing changes.
    """
    size = weight[0].numel()
    _sgd[triton.cdiv(size, BLOCK), len(weight)](
        weight, gradient.contiguous(), velocity, clip, decay, lr, size, momentum,
        CLIP=clip is not None, DECAY=decay is not None, BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm over all gradients [R, ...] of each replica, float32 [R]; always summed in the same order."""
    n_replicas = len(gradients[0])
    # torch's own reduction over many tensors takes a handful of launches for all of them
    norms = torch._foreach_norm([row for gradient in gradients for row in gradient.unbind()], 2, dtype=torch.float32)
    return torch.linalg.vector_norm(torch.stack(norms).view(-1, n_replicas), dim=0)
