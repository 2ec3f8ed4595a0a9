"""Faults of other kinds: those that whoever built the checks was not told of."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mupcheck.model import build
from mupcheck.model.layers import Weight, per_replica
from mupcheck.model.lm import LanguageModel
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change
from mupcheck.proof.patches.starts import place_of
from mupcheck.proof.patches.updates import Update, each_change, each_gradient
from mupcheck.spec.run import RunSpec
from mupcheck.training import train
from mupcheck.training.optim import Optimizer


def clamped(where: Where, *, most: float) -> Iterator[Change]:
    """Cut weights off at so many times their rms after each update."""

    def edit(update: Update) -> Tensor:
        after = update.before + update.change
        bound = per_replica(most * after.flatten(1).square().mean(1).sqrt(), after)
        return after.clamp(-bound, bound) - update.before

    return each_change(where, edit)


def orthogonalised(where: Where) -> Iterator[Change]:
    """Update matrices by the nearest orthogonal matrix of the same rms, as Muon does."""

    def edit(update: Update) -> Tensor:
        left, _, right = torch.linalg.svd(update.change, full_matrices=False)
        flat = left @ right
        sizes = (x.flatten(1).square().mean(1).sqrt() for x in (update.change, flat))
        return flat * per_replica(next(sizes) / next(sizes), flat)

    return each_change(where, edit)


def pushed(where: Where, *, share: float) -> Iterator[Change]:
    """Add the same small number to every value, also to those that have no gradient."""

    def edit(update: Update) -> Tensor:
        size = update.change.flatten(1).square().mean(1).sqrt()
        return update.change + share * per_replica(size, update.change)

    return each_change(where, edit)


def of_other_layer(where: Where) -> Iterator[Change]:
    """Update a weight of layer 1 with the gradient of layer 0."""

    def edit(optimizer: Optimizer, index: int, gradient: Tensor) -> Tensor:
        site = optimizer.groups[index].site
        for group in optimizer.groups:
            if (group.site, group.layer) == (site, 0) and group.weight.grad is not None:
                return group.weight.grad.clone()
        return gradient

    return each_gradient(where, edit)


def sizes_restored(where: Where) -> Iterator[Change]:
    """Give each weight after its update the rms that it had before."""

    def edit(update: Update) -> Tensor:
        after = update.before + update.change
        sizes = [x.flatten(1).square().mean(1).sqrt() for x in (update.before, after)]
        return after * per_replica(sizes[0] / sizes[1], after) - update.before

    return each_change(where, edit)


def tiled(where: Where) -> Iterator[Change]:
    """Draw initial weights at the base width and repeat them."""
    draw = build._base_values

    def repeated(name: str, module: Weight, run: RunSpec) -> np.ndarray:
        values = draw(name, module, run)
        if not module.std or not where.has(*place_of(name), run.width):
            return values
        share = run.width // run.base_width
        part = values[tuple(slice(0, max(size // share, 1)) for size in values.shape)]
        times = [-(-size // own) for size, own in zip(values.shape, part.shape, strict=True)]
        return np.tile(part, times)[tuple(slice(0, size) for size in values.shape)]

    yield Change(build, "_base_values", repeated)


def copied_start(_: Where, *, source: str, to: str) -> Iterator[Change]:
    """Start one weight as a copy of another of the same shape."""
    initialise = build._initialise

    @torch.no_grad()
    def copies(model: LanguageModel, runs: Any) -> None:
        initialise(model, runs)
        weights = {(site, layer): module.weight for site, layer, module in build.named_weights(model)}
        for (site, layer), weight in weights.items():
            if site == to:
                weight.copy_(weights[source, layer])

    yield Change(build, "_initialise", copies)


def new_batches(_: Where) -> Iterator[Change]:
    """Train a coordinate check on another batch each step, so that changes are those of the tokens."""
    batch = train._batch
    taken = train.train_batch

    def another(runs: Any, corpus: Any, step: int) -> Tensor:
        def at_step(corpus: Any, *, step: int, **of: Any) -> np.ndarray:  # noqa: ARG001
            return taken(corpus, step=now, **of)

        now, train.train_batch = step, at_step
        try:
            return batch(runs, corpus, step)
        finally:
            train.train_batch = taken

    yield Change(train, "_batch", another)


def last_token_only(_: Where) -> Iterator[Change]:
    """Take the loss of the last token of each sequence alone."""

    def last(self: Any, tokens: Tensor) -> Tensor:
        logits = self(tokens[..., :-1])
        shape = (*tokens.shape[:2], tokens.shape[2] - 1, -1)
        logits = logits.view(shape)[:, :, -1].flatten(0, 1)
        each = torch.nn.functional.cross_entropy(logits, tokens[..., -1].flatten(), reduction="none")
        return each.view(tokens.shape[0], -1).mean(1)

    yield Change(LanguageModel, "loss", last)
