"""Every parameter of the model by name: its role, what it acts on and makes, by what it grows, and its exponents."""

from collections.abc import Mapping
from dataclasses import dataclass

from mupcheck.theory.parametrization import MODES, MULTIPLIER_SITES, OPTIMIZERS, Role, Table


@dataclass(frozen=True)
class Parameter:
    """How a parameter takes part: its role, the site it acts on and the one it makes, and by what its sides grow.

    `fan_in` and `fan_out` are exponents of d, 0 for a side that does not grow; "H" and "K" stand for what grows in one
    mode alone. A gain or scalar acts on nothing; a site in angle brackets is none of the recorded ones.
    """

    role: Role
    acts_on: str
    makes: str
    fan_in: float | str = 0.0
    fan_out: float | str = 0.0
    in_block: bool = True


# fmt: off
PARAMETERS = {
    "embedding":       Parameter(Role.EMBEDDING,       "",           "embedding",  0, 1, in_block=False),
    "norm1_gain":      Parameter(Role.NORM_GAIN,       "",           "norm1",      0, 1),
    "q_proj":          Parameter(Role.HIDDEN,          "norm1",      "q_pre",      1, 1),
    "k_proj":          Parameter(Role.HIDDEN,          "norm1",      "k_pre",      1, 1),
    "v_proj":          Parameter(Role.HIDDEN,          "norm1",      "v_pre",      1, 1),
    "g_proj":          Parameter(Role.HIDDEN,          "norm1",      "gate",       1, 1),
    "a_proj":          Parameter(Role.GATE,            "norm1",      "z_alpha",    1, "H"),
    "b_proj":          Parameter(Role.GATE,            "norm1",      "z_beta",     1, "H"),
    "q_conv1d":        Parameter(Role.SHORT_CONV,      "q_pre",      "q_conv",     0, 1),
    "k_conv1d":        Parameter(Role.SHORT_CONV,      "k_pre",      "k_conv",     0, 1),
    "v_conv1d":        Parameter(Role.SHORT_CONV,      "v_pre",      "v_conv",     0, 1),
    "A_log":           Parameter(Role.GATE_SCALAR,     "",           "z_alpha",    0, "H"),
    "dt_bias":         Parameter(Role.GATE_SCALAR,     "",           "z_alpha",    0, "H"),
    "o_norm_gain":     Parameter(Role.HEAD_NORM_GAIN,  "",           "o_norm",     0, "K"),
    "o_proj":          Parameter(Role.HIDDEN,          "<gated>",    "<mixed>",    1, 1),
    "norm2_gain":      Parameter(Role.NORM_GAIN,       "",           "norm2",      0, 1),
    "gate_proj":       Parameter(Role.HIDDEN,          "norm2",      "<mlp gate>", 1, 1),
    "up_proj":         Parameter(Role.HIDDEN,          "norm2",      "<mlp up>",   1, 1),
    "down_proj":       Parameter(Role.HIDDEN,          "mlp_hidden", "mlp_out",    1, 1),
    "final_norm_gain": Parameter(Role.NORM_GAIN,       "",           "final_norm", 0, 1, in_block=False),
    "readout":         Parameter(Role.READOUT,         "final_norm", "<read>",     1, 0, in_block=False),
}
# fmt: on
# A multiplier stands between what a weight makes and the site where it is recorded.
BEHIND = {"o_proj": "mixer_out", "readout": "logits"}


@dataclass(frozen=True)
class Entry:
    """Exponents of one parameter: of its init std, its lr and the multiplier on its weight."""

    init: float
    lr: float
    multiplier: float

    @property
    def size(self) -> float:
        """Return the exponent of the weight as it acts at initialisation."""
        return self.init + self.multiplier


@dataclass(frozen=True)
class Exponents:
    """What a run follows: an Entry for each parameter by its name, and the exponent of each forward multiplier."""

    optimizer: str
    mode: str
    entries: Mapping[str, Entry]
    multipliers: Mapping[str, float]

    @property
    def own_logit(self) -> float:
        """Return the exponent of a token's own logit where the readout is tied: its embedding's product with itself."""
        size = self.entries["embedding"].size + self.entries["final_norm_gain"].size
        return size + 1 + self.multipliers["logits"]

    def grown(self, side: float | str) -> float:
        """Return by which power of width a side of a weight grows in this mode."""
        return _side(side, self.mode)


def growth(site: str, mode: str) -> float:
    """Return by which power of width the number of values of a parameter grows in a mode."""
    return _side(PARAMETERS[site].fan_in, mode) + _side(PARAMETERS[site].fan_out, mode)


def _side(side: float | str, mode: str) -> float:
    """Return by which power of width a side of a weight grows: "K" (and V) in head-dim mode, "H" in heads mode."""
    if isinstance(side, str):
        return float((side == "K") == (mode == "head-dim"))
    return side


def exponents_of(table: Table, *, optimizer: str, mode: str) -> Exponents:
    """Return what every parameter follows under a table.

    Raises:
        ValueError: if optimizer or mode is not a known one.
    """
    for name, value, known in (("optimizer", optimizer, OPTIMIZERS), ("mode", mode, MODES)):
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
    rules = {site: table.rule(of.role, optimizer=optimizer, mode=mode) for site, of in PARAMETERS.items()}
    entries = {site: Entry(rule.init, rule.lr, rule.multiplier) for site, rule in rules.items()}
    return Exponents(optimizer, mode, entries, {site: table.multiplier(site, mode=mode) for site in MULTIPLIER_SITES})
