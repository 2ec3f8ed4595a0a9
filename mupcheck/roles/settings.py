"""What a table gives a slice of a parameter when it has no forward multiplier of its own: factors, folded together.

A factor c that stands behind a weight can go into the weight: its init times c, its lr times c under AdamW and c^2
under SGD, its eps over c, as the gradient of the smaller weight is the larger one, and its weight decay so that lr
times weight decay stays. What the model computes is the same (`mupcheck identities` tests that) and its modules stay.
One factor has no weight of its own to go into: that of the logits where the readout is tied.
"""

from dataclasses import dataclass, replace

from mupcheck.roles.infer import Slice
from mupcheck.theory.parametrization import DECAYED, MODES, OPTIMIZERS, Role, Table, factors

HEAD_DIM = MODES[0]


@dataclass(frozen=True)
class Setting:
    """What a slice gets, as factors on what it has at the base width; `init` is on the std of its initial values.

    `logits` is the factor on what a tied readout gives, `o_eps` that on the eps of the norm behind the delta rule,
    which a multiplier on its input comes to.
    """

    init: float = 1.0
    lr: float = 1.0
    eps: float = 1.0
    weight_decay: float = 1.0
    logits: float = 1.0
    o_eps: float = 1.0
    decayed: bool = True


def setting_of(each: Slice, table: Table, *, optimizer: str, decay_mode: str = "independent") -> Setting:
    """Return what a table gives a slice; its factors are 1 where nothing has grown.

    Raises:
        ValueError: if the slice has no role.
    """
    if each.role is None:
        raise ValueError(f"{each.title}: {each.question}")
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    m = each.m
    rule = factors(table, each.role, optimizer=optimizer, mode=each.mode, m=m, decay_mode=decay_mode)
    if each.role == Role.SHORT_CONV and not each.growth[1]:
        # What a fixed number of channels gives is read by more and more heads, whose gradients add up as those of a
        # gate do (theory.md, section 3): its filters take the lr of a gate's scalars, and its projection has a gate's.
        fixed = factors(table, Role.GATE_SCALAR, optimizer=optimizer, mode=HEAD_DIM, m=m, decay_mode=decay_mode)
        rule = replace(rule, lr=fixed.lr)
    behind = m ** table.multiplier(each.site, mode=each.mode) if each.site else 1.0
    tied, norm = bool(each.tied), each.site == "o_raw"
    c = rule.multiplier * (1.0 if tied or norm else behind)
    moved = c if optimizer == "adamw" else c * c
    return Setting(
        init=rule.init * c,
        lr=rule.lr * moved,
        eps=rule.eps / c,
        weight_decay=rule.weight_decay / moved,
        logits=behind if tied else 1.0,
        # norm(c o; eps) = norm(o; eps / c^2)
        o_eps=behind**-2 if norm else 1.0,
        decayed=each.role in DECAYED,
    )


def mode_of(slices: list[Slice]) -> str:
    """Return "head-dim" or "heads": what most gate scalars, or all else, say of the model."""
    said = [each.mode for each in slices]
    return max(MODES, key=said.count)
