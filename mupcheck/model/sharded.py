"""One model over several devices: torch's FSDP2 keeps a part of each weight on each, and gathers a block at a time.

A replica axis of one cannot be parted, so a weight [1, M, N] is parted along its rows, or, where their number does not
divide, its columns; one that divides along neither (a scalar a head) is whole on every device, as is its update.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Shard

from mupcheck.model.build import _set_multipliers, factor_at_start, initial_values, named_weights
from mupcheck.model.layers import Linear, Weight
from mupcheck.model.lm import LanguageModel
from mupcheck.model.ranks import Ranks
from mupcheck.spec.run import RunSpec

EXACT = MixedPrecisionPolicy()
# Gathered as autocast would cast it, or the copies that it casts would stay whole until the backward pass.
AS_PRODUCTS_SEE_IT = MixedPrecisionPolicy(
    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
)


@dataclass(frozen=True, eq=False)
class Part:
    """What this rank has of one weight.

    Attributes:
        local: its values, [1, ...]; in place of the weight's.
        shape: of the whole weight.
        axis: along which it is parted; None where every rank has all of it.
        start: of the part, along that axis.
    """

    site: str
    layer: int
    module: Weight
    local: Tensor
    shape: torch.Size
    axis: int | None
    start: int

    def take_gradient(self) -> None:
        """Let `local.grad` be this rank's part of the weight's gradient, as the backward pass left it."""
        gradient = self.module.weight.grad
        self.local.grad = gradient.to_local() if isinstance(gradient, DTensor) else gradient

    def whole(self, local: Tensor, ranks: Ranks) -> Tensor:
        """Return a value of the weight's shape from each rank's part of it."""
        return local if self.axis is None else torch.cat(list(ranks.each(local)), dim=self.axis)


def axis_of(shape: torch.Size, size: int) -> int | None:
    """Return along which axis a weight [1, ...] is parted into `size`: the first that divides, or None."""
    return next((axis for axis in range(1, len(shape)) if shape[axis] % size == 0), None)


def build_sharded(run: RunSpec, ranks: Ranks, device: str) -> LanguageModel:
    """Build a run's model over all ranks: the values of `build_model`, of which each device has its part.

    No rank has more than one whole weight at a time, in the memory of its host.
    """
    place = torch.device(device)
    with torch.device("meta"):
        model = LanguageModel(1, run, run.backend)
    model.to(torch.float64 if run.dtype == "float64" else torch.float32)
    mesh = DeviceMesh(place.type, list(range(ranks.size)))
    undivided = {weight for weight in model.parameters() if axis_of(weight.shape, ranks.size) is None}

    def shard(module: nn.Module, policy: MixedPrecisionPolicy = EXACT) -> None:
        fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=True,
            shard_placement_fn=lambda weight: Shard(axis_of(weight.shape, ranks.size) or 0),
            ignored_params=undivided,
            mp_policy=policy,
        )

    if run.dtype == "bfloat16":
        for module in model.modules():
            if isinstance(module, Linear):
                shard(module, AS_PRODUCTS_SEE_IT)
    for block in model.blocks:
        shard(block)
    if not run.tied:
        shard(model.embedding)
        if run.dtype != "bfloat16":
            shard(model.readout)
    shard(model)
    model.to_empty(device=place)
    with torch.no_grad():
        parts = {part.module: part for part in parts_of(model, ranks)}
        for module, _, values in initial_values(model, [run]):
            part = parts[module]
            if part.axis is not None:
                values = values.chunk(ranks.size, dim=part.axis - 1)[ranks.rank]
            torch.mul(values.to(part.local), factor_at_start(run, module), out=part.local[0])
    _set_multipliers(model, [run])
    return model


def parts_of(model: LanguageModel, ranks: Ranks) -> Iterator[Part]:
    """Yield what this rank has of each weight, in the order of `named_weights`."""
    for site, layer, module in named_weights(model):
        weight = module.weight
        axis = axis_of(weight.shape, ranks.size) if isinstance(weight, DTensor) else None
        local = weight.to_local().detach() if isinstance(weight, DTensor) else weight.detach()
        start = 0 if axis is None else ranks.rank * local.shape[axis]
        yield Part(site, layer, module, local, weight.shape, axis, start)


def share_gradients(parts: list[Part], ranks: Ranks) -> None:
    """Let every part have its gradient: FSDP2 averaged those of parted weights, here are those that are not parted."""
    undivided = [part for part in parts if part.axis is None and part.module.weight.grad is not None]
    if undivided and ranks.size > 1:
        gradients = [part.module.weight.grad for part in undivided]
        flat = torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])
        dist.all_reduce(flat)
        flat /= ranks.size
        for gradient, mean in zip(gradients, flat.split([part.local.numel() for part in undivided]), strict=True):
            assert gradient is not None
            gradient.copy_(mean.view_as(gradient))
    for part in parts:
        part.take_gradient()
