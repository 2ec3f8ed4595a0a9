"""What a parametrization table implies for every measured quantity: its exponents, propagated through the model.

`required` says what feature learning requires of any table; this file says what one table entails, right or wrong. A
size is d^a, and `walk` carries a through the forward pass, the backward pass and the first updates:

    a product          exponents add
    W x, W random      + 1/2 of what the fan-in grows by: terms of random sign (central limit theorem)
    (W_t - W_0) x      + 1   of it: the change was made from x, so its terms have one sign (TP-V, section 5)
    a norm             x / rms(x): exponent 0 forward, minus that of x backward
    SiLU               keeps the exponent: linear in a small input, the positive part of a large one
    softmax            its gradient is of order one
    weight decay       pulls a matrix by lr wd W: its exponent and that of lr wd, in directions of random sign

Where the widths in reach lie between two limits, both are walked, and the implied slope is the range between them.
`Corner` names these limits. Derived here from the model of theory.md, section 1; the measured slopes of every shipped
table, optimizer and mode are compared with it in tests/theory/test_implied_measured.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import product
from typing import Any

from mupcheck.theory.exponents import BEHIND, PARAMETERS, Exponents, exponents_of
from mupcheck.theory.parametrization import DECAYED, Table, rules_hash
from mupcheck.theory.propagation import Corner, Model, backward, forward, updates, weight_gradients
from mupcheck.theory.required import ACTIVATIONS

Range = tuple[float, float]
Key = tuple[str, str, str, bool]  # kind, stat, site, step > 0
# Once gates saturate, 1 / rms(o) of tokens whose gate is closed is no power of width, nor is what it multiplies.
_BEHIND_CLOSED_GATES = (
    "o_raw beta z_alpha z_beta q_unit k_unit q_conv k_conv v_conv q_pre k_pre v_pre norm1 embedding A_log dt_bias "
    "a_proj b_proj q_proj k_proj v_proj q_conv1d k_conv1d v_conv1d norm1_gain"
)
BEHIND_CLOSED_GATES = frozenset(_BEHIND_CLOSED_GATES.split())
# Decay is exp(A_log) softplus(z + dt_bias): where these scalars change size with width, what it passes is no power.
BEHIND_SCALARS = frozenset(("z_alpha", "a_proj", "A_log", "dt_bias"))


# Where tied logits of a token's own grow with width, the softmax turns from even to certain: the gradient of one token
# turns from random signs to one sign, and what it leaves for the rows of other tokens is beyond Adam's eps.
BEHIND_OWN_LOGIT = frozenset(("final_norm_gain", "embedding"))


def implied_by(
    table: Table,
    *,
    optimizer: str,
    mode: str,
    tied: bool,
    n_layers: int = 2,
    below: bool = False,
    decay: str = "",
) -> Mapping[Key, Range]:
    """Return what `implied` does of a table's exponents; kept, since every group of a check asks for it again.

    Raises:
        ValueError: as `exponents_of`.
    """
    exponents = exponents_of(table, optimizer=optimizer, mode=mode)
    key = (rules_hash(table, optimizer=optimizer, mode=mode), optimizer, mode, tied, n_layers, below, decay)
    if key not in _KNOWN:
        _KNOWN[key] = implied(exponents, tied=tied, n_layers=n_layers, below=below, decay=decay)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, str, str, bool, int, bool, str], Mapping[Key, Range]] = {}


def implied(
    exponents: Exponents, *, tied: bool = False, n_layers: int = 2, below: bool = False, decay: str = ""
) -> dict[Key, Range]:
    """Return the range of slopes that the exponents entail for every quantity, by (kind, stat, site, step > 0).

    It holds where no eps matters, nothing saturates, no readout starts at zero, and clipping is off.
    Gradients are implied at step 0 only: later they fall with the loss on the repeated batch, sooner in wider models.

    Args:
        exponents: from `exponents_of`.
        tied: whether the readout shares the embedding's weight.
        n_layers: blocks; the range holds for each of them and for their mean.
        below: whether some widths lie below the base width.
        decay: "coupled" or "independent" where weight decay is on, else "".
    """
    found: dict[Key, list[float]] = {}
    for corner in corners(exponents.mode, tied=tied, below=below):
        for key, values in walk(exponents, corner, tied=tied, n_layers=n_layers).items():
            found.setdefault(key, []).extend(values)
    for key, values in pulled(exponents, decay, found).items():
        found[key].extend(values)
    return {key: (min(values), max(values)) for key, values in found.items()}


def pulled(exponents: Exponents, decay: str, found: Mapping[Key, Sequence[float]]) -> dict[Key, list[float]]:
    """Return the exponents of the changes that found holds where the pull of weight decay leads them.

    The pull is W times lr wd, so it does to an input what W does, and to what comes after as much at most.
    """
    if not decay:
        return {}
    rates = {
        site: 0.0 if decay == "independent" else exponents.entries[site].lr
        for site, of in PARAMETERS.items()
        if of.role in DECAYED
    }
    more: dict[Key, list[float]] = {}
    for kind, stat, site, moved in found:
        sizes = found.get(("activation", "rms", site, False), ())
        if kind == "activation_update":
            more[kind, stat, site, moved] = [size + rate for size in sizes for rate in set(rates.values())]
        if site not in rates or kind not in ("weight_update", "effective_update"):
            continue
        of, weight = PARAMETERS[site], exponents.entries[site]
        pull = weight.init + rates[site]
        if stat == "spectral":
            # of random values: the root of its longer side
            pull += max(exponents.grown(of.fan_in), exponents.grown(of.fan_out)) / 2
        if kind == "effective_update":
            behind = exponents.multipliers[BEHIND[site]] if site in BEHIND else 0.0
            pull += weight.multiplier + behind + exponents.grown(of.fan_in) / 2
            comes_in = found.get(("activation", "rms", of.acts_on.replace("<gated>", "gate"), True), (0.0,))
            more[kind, stat, site, moved] = [pull + size for size in (min(comes_in), max(comes_in))]
        else:
            more[kind, stat, site, moved] = [pull]
    return more


def corners(mode: str, *, tied: bool, below: bool = False) -> list[Corner]:
    """Return every limit that applies: q.k and a head's V-sum change with width in head-dim mode, H in heads mode."""
    limits: dict[str, tuple[Any, ...]] = {field.name: (False, True) for field in fields(Corner)}
    limits["keys"] = (0.0, 0.5) if mode == "head-dim" else (0.0,)
    limits["values"] = (0.5, 1.0)
    limits["own"] = (0.0, 0.5) if tied else (0.0,)
    limits["below"] = (False, True) if below else (False,)
    return [Corner(*each) for each in product(*limits.values())]


def walk(exponents: Exponents, corner: Corner, *, tied: bool = False, n_layers: int = 2) -> dict[Key, list[float]]:
    """Return the exponents of every quantity in one corner, a value for each block that has it."""
    # blocks after the third meet no new terms
    model = Model(exponents, corner, tied, min(n_layers, 3))
    size = dict(forward(model))
    grad = dict(backward(model, size))
    weight_grad = dict(weight_gradients(model, size, grad))
    follows_gradient = float(exponents.optimizer == "sgd")
    step = {place: exponents.entries[place[0]].lr + follows_gradient * g for place, g in weight_grad.items()}
    # how the first updates grow: on inputs as they were
    grows = max(
        model.effect(place, value, size.get((PARAMETERS[place[0]].acts_on, place[1]), 0.0))
        for place, value in step.items()
    )
    if corner.fitted and grows > 0:
        step = {place: value - min(grows, 1.0) / 2 for place, value in step.items()}
    change, effective = updates(model, size, step)
    later = {place: model.by_now(place, a, change[place]) for place, a in size.items()}

    found: dict[Key, list[float]] = {}
    tables = (
        ("activation", "rms", False, size),
        ("activation", "mean_abs", False, size),
        ("activation", "rms", True, later),
        ("activation", "mean_abs", True, later),
        ("activation_update", "rms", True, change),
        ("activation_grad", "rms", False, grad),
        ("weight", "rms", False, {place: exponents.entries[place[0]].init for place in step}),
        ("weight_grad", "rms", False, weight_grad),
        ("weight_update", "rms", True, step),
        ("weight_update", "spectral", True, {place: value + model.rank_one(place[0]) for place, value in step.items()}),
        ("effective_update", "rms", True, effective),
    )
    lawless: frozenset[str] = frozenset()
    if max(value for (site, _), value in size.items() if site in ("z_alpha", "z_beta")) > 0:
        lawless |= BEHIND_CLOSED_GATES
    if model.w("A_log") or model.w("dt_bias"):
        lawless |= BEHIND_SCALARS
    certain = BEHIND_OWN_LOGIT if tied and exponents.own_logit > 0 else frozenset()
    for kind, stat, moved, values in tables:
        flows_back = kind in ("activation_grad", "weight_grad") or (follows_gradient and moved)
        for (site, _), value in values.items():
            if flows_back and site in lawless:
                continue
            if site in certain and (flows_back or kind in ("weight_update", "effective_update")):
                continue
            if site in ACTIVATIONS or site in PARAMETERS:
                found.setdefault((kind, stat, site, moved), []).append(value)
    return found
