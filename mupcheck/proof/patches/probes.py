"""Faults of what is measured beside a training that is right."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from mupcheck.measuring import probes
from mupcheck.proof.faults import Where
from mupcheck.proof.patches import Change


def other_size(_: Where, *, size: Callable[[Tensor], Tensor]) -> Iterator[Change]:
    """Measure another size than the rms."""
    yield Change(probes, "rms", size)


def in_float64(x: Tensor) -> Tensor:
    """Return the rms, computed in another way."""
    return x.flatten(1).double().square().mean(1).sqrt()


def length(x: Tensor) -> Tensor:
    """Return |x| and not |x| / sqrt(n)."""
    return torch.linalg.vector_norm(x.flatten(1), dim=1)


def of_all_replicas(x: Tensor) -> Tensor:
    """Return one rms for all replicas."""
    return x.square().mean().sqrt().expand(len(x))


def of_next_replica(x: Tensor) -> Tensor:
    """Return the rms of the neighbour."""
    return x.flatten(1).square().mean(1).sqrt().roll(1)


def mean_square(x: Tensor) -> Tensor:
    """Forget the root."""
    return x.flatten(1).square().mean(1)


def aliased_start(_: Where) -> Iterator[Change]:
    """Keep no copy of the initial weights, so that nothing seems to change."""
    init = probes.Probe.__init__

    def __init__(self: Any, *given: Any, **options: Any) -> None:
        init(self, *given, **options)
        self.initial = [module.weight.detach() for _, _, module in self.weights]

    yield Change(probes.Probe, "__init__", __init__)
