"""What feature learning requires of every measured quantity: its slope p in size ~ width^p, and how far off is wrong.

One table (`TABLE`), one reader (`required`). The rows are the sheet of required slopes in the design notes (theory.md,
section 4), whose sources are TP-V (Yang et al., arXiv:2203.03466) and the paper (Liu & Gu, arXiv:2606.04048). What the
sheet does not state, or lists as not fit for a two-sided test, is None here and "info" in a verdict.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from math import inf

from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import DECAYED, MODES, OPTIMIZERS, TABLES

Range = tuple[float, float]
Quantity = tuple[str, str, str, str, str, bool, bool]  # kind, stat, site, optimizer, mode, tied, step > 0

REFERENCE = "gdn-mup"  # the table that has what is required
OWN = "own"  # the mode of a user's own model, whose sites are its own: see `required_of_own`
ZERO: Range = (0.0, 0.0)
AT_MOST_ZERO: Range = (-inf, 0.0)
MINUS_ONE: Range = (-1.0, -1.0)
MINUS_HALF: Range = (-0.5, -0.5)
# "-1/2 -> 0": how far a transition has come after a few steps depends on lr and width. What may start at nothing, or
# starts at -1/2, is still on its way at the steps that a coordinate check records.
HALF_TO_ZERO: Range = (-0.5, 0.0)

# Half the distance to the nearest wrong value: one wrong exponent in any shipped table is off by at least 1/2.
TOLERANCES = {
    "activation": 0.25,  # a wrong init std or multiplier shifts an activation by 1/2 or 1
    "activation_update": 0.25,  # a wrong lr shifts the change it causes by 1/2 or 1
    "activation_grad": 0.25,  # dL/dz of the gates tells -1/2 from -1; all others are off by at least as much
    "weight_update": 0.25,  # the gates' SGD rule is off by 1/2, all others by 1; rms and spectral norm alike
    "effective_update": 0.25,  # equals the error of the lr exponent: 1/2 (gates, scalars) or 1
}

# Under SGD these changes cross over with width (theory.md, section 4): at widths 64-512 the slopes of correct tables are
# -0.03 (readout), -0.24 to +0.26 (q, k and their convs), -0.10 to +0.15 (embedding, first norm); 16 seeds, H100, torch
# 2.11, 2026-11-25. A shipped table that is wrong there is wrong by 1, so they are told from that, at half of it.
CROSSING = 0.5
GAIN_TOLERANCE = 0.25  # of what a new weight makes of its input: an init std that is not scaled is off by 1/2

ACTIVATIONS = {
    "embedding": "token embedding's output",
    "residual": "residual stream",
    "norm1": "normed input of the mixer",
    "q_pre": "queries before the short conv",
    "k_pre": "keys before the short conv",
    "v_pre": "values before the short conv",
    "q_conv": "queries after the short conv",
    "k_conv": "keys after the short conv",
    "v_conv": "values after the short conv",
    "q_unit": "queries of unit norm per head",
    "k_unit": "keys of unit norm per head",
    "z_alpha": "decay gate before its nonlinearity",
    "z_beta": "write strength before its sigmoid",
    "alpha": "decay gate, in (0, 1)",
    "beta": "write strength, in (0, 1)",
    "state": "entries of the state S",
    "qk": "inner product of query and key",
    "o_raw": "state read by the query, before its norm",
    "o_norm": "state read by the query, after its norm",
    "gate": "output gate",
    "mixer_out": "mixer's output, added to the residual stream",
    "norm2": "normed input of the MLP",
    "mlp_hidden": "MLP's hidden layer",
    "mlp_out": "MLP's output, added to the residual stream",
    "final_norm": "normed input of the readout",
    "logits": "logits",
}

WEIGHTS = {
    "embedding": "token embedding",
    "readout": "readout, width to vocabulary",
    "q_proj": "query projection",
    "k_proj": "key projection",
    "v_proj": "value projection",
    "g_proj": "output gate's projection",
    "a_proj": "decay gate's projection W_alpha",
    "b_proj": "write strength's projection W_beta",
    "q_conv1d": "short conv on queries",
    "k_conv1d": "short conv on keys",
    "v_conv1d": "short conv on values",
    "A_log": "log decay rate, one per head",
    "dt_bias": "decay gate's bias, one per head",
    "o_norm_gain": "gain of the norm on o",
    "norm1_gain": "gain of the norm before the mixer",
    "norm2_gain": "gain of the norm before the MLP",
    "final_norm_gain": "gain of the norm before the readout",
    "o_proj": "mixer's output projection",
    "gate_proj": "MLP's gate projection",
    "up_proj": "MLP's up projection",
    "down_proj": "MLP's down projection",
}

KINDS = {
    "activation": "size of",
    "activation_update": "change since step 0, on the same batch, of",
    "activation_grad": "size of the loss gradient at",
    "weight": "size of the weight:",
    "weight_update": "change since step 0 of the weight:",
    "weight_grad": "size of the weight gradient:",
    "effective_update": "what the change since step 0 does to its current input:",
}


@dataclass(frozen=True)
class Required:
    """A required slope: from `low` to `high` (equal for a point, -inf and a number for an upper bound), +- `tolerance`."""

    low: float
    high: float
    tolerance: float
    source: str

    def __str__(self) -> str:
        """Say it as a verdict's reason does: "0 +- 0.25", "-0.5 to 0 +- 0.25", "at most 0 + 0.25"."""
        if self.low == -inf:
            return f"at most {self.high:g} + {self.tolerance:g}"
        point = f"{self.high:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"{point} +- {self.tolerance:g}"


@dataclass(frozen=True)
class Row:
    """One line of the table: which quantities, and their required range in each mode (None: not fit for a test)."""

    kind: str
    stats: str  # names separated by blanks, as are the sites
    sites: str
    head_dim: Range | None
    heads: Range | None
    source: str
    when: str = "always"  # "t = 0", "t > 0" or "always"
    optimizer: str = "all"
    readout: str = "all"  # "tied" or "untied" embedding, or "all"
    tolerance: float | None = None  # where it is not that of the kind


_SIZE = "rms mean_abs"
_ORDER_ONE = (
    "embedding residual norm1 q_pre k_pre v_pre q_conv k_conv v_conv gate mixer_out norm2 mlp_hidden mlp_out final_norm"
)
_GATES, _SCALARS = "a_proj b_proj", "A_log dt_bias"
# Split by whether SGD's effective update is fit for a test (q, k and what feeds them, and the readout, are not). What
# holds for the effective update of these holds for their dW: it is the same change, with or without its input.
_HIDDEN, _HIDDEN_QK = "v_proj g_proj o_proj gate_proj up_proj down_proj", "q_proj k_proj"
_VECTORS = "v_conv1d norm2_gain final_norm_gain"
_VECTORS_QK = "embedding readout q_conv1d k_conv1d norm1_gain"

_LATER = {"always": (False, True), "t = 0": (False,), "t > 0": (True,)}
_TIED = {"all": (False, True), "untied": (False,), "tied": (True,)}

# fmt: off
TABLE = (
    #   kind                 stats       sites                       head-dim      heads
    Row("activation",        _SIZE,      f"{_ORDER_ONE} o_norm",     ZERO,         ZERO,         "order one (TP-V)"),
    Row("activation",        _SIZE,      "q_unit k_unit",            MINUS_HALF,   ZERO,         "unit norm over K entries"),
    Row("activation",        _SIZE,      "z_alpha z_beta",           AT_MOST_ZERO, AT_MOST_ZERO, "a gate may start at nothing", when="t = 0"),
    Row("activation",        _SIZE,      "z_alpha z_beta",           HALF_TO_ZERO, HALF_TO_ZERO, "order one (TP-V), once it outgrows its start", when="t > 0"),
    # in head-dim mode these cross over from -1/2 to 0, near K ~ 70 for q.k: SiLU's mean is not 0
    Row("activation",        _SIZE,      "state qk o_raw",           None,         ZERO,         "order one: K and V are fixed"),
    Row("activation",        _SIZE,      "logits",                   AT_MOST_ZERO, AT_MOST_ZERO, "logits may start at nothing", when="t = 0", readout="untied"),
    Row("activation",        _SIZE,      "logits",                   HALF_TO_ZERO, HALF_TO_ZERO, "a token's own logit is of order one, others fall", when="t = 0", readout="tied"),
    Row("activation",        _SIZE,      "logits",                   HALF_TO_ZERO, HALF_TO_ZERO, "order one (TP-V), once it outgrows its start", when="t > 0"),
    Row("activation_update", "rms",      _ORDER_ONE,                 ZERO,         ZERO,         "features are learned at every width (TP-V)", when="t > 0", optimizer="adamw"),
    Row("activation_update", "rms",      "o_norm",                   None,         ZERO,         "order one: V is fixed", when="t > 0", optimizer="adamw"),
    # later a gradient falls with the loss on the repeated batch, and wider models fit it sooner (-1 becomes -2 in 8 steps)
    Row("activation_grad",   "rms",      "residual mixer_out mlp_out gate v_pre v_conv", MINUS_ONE, MINUS_ONE, "1/d per coordinate", when="t = 0"),
    # in head-dim mode theory says -1/2 (random terms) to 0 (aligned ones); measured -0.64 +- 0.06 at widths 64-1024 (16
    # seeds, H200, torch 2.11, 2026-11-23), so it is reported and not judged; in heads mode -0.90 and -0.96
    Row("activation_grad",   "rms",      "z_alpha z_beta",           None,         MINUS_ONE,    "a sum over V terms of size 1/d, V fixed", when="t = 0"),
    Row("weight_update",     "rms",      _HIDDEN,                    MINUS_ONE,    MINUS_ONE,    "hidden weight (TP-V Table 8)", when="t > 0"),
    Row("weight_update",     "rms",      _HIDDEN_QK,                 MINUS_ONE,    MINUS_ONE,    "hidden weight (TP-V Table 8)", when="t > 0", optimizer="adamw"),
    Row("weight_update",     "rms",      _GATES,                     MINUS_ONE,    MINUS_ONE,    "fan-in d, as a hidden weight", when="t > 0", optimizer="adamw"),
    Row("weight_update",     "rms",      _GATES,                     None,         MINUS_ONE,    "hidden weight: H grows with d", when="t > 0", optimizer="sgd"),
    Row("weight_update",     "rms",      _VECTORS,                   ZERO,         ZERO,         "vector-like (TP-V Table 8)", when="t > 0"),
    Row("weight_update",     "rms",      _SCALARS,                   ZERO,         ZERO,         "vector-like (TP-V Table 8)", when="t > 0"),
    Row("weight_update",     "rms",      _VECTORS_QK,                ZERO,         ZERO,         "vector-like (TP-V Table 8)", when="t > 0", optimizer="adamw"),
    Row("weight_update",     "rms",      "o_norm_gain",              ZERO,         ZERO,         "vector-like (TP-V Table 8)", when="t > 0", optimizer="adamw"),
    Row("weight_update",     "rms",      "o_norm_gain",              ZERO,         None,         "vector-like: V grows with d", when="t > 0", optimizer="sgd"),
    Row("weight_update",     "spectral", _HIDDEN,                    ZERO,         ZERO,         "hidden weight maps order one to order one", when="t > 0"),
    Row("weight_update",     "spectral", _HIDDEN_QK,                 ZERO,         ZERO,         "hidden weight maps order one to order one", when="t > 0", optimizer="adamw"),
    Row("effective_update",  "rms",      f"{_HIDDEN} {_GATES}",      ZERO,         ZERO,         "order one: the lr exponent is right", when="t > 0"),
    Row("effective_update",  "rms",      f"{_VECTORS} {_SCALARS}",   ZERO,         ZERO,         "order one: the lr exponent is right", when="t > 0"),
    Row("effective_update",  "rms",      f"{_HIDDEN_QK} {_VECTORS_QK}", ZERO,      ZERO,         "order one: the lr exponent is right", when="t > 0", optimizer="adamw"),
    Row("effective_update",  "rms",      f"{_HIDDEN_QK} q_conv1d k_conv1d norm1_gain", ZERO, ZERO, "order one: the lr exponent is right", when="t > 0", optimizer="sgd", tolerance=CROSSING),
    Row("effective_update",  "rms",      "embedding readout",        ZERO,         ZERO,         "order one: the lr exponent is right", when="t > 0", optimizer="sgd", readout="untied", tolerance=CROSSING),
    Row("effective_update",  "rms",      "o_norm_gain",              ZERO,         ZERO,         "order one: the lr exponent is right", when="t > 0", optimizer="adamw"),
    Row("effective_update",  "rms",      "o_norm_gain",              ZERO,         HALF_TO_ZERO, "order one at most: a sum over H heads, of random signs at first", when="t > 0", optimizer="sgd"),
)
# fmt: on


def required(
    kind: str,
    stat: str,
    site: str,
    *,
    optimizer: str,
    mode: str,
    tied: bool,
    step: int,
    decay: bool = False,
    fixed: bool = False,
) -> Required | None:
    """Return the slope that feature learning requires of a quantity, None where theory does not pin it.

    Weight decay pulls every value w of a matrix by lr wd w in a step. What is required of it is that lr wd be the same
    at every width (theory.md, section 2), so the pull is as large as the weight, d^init: d^-1/2 of a hidden weight, whose
    own step is d^-1. At first the change is the step, d^-1; from some width on the pull outgrows it, and it is d^-1/2.
    Its values have random signs, so what it does to an input, lr wd W x, stays of order one, as what the step does, and
    so does its spectral norm. So rms dW alone is required to lie between the two; the effective update tells a wrong lr
    as ever. Derived here; measured under SGD: W's rms falls by 1/2 and dW's by 0.53 (tests/theory/test_decay.py).

    Args:
        kind, stat, site: names as in the `coords` table.
        optimizer: "adamw" or "sgd".
        mode: "head-dim" or "heads".
        tied: whether the readout shares the embedding's weight.
        step: optimizer steps taken before the quantity was measured; only 0 or later matters.
        decay: whether weight decay is on.
        fixed: of a user's own model, whether the parameter is as large at every width.

    Raises:
        ValueError: if optimizer or mode is not a known one.
    """
    if mode == OWN:
        return required_of_own(kind, stat, optimizer=optimizer, step=step, fixed=fixed)
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"unknown optimizer {optimizer!r}; known: {', '.join(OPTIMIZERS)}")
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; known: {', '.join(MODES)}")
    need = _by_quantity().get((kind, stat, site, optimizer, mode, tied, step > 0))
    if need is None or not decay or (kind, stat) != ("weight_update", "rms"):
        return need
    pull = pull_of_decay(site, mode=mode)
    if pull is None:
        return need
    return replace(need, high=pull, source=f"{need.source}; decay's pull is as large as the weight")


def required_of_own(kind: str, stat: str, *, optimizer: str, step: int, fixed: bool = False) -> Required | None:
    """Return what is required of any model's quantity, whatever its site is called; None where that is nothing.

    Every parameter's change does the same to its input at every width, and no new weight makes more of its input at a
    larger width, but may make less (a readout does, or one that starts at nothing). Under SGD a parameter that is as
    large at every width, as a gain that heads share, has a gradient that sums over what grows, with random signs at
    first: as `o_norm_gain` of our own model (the table above; tests/roles/test_fixed_sides.py).
    """
    if (kind, stat) == ("effective_update", "rms") and step > 0:
        if fixed and optimizer == "sgd":
            return Required(
                *HALF_TO_ZERO, TOLERANCES[kind], "order one at most: a sum over what grows, of random signs at first"
            )
        tolerance = CROSSING if optimizer == "sgd" else TOLERANCES[kind]
        return Required(*ZERO, tolerance, "order one: the lr exponent is right")
    if (kind, stat) == ("weight_gain", "rms") and step == 0:
        return Required(*AT_MOST_ZERO, GAIN_TOLERANCE, "a weight that maps order one to order one at most")
    return None


def pull_of_decay(site: str, *, mode: str) -> float | None:
    """Return the required slope of weight decay's pull on a weight, None where it does not outgrow the weight's step.

    That step is lr alone under AdamW: -1 of a hidden weight, whose pull is -1/2; of embedding and readout both are 0.
    """
    role = PARAMETERS[site].role
    rule = TABLES[REFERENCE].rule(role, optimizer="adamw", mode=mode)
    return rule.init if role in DECAYED and rule.init > rule.lr else None


def describe(kind: str, site: str) -> str:
    """Say in one short line what a quantity is, "what the change since step 0 does to its current input: ...".

    Raises:
        ValueError: if the kind or the site is not one of the `coords` table.
    """
    names = ACTIVATIONS if kind.startswith("activation") else WEIGHTS
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}; known: {', '.join(KINDS)}")
    if site not in names:
        raise ValueError(f"unknown site {site!r} of kind {kind}; known: {', '.join(names)}")
    return f"{KINDS[kind]} {names[site]}"


@cache
def _by_quantity() -> dict[Quantity, Required | None]:
    """Return TABLE with one entry per quantity."""
    return {
        (row.kind, stat, site, optimizer, mode, tied, later): need
        and Required(*need, row.tolerance or TOLERANCES[row.kind], row.source)
        for row in TABLE
        for mode, need in zip(MODES, (row.head_dim, row.heads), strict=True)
        for stat, site in product(row.stats.split(), row.sites.split())
        for optimizer in (OPTIMIZERS if row.optimizer == "all" else (row.optimizer,))
        for tied in _TIED[row.readout]
        for later in _LATER[row.when]
    }
