"""THE table: how init, learning rate, eps and forward multipliers scale with width, for each role of a parameter.

Every number below is an exponent of m = width / base_width; at m = 1 every table is the same model. Nothing else in
mupcheck knows a scaling exponent, and `factors` is how it is read: `mupcheck.model.build` applies what it returns to our
own model, `mupcheck.roles.settings` to any other.

`SOURCES` says what the rows cite.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any


class Role(StrEnum):
    """What a parameter does in the model; stated where the parameter is made."""

    EMBEDDING = "embedding"
    READOUT = "readout"
    HIDDEN = "hidden"
    SHORT_CONV = "short_conv"
    NORM_GAIN = "norm_gain"
    HEAD_NORM_GAIN = "head_norm_gain"
    GATE = "gate"
    GATE_SCALAR = "gate_scalar"


# Weight decay pulls matrices towards 0; gains, filters and gate scalars have no reason to be there.
DECAYED = frozenset({Role.EMBEDDING, Role.READOUT, Role.HIDDEN, Role.GATE})
MODES = ("head-dim", "heads")
OPTIMIZERS = ("adamw", "sgd")
MULTIPLIER_SITES = ("logits", "o_raw", "mixer_out")

SOURCES = (
    "TP-V: Yang et al., arXiv:2203.03466, Tables 3 and 8.",
    "paper: Liu & Gu, arXiv:2606.04048, Unlocking Feature Learning in Gated Delta Networks at Scale. Its section 5, Tables "
    "1-2 and appendices were not available as text: rows marked paper come from its abstract, introduction, conclusion "
    "and released code.",
)


@dataclass(frozen=True)
class Row:
    """One line of a shipped table: init std, lr of SGD, lr of AdamW, eps of AdamW, all as exponents of m.

    `eps` falls as the role's gradient does, so that AdamW's step does not come to depend on it at large widths.
    """

    init: float
    sgd: float
    adamw: float
    eps: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Rule:
    """What one optimizer sees of a role: exponents of init std, lr, eps, and of a multiplier on the weight itself."""

    init: float
    lr: float
    eps: float
    multiplier: float
    source: str


@dataclass(frozen=True)
class Factors:
    """A rule at one width: m ** exponent. `weight_decay` is what keeps lr * weight_decay constant across width."""

    init: float
    lr: float
    eps: float
    multiplier: float
    weight_decay: float


@dataclass(frozen=True)
class Table:
    """One parametrization: (optimizer, mode) -> role -> Rule, and mode -> site -> exponent of a forward multiplier."""

    name: str
    rules: Mapping[tuple[str, str], Mapping[Role, Rule]]
    multipliers: Mapping[str, Mapping[str, float]]
    summary: str = ""

    def __repr__(self) -> str:
        return f"<Table {self.name}: {self.summary or 'custom'}; `mupcheck rules` and `mupcheck.rules` show its rows>"

    def rule(self, role: Role, *, optimizer: str, mode: str) -> Rule:
        """Return the exponents of `role` under `optimizer` ("adamw" or "sgd") in `mode` ("head-dim" or "heads")."""
        return self.rules[optimizer, mode][role]

    def multiplier(self, site: str, *, mode: str) -> float:
        """Return the exponent of the forward multiplier at `site`, 0 where the table has none."""
        return self.multipliers[mode].get(site, 0.0)


# fmt: off
_SP = {
    #                             init    sgd   adamw
    Role.EMBEDDING:      Row(      0,      0,     0, source="paper, SP"),
    Role.READOUT:        Row(      0,      0,     0, source="paper, SP"),
    Role.HIDDEN:         Row(      0,      0,     0, source="paper, SP"),
    Role.SHORT_CONV:     Row(      0,      0,     0, source="paper, SP"),
    Role.NORM_GAIN:      Row(      0,      0,     0, source="paper, SP"),
    Role.HEAD_NORM_GAIN: Row(      0,      0,     0, source="paper, SP"),
    Role.GATE:           Row(      0,      0,     0, source="paper, SP"),
    Role.GATE_SCALAR:    Row(      0,      0,     0, source="paper, SP"),
}
_SP_FANIN = _SP | {
    Role.READOUT:        Row(   -1/2,      0,     0, source="std 1/sqrt(fan_in)"),
    Role.HIDDEN:         Row(   -1/2,      0,     0, source="std 1/sqrt(fan_in)"),
    Role.GATE:           Row(   -1/2,      0,     0, source="std 1/sqrt(fan_in)"),
}
# eps: every gradient falls as 1/d per coordinate, those of the gates in head-dim mode as d^-1/2 (paper).
_GDN_MUP_HEAD_DIM = {
    #                             init    sgd   adamw   eps
    Role.EMBEDDING:      Row(      0,     +1,     0,    -1, source="TP-V Table 8, input weight"),
    Role.READOUT:        Row(      0,     +1,     0,    -1, source="TP-V Table 8, output weight (logits carry 1/m)"),
    Role.HIDDEN:         Row(   -1/2,      0,    -1,    -1, source="TP-V Table 8, hidden weight"),
    Role.SHORT_CONV:     Row(      0,     +1,     0,    -1, source="TP-V Table 8, vector-like: fan-in 4 does not grow"),
    Role.NORM_GAIN:      Row(      0,     +1,     0,    -1, source="TP-V Table 8, vector-like"),
    Role.HEAD_NORM_GAIN: Row(      0,     +1,     0,    -1, source="TP-V Table 8, vector-like: V grows with d"),
    Role.GATE:           Row(   -1/2,   -1/2,    -1,  -1/2, source="paper, gate rule: dL/dz is of size d^-1/2"),
    Role.GATE_SCALAR:    Row(      0,   +1/2,     0,  -1/2, source="paper, gate rule: dL/dz is of size d^-1/2"),
}
_GDN_MUP_HEADS = _GDN_MUP_HEAD_DIM | {
    Role.HEAD_NORM_GAIN: Row(      0,      0,     0,     0, source="V is fixed, the gain shared by all heads"),
    Role.GATE:           Row(   -1/2,      0,    -1,    -1, source="TP-V Table 8, hidden weight: H grows with d"),
    Role.GATE_SCALAR:    Row(      0,     +1,     0,    -1, source="TP-V Table 8, vector-like: H grows with d"),
}
_MUP_GATES = {
    Role.GATE:           Row(   -1/2,      0,    -1,    -1, source="paper, original muP: gates as hidden"),
    Role.GATE_SCALAR:    Row(      0,      0,     0,    -1, source="paper, original muP: scalars as at base width"),
}
_STRICT_GATES = {
    Role.GATE:           Row(     -1,     -1,    -1,     0, source="infinite-width limit: dL/dz is of order 1"),
    Role.GATE_SCALAR:    Row(      0,      0,     0,     0, source="infinite-width limit: dL/dz is of order 1"),
}
_CODE_ROWS = {
    Role.SHORT_CONV:     Row(   -1/2,      0,    -1,    -1, source="released code: conv taken for a hidden weight"),
    Role.NORM_GAIN:      Row(      0,      0,    -1,    -1, source="released code: gains in the hidden lr group"),
    Role.HEAD_NORM_GAIN: Row(      0,      0,    -1,    -1, source="released code: gains in the hidden lr group"),
}
# fmt: on

# the released code leaves torch's eps alone
_CODE_HEAD_DIM = {role: replace(row, eps=0) for role, row in (_GDN_MUP_HEAD_DIM | _CODE_ROWS).items()}
_CODE_HEADS = {role: replace(row, eps=0) for role, row in (_GDN_MUP_HEADS | _CODE_ROWS).items()}

_LOGITS = {"logits": -1}  # TP-V Table 8: output weights of std 1 with a 1/m multiplier


Rows = Mapping[Role, Row]
Sites = Mapping[str, float]


def _table(name: str, summary: str, *, head_dim: tuple[Rows, Sites], heads: tuple[Rows, Sites]) -> Table:
    rules, multipliers = {}, {}
    for mode, (rows, sites) in zip(MODES, (head_dim, heads), strict=True):
        multipliers[mode] = sites
        for optimizer in OPTIMIZERS:
            rules[optimizer, mode] = {
                role: Rule(row.init, getattr(row, optimizer), row.eps, 0, row.source) for role, row in rows.items()
            }
    return Table(name, rules, multipliers, summary)


TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        _table(
            "sp",
            "the paper's SP: one init std, one lr, no multipliers",
            head_dim=(_SP, {}),
            heads=(_SP, {}),
        ),
        _table(
            "sp-fanin",
            "init std 1/sqrt(fan_in), one lr, no multipliers",
            head_dim=(_SP_FANIN, {}),
            heads=(_SP_FANIN, {}),
        ),
        _table(
            "mup",
            "the paper's original muP: gates as hidden weights, no multiplier on o",
            head_dim=(_GDN_MUP_HEAD_DIM | _MUP_GATES, _LOGITS),
            heads=(_GDN_MUP_HEADS | _MUP_GATES, _LOGITS),
        ),
        _table(
            "mup-strict",
            "the infinite-width limit of the gates in head-dim mode, elsewhere as mup",
            head_dim=(_GDN_MUP_HEAD_DIM | _STRICT_GATES, _LOGITS),
            heads=(_GDN_MUP_HEADS | _MUP_GATES, _LOGITS),
        ),
        _table(
            "gdn-mup",
            "muP for Gated DeltaNet with the paper's gate rules",
            # o before o_norm is of size d^-1/2 at init; m^1/2 keeps it above the norm's eps (paper, section 4.3)
            head_dim=(_GDN_MUP_HEAD_DIM, _LOGITS | {"o_raw": 1 / 2}),
            heads=(_GDN_MUP_HEADS, _LOGITS),
        ),
        _table(
            "gdn-mup-code",
            "the paper's released code, literally, faults included",
            # the kernel's K^-1/2 scale, taken relative to the base width, and an extra 1/m after o_proj
            head_dim=(_CODE_HEAD_DIM, _LOGITS | {"o_raw": -1 / 2, "mixer_out": -1}),
            heads=(_CODE_HEADS, _LOGITS | {"mixer_out": -1}),
        ),
    )
}


def factors(table: Table, role: Role, *, optimizer: str, mode: str, m: float, decay_mode: str) -> Factors:
    """Return the factors of `role` at m = width / base_width.

    With decay_mode "independent" weight decay grows as lr falls, so that lr * weight_decay stays what it is at the
    base width; with "coupled" (torch's AdamW) it is left alone and the decay of 1/m roles fades with width.
    """
    rule = table.rule(role, optimizer=optimizer, mode=mode)
    decay = m**-rule.lr if decay_mode == "independent" else 1.0
    return Factors(m**rule.init, m**rule.lr, m**rule.eps, m**rule.multiplier, decay)


def decay_exponents(table: Table, *, optimizer: str, mode: str) -> dict[Role, float]:
    """Return by which power of width lr * weight_decay grows with coupled decay, of the roles where it is not 0."""
    rules = {role: table.rule(role, optimizer=optimizer, mode=mode) for role in Role if role in DECAYED}
    return {role: rule.lr for role, rule in rules.items() if rule.lr}


def table_order(name: str) -> tuple[int, str]:
    """Return a key that sorts the shipped tables as they are listed, then custom ones by name."""
    shipped = list(TABLES)
    return (shipped.index(name) if name in TABLES else len(shipped)), name


def rules_hash(table: Table, *, optimizer: str, mode: str) -> str:
    """Return 12 hex digits that change with any exponent `optimizer` and `mode` see in `table`."""
    rules = {role: table.rule(role, optimizer=optimizer, mode=mode) for role in Role}
    text = json.dumps(
        {
            "rules": {
                role: [float(r.init), float(r.lr), float(r.eps), float(r.multiplier)] for role, r in rules.items()
            },
            "multipliers": {site: float(table.multiplier(site, mode=mode)) for site in MULTIPLIER_SITES},
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def write_exponent(value: float) -> str:
    """Write an exponent as the tables do: 0, +1, -1/2."""
    if value == 0:
        return "0"
    return f"{int(2 * value):+d}/2" if value % 1 == 0.5 else f"{value:+g}"


def table_to_json(table: Table) -> dict[str, Any]:
    """Return a table's exponents as JSON can hold them, so that results can say by which rules they came about."""
    exponents = ("init", "lr", "eps", "multiplier")
    return {
        "rules": {
            f"{optimizer} {mode}": {role: [getattr(rule, name) for name in exponents] for role, rule in rows.items()}
            for (optimizer, mode), rows in table.rules.items()
        },
        "multipliers": {mode: dict(sites) for mode, sites in table.multipliers.items()},
    }


def table_from_json(name: str, document: Mapping[str, Any]) -> Table:
    """Return the table that `table_to_json` wrote.

    Raises:
        ValueError: if the document is not one.
    """
    try:
        rules = {
            (optimizer, mode): {
                role: _rule(document["rules"][f"{optimizer} {mode}"][role], "sweep.json") for role in Role
            }
            for optimizer in OPTIMIZERS
            for mode in MODES
        }
        return Table(name, rules, document["multipliers"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the rules of {name!r} in sweep.json are damaged ({error}); rerun the sweep") from error


def _rule(exponents: Sequence[float], source: str) -> Rule:
    init, lr, eps, multiplier = exponents
    return Rule(init, lr, eps, multiplier, source)
