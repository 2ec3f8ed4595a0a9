"""One parameter whose rows want different things: what its param group takes, and what hooks add for some rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import isclose

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mupcheck.roles.infer import Slice
from mupcheck.roles.names import Use
from mupcheck.roles.settings import Setting

Rows = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class RowPlan:
    """What the group of a parameter is given (`whole`), and by what rows of its gradient and its output are multiplied.

    Under SGD an lr that is s times the group's is a gradient times s. AdamW's step does not change with the size of its
    gradient. So where the lr is c times the group's the output of the rows takes c, and the weight's rows 1 / c: a step
    of lr is then one of c lr in what acts. Of their eps the smallest is for all: it is there to take no part.
    """

    whole: Setting
    gradient: tuple[tuple[Rows, float], ...] = ()
    output: tuple[tuple[Rows, float], ...] = ()
    hooked: list[str] = field(default_factory=list)

    def apply(self, parameter: nn.Parameter, uses: Sequence[Use], *, rescale: bool) -> list[RemovableHandle]:
        """Hook the parameter's gradient and its module's output; return the handles."""
        handles = []
        if self.output:
            outer = _by_row(parameter, self.output)
            if rescale:
                with torch.no_grad():
                    parameter.div_(outer.view(-1, *[1] * (parameter.dim() - 1)))
            handles.append(uses[0].module.register_forward_hook(lambda _module, _inputs, out: out * outer.to(out)))
        if self.gradient and parameter.requires_grad:
            inner = _by_row(parameter, self.gradient).view(-1, *[1] * (parameter.dim() - 1))
            handles.append(parameter.register_hook(lambda gradient: gradient * inner.to(gradient)))
        return handles


def plan_rows(
    name: str, parameter: nn.Parameter, use: Use, slices: Sequence[tuple[Slice, Setting]], *, optimizer: str,
    coupled: bool,
) -> RowPlan:  # fmt: skip
    """Return how a parameter's slices get their settings under one group.

    Raises:
        ValueError: if they cannot.
    """
    largest = max(slices, key=lambda pair: pair[0].shape[0] if pair[0].shape else 1)[1]
    if len(slices) == 1 or all(_alike(setting, largest) for _, setting in slices):
        return RowPlan(largest)
    adamw = optimizer == "adamw"
    gradient, output, hooked = [], [], []
    for each, setting in slices:
        ratio = setting.lr / largest.lr
        outer = ratio if adamw else 1.0
        inner = 1.0 if adamw else ratio
        if not isclose(outer, 1):
            output.append((each.rows, outer))
            hooked.append(f"{each.title}: what they give times {outer:g}, their weight divided by it (lr)")
        if not isclose(inner, 1):
            gradient.append((each.rows, inner))
            hooked.append(f"{each.title}: their gradient times {inner:g} (lr)")
    if type(parameter).__name__ == "DTensor" or type(parameter.data).__name__ == "DTensor":
        raise ValueError(f"{name} is sharded, and its rows want different lrs; parametrize it before it is sharded")
    if output and not (isinstance(use.module, nn.Linear) and use.leaf == "weight" and use.module.bias is None):
        raise ValueError(
            f"{name}: its rows want different lrs, which AdamW gives to what a Linear without a bias makes, and this "
            f"is in a {type(use.module).__name__}; make them parameters of their own"
        )
    if coupled and any(not isclose(setting.lr, largest.lr) for _, setting in slices):
        raise ValueError(
            f"{name}: its rows want different lrs, and with coupled decay different decays, which one parameter cannot "
            "have; use decay_mode='independent', or make them parameters of their own"
        )
    smallest = min(setting.eps * (setting.lr / largest.lr) for _, setting in slices) if adamw else largest.eps
    return RowPlan(replace(largest, eps=smallest), tuple(gradient), tuple(output), hooked)


def _alike(one: Setting, other: Setting) -> bool:
    return (
        all(isclose(getattr(one, name), getattr(other, name)) for name in ("lr", "eps", "weight_decay"))
        and one.decayed == other.decayed
    )


def _by_row(parameter: Tensor, factors: Sequence[tuple[Rows, float]]) -> Tensor:
    """Return one factor per row, 1 where none is given."""
    found = torch.ones(parameter.shape[0], dtype=parameter.dtype, device=parameter.device)
    for rows, factor in factors:
        for start, stop in rows:
            found[start:stop] = factor
    return found
