"""Faults of the optimizers' own arithmetic, and of what they are told: lr, schedule, state."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from mupcheck.model.layers import per_replica
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change
from mupcheck.training import train
from mupcheck.training.optim import SGD, AdamW, Optimizer


def _set_method(owner: type, name: str, function: Callable[..., Any], **options: Any) -> Change:
    """Return a change of a method; a partial alone would not be bound."""
    call = partial(function, **options)
    return Change(owner, name, lambda self, *given: call(self, *given))


def adam(_: Where, **options: Any) -> Iterator[Change]:
    """Compute AdamW in another way; the options are those of `_adam`."""
    yield _set_method(AdamW, "_update", _adam, **options)


def _adam(
    self: Any,
    index: int,
    weight: Tensor,
    gradient: Tensor,
    lr: Tensor,
    *,
    betas: tuple[float, float] | None = None,
    corrected: bool = True,
    later: int = 0,
    eps_in_root: bool = False,
    eps: float = 1.0,
    roll: int = 0,
    one_size: bool = False,
    largest: bool = False,
    signed: bool = False,
) -> None:
    """Update as AdamW without decay does, but for one thing.

    Args:
        betas: instead of the run's.
        corrected: divide by 1 - beta^t.
        later: steps by which t is ahead.
        eps_in_root: sqrt(v + eps) instead of sqrt(v) + eps.
        eps: times the run's.
        roll: columns by which v is out of place.
        one_size: one v for a whole weight.
        largest: the largest v so far (AMSGrad).
        signed: the sign of the mean.
    """
    beta1, beta2 = betas or (self.spec.beta1, self.spec.beta2)
    mean, square = self.mean[index], self.mean_square[index]
    mean.lerp_(gradient, 1 - beta1)
    moved = square * beta2 + gradient.square() * (1 - beta2)
    square.copy_(torch.maximum(square, moved) if largest else moved)
    t = self.steps_taken + later
    m, v = (mean / (1 - beta1**t), square / (1 - beta2**t)) if corrected else (mean, square)
    v = v.roll(roll, -1) if roll else v
    v = per_replica(v.flatten(1).mean(1), v).expand_as(v) if one_size else v
    floor = per_replica((self.eps[index] * eps).to(weight.dtype), weight)
    size = (v + floor).sqrt() if eps_in_root else v.sqrt() + floor
    change = m.sign() if signed else m / size
    weight.sub_(change * per_replica(lr.to(weight.dtype), weight))


def sgd(_: Where, **options: Any) -> Iterator[Change]:
    """Compute SGD in another way; the options are those of `_sgd`."""
    yield _set_method(SGD, "_update", _sgd, **options)


def _sgd(
    self: Any,
    index: int,
    weight: Tensor,
    gradient: Tensor,
    lr: Tensor,
    *,
    nesterov: bool = True,
    dampened: bool = False,
    forgets: bool = False,
    shared: bool = False,
) -> None:
    """Update as Nesterov SGD without decay does, but for one thing.

    Args:
        nesterov: look ahead; without it the momentum is heavy-ball.
        dampened: add (1 - momentum) g to the velocity.
        forgets: no velocity is kept.
        shared: one velocity for all replicas.
    """
    momentum, velocity = self.spec.momentum, self.velocity[index]
    velocity.mul_(0.0 if forgets else momentum).add_(gradient, alpha=1 - momentum if dampened else 1.0)
    if shared:
        velocity.copy_(velocity.mean(0, keepdim=True).expand_as(velocity))
    update = gradient + momentum * velocity if nesterov else velocity
    weight.sub_(update * per_replica(lr.to(weight.dtype), weight))


def shared_state(_: Where, *, sites: tuple[str, str]) -> Iterator[Change]:
    """Let two weights of one shape share Adam's mean, as a state that is kept by shape or name does."""
    init = AdamW.__init__

    def __init__(self: Any, groups: Any, runs: Any) -> None:
        init(self, groups, runs)
        at = {(group.site, group.layer): index for index, group in enumerate(self.groups)}
        for (site, layer), index in at.items():
            if site == sites[1]:
                self.mean[index] = self.mean[at[sites[0], layer]]

    yield Change(AdamW, "__init__", __init__)


def overwritten_lr(where: Where, *, factor: float = 1.0) -> Iterator[Change]:
    """Set the lr of weights to the run's, as a scheduler that knows one lr does, from a step on."""
    step = Optimizer.step

    def overwrites(self: Any, *given: Tensor) -> Tensor:
        if self.steps_taken + 1 == where.step:
            base = self.lr[0] / self.groups[0].lr
            for index, group in enumerate(self.groups):
                if where.has(group.site, group.layer, self.spec.width):
                    self.lr[index] = base * factor
        return step(self, *given)

    yield Change(Optimizer, "step", overwrites)


def exchanged_lr(_: Where, *, sites: tuple[str, str]) -> Iterator[Change]:
    """Exchange the lrs of two weights, as groups in another order do."""
    init = Optimizer.__init__

    def __init__(self: Any, groups: Any, runs: Any) -> None:
        init(self, groups, runs)
        at = {(group.site, group.layer): index for index, group in enumerate(self.groups)}
        for (site, layer), index in at.items():
            if site == sites[0]:
                other = at.get((sites[1], layer), at.get((sites[1], -1), index))
                self.lr[index], self.lr[other] = self.lr[other], self.lr[index]

    yield Change(Optimizer, "__init__", __init__)


def undeclared_warmup(_: Where, *, steps: int) -> Iterator[Change]:
    """Warm the lr of all weights up."""
    yield Change(train, "lr_scale", lambda run, step: min((step + 1) / steps, 1.0))  # noqa: ARG005


def undeclared_decay(_: Where, *, steps: int) -> Iterator[Change]:
    """Let the lr of all weights fade as a cosine does."""
    yield Change(train, "lr_scale", lambda run, step: 0.5 + 0.5 * math.cos(math.pi * step / steps))  # noqa: ARG005


def schedule_late(_: Where) -> Iterator[Change]:
    """Apply to each step the lr of the step before, and tell the right one."""
    scale, step = train.lr_scale, Optimizer.step

    def late(self: Any, lr_scale: Tensor, *given: Tensor) -> Tensor:
        before = scale(self.spec, max(self.steps_taken - 1, 0))
        return step(self, torch.full_like(lr_scale, before), *given)

    yield Change(Optimizer, "step", late)


def schedule_ignored(_: Where) -> Iterator[Change]:
    """Apply the full lr at every step, and tell what the schedule says."""
    step = Optimizer.step

    def ignores(self: Any, lr_scale: Tensor, *given: Tensor) -> Tensor:
        return step(self, torch.ones_like(lr_scale), *given)

    yield Change(Optimizer, "step", ignores)
