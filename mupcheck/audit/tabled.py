"""A table applied to what a user audits, in the place of an optimizer of their own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from mupcheck.audit.families import model_named
from mupcheck.audit.user_file import BETAS, EPS, LR, UserModel, default_optimizer
from mupcheck.roles.parametrize import parametrize
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, Table, rules_hash
from mupcheck.theory.rules_file import find_table

LRS = {"adamw": LR, "sgd": 2**-6}  # small enough that a few steps are in proportion to it


def audited(target: str, ladder: str | None, optimizer: str | None, table: str | None, base_width: int) -> UserModel:
    """Return what a user named, as `model_named`, with an optimizer as `with_optimizer` has it."""
    return with_optimizer(model_named(target, ladder).user, optimizer, table, base_width)


def with_optimizer(user: UserModel, optimizer: str | None, table: str | None, base_width: int) -> UserModel:
    """Return a model with an optimizer of ours: all parameters at one lr, or as a table says.

    Args:
        optimizer: "adamw" or "sgd"; None is "adamw".
        table: the name of a table or a TOML file with one, applied by `mupcheck.parametrize`; None leaves the model
            as it is, with one lr.
        base_width: where the table changes nothing.

    Raises:
        ValueError: if the model has an optimizer of its own, or one of these is unknown.
    """
    if optimizer is None and table is None:
        return user
    name = optimizer or "adamw"
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer {name!r} is unknown; known: {', '.join(OPTIMIZERS)}")
    if user.optimizer is not None:
        given = "--table" if table is not None else "--opt"
        raise ValueError(f"{user.name} has an optimizer of its own; leave {given} or its optimizer(model) out")
    provenance: dict[str, Any] = {**user.provenance, "optimizer": name}
    if table is None:
        return replace(user, optimizer=_one_lr(name), provenance=provenance)
    rules = find_table(table)
    provenance |= {"table": rules.name, "rules_hash": _hash(rules), "base_width": base_width}
    return replace(user, optimizer=_of_table(user, table, name, base_width), provenance=provenance)


def _hash(rules: Table) -> str:
    return "+".join(rules_hash(rules, optimizer=optimizer, mode=mode) for optimizer in OPTIMIZERS for mode in MODES)


def _one_lr(name: str) -> Callable[..., Optimizer]:
    def optimizer(model: nn.Module, lr: float = LRS[name]) -> Optimizer:
        if name == "adamw":
            return default_optimizer(model, lr)
        return torch.optim.SGD([each for each in model.parameters() if each.requires_grad], lr=lr)

    return optimizer


def _of_table(user: UserModel, table: str, name: str, base_width: int) -> Callable[..., Optimizer]:
    bases: list[nn.Module] = []

    def optimizer(model: nn.Module, lr: float = LRS[name]) -> Optimizer:
        if not bases:  # one for all runs: it is only read
            bases.append(_base(user, base_width))
        groups = parametrize(model, base=bases[0], table=table, optimizer=name, lr=lr, eps=EPS, roles=user.stated)
        if name == "adamw":
            return torch.optim.AdamW(groups, betas=BETAS)
        return torch.optim.SGD(groups)

    return optimizer


def _base(user: UserModel, width: int) -> nn.Module:
    """Return the model of the base width, always the same one, and leave random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = user.call("build", width)
    return model
