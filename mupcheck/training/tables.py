"""A step of the optimizer from tables on its device: nothing in it waits for the host or comes from it."""

import torch
from torch import Tensor

from mupcheck.training.divergence import DeviceWatch, note
from mupcheck.training.optim import SGD, AdamW, corrections, gradient_of
from mupcheck.training.updates import adamw_update, gradient_norm, sgd_update


class TabledSteps:
    """What `Optimizer.step` does, with the number of the step and all that follows from it read on the device.

    The optimizer keeps the moments, and says what is realised; its `steps_taken` is the caller's to count.

    Args:
        optimizer: a fresh one.
        n_steps: updates that will be made.
    """

    def __init__(self, optimizer: AdamW | SGD, n_steps: int) -> None:
        self.optimizer, self.spec = optimizer, optimizer.spec
        # all weights at once, [weights, R]
        self.lr, self.weight_decay, self.eps = map(torch.stack, (optimizer.lr, optimizer.weight_decay, optimizer.eps))
        adamw = isinstance(optimizer, AdamW)
        table = [corrections(self.spec, t) if adamw else (1.0, 1.0) for t in range(1, n_steps + 1)]
        self.corrections = torch.tensor(table, dtype=torch.float64).to(self.lr.device)

    def gradient_norm(self, slot: int = 0) -> Tensor:  # noqa: ARG002
        """Return the global gradient norm of each replica, [R]."""
        return gradient_norm([gradient_of(group) for group in self.optimizer.groups])

    def point(self, slot: int) -> None:
        """Do what is to be done once a kind of step was captured: nothing."""

    def note(
        self, watch: DeviceWatch, ring: Tensor, step: Tensor, loss: Tensor, grad_norm: Tensor, clipped: Tensor
    ) -> None:
        """End a step, as `divergence.note` does."""
        note(watch, ring, step, loss, grad_norm, clipped)

    @torch.no_grad()
    def __call__(self, step: Tensor, lr_scale: Tensor, gradient_norm: Tensor, alive: Tensor) -> Tensor:
        """Update every weight in place.

        Args:
            step: how many updates came before, int64 [1].
            lr_scale: the schedule's factor, [R].
            gradient_norm: from `gradient_norm`, [R]; read only where clipping is on.
            alive: bool [R]; a dead replica with a finite gradient is left as it is.
        Returns:
            bool [R], true where the gradient was clipped.
        """
        spec, optimizer = self.spec, self.optimizer
        dtype = optimizer.groups[0].weight.dtype
        clip, clipped = None, torch.zeros_like(alive)
        if spec.clip > 0:
            clip = torch.clamp(spec.clip / (gradient_norm + 1e-6), max=1.0)
            clipped = clip < 1.0
            clip = clip.to(dtype)
        lr = (self.lr * lr_scale).masked_fill(~alive, 0.0)  # [weights, R], as all that follows
        if isinstance(optimizer, AdamW):
            correction, ratio = self.corrections.index_select(0, step)[0]
            keep = (1 - lr * self.weight_decay).to(dtype)
            eps, step_size = (self.eps * correction).to(dtype), (lr * ratio).to(dtype)
            for i, group in enumerate(optimizer.groups):
                adamw_update(
                    *(group.weight, gradient_of(group), optimizer.mean[i], optimizer.mean_square[i]),
                    clip=clip,
                    keep=keep[i],
                    step_size=step_size[i],
                    eps=eps[i],
                    beta1=spec.beta1,
                    beta2=spec.beta2,
                )
            return clipped
        decay, lr = self.weight_decay.to(dtype), lr.to(dtype)
        for i, group in enumerate(optimizer.groups):
            sgd_update(
                *(group.weight, gradient_of(group), optimizer.velocity[i]),
                clip=clip,
                decay=decay[i],
                lr=lr[i],
                momentum=spec.momentum,
            )
        return clipped
