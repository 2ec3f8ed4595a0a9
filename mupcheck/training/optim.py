"""AdamW and SGD over a replica axis: lr, eps, weight decay, clip factor and alive flag are one number per replica.

torch's optimizers take one lr for all of a tensor; here every weight is [R, ...] and each replica has its own.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mupcheck.measuring.probes import Realised
from mupcheck.model.build import ParameterGroup
from mupcheck.model.layers import per_replica
from mupcheck.spec.run import RunSpec
from mupcheck.training.updates import adamw_update, gradient_norm, sgd_update


class Optimizer:
    """Base of AdamW and SGD: what both do with lr, decay, clipping and dead replicas.

    Args:
        groups: the weights and their factors, from `parameter_groups`.
        runs: one run per replica; lr, weight decay and clip are read from them.
    """

    def __init__(self, groups: Sequence[ParameterGroup], runs: Sequence[RunSpec]) -> None:
        self.groups = list(groups)
        self.spec = runs[0]
        device = groups[0].weight.device
        base_lr = torch.tensor([run.lr for run in runs], dtype=torch.float64, device=device)
        base_decay = torch.tensor([run.weight_decay for run in runs], dtype=torch.float64, device=device)
        self.lr = [group.lr * base_lr for group in self.groups]
        self.weight_decay = [group.weight_decay * base_decay for group in self.groups]
        self.eps = [group.eps * self.spec.eps for group in self.groups]
        self.steps_taken = 0

    @torch.no_grad()
    def gradient_norm(self) -> Tensor:
        """Return the global gradient norm of each replica, [R]."""
        return gradient_norm([gradient_of(group) for group in self.groups])

    @torch.no_grad()
    def step(self, lr_scale: Tensor, gradient_norm: Tensor, alive: Tensor) -> Tensor:
        """Update every weight in place.

        Args:
            lr_scale: the schedule's factor, [R].
            gradient_norm: from `gradient_norm`, [R]; read only where clipping is on.
            alive: bool [R]; a dead replica with a finite gradient is left as it is.
        Returns:
            bool [R], true where the gradient was clipped.
        """
        self.steps_taken += 1
        clip_factor = None
        clipped = torch.zeros_like(alive)
        if self.spec.clip > 0:
            clip_factor = torch.clamp(self.spec.clip / (gradient_norm + 1e-6), max=1.0)
            clipped = clip_factor < 1.0
        for index, group in enumerate(self.groups):
            gradient = gradient_of(group)
            if clip_factor is not None:
                gradient.mul_(per_replica(clip_factor, gradient))
            scaled = torch.where(alive, self.lr[index] * lr_scale, 0.0)
            self._update(index, group.weight, gradient, scaled)
        return clipped

    def realised(self, lr_scale: Tensor) -> list[Realised]:
        """Return the lr, weight decay and eps that a step with `lr_scale` [R] applies to each weight."""
        rates = torch.stack(self.lr) * lr_scale
        return [
            Realised(group.site, group.layer, lr, decay, eps)
            for group, lr, decay, eps in zip(self.groups, rates, self.weight_decay, self.eps, strict=True)
        ]

    def eps_ratios(self) -> list[Tensor] | None:
        """Return None: there is no eps to take part in the step."""
        return None

    def _update(self, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        raise NotImplementedError


class AdamW(Optimizer):
    """Adam with decoupled weight decay (arXiv:1711.05101), as torch.optim.AdamW computes it."""

    def __init__(self, groups: Sequence[ParameterGroup], runs: Sequence[RunSpec]) -> None:
        super().__init__(groups, runs)
        self.mean = [torch.zeros_like(group.weight) for group in self.groups]
        self.mean_square = [torch.zeros_like(group.weight) for group in self.groups]

    def _update(self, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        spec, decays = self.spec, self.spec.weight_decay > 0
        correction, ratio = corrections(spec, self.steps_taken)
        adamw_update(
            *(weight, gradient, self.mean[index], self.mean_square[index]),
            clip=None,
            keep=(1 - lr * self.weight_decay[index]).to(weight.dtype) if decays else None,
            step_size=(lr * ratio).to(weight.dtype),
            eps=(self.eps[index] * correction).to(weight.dtype),
            beta1=spec.beta1,
            beta2=spec.beta2,
        )

    def eps_ratios(self) -> list[Tensor]:
        """Return rms(sqrt(v)) / eps of each weight, [R]: far above 1, or eps takes part in the step."""
        correction = 1 - self.spec.beta2 ** max(self.steps_taken, 1)
        means = torch.stack([square.flatten(1).mean(1) for square in self.mean_square])
        return list((means / correction).sqrt() / torch.stack(self.eps))


class SGD(Optimizer):
    """SGD with Nesterov momentum and decay as part of the gradient, as torch.optim.SGD(nesterov=True) computes it."""

    def __init__(self, groups: Sequence[ParameterGroup], runs: Sequence[RunSpec]) -> None:
        super().__init__(groups, runs)
        self.velocity = [torch.zeros_like(group.weight) for group in self.groups]

    def _update(self, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        decays = self.spec.weight_decay > 0
        sgd_update(
            *(weight, gradient, self.velocity[index]),
            clip=None,
            decay=self.weight_decay[index].to(weight.dtype) if decays else None,
            lr=lr.to(weight.dtype),
            momentum=self.spec.momentum,
        )


def make_optimizer(groups: Sequence[ParameterGroup], runs: Sequence[RunSpec]) -> AdamW | SGD:
    """Return the optimizer that the runs' spec names."""
    return AdamW(groups, runs) if runs[0].optimizer == "adamw" else SGD(groups, runs)


def lr_scale(run: RunSpec, step: int) -> float:
    """Return the schedule's factor on lr at `step` (0 is the first update): warm-up, then `schedule`."""
    if step < run.warmup_steps:
        return (step + 1) / run.warmup_steps
    if run.schedule == "constant":
        return 1.0
    floor = min(run.min_lr / run.lr, 1.0)
    progress = (step - run.warmup_steps) / max(run.steps - run.warmup_steps, 1)
    left = 1 - progress if run.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return floor + (1 - floor) * left


def corrections(run: RunSpec, t: int) -> tuple[float, float]:
    """Return sqrt(1 - beta2^t), and that over 1 - beta1^t: what corrects Adam's moments after t updates."""
    root = math.sqrt(1 - run.beta2**t)
    return root, root / (1 - run.beta1**t)


def gradient_of(group: ParameterGroup) -> Tensor:
    """Return the gradient of a weight.

    Raises:
        RuntimeError: if it has none.
    """
    gradient = group.weight.grad
    if gradient is None:
        raise RuntimeError(f"{group.site} of layer {group.layer} has no gradient; the forward pass does not use it")
    return gradient
