"""A step of the optimizer over all weights at once, in Triton: what `tables` does weight by weight."""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mupcheck.training.optim import SGD, AdamW, gradient_of
from mupcheck.training.tables import TabledSteps


class JointSteps(TabledSteps):
    """Finds weights, gradients and moments by their addresses, which a captured step keeps.

    Args:
        optimizer: a fresh one, or one whose moments stay where they are.
        n_steps: updates that will be made.
        slots: kinds of steps: each is captured by itself, and so has gradients of its own.
    """

    def __init__(self, optimizer: AdamW | SGD, n_steps: int, slots: int) -> None:
        from mupcheck.ops.kernels import steps

        super().__init__(optimizer, n_steps)
        self.kernels = steps
        weights = [group.weight for group in optimizer.groups]
        self.device = weights[0].device
        self.layout = steps.layout_of([weight[0].numel() for weight in weights], self.device)
        moments: list[list[Tensor]]
        moments = [optimizer.mean, optimizer.mean_square] if isinstance(optimizer, AdamW) else [optimizer.velocity]
        self.weights = self._table(_addresses(weights))
        self.moments = [self._table(_addresses(tensors)) for tensors in moments]
        self.found: list[list[int]] = [[] for _ in range(slots)]
        self.gradients = [self._table([0] * len(weights)) for _ in range(slots)]
        self.slot = 0

    def gradient_norm(self, slot: int = 0) -> Tensor:
        """Return the global gradient norm of each replica, [R], for a step of kind `slot`."""
        for group in self.optimizer.groups:
            gradient = gradient_of(group)
            if not gradient.is_contiguous():
                group.weight.grad = gradient.contiguous()
        found = _addresses([gradient_of(group) for group in self.optimizer.groups])
        changed, self.found[slot], self.slot = found != self.found[slot], found, slot
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if changed and not capturing:
            self.point(slot)
        return self.kernels.gradient_norms(self.gradients[slot], self.layout, self.lr.shape[1])

    def point(self, slot: int) -> None:
        """Tell the device where the gradients of a kind of step are; once it is captured, they stay."""
        self.gradients[slot].copy_(torch.tensor(self.found[slot]))

    @torch.no_grad()
    def __call__(self, step: Tensor, lr_scale: Tensor, gradient_norm: Tensor, alive: Tensor) -> Tensor:
        """Update every weight in place, as `TabledSteps` does; a dead replica stays as it is bit for bit."""
        spec, addresses = self.spec, (self.weights, self.gradients[self.slot], *self.moments)
        given: dict[str, Any] = {"lr": self.lr, "decay": self.weight_decay, "lr_scale": lr_scale, "alive": alive}
        given |= {"norms": gradient_norm, "clip": spec.clip}
        if isinstance(self.optimizer, SGD):
            return self.kernels.sgd_step(addresses, self.layout, momentum=spec.momentum, **given)
        given |= {"eps": self.eps, "corrections": self.corrections, "step": step}
        return self.kernels.adamw_step(addresses, self.layout, betas=(spec.beta1, spec.beta2), **given)

    def _table(self, addresses: Sequence[int]) -> Tensor:
        return torch.tensor(addresses, dtype=torch.int64, device=self.device)


def make_steps(optimizer: AdamW | SGD, n_steps: int, *, slots: int) -> TabledSteps:
    """Return the steps of an optimizer: joint ones on a GPU where triton is there and weights are float32."""
    weight = optimizer.groups[0].weight
    joint = weight.is_cuda and weight.dtype == torch.float32 and find_spec("triton") is not None
    return JointSteps(optimizer, n_steps, slots) if joint else TabledSteps(optimizer, n_steps)


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
