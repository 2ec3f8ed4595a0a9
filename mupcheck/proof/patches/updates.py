"""Faults of what an update does to a weight: it is what the optimizer declares, and then it is not applied so."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mupcheck.model.build import ParameterGroup
from mupcheck.model.layers import per_replica
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change
from mupcheck.theory.parametrization import DECAYED
from mupcheck.training.optim import SGD, AdamW, Optimizer


@dataclass
class Update:
    """One update of one weight: what it was before [R, ...] and by how much it changed."""

    optimizer: Optimizer
    index: int
    before: Tensor
    change: Tensor
    gradient: Tensor
    lr: Tensor

    @property
    def group(self) -> ParameterGroup:
        """Return the weight with its site, layer and factors."""
        return self.optimizer.groups[self.index]

    @property
    def step(self) -> int:
        """Return the number of this update, from 1."""
        return self.optimizer.steps_taken


def is_at(where: Where, optimizer: Optimizer, index: int) -> bool:
    """Say whether the update under way of a weight is one that a fault is about."""
    group = optimizer.groups[index]
    here = where.has(group.site, group.layer, optimizer.spec.width)
    return here and optimizer.steps_taken >= where.step


def each_change(where: Where, edit: Callable[[Update], Tensor]) -> Iterator[Change]:
    """Put what `edit` returns in the place of each change."""

    def edited(update: Callable[..., None]) -> Callable[..., None]:
        def _update(self: Any, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
            if not is_at(where, self, index):
                update(self, index, weight, gradient, lr)
                return
            before, given = weight.clone(), gradient.clone()
            update(self, index, weight, gradient, lr)
            weight.copy_(before + edit(Update(self, index, before, weight - before, given, lr)))

        return _update

    for optimizer in (AdamW, SGD):
        yield Change(optimizer, "_update", edited(optimizer._update))


def each_gradient(where: Where, edit: Callable[[Optimizer, int, Tensor], Tensor]) -> Iterator[Change]:
    """Give each update what `edit` makes of its gradient; the one that is recorded stays."""

    def edited(update: Callable[..., None]) -> Callable[..., None]:
        def _update(self: Any, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
            used = edit(self, index, gradient.clone()) if is_at(where, self, index) else gradient
            update(self, index, weight, used, lr)

        return _update

    for optimizer in (AdamW, SGD):
        yield Change(optimizer, "_update", edited(optimizer._update))


# --- sizes -----------------------------------------------------------------------------------------------------------


def scaled(where: Where, *, factor: float) -> Iterator[Change]:
    """Scale updates by a constant; -1 climbs the loss, 0 trains nothing."""
    return each_change(where, lambda update: factor * update.change)


def part_scaled(where: Where, *, axis: int, part: slice, factor: float) -> Iterator[Change]:
    """Scale the updates of some rows (axis 1), columns (axis -1) or seeds (axis 0) of a weight."""

    def edit(update: Update) -> Tensor:
        change = update.change.clone()
        change.movedim(axis, 0)[part] *= factor
        return change

    return each_change(where, edit)


def head_scaled(where: Where, *, head: int, factor: float) -> Iterator[Change]:
    """Scale the updates of the columns of one head."""

    def edit(update: Update) -> Tensor:
        change = update.change.clone()
        n_heads = update.optimizer.spec.heads[0]
        change.unflatten(-1, (n_heads, -1))[..., head, :] *= factor
        return change

    return each_change(where, edit)


def by_width(where: Where, *, exponent: float) -> Iterator[Change]:
    """Scale updates by a power of m that the table does not have."""
    return each_change(where, lambda update: update.change * update.optimizer.spec.m**exponent)


def warmed_up(where: Where, *, steps: int) -> Iterator[Change]:
    """Warm an lr up that nothing declares."""
    return each_change(where, lambda update: update.change * min(update.step / steps, 1.0))


def twice(where: Where) -> Iterator[Change]:
    """Take every update twice."""
    for optimizer in (AdamW, SGD):

        def _update(self: Any, index: int, *given: Tensor, update: Callable[..., None] = optimizer._update) -> None:
            update(self, index, *given)
            if is_at(where, self, index):
                update(self, index, *given)

        yield Change(optimizer, "_update", _update)


def alternating(where: Where) -> Iterator[Change]:
    """Update only every other step, and then twice as far."""
    return each_change(where, lambda update: update.change * (2.0 if update.step % 2 else 0.0))


def mixed_up(where: Where, *, axis: int) -> Iterator[Change]:
    """Apply the update of the next row or column."""
    return each_change(where, lambda update: update.change.roll(1, axis))


def noisy(where: Where, *, share: float) -> Iterator[Change]:
    """Add noise of a share of the update's size."""

    def edit(update: Update) -> Tensor:
        random = torch.Generator().manual_seed(update.index * 100 + update.step)
        noise = torch.randn(update.change.shape, generator=random, dtype=update.change.dtype)
        return update.change + share * noise * update.change.square().mean().sqrt()

    return each_change(where, edit)


# --- gradients -------------------------------------------------------------------------------------------------------


def of_another_seed(where: Where) -> Iterator[Change]:
    """Update every replica with the gradient of its neighbour."""
    return each_gradient(where, lambda _, __, gradient: gradient.roll(1, 0))


def averaged_over_seeds(where: Where) -> Iterator[Change]:
    """Average gradients over replicas, as if they were parts of one batch."""
    return each_gradient(where, lambda _, __, gradient: gradient.mean(0, keepdim=True).expand_as(gradient))


def clipped(where: Where, *, norm: float) -> Iterator[Change]:
    """Clip the gradient of each weight and tell nobody."""

    def edit(_: Optimizer, __: int, gradient: Tensor) -> Tensor:
        size = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return gradient * per_replica((norm / size).clamp(max=1.0), gradient)

    return each_gradient(where, edit)


def normalised(where: Where) -> Iterator[Change]:
    """Give the gradient of each weight the rms 1e-3, as layer-wise adaptive rates do."""

    def edit(_: Optimizer, __: int, gradient: Tensor) -> Tensor:
        size = gradient.flatten(1).square().mean(1).sqrt()
        return gradient * per_replica(1e-3 / size, gradient)

    return each_gradient(where, edit)


def late(where: Where) -> Iterator[Change]:
    """Update with the gradient of the step before; the first update has none."""
    kept: dict[tuple[int, int], Tensor] = {}

    def edit(optimizer: Optimizer, index: int, gradient: Tensor) -> Tensor:
        before = kept.get((id(optimizer), index), torch.zeros_like(gradient))
        kept[id(optimizer), index] = gradient
        return before

    return each_gradient(where, edit)


def underflown(where: Where) -> Iterator[Change]:
    """Pass gradients through float16, which has nothing below 6e-8, with a loss scale that is too small."""
    return each_gradient(where, lambda _, __, gradient: (gradient * 2.0**-12).half().to(gradient.dtype) * 2.0**12)


def quantised(where: Where) -> Iterator[Change]:
    """Pass gradients through 8 levels either way of the largest of each weight."""

    def edit(_: Optimizer, __: int, gradient: Tensor) -> Tensor:
        unit = per_replica(gradient.flatten(1).abs().amax(1) / 8, gradient)
        return (gradient / unit).round() * unit

    return each_gradient(where, edit)


def piled_up(_: Where) -> Iterator[Change]:
    """Never set a gradient to zero, so that those of all steps add up."""
    from mupcheck.model.lm import LanguageModel

    yield Change(LanguageModel, "zero_grad", lambda self, set_to_none=True: None)  # noqa: ARG005


def loss_scaled(_: Where, *, factor: float) -> Iterator[Change]:
    """Scale every gradient, as a sum over parts of a batch that is not divided does; the loss is told right."""
    from mupcheck.model.lm import LanguageModel

    loss = LanguageModel.loss

    def scaled_behind(self: Any, tokens: Tensor) -> Tensor:
        value = loss(self, tokens)
        value.register_hook(lambda gradient: gradient * factor)
        return value

    yield Change(LanguageModel, "loss", scaled_behind)


# --- weights ---------------------------------------------------------------------------------------------------------


def rounded_to(where: Where, *, dtype: str) -> Iterator[Change]:
    """Store weights in another dtype after each update."""

    def edit(update: Update) -> Tensor:
        return (update.before + update.change).to(getattr(torch, dtype)).to(update.change.dtype) - update.before

    return each_change(where, edit)


def on_a_grid(where: Where, *, spacing: float) -> Iterator[Change]:
    """Round weights to multiples of a number after each update."""

    def edit(update: Update) -> Tensor:
        return ((update.before + update.change) / spacing).round() * spacing - update.before

    return each_change(where, edit)


def one_model(where: Where) -> Iterator[Change]:
    """Average the weights of all replicas after each update."""

    def edit(update: Update) -> Tensor:
        after = update.before + update.change
        return after.mean(0, keepdim=True) - update.before

    return each_change(where, edit)


# --- decay -----------------------------------------------------------------------------------------------------------


def decayed(where: Where, *, factor: float = 1.0, all_roles: bool = False, by_lr: bool = True) -> Iterator[Change]:
    """Pull weights towards 0 by `factor` times their decay, beside what the optimizer does; those without it too."""

    def edit(update: Update) -> Tensor:
        decay = update.optimizer.weight_decay[update.index]
        if all_roles and update.group.role not in DECAYED:
            decay = torch.full_like(decay, update.optimizer.spec.weight_decay)
        elif all_roles:
            return update.change
        pull = factor * decay * (update.lr if by_lr else 1.0)
        return update.change - per_replica(pull.to(update.before.dtype), update.before) * update.before

    return each_change(where, edit)


def scaled_towards_zero(where: Where, *, share: float) -> Iterator[Change]:
    """Shrink weights by a share of themselves each step."""
    return each_change(where, lambda update: update.change - share * update.before)


def decay_set(_: Where, *, coupled: bool) -> Iterator[Change]:
    """Give every weight the decay of the base width (coupled), or none at all."""
    init = Optimizer.__init__

    def __init__(self: Any, groups: Any, runs: Any) -> None:
        init(self, groups, runs)
        own = [torch.where(decay > 0, self.spec.weight_decay, 0.0) for decay in self.weight_decay]
        self.weight_decay = [decay * float(coupled) for decay in own]

    yield Change(Optimizer, "__init__", __init__)


def decay_in_gradient(_: Where) -> Iterator[Change]:
    """Add the decay to Adam's gradient, as Adam with L2 does, where it should pull on the weight."""
    update = AdamW._update

    def _update(self: Any, index: int, weight: Tensor, gradient: Tensor, lr: Tensor) -> None:
        decay = self.weight_decay[index]
        self.weight_decay[index] = torch.zeros_like(decay)
        update(self, index, weight, gradient + per_replica(decay.to(weight.dtype), weight) * weight, lr)
        self.weight_decay[index] = decay

    yield Change(AdamW, "_update", _update)
