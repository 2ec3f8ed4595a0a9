"""Apply a table to any model: initial values rescaled in place, factors folded or hooked, and torch param groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mupcheck.results.printing import said
from mupcheck.roles.infer import Slice, infer_roles, same_shapes
from mupcheck.roles.names import Use, kind_of, uses_of
from mupcheck.roles.notes import notes_on, uneven
from mupcheck.roles.own_init import own_exponents
from mupcheck.roles.rows import RowPlan, plan_rows
from mupcheck.roles.settings import Setting, setting_of
from mupcheck.roles.sides import is_matrix, sides_of
from mupcheck.roles.stated import Stated, stated_of
from mupcheck.theory.parametrization import DECAYED, OPTIMIZERS, Role
from mupcheck.theory.rules_file import find_table

EPS = ("eps", "variance_epsilon", "norm_eps", "epsilon")
MARK = "_mupcheck_parametrized"


class ParamGroups(list[dict[str, Any]]):
    """torch param groups: a list of dicts, for any optimizer; `slices` and `settings` say what they come from.

    `hooked` says in words what is done while the model runs and not in its weights; `unhook()` takes that away.
    `notes` say what the table leaves to the model.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], slices: Sequence[Slice], settings: Sequence[Setting]) -> None:
        super().__init__(groups)
        self.slices, self.settings = tuple(slices), tuple(settings)
        self.hooked: list[str] = []
        self.notes: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._model: nn.Module | None = None

    def unhook(self) -> None:
        """Take the hooks away: the factor on tied logits, and those on rows of fused weights."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._model is not None:
            self._model.__dict__.pop(MARK, None)


@dataclass(frozen=True)
class _Times:
    """A factor on what goes into a module, or comes out of it. A head's bias stands behind it."""

    module: nn.Module
    name: str
    factor: float
    side: str = "input"

    def register(self) -> RemovableHandle:
        """Hook the module."""
        if self.side == "input":
            return self.module.register_forward_pre_hook(lambda _, given: (given[0] * self.factor, *given[1:]))
        return self.module.register_forward_hook(lambda _module, _given, out: out * self.factor)


@dataclass(frozen=True)
class _Fold:
    """An eps that takes up the multiplier before a norm."""

    module: nn.Module
    attribute: str
    value: float


def parametrize(
    model: nn.Module,
    *,
    base: nn.Module,
    table: str | Path,
    optimizer: str,
    lr: float,
    roles: Stated | None = None,
    weight_decay: float = 0.0,
    eps: float = 1e-8,
    decay_mode: str = "independent",
    logits: str | None = None,
    rescale: bool = True,
) -> ParamGroups:
    """Set a model up as a table says, and return the param groups of its optimizer.

        groups = mupcheck.parametrize(model, base=build(64), table="gdn-mup", optimizer="adamw", lr=2**-7)
        optimizer = torch.optim.AdamW(groups)

    Initial values become what the table makes of the base width's: std(base) * m^exponent, whatever the model's own
    init does with width. Multipliers go into init, lr and eps where they can; that on the logits of a tied readout is a
    forward hook. Of a fused weight whose rows want different lrs the gradient's rows are scaled under SGD, and under
    AdamW what the rows give (a forward hook, the weight divided by as much). At the base width the model stays as it
    is, bit for bit. Names, shapes and modules stay, so state dicts do; a loaded one needs the hooks and groups again:
    `rescale=False`. Call it before the optimizer is made, and after FSDP's `fully_shard`.

    Args:
        model: changed in place; on any device.
        base: the same model at the base width, as the library initialises it; it is only read.
        table: the name of a table or a TOML file with one.
        optimizer: "adamw" or "sgd", whose rules the groups follow.
        lr, weight_decay, eps: at the base width. Gains, scalars and short convolutions are not decayed.
        roles: what is stated of parameters, as `infer_roles` takes it.
        decay_mode: "independent" keeps lr * weight_decay what it is at the base width, "coupled" leaves weight_decay.
        logits: of a model that multiplies by its embedding without a module for it: the name of the module whose output
            is the logits, or what they are made from.
        rescale: whether initial values are rescaled; not those that were loaded.

    Raises:
        ValueError: if a role is unclear, a weight is on meta or quantised, or the table asks for what cannot be done;
            the model is then as it was.
    """
    rules = find_table(table)
    _check(optimizer, decay_mode, lr=lr, weight_decay=weight_decay, eps=eps)
    for each, called in ((model, "model"), (base, "base")):
        _check_values(each, called)
    if MARK in model.__dict__:
        raise ValueError("the model has been parametrized already; call unhook() of its groups first")
    uses = uses_of(model)
    by_name = {each[0].name: (parameter, each) for parameter, each in uses.items()}
    if same_shapes(model, base):
        return _as_it_is(by_name, stated_of(roles, model, list(by_name)), optimizer, lr, weight_decay, eps)

    slices = infer_roles(model, base, roles=roles)
    unclear = [each for each in slices if each.role is None]
    if unclear:
        more = f" (and {len(unclear) - 1} more)" if len(unclear) > 1 else ""
        raise ValueError(f"{unclear[0].title}: {unclear[0].question}{more}; `mupcheck roles` prints all")
    settings = [setting_of(each, rules, optimizer=optimizer, decay_mode=decay_mode) for each in slices]
    hooks = _logits(model, slices, settings, by_name, rules, logits)
    folds = _eps_folds(slices, settings, by_name, {u[0].name: u[0] for u in uses_of(base).values()})
    plans = {
        name: plan_rows(
            name, parameter, used[0],
            [(s, f) for s, f in zip(slices, settings, strict=True) if s.name == name],
            optimizer=optimizer, coupled=decay_mode == "coupled" and weight_decay > 0,
        )
        for name, (parameter, used) in by_name.items()
    }  # fmt: skip
    scales = _scales(model, base, slices, settings) if rescale else [1.0] * len(slices)

    # from here on the model changes; nothing is refused any more
    with torch.no_grad():
        for part, scale in zip(slices, scales, strict=True):
            if scale != 1:
                for view in _views(by_name[part.name][0], part.rows):
                    view.mul_(scale)
    groups = ParamGroups([], slices, settings)
    groups.notes = notes_on(model, base) + (uneven(slices) if optimizer == "sgd" else [])
    for name, plan in plans.items():
        groups._handles += plan.apply(*by_name[name], rescale=rescale)
        groups.hooked += plan.hooked
    for fold in folds:
        setattr(fold.module, fold.attribute, fold.value)
    for hook in hooks:
        groups._handles.append(hook.register())
        groups.hooked.append(f"the {hook.side} of {hook.name} times {hook.factor:g} (logits)")
    if groups._handles:
        groups._model = model
        model.__dict__[MARK] = True
    groups.extend(_groups(by_name, plans, optimizer, lr, weight_decay, eps))
    return groups


def _views(parameter: nn.Parameter, rows: Sequence[tuple[int, int]]) -> list[Tensor]:
    return [parameter[start:stop] for start, stop in rows] if rows else [parameter]


# --- groups -----------------------------------------------------------------------------------------------------------


def _groups(
    by_name: dict[str, tuple[nn.Parameter, list[Use]]], plans: dict[str, RowPlan], optimizer: str, lr: float,
    weight_decay: float, eps: float,
) -> list[dict[str, Any]]:  # fmt: skip
    """Return one group for each setting, in the order of the model; frozen parameters are in none."""
    found: dict[tuple[float, float, float], dict[str, Any]] = {}
    for name, (parameter, _) in by_name.items():
        if not parameter.requires_grad:
            continue
        whole = plans[name].whole
        decay = weight_decay * whole.weight_decay if whole.decayed else 0.0
        key = (lr * whole.lr, decay, eps * whole.eps)
        if key not in found:
            found[key] = {"params": [], "lr": key[0], "weight_decay": key[1]}
            found[key] |= {"eps": key[2]} if optimizer == "adamw" else {}
        found[key]["params"].append(parameter)
    return list(found.values())


def _as_it_is(
    by_name: dict[str, tuple[nn.Parameter, list[Use]]], stated: dict[str, Any], optimizer: str, lr: float,
    weight_decay: float, eps: float,
) -> ParamGroups:  # fmt: skip
    """Return the groups of a model of the base width, which differ by whether they decay alone."""
    plans = {}
    for name, (parameter, uses) in by_name.items():
        said_so = stated.get(name)
        matrix = is_matrix(sides_of(uses[0], tuple(parameter.shape)).what, tuple(parameter.shape))
        decayed = Role(said_so) in DECAYED if isinstance(said_so, str) else matrix
        plans[name] = RowPlan(Setting(decayed=decayed))
    return ParamGroups(_groups(by_name, plans, optimizer, lr, weight_decay, eps), (), ())


# --- initial values ---------------------------------------------------------------------------------------------------


def _scales(model: nn.Module, base: nn.Module, slices: Sequence[Slice], settings: Sequence[Setting]) -> list[float]:
    """Return what each slice is multiplied by: what the table makes of its std over what the library makes of it."""
    owns = own_exponents(model, base, slices)
    return [setting.init / owns[kind_of(each.name), each.part] for each, setting in zip(slices, settings, strict=True)]


# --- multipliers that no weight takes up ------------------------------------------------------------------------------


def _logits(
    model: nn.Module, slices: Sequence[Slice], settings: Sequence[Setting],
    by_name: dict[str, tuple[nn.Parameter, list[Use]]], rules: Any, named: str | None,
) -> list[_Times]:  # fmt: skip
    """Return what is multiplied because no weight takes it up."""
    modules = dict(model.named_modules())
    if named is not None and named not in modules:
        raise ValueError(f"logits: no module is called {named!r}; it is the name of the one whose output is the logits")
    found = []
    for each, setting in zip(slices, settings, strict=True):
        if each.tied and setting.logits != 1:
            heads = [use for use in by_name[each.name][1] if use.name in each.tied]
            for use in heads:  # a head's bias stands behind the factor; else what a head gives is where others have it
                side = "output" if getattr(use.module, "bias", None) is None else "input"
                found.append(_Times(use.module, use.name.rpartition(".")[0], setting.logits, side))
    has_readout = any(each.site == "logits" for each in slices)
    if named is not None:
        if has_readout:
            raise ValueError(f"logits={named!r} is for a model without a readout of its own, and this one has one")
        tables = [each for each in slices if each.role == Role.EMBEDDING]
        if not tables:
            raise ValueError(f"logits={named!r}: the model has no embedding to be tied to")
        factor = tables[0].m ** rules.multiplier("logits", mode=tables[0].mode)
        return [_Times(modules[named], named, factor, "output")] if factor != 1 else []
    if not has_readout and any(rules.multiplier("logits", mode=each.mode) for each in slices):
        raise ValueError(
            f"no parameter is the readout, whose logits {rules.name} multiplies; state one with roles, or, where the "
            "model multiplies by its embedding without a module for it, logits='the module whose output that is'"
        )
    return found


def _eps_folds(
    slices: Sequence[Slice], settings: Sequence[Setting], by_name: dict[str, tuple[nn.Parameter, list[Use]]],
    base_uses: dict[str, Use],
) -> list[_Fold]:  # fmt: skip
    """Return the eps of each norm behind the delta rule, from that at the base width."""
    found = []
    for each, setting in zip(slices, settings, strict=True):
        if setting.o_eps == 1:
            continue
        module, before = by_name[each.name][1][0].module, base_uses[each.name].module
        names = [name for name in EPS if isinstance(getattr(before, name, None), float) and hasattr(module, name)]
        if not names:
            raise ValueError(
                f"{each.name}: the multiplier before this norm goes into its eps, and its module, a "
                f"{type(module).__name__}, has none of {', '.join(EPS)}; give it one"
            )
        found.append(_Fold(module, names[0], getattr(before, names[0]) * setting.o_eps))
    return found


# --- what is given ----------------------------------------------------------------------------------------------------


def _check(optimizer: str, decay_mode: str, *, lr: float, weight_decay: float, eps: float) -> None:
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer = {optimizer!r} is unknown; known: {', '.join(OPTIMIZERS)}")
    if decay_mode not in ("independent", "coupled"):
        raise ValueError(f"decay_mode = {decay_mode!r} is unknown; known: independent, coupled")
    for name, value, least in (
        ("lr", lr, "above 0"),
        ("weight_decay", weight_decay, "0 or more"),
        ("eps", eps, "0 or more"),
    ):
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < 0 or (value == 0 and name == "lr"):
            raise ValueError(f"{name} = {value!r}, expected a number {least}")


def _check_values(model: nn.Module, called: str) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"{called} is {said(model)}, expected a torch.nn.Module")
    for name, parameter in model.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise ValueError(f"{called}: {name} has no shape yet; run the model once on a batch first")
        if parameter.is_meta:
            raise ValueError(f"{called}: {name} is on meta and has no values; give it some first (to_empty, then init)")
        if not parameter.is_floating_point() or parameter.itemsize < 2 or hasattr(parameter, "quant_state"):
            raise ValueError(
                f"{called}: {name} is quantised ({parameter.dtype}); parametrize it before it is quantised"
            )
