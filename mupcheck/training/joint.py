"""A step of the optimizer over all weights at once, in Triton: what `tables` does weight by weight."""

import math
import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mupcheck.model.build import ParameterGroup
from mupcheck.spec.run import RunSpec
from mupcheck.theory.parametrization import Role
from mupcheck.theory.rules_file import find_table
from mupcheck.training.divergence import DEAD, HIGH, HIGH_LOSS_STEPS, NOT_FINITE, DeviceWatch
from mupcheck.training.optim import SGD, AdamW, gradient_of, make_optimizer
from mupcheck.training.tables import TabledSteps

ALIGNMENT = 16  # bytes, for kernels that read four numbers at once
# Rounding alone gives 1e-7 of the weights' norm.
SELF_TEST_TOLERANCE = 1e-5


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
        self.limits: Tensor | None = None

    def gradient_norm(self, slot: int = 0) -> Tensor:
        """Return the global gradient norm of each replica, [R], for a step of kind `slot`."""
        for group in self.optimizer.groups:
            gradient = gradient_of(group)
            if not gradient.is_contiguous() or gradient.data_ptr() % ALIGNMENT:
                group.weight.grad = gradient.clone(memory_format=torch.contiguous_format)
        found = _addresses([gradient_of(group) for group in self.optimizer.groups])
        changed, self.found[slot], self.slot = found != self.found[slot], found, slot
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        if changed and not capturing:
            self.point(slot)
        return self.kernels.gradient_norms(self.gradients[slot], self.layout, self.lr.shape[1])

    def point(self, slot: int) -> None:
        """Tell the device where the gradients of a kind of step are; once it is captured, they stay."""
        self.gradients[slot].copy_(torch.tensor(self.found[slot]))

    def note(
        self, watch: DeviceWatch, ring: Tensor, step: Tensor, loss: Tensor, grad_norm: Tensor, clipped: Tensor
    ) -> None:
        """End a step, as `divergence.note` does."""
        if self.limits is None:
            self.limits = watch.limits()
        options: dict[str, Any] = {"ring": ring, "step": step, "limits": self.limits, "high_after": HIGH_LOSS_STEPS}
        options |= {"watched": (watch.ceiling, watch.high_steps, watch.why), "codes": (NOT_FINITE, HIGH, DEAD)}
        self.kernels.note(loss, grad_norm, clipped, **options)

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


def make_steps(optimizer: AdamW | SGD, n_steps: int, *, slots: int, compiled: bool) -> TabledSteps:
    """Return the steps of an optimizer: joint ones on a GPU, where triton is there, weights are float32, and they work.

    Args:
        compiled: False for a few steps, which take less time than the kernels take to compile.
    """
    weight = optimizer.groups[0].weight
    fits = compiled and weight.is_cuda and weight.dtype == torch.float32 and find_spec("triton") is not None
    if fits and not (fault := _fault(optimizer.spec.optimizer, weight.device)):
        return JointSteps(optimizer, n_steps, slots)
    if fits:
        warnings.warn(f"Triton's steps of an optimizer are not used: {fault}", stacklevel=2)
    return TabledSteps(optimizer, n_steps)


@cache
def _fault(kind: str, device: torch.device) -> str:
    """Compare joint steps with torch's on a device, once: what is wrong, or ""."""
    from mupcheck.ops.kernels.ahead import compiled_ahead

    try:
        with compiled_ahead():
            _one_step(kind, device, joint=True)
        ours, theirs = (_one_step(kind, device, joint=joint) for joint in (True, False))
    except Exception as error:  # a compiler has many ways to fail, and none of them may end a run
        return f"they do not run: {' '.join(str(error).split())[:200] or type(error).__name__}"
    off = float((ours - theirs).norm() / theirs.norm())
    return "" if off < SELF_TEST_TOLERANCE else f"they are off by {off:.1e}"


def _one_step(kind: str, device: torch.device, *, joint: bool) -> Tensor:
    """Return all numbers that a step of a small example changes."""
    generator = torch.Generator().manual_seed(0)
    noise = [torch.randn(2, *shape, generator=generator) for shape in ((7,), (33, 5), (3, 5000))]
    optimizer = make_optimizer(*_example(kind, noise, device))
    step = JointSteps(optimizer, 2, slots=1) if joint else TabledSteps(optimizer, 2)
    for group, value in zip(optimizer.groups, noise, strict=True):
        group.weight.grad = value.flip(0).to(device)
    one, count = torch.ones(2, dtype=torch.float64, device=device), torch.ones(1, dtype=torch.int64, device=device)
    ring = torch.zeros(4, 4, 2, dtype=torch.float64, device=device)
    norms = step.gradient_norm()
    clipped = step(count, one, norms, one > 0)
    step.note(DeviceWatch(2, 32, device), ring, count, math.inf * one, norms, clipped)
    changed = [*(group.weight.detach() for group in optimizer.groups), ring.nan_to_num(posinf=1.0), count]
    return torch.cat([values.flatten().double() for values in changed]).cpu()


def _example(kind: str, weights: Sequence[Tensor], device: torch.device) -> tuple[list[ParameterGroup], list[RunSpec]]:
    """Return weights as an optimizer takes them, and two runs of a setting in which every part of a step has a say."""
    table = find_table("sp")
    fields: dict[str, Any] = {"width": 64, "base_width": 64, "n_heads": 2, "vocab_size": 32, "lr": 0.1, "eps": 0.1}
    fields |= {"optimizer": kind, "weight_decay": 0.1, "clip": 1.0, "steps": 2}
    runs = [RunSpec(parametrization=table.name, table=table, seed=seed, **fields) for seed in range(2)]
    one = torch.ones(2, dtype=torch.float64, device=device)
    parameters = [torch.nn.Parameter(weight.clone().to(device)) for weight in weights]
    return [ParameterGroup("", 0, Role.HIDDEN, weight, one, one, one) for weight in parameters], runs


def _addresses(tensors: Sequence[Tensor]) -> list[int]:
    return [tensor.data_ptr() for tensor in tensors]
