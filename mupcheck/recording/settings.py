"""What a user's optimizers give each parameter: lr, weight decay, eps and betas, as their groups have them now."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from torch.nn import Parameter
from torch.optim import Optimizer

# stat of the `coords` table -> the key of a param group, and where it is one of several, which
SETTINGS: dict[str, tuple[str, int | None]] = {
    "realised_lr": ("lr", None),
    "realised_wd": ("weight_decay", None),
    "realised_eps": ("eps", None),
    "realised_beta1": ("betas", 0),
    "realised_beta2": ("betas", 1),
    "realised_momentum": ("momentum", None),
}


def realised(optimizers: Iterable[Optimizer], parameters: Mapping[str, Parameter]) -> dict[str, dict[str, float]]:
    """Return for each parameter by name `n_groups`, the groups that it is in, and what the last of them gives it.

    A parameter that is in no group has `n_groups` 0 and nothing else; a setting that a group lacks is left out.
    """
    count: dict[int, int] = {}
    last: dict[int, dict[str, float]] = {}
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            values = ((stat, _number(group.get(key), at)) for stat, (key, at) in SETTINGS.items())
            of_group = {stat: value for stat, value in values if value is not None}
            for parameter in group["params"]:
                count[id(parameter)] = count.get(id(parameter), 0) + 1
                last[id(parameter)] = of_group
    return {
        name: {"n_groups": float(count.get(id(parameter), 0))} | last.get(id(parameter), {})
        for name, parameter in parameters.items()
    }


def _number(value: Any, at: int | None) -> float | None:
    """Return a setting as a number, None where it is none."""
    if at is not None:
        if not isinstance(value, tuple | list) or len(value) <= at:
            return None
        value = value[at]
    try:
        number = float(value)  # lr may be a tensor
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number
