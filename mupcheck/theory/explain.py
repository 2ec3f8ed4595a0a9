"""What a measured quantity is, where it sits in the model, which rows of a table govern it, what is required of it and why.

`PLACES` says where everything is, `NOT_JUDGED` why a slope is shown and not judged, `SIGNS` what a deviation usually
means. What is required is read from `mupcheck.theory.required`, what a table does from `mupcheck.theory.parametrization`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from math import isnan, nan

from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.implied import Range, implied_by
from mupcheck.theory.parametrization import MODES, MULTIPLIER_SITES, OPTIMIZERS, Role, Table
from mupcheck.theory.required import ACTIVATIONS, KINDS, WEIGHTS, Required, required
from mupcheck.theory.topics import nearest

STATS = {"activation": ("rms", "mean_abs"), "weight_update": ("rms", "spectral")}  # rms alone for all other kinds
STEPS = ("0", "later")
READOUTS = ("untied", "tied")
WITHOUT_GRADIENT = ("alpha", "qk", "state")  # made for the probe alone, and a last state that nothing reads
SPECTRAL_ROLES = (Role.HIDDEN, Role.GATE, Role.READOUT, Role.SHORT_CONV)  # of which a spectral norm is recorded

ROLES = {
    Role.EMBEDDING: "one row per token: its fan-in, the vocabulary, does not grow with width",
    Role.READOUT: "maps the width to the vocabulary: fan-in grows, fan-out does not",
    Role.HIDDEN: "a matrix whose fan-in and fan-out both grow with width",
    Role.SHORT_CONV: "one filter of 4 taps per channel: fan-in 4 does not grow with width",
    Role.NORM_GAIN: "a vector over the width",
    Role.HEAD_NORM_GAIN: "a vector over the V values of a head, shared by all heads: V grows in head-dim mode only",
    Role.GATE: "maps the width to one number per head: fan-in grows, the number of heads in heads mode only",
    Role.GATE_SCALAR: "one number per head: their number grows in heads mode only",
}


@dataclass(frozen=True)
class Place:
    """Where a quantity sits: `where` in words and equations, and the weights that make it (a weight: its role)."""

    where: str
    weights: tuple[str, ...] = ()
    role: Role | None = None


def _made(where: str, weights: str = "") -> Place:
    return Place(where, tuple(weights.split()))


# fmt: off
PLACES_OF_ACTIVATIONS = {
    "embedding":  _made("the embedding's row of each token; enters the first block as x", "embedding"),
    "residual":   _made("x after a block: x + mixer_out + mlp_out", "o_proj down_proj"),
    "norm1":      _made("RMSNorm(x) * norm1_gain: what every projection of the mixer reads", "norm1_gain"),
    "q_pre":      _made("q_proj of norm1, over all heads", "q_proj"),
    "k_pre":      _made("k_proj of norm1, over all heads", "k_proj"),
    "v_pre":      _made("v_proj of norm1, over all heads", "v_proj"),
    "q_conv":     _made("SiLU(short conv of q_pre)", "q_conv1d"),
    "k_conv":     _made("SiLU(short conv of k_pre)", "k_conv1d"),
    "v_conv":     _made("SiLU(short conv of v_pre): what is written to the state", "v_conv1d"),
    "q_unit":     _made("q_conv / |q_conv| per head: K entries of size K^-1/2", "q_proj q_conv1d"),
    "k_unit":     _made("k_conv / |k_conv| per head: K entries of size K^-1/2", "k_proj k_conv1d"),
    "z_alpha":    _made("W_alpha norm1, one number per head; log alpha = -exp(A_log) softplus(z_alpha + dt_bias)", "a_proj"),
    "z_beta":     _made("W_beta norm1, one number per head; beta = sigmoid(z_beta)", "b_proj"),
    "alpha":      _made("how much of the state is kept: log alpha = -exp(A_log) softplus(z_alpha + dt_bias)", "a_proj A_log dt_bias"),
    "beta":       _made("how much of a key's old value is replaced: beta = sigmoid(z_beta)", "b_proj"),
    "state":      _made("S_t = alpha_t S_(t-1) (I - beta_t k k^T) + beta_t v k^T, at the end of the sequence", "k_proj v_proj a_proj b_proj"),
    "qk":         _made("q_t . k_t per head, both of unit norm", "q_proj k_proj"),
    "o_raw":      _made("S_t q_t, times the forward multiplier o_raw", "q_proj k_proj v_proj"),
    "o_norm":     _made("RMSNorm(o_raw) * o_norm_gain, per head over V", "o_norm_gain"),
    "gate":       _made("SiLU(g_proj of norm1); multiplies o_norm", "g_proj"),
    "mixer_out":  _made("o_proj(o_norm * gate), times the forward multiplier mixer_out; added to x", "o_proj"),
    "norm2":      _made("RMSNorm(x) * norm2_gain: what the MLP reads", "norm2_gain"),
    "mlp_hidden": _made("SiLU(gate_proj of norm2) * up_proj of norm2", "gate_proj up_proj"),
    "mlp_out":    _made("down_proj(mlp_hidden); added to x", "down_proj"),
    "final_norm": _made("RMSNorm(x) * final_norm_gain after the last block: what the readout reads", "final_norm_gain"),
    "logits":     _made("readout(final_norm), of the embedding where tied, times the forward multiplier logits", "readout embedding"),
}
WHERE_WEIGHTS_ARE = {
    "embedding":       "[vocabulary, d]; makes the embedding's output and, where tied, the logits",
    "readout":         "[d, vocabulary]; makes the logits; there is none where the embedding is tied",
    "q_proj":          "[d, H K] in the mixer; makes q_pre",
    "k_proj":          "[d, H K] in the mixer; makes k_pre",
    "v_proj":          "[d, H V] in the mixer; makes v_pre",
    "g_proj":          "[d, H V] in the mixer; makes gate",
    "a_proj":          "W_alpha, [d, H] in the mixer; makes z_alpha",
    "b_proj":          "W_beta, [d, H] in the mixer; makes z_beta",
    "q_conv1d":        "[4, H K] in the mixer; makes q_conv",
    "k_conv1d":        "[4, H K] in the mixer; makes k_conv",
    "v_conv1d":        "[4, H V] in the mixer; makes v_conv",
    "A_log":           "[H] in the mixer; log alpha = -exp(A_log) softplus(z_alpha + dt_bias)",
    "dt_bias":         "[H] in the mixer; log alpha = -exp(A_log) softplus(z_alpha + dt_bias)",
    "o_norm_gain":     "[V] in the mixer; scales o_norm",
    "norm1_gain":      "[d] before the mixer; scales norm1",
    "norm2_gain":      "[d] before the MLP; scales norm2",
    "final_norm_gain": "[d] after the last block; scales final_norm",
    "o_proj":          "[H V, d] at the end of the mixer; makes mixer_out",
    "gate_proj":       "[d, 4 d] in the MLP; makes mlp_hidden",
    "up_proj":         "[d, 4 d] in the MLP; makes mlp_hidden",
    "down_proj":       "[4 d, d] at the end of the MLP; makes mlp_out",
}
PLACES_OF_WEIGHTS = {site: Place(where, role=PARAMETERS[site].role) for site, where in WHERE_WEIGHTS_ARE.items()}
SITES = tuple(dict.fromkeys((*ACTIVATIONS, *WEIGHTS)))


@dataclass(frozen=True)
class NotJudged:
    """Why what `required` leaves out is left out; the first row that fits counts, a blank field fits all."""

    kind: str
    sites: str
    reason: str
    optimizer: str = ""
    mode: str = ""
    step: str = ""
    stat: str = ""


_AS_SGD = "under SGD its slope has not settled at the widths of a check"
NOT_JUDGED = (
    NotJudged("activation",        "state qk o_raw",    "crosses over from -1/2 to 0, near K ~ 70 for q.k: SiLU's mean is not 0", mode="head-dim"),
    NotJudged("activation",        "alpha",             "between 0 and 1 whatever the width; z_alpha is judged"),
    NotJudged("activation",        "beta",              "between 0 and 1 whatever the width; z_beta is judged"),
    NotJudged("activation_update", "",                  "under SGD it holds the changes of q, k and the embedding, whose slopes have not settled; the effective updates are judged", optimizer="sgd"),
    NotJudged("activation_update", "o_norm",            "its input crosses over from -1/2 to 0", mode="head-dim"),
    NotJudged("activation_update", "",                  "theory states no slope for its change"),
    NotJudged("activation_grad",   "",                  "falls with the loss on the repeated batch, and wider models fit it sooner", step="later"),
    NotJudged("activation_grad",   "z_alpha z_beta",    "from -1/2 (independent terms) to 0 (aligned ones): see `mupcheck gates`", mode="head-dim"),
    NotJudged("activation_grad",   "",                  "theory states its slope, -1, for residual, mixer_out, mlp_out, gate, v_pre and v_conv"),
    NotJudged("weight",            "",                  "as the table's init exponent says; whether that is right, the activations say"),
    NotJudged("weight_grad",       "",                  "a factor moved between init and multiplier changes it and nothing else; the effective update is judged"),
    NotJudged("weight_update",     "a_proj b_proj",     "depends on how far the terms of its gradient align; the effective update is judged", optimizer="sgd", mode="head-dim", stat="rms"),
    NotJudged("weight_update",     "o_norm_gain",       "one gain for a growing number of heads: " + _AS_SGD, optimizer="sgd", mode="heads"),
    NotJudged("weight_update",     "q_proj k_proj embedding readout q_conv1d k_conv1d norm1_gain", _AS_SGD, optimizer="sgd", stat="rms"),
    NotJudged("weight_update",     "q_proj k_proj",     _AS_SGD, optimizer="sgd"),
    NotJudged("weight_update",     "",                  "stated for hidden matrices", stat="spectral"),
    NotJudged("effective_update",  "embedding",         "tied, its change has two parts, and " + _AS_SGD, optimizer="sgd"),
)

# What a deviation usually means: by kind, then by what theory.md, section 5, saw in the wild.
SIGNS_OF_KINDS = {
    "activation":        "off from step 0 on: the init exponent of {weights}, or a forward multiplier on the way; off only later: an lr exponent on the way. Of several sites that are off, look at the first in the model",
    "activation_update": "below: what feeds it stops learning as width grows, its lr exponent is too low; above: it blows up, its lr exponent is too high",
    "activation_grad":   "a multiplier or an init exponent between here and the loss: every site before it is off alike",
    "weight_update":     "the lr exponent of role {roles}, by just as much (AdamW); under SGD, or the size of its gradient",
    "effective_update":  "the lr exponent of role {roles}, by just as much; an error in another role's moves another slope",
}
_VECTOR_SIGN = "about -1 under AdamW: it is in the lr group of hidden matrices and freezes as width grows (the paper's released code)"
SIGNS = {
    "mixer_out":  "-1 from step 0 on: an extra 1/m after o_proj (the paper's released code); the residual stream hides it",
    "o_norm":     "falls from step 0 on: the norm's eps is larger than mean(o^2), see the warning on o_norm_eps_ratio; a forward multiplier m^1/2 on o_raw cures it",
    "alpha":      "z_alpha, A_log or dt_bias moves: look at these",
    "beta":       "z_beta moves: look at it",
    "logits":     "grows: the multiplier 1/m on the logits is missing",
    "residual":   "+3/2 (sp): mlp_out grows by as much where the init std does not fall with fan-in",
    "z_alpha":    "a wrong lr of the gate moves it by 0.2 at most: look at the effective update of a_proj",
    "z_beta":     "a wrong lr of the gate moves it by 0.2 at most: look at the effective update of b_proj",
    **dict.fromkeys(("q_conv1d", "k_conv1d", "v_conv1d"), "about -1 under AdamW: it is initialised and trained as a hidden matrix, and its updates vanish (the paper's released code)"),
    **dict.fromkeys(("norm1_gain", "norm2_gain", "final_norm_gain", "o_norm_gain"), _VECTOR_SIGN),
    **dict.fromkeys(("a_proj", "b_proj", "A_log", "dt_bias"), "off by 1/2 or 1 under SGD: another table's rule for the gates, see `mupcheck gates`; activations hardly show it"),
}
# fmt: on


@dataclass(frozen=True)
class Cell:
    """What is required in one mode, None where it is not judged, and why; what one table implies, where one is given."""

    mode: str
    required: Required | None
    why: str
    implied: Range | None = None


@dataclass(frozen=True)
class Expectation:
    """What is required of one kind: the same for all of these stats, steps, optimizers and readouts."""

    kind: str
    stats: tuple[str, ...]
    steps: tuple[str, ...]
    optimizers: tuple[str, ...]
    readouts: tuple[str, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class RuleRow:
    """The exponents of m that one table gives a role, or a forward multiplier at a site (`multiplier` alone)."""

    parametrization: str
    role: str
    optimizer: str
    mode: str
    init: float
    lr: float
    eps: float
    multiplier: float
    source: str


@dataclass(frozen=True)
class Explanation:
    """All there is to say of a site: `thing` is "activation" or "weight", `roles` those of the weights that govern it."""

    site: str
    thing: str
    what: str
    where: str
    weights: tuple[str, ...]
    roles: tuple[tuple[str, str], ...]
    kinds: tuple[tuple[str, str], ...]  # what of it is measured, in words
    expectations: tuple[Expectation, ...]
    signs: tuple[tuple[str, str], ...]
    rules: tuple[RuleRow, ...] = ()
    multipliers: tuple[tuple[str, str, float], ...] = ()  # parametrization, mode, exponent at this site


def explain(
    site: str, *, optimizers: Sequence[str] = OPTIMIZERS, modes: Sequence[str] = MODES, tables: Iterable[Table] = ()
) -> list[Explanation]:
    """Explain a site: an activation, a weight, or both where they share a name.

    Args:
        site: one of SITES.
        optimizers, modes: those to speak of.
        tables: those whose rows are shown.
    Raises:
        ValueError: if there is no such site; the message names the nearest.
    """
    things = [
        ("activation", ACTIVATIONS, PLACES_OF_ACTIVATIONS, [kind for kind in KINDS if kind.startswith("activation")]),
        ("weight", WEIGHTS, PLACES_OF_WEIGHTS, [kind for kind in KINDS if not kind.startswith("activation")]),
    ]
    found = [
        _explain(site, thing, names[site], places[site], kinds, optimizers, modes, list(tables))
        for thing, names, places, kinds in things
        if site in names
    ]
    if not found:
        near = nearest(site, SITES)
        raise ValueError(f"unknown site {site!r}; {'nearest' if near else 'known'}: {', '.join(near or SITES)}")
    return found


def _explain(
    site: str, thing: str, what: str, place: Place, kinds: Sequence[str], optimizers: Sequence[str],
    modes: Sequence[str], tables: Sequence[Table],
) -> Explanation:  # fmt: skip
    weights = place.weights if thing == "activation" else (site,)
    roles = tuple(dict.fromkeys(role for name in weights if (role := PLACES_OF_WEIGHTS[name].role)))
    expectations = tuple(_expectations(kinds, site, optimizers, modes, tables[0] if len(tables) == 1 else None))
    words = {"weights": " or ".join(weights), "roles": ", ".join(roles)}
    judged = {e.kind for e in expectations if any(cell.required for cell in e.cells)}
    signs = [(kind, text.format(**words)) for kind, text in SIGNS_OF_KINDS.items() if kind in judged]
    if site in SIGNS:
        signs.append(("in particular", SIGNS[site]))
    return Explanation(
        site, thing, what, place.where, weights,
        tuple((str(role), ROLES[role]) for role in roles),
        tuple((kind, _meaning(kind)) for kind in dict.fromkeys(row.kind for row in expectations)),
        expectations,
        tuple(signs),
        tuple(_rule_rows(roles, tables, optimizers, modes)),
        tuple((table.name, mode, table.multiplier(site, mode=mode)) for table, mode in product(tables, modes))
        if thing == "activation" and site in MULTIPLIER_SITES
        else (),
    )  # fmt: skip


def _meaning(kind: str) -> str:
    """Return what a kind measures of whatever it is measured of: "size of it", "change since step 0 of the weight"."""
    return KINDS[kind].removesuffix(":") if KINDS[kind].endswith(":") else f"{KINDS[kind]} it"


def _rule_rows(
    roles: Iterable[Role], tables: Iterable[Table], optimizers: Sequence[str], modes: Sequence[str]
) -> Iterable[RuleRow]:
    for table, role, optimizer, mode in product(tables, roles, optimizers, modes):
        rule = table.rule(role, optimizer=optimizer, mode=mode)
        exponents = (rule.init, rule.lr, rule.eps, rule.multiplier)
        yield RuleRow(table.name, str(role), optimizer, mode, *exponents, rule.source)


def _expectations(
    kinds: Iterable[str], site: str, optimizers: Sequence[str], modes: Sequence[str], table: Table | None
) -> list[Expectation]:
    """Return what is required of every kind, folded: one row for all that agree."""
    rows = []
    for kind in kinds:
        for stat, step, optimizer, readout in product(STATS.get(kind, ("rms",)), STEPS, optimizers, READOUTS):
            if not _is_measured(stat, site, kind, step, readout):
                continue
            cells = tuple(_cell(kind, stat, site, step, optimizer, readout, mode, table) for mode in modes)
            rows.append(Expectation(kind, (stat,), (step,), (optimizer,), (readout,), cells))
    for axis in ("readouts", "optimizers", "stats", "steps"):
        rows = _fold(rows, axis)
    return rows


def _is_measured(stat: str, site: str, kind: str, step: str, readout: str) -> bool:
    """Say whether a check records it: nothing changed before step 0, a tied model has no readout, a vector no spectrum."""
    if (kind.endswith("update") and step == "0") or (site == "readout" and readout == "tied"):
        return False
    if kind == "activation_grad" and site in WITHOUT_GRADIENT:
        return False
    return stat != "spectral" or PLACES_OF_WEIGHTS[site].role in SPECTRAL_ROLES


def _cell(
    kind: str, stat: str, site: str, step: str, optimizer: str, readout: str, mode: str, table: Table | None
) -> Cell:
    """Return what is required of one quantity and, where a table is given, what that implies."""
    need = required(kind, stat, site, optimizer=optimizer, mode=mode, tied=readout == "tied", step=STEPS.index(step))
    why = need.source if need else _why_not(kind, stat, site, step, optimizer, mode)
    if table is None:
        return Cell(mode, need, why)
    entailed = implied_by(table, optimizer=optimizer, mode=mode, tied=readout == "tied")
    low, high = entailed.get((kind, stat, site, step != STEPS[0]), (nan, nan))
    return Cell(mode, need, why, None if isnan(low) else (round(low, 2), round(high, 2)))


def _why_not(kind: str, stat: str, site: str, step: str, optimizer: str, mode: str) -> str:
    given = {"kind": kind, "optimizer": optimizer, "mode": mode, "step": step, "stat": stat}
    for row in NOT_JUDGED:
        fits = all(getattr(row, field) in ("", value) for field, value in given.items())
        if fits and (not row.sites or site in row.sites.split()):
            return row.reason
    return "theory states no slope for it"


def _fold(rows: Sequence[Expectation], axis: str) -> list[Expectation]:
    """Make one row of those that differ in `axis` alone."""
    folded: dict[Expectation, tuple[str, ...]] = {}
    for row in rows:
        rest = replace(row, **{axis: ()})  # type: ignore[arg-type]
        folded[rest] = (*folded.get(rest, ()), *getattr(row, axis))
    return [replace(rest, **{axis: values}) for rest, values in folded.items()]  # type: ignore[arg-type]
