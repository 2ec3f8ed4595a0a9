"""The roles of a model as a table: a row for each kind of parameter, alike layers in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log

from torch import nn

from mupcheck.roles.infer import Slice, infer_roles, ratio_of
from mupcheck.roles.names import kind_of, pattern_of
from mupcheck.roles.own_init import own_exponents
from mupcheck.roles.settings import setting_of
from mupcheck.roles.stated import Stated
from mupcheck.theory.parametrization import Table


@dataclass(frozen=True)
class Powers:
    """By which powers of width an init std and an lr change, with what was folded into them; None: unknown."""

    init: float | None
    lr: float | None


@dataclass(frozen=True)
class RoleRow:
    """One kind of parameter: how often it is there, how it grows, its role, what tables give it and what its user does.

    `own` is what the model and its optimizer do from the one width to the other: init as measured, lr as its groups
    say. `in_optimizer` is False where no group holds it, None where there is no optimizer.
    """

    name: str
    part: str
    count: int
    base_shape: tuple[int, ...]
    shape: tuple[int, ...]
    growth: tuple[float, float]
    role: str | None
    mode: str
    why: str
    question: str
    tied: tuple[str, ...]
    rules: dict[str, Powers]
    own: Powers
    in_optimizer: bool | None

    @property
    def off(self) -> bool:
        """Say whether the user's lr or init is another than that of the first table."""
        rule = next(iter(self.rules.values()), None)
        if rule is None or self.role is None:
            return False
        pairs = ((rule.init, self.own.init), (rule.lr, self.own.lr))
        return any(a is not None and b is not None and abs(a - b) > 0.1 for a, b in pairs) or self.in_optimizer is False


def report(
    model: nn.Module, base: nn.Module, tables: Sequence[Table], *, optimizer: str, roles: Stated | None = None,
    given: tuple[Mapping[str, float], Mapping[str, float]] | None = None,
) -> list[RoleRow]:  # fmt: skip
    """Return a row for each kind of parameter.

    Args:
        model, base: at two widths, with values.
        tables, optimizer: whose rules are shown.
        roles: what is stated, as `infer_roles` takes it.
        given: the lrs that the user's optimizers give the parameters of the model and of the base.

    Raises:
        ValueError: as `infer_roles` does.
    """
    slices = infer_roles(model, base, roles=roles)
    width = ratio_of(model, base)
    owns = own_exponents(model, base, slices)
    kinds: dict[tuple[object, ...], list[Slice]] = {}
    for each in slices:
        lrs = _lr_power(each, given, width)
        kinds.setdefault((pattern_of(each.name), each.part, each.shape, each.role, each.question, lrs), []).append(each)
    return [_row(key[-1], alike, tables, optimizer, owns, given, width) for key, alike in kinds.items()]


def _row(
    lrs: object, alike: Sequence[Slice], tables: Sequence[Table], optimizer: str,
    owns: Mapping[tuple[str, str], float], given: tuple[Mapping[str, float], Mapping[str, float]] | None, width: float,
) -> RoleRow:  # fmt: skip
    each = alike[0]
    rules = {}
    if each.role is not None:
        for table in tables:
            setting = setting_of(each, table, optimizer=optimizer)
            rules[table.name] = Powers(_power(setting.init, width), _power(setting.lr, width))
    name = each.name if len(alike) == 1 else pattern_of(each.name)
    own = Powers(_power(owns[kind_of(each.name), each.part], width), lrs if isinstance(lrs, float) else None)
    held = None if given is None else all(each.name in side for side in given)
    return RoleRow(
        name, each.part, len(alike), each.base_shape, each.shape, each.growth, each.role, each.mode, each.why,
        each.question, each.tied, rules, own, held,
    )  # fmt: skip


def _lr_power(each: Slice, given: tuple[Mapping[str, float], Mapping[str, float]] | None, width: float) -> float | None:
    if given is None or any(each.name not in side for side in given):
        return None
    here, there = (side[each.name] for side in given)
    return _power(here / there, width) if here > 0 and there > 0 else None


def _power(factor: float, width: float) -> float:
    return round(log(factor) / log(width), 12) + 0.0  # without what the logarithms round
