"""What an optimizer really gives each parameter: read from its groups, not from what was meant."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from mupcheck.roles.names import uses_of


@dataclass(frozen=True)
class Given:
    """What the group of a parameter says; eps is None where the optimizer has none."""

    lr: float
    weight_decay: float
    eps: float | None


def given_by(optimizers: Sequence[Optimizer], model: nn.Module) -> dict[str, Given]:
    """Return what each parameter is given, by its clean name; one that no group holds is left out."""
    names = {parameter: uses[0].name for parameter, uses in uses_of(model).items()}
    found = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            eps = group.get("eps")
            given = Given(float(group["lr"]), float(group.get("weight_decay", 0)), eps if eps is None else float(eps))
            found.update({names[parameter]: given for parameter in group["params"] if parameter in names})
    return found
