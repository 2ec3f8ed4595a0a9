"""One update of one weight [R, ...], and the gradients' norm, in torch; `mupcheck.ops.kernels.steps` does all at once.

Every factor is one number per replica, [R], so that a step may read them from its device.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mupcheck.model.layers import per_replica


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
    """Update weight, mean and mean_square in place: w = keep w - step_size m / (sqrt(v) + eps). It spoils gradient.

    Args:
        weight, gradient, mean, mean_square: [R, ...].
        clip: what gradients are multiplied by first; None for 1.
        keep: what decay leaves of the weight, 1 - lr decay; None for 1.
        step_size: lr sqrt(1 - beta2^t) / (1 - beta1^t).
        eps: the run's times sqrt(1 - beta2^t).
    """
    if clip is not None:
        gradient.mul_(per_replica(clip, gradient))
    if keep is not None:
        weight.mul_(per_replica(keep, weight))
    mean.lerp_(gradient, 1 - beta1)
    mean_square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    # sqrt(v / c2) + eps, written so that one factor per replica remains for the whole quotient
    update = mean_square.sqrt().add_(per_replica(eps, weight))
    torch.div(mean, update, out=update)
    weight.sub_(update.mul_(per_replica(step_size, weight)))


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
    """Update weight and velocity in place with Nesterov momentum, decay being part of the gradient, which it spoils.

    Args:
        weight, gradient, velocity: [R, ...].
        clip: what gradients are multiplied by first; None for 1.
        decay: the share of the weight that is added to the gradient; None for 0.
        lr: the step's.
    """
    if clip is not None:
        gradient.mul_(per_replica(clip, gradient))
    if decay is not None:
        gradient.addcmul_(weight, per_replica(decay, weight))
    velocity.mul_(momentum).add_(gradient)
    # velocity starts at 0, so the first step is the plain gradient times (1 + momentum), as torch's is
    update = torch.add(gradient, velocity, alpha=momentum)
    weight.sub_(update.mul_(per_replica(lr, weight)))


def gradient_norm(gradients: Sequence[Tensor]) -> Tensor:
    """Return the norm over all gradients [R, ...] of each replica, [R]."""
    norms = [torch.linalg.vector_norm(gradient.flatten(1), dim=1) for gradient in gradients]
    return torch.linalg.vector_norm(torch.stack(norms), dim=0)
