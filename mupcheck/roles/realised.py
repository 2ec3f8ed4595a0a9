"""The lr that an optimizer really gives each parameter: read from its groups, not from what was meant."""

from collections.abc import Sequence
from math import nan

from torch import nn
from torch.optim import Optimizer

from mupcheck.recording.settings import realised
from mupcheck.roles.names import uses_of


def lrs_of(optimizers: Sequence[Optimizer], model: nn.Module) -> dict[str, float]:
    """Return the lr of each parameter by its clean name, NaN if its group has none; one in no group is left out."""
    parameters = {uses[0].name: parameter for parameter, uses in uses_of(model).items()}
    found = realised(optimizers, parameters)
    return {name: given.get("realised_lr", nan) for name, given in found.items() if given["n_groups"]}
