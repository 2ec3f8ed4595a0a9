"""When a replica is given up: the same rules on the host, from numbers, and on a device, from tensors."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

# A loss this far above what guessing gives, this many steps in a row, does not come back (performance.md).
HIGH_LOSS_NATS, HIGH_LOSS_STEPS = 1.0, 5
# Behind norms a blown-up model is finite: it guesses, and nothing flows back.
DEAD_LOSS_NATS, DEAD_GRADIENT = 1e-3, 1e-12
# what a device says of a replica, by number
ALIVE, NOT_FINITE, HIGH, DEAD = range(4)


class DivergenceWatch:
    """Says which replicas diverged, from their losses and gradient norms, step by step.

    Three ways: a loss or gradient that is not finite; a loss above what guessing gives (and above where it started) for
    several steps; a model that guesses (loss = ln vocab) and has no gradient left.
    """

    def __init__(self, n_replicas: int, vocab_size: int) -> None:
        self.guess = math.log(vocab_size)
        self.ceiling = np.full(n_replicas, np.nan)
        self.high_steps = np.zeros(n_replicas, dtype=int)
        self.reason: list[str | None] = [None] * n_replicas

    def update(self, loss: np.ndarray, grad_norm: np.ndarray) -> None:
        """Take one step's loss and gradient norm, [R] each."""
        if np.isnan(self.ceiling).all():
            self.ceiling = ceiling_of(loss, self.guess)
        with np.errstate(invalid="ignore"):
            self.high_steps = np.where(loss > self.ceiling, self.high_steps + 1, 0)
            dead = (np.abs(loss - self.guess) < DEAD_LOSS_NATS) & (grad_norm < DEAD_GRADIENT)
        for replica, reason in enumerate(self.reason):
            if reason is not None:
                continue
            if not (np.isfinite(loss[replica]) and np.isfinite(grad_norm[replica])):
                self.reason[replica] = reason_of(NOT_FINITE, self.ceiling[replica])
            elif self.high_steps[replica] >= HIGH_LOSS_STEPS:
                self.reason[replica] = reason_of(HIGH, self.ceiling[replica])
            elif dead[replica]:
                self.reason[replica] = reason_of(DEAD, self.ceiling[replica])

    def held(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what the next step is judged by, as tensors [R] and as what JSON can hold."""
        tensors = {"ceiling": torch.from_numpy(self.ceiling.copy()), "high_steps": torch.from_numpy(self.high_steps)}
        return {f"watch/{name}": tensor for name, tensor in tensors.items()}, {"reasons": list(self.reason)}

    def hold(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Go on from what `held` returned."""
        self.ceiling, self.high_steps = (tensors[f"watch/{name}"].numpy().copy() for name in ("ceiling", "high_steps"))
        self.reason = list(facts["reasons"])


class DeviceWatch:
    """The rules of `DivergenceWatch` on a device, where the host need not wait for them.

    All of it is written in place, so that a captured step goes on from where the last one was.

    Attributes:
        why: ALIVE, NOT_FINITE, HIGH or DEAD of each replica, int64 [R].
    """

    def __init__(self, n_replicas: int, vocab_size: int, device: str | torch.device) -> None:
        self.guess = math.log(vocab_size)
        self.ceiling = torch.full((n_replicas,), math.nan, dtype=torch.float64, device=device)
        self.high_steps = torch.zeros(n_replicas, dtype=torch.int64, device=device)
        self.why = torch.zeros(n_replicas, dtype=torch.int64, device=device)

    @torch.no_grad()
    def update(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Take one step's loss and gradient norm, float64 [R] each."""
        # the first step sets every ceiling, as fmax takes the number where the loss is none
        first = loss.fmax(torch.full_like(loss, self.guess)) + HIGH_LOSS_NATS
        self.ceiling.copy_(torch.where(self.ceiling.isnan(), first, self.ceiling))
        self.high_steps.add_(1).mul_(loss > self.ceiling)
        dead = ((loss - self.guess).abs() < DEAD_LOSS_NATS) & (grad_norm < DEAD_GRADIENT)
        now = (dead * DEAD).masked_fill(self.high_steps >= HIGH_LOSS_STEPS, HIGH)
        now = now.masked_fill(~(loss.isfinite() & grad_norm.isfinite()), NOT_FINITE)
        self.why.copy_(torch.where(self.why == ALIVE, now, self.why))

    def held(self) -> dict[str, Tensor]:
        """Return what the next step is judged by, [R] each."""
        return {f"watch/{name}": getattr(self, name).to("cpu", copy=True) for name in ("ceiling", "high_steps", "why")}

    def hold(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what `held` returned, in the tensors that are there."""
        for name in ("ceiling", "high_steps", "why"):
            getattr(self, name).copy_(tensors[f"watch/{name}"])

    def limits(self) -> Tensor:
        """Return what the rules compare with, for a kernel that does as `note` does: float64 [4]."""
        limits = (self.guess, HIGH_LOSS_NATS, DEAD_LOSS_NATS, DEAD_GRADIENT)
        return torch.tensor(limits, dtype=torch.float64, device=self.why.device)

    def keep(self, living: Tensor) -> None:
        """Go on with these replicas alone; living: int64 [n]."""
        self.ceiling, self.high_steps, self.why = (x[living] for x in (self.ceiling, self.high_steps, self.why))


@torch.no_grad()
def note(watch: DeviceWatch, ring: Tensor, step: Tensor, loss: Tensor, grad_norm: Tensor, clipped: Tensor) -> None:
    """Watch one step, put its numbers into a ring and count it, all on the device.

    Args:
        watch: what it changes.
        ring: float64 [slots, 4, R]; slot `step % slots` gets loss, grad_norm, clipped and why.
        step: int64 [1], counted up.
        loss: float64 [R].
        grad_norm: [R].
        clipped: bool [R].
    """
    grad_norm = grad_norm.double()
    watch.update(loss, grad_norm)
    row = torch.stack([loss, grad_norm, clipped.double(), watch.why.double()])
    ring.index_copy_(0, step % len(ring), row[None])
    step += 1


def ceiling_of(loss: np.ndarray, guess: float) -> np.ndarray:
    """Return above what a loss is high, from that of the first step [R] and of guessing."""
    return np.fmax(loss, guess) + HIGH_LOSS_NATS


def reason_of(why: int, ceiling: float) -> str | None:
    """Say why a replica diverged, None if it did not."""
    return {
        NOT_FINITE: "loss or gradient is not finite",
        HIGH: f"loss above {ceiling:.2f} for {HIGH_LOSS_STEPS} steps",
        DEAD: "loss is ln(vocab) and no gradient is left",
    }.get(why)
