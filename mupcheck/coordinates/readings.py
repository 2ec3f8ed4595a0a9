"""The exponents that a run followed, read off its slopes: of all layers together, of one, and of later steps.

Every exponent shows in a slope of its own, whatever else is wrong:

    init          the weight's rms at step 0
    lr            the weight's first change, under SGD less its gradient's slope (the first step is linear in it)
    multiplier    what a layer makes at step 0, less what it acts on, its init, and 1/2 of what its fan-in grows by;
                  of scalars, what their change does less the change itself

Where weight decay is on, its pull outgrows the step of hidden weights and gates, and under SGD it does not follow the
gradient: the lr of these cannot be read off then.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan

import pandas as pd

from mupcheck.theory.exponents import BEHIND, PARAMETERS, Exponents, Parameter, exponents_of
from mupcheck.theory.parametrization import DECAYED, TABLES, Role, Table
from mupcheck.theory.required import pull_of_decay

REFERENCE = "gdn-mup"
NOTICEABLE = 0.25  # half the smallest wrong exponent
AGREES = 0.35  # readings of gates, with few outputs, scatter by some 0.1
# By how much the change's slope may move from step to step: correct tables moved it by 0.16 at most under AdamW, by
# 0.35 under SGD where it is judged (widths 32-160, steps 1-4, 3 and 4 seeds, both modes, CPU).
LATER = {"adamw": AGREES, "sgd": 0.5}
FIELDS = ("init", "lr", "multiplier")
# Two weights make the MLP's hidden layer; only the product of what they make is recorded.
MLP = ("gate_proj", "up_proj")
MADE = BEHIND | dict.fromkeys(MLP, "mlp_hidden")
Slopes = Mapping[tuple[str, str], float]  # (kind, site) -> slope of the rms
Errors = dict[str, float]  # of FIELDS, by how much an entry is off; NaN where it cannot be told


@dataclass(frozen=True)
class Reading:
    """The exponents that one parameter followed; NaN where its slopes do not tell.

    `multiplier` includes a forward multiplier right behind the weight (BEHIND), which has the same effect.
    """

    init: float
    lr: float
    multiplier: float


def read_exponents(slopes: pd.DataFrame, *, optimizer: str, mode: str, layer: int | None = None) -> dict[str, Reading]:
    """Read off the exponents of every parameter from the slopes per layer and step of one group.

    Args:
        slopes: rows of `fit_slopes`; lr is read at the first recorded step after 0.
        layer: the one to read; None reads the mean over layers.
    """
    steps = by_step(slopes, layer=layer)
    later = [step for step in steps if step > 0]
    start, first = steps.get(0, {}), steps[min(later)] if later else {}
    return {site: _read(site, of, start, first, optimizer, mode) for site, of in PARAMETERS.items()}


def by_step(slopes: pd.DataFrame, *, layer: int | None = None) -> dict[int, Slopes]:
    """Return the mean slope of rms over layers, or that of one layer, by (kind, site), for each step."""
    found: dict[int, dict[tuple[str, str], list[float]]] = {}
    # of some hundred rows: pandas takes several times as long to choose and to group them
    columns = (slopes[name].tolist() for name in ("stat", "layer", "step", "kind", "site", "slope"))
    for stat, at, step, kind, site, slope in zip(*columns, strict=True):
        if stat != "rms" or (layer is not None and at not in (layer, -1)):
            continue
        known = found.setdefault(int(step), {}).setdefault((str(kind), str(site)), [])
        if slope == slope:
            known.append(slope)
    return {
        step: {key: sum(known) / len(known) if known else nan for key, known in of.items()}
        for step, of in found.items()
    }


def _read(site: str, of: Parameter, start: Slopes, first: Slopes, optimizer: str, mode: str) -> Reading:
    init = start.get(("weight", site), nan)
    lr = first.get(("weight_update", site), nan)
    if optimizer == "sgd":
        lr -= start.get(("weight_grad", site), nan)

    def size(name: str) -> float:
        if name == "<gated>":
            return size("o_norm") + size("gate")
        return start.get(("activation", name), nan)

    if of.role is Role.GATE_SCALAR:
        acts = first.get(("effective_update", site), nan) - first.get(("weight_update", site), nan)
        return Reading(init, lr, acts)
    growth = exponents_of(TABLES[REFERENCE], optimizer=optimizer, mode=mode).grown(of.fan_in)
    if site in MLP:
        inits = sum(start.get(("weight", name), nan) for name in MLP)
        # what each would have if they had the same
        return Reading(init, lr, (size("mlp_hidden") - inits) / 2 - size(of.acts_on) - growth / 2)
    made = size(MADE.get(site, of.makes))
    return Reading(init, lr, made - (size(of.acts_on) if of.acts_on else 0.0) - init - growth / 2)


def layers_of(slopes: pd.DataFrame) -> list[int]:
    """Return the blocks that were recorded, none where there is one or they are not told apart."""
    layers = sorted({int(layer) for layer in slopes["layer"] if layer >= 0})
    return layers if len(layers) > 1 else []


@dataclass(frozen=True)
class Departure:
    """An exponent that is not the table's: of `site`, "init" or "lr", in `layers` (empty: in all, or it has none)."""

    site: str
    field: str
    read: float
    given: float
    layers: tuple[int, ...] = ()


def departures(
    slopes: pd.DataFrame, table: Table, *, optimizer: str, mode: str, tied: bool, decay: bool = False
) -> Iterator[Departure]:
    """Yield what was read where it is not the same as in the table: of all layers, or else of some.

    Only init and lr are read, without regard to the rest of the model: the lr at step 1 alone, where it shows to
    rounding.

    Args:
        slopes: rows of `fit_slopes` per layer and step.
        table: what the runs should have followed.
        decay: whether weight decay is on.
    """
    given = exponents_of(table, optimizer=optimizer, mode=mode)
    fields = ("init", "lr") if (slopes["step"] == 1).any() else ("init",)
    start = slopes[slopes["step"] < 2]
    by_layer = {
        layer: read_exponents(start, optimizer=optimizer, mode=mode, layer=layer) for layer in layers_of(slopes)
    }
    for site, reading in read_exponents(start, optimizer=optimizer, mode=mode).items():
        for field in fields:
            declared = getattr(given.entries[site], field)
            if field == "lr" and unread(site, given, tied=tied, decay=decay):
                continue
            each = (
                {layer: getattr(of[site], field) for layer, of in by_layer.items()} if has_layers(site, field) else {}
            )
            off = {layer: read for layer, read in each.items() if abs(read - declared) > AGREES}
            if off and len(off) < len(each) and max(each.values()) - min(each.values()) > NOTICEABLE:
                yield Departure(site, field, sum(off.values()) / len(off), declared, tuple(off))
            elif abs((read := getattr(reading, field)) - declared) > AGREES:
                yield Departure(site, field, read, declared)


def has_layers(site: str, field: str) -> bool:
    """Say whether an exponent can be read in one layer: each has its own, but for the few draws of gate scalars."""
    of = PARAMETERS[site]
    return of.in_block and not (of.role is Role.GATE_SCALAR and field == "init")


def unread(site: str, given: Exponents, *, tied: bool, decay: bool) -> bool:
    """Say whether the lr of a weight cannot be read: pulled by decay, or tied, where a token's own logit grows.

    With that logit the softmax is so certain in wide models that the rows of tokens that are not in the batch get no
    gradient beyond Adam's eps, and the mean over rows falls with width.
    """
    # under SGD the pull does not follow the gradient that is taken out, whichever of the two outgrows the other
    outgrown = pull_of_decay(site, mode=given.mode) is not None or given.optimizer == "sgd"
    if decay and outgrown and PARAMETERS[site].role in DECAYED:
        return True
    return tied and site == "embedding" and given.optimizer == "adamw" and given.own_logit > 0


def from_step_on(slopes: pd.DataFrame, *, optimizer: str) -> dict[str, tuple[int, float, tuple[int, ...]]]:
    """Return the weights whose change grows otherwise from a later step on: that step, by what power at last, layers.

    The change since step 0 holds what the first steps did too, so the power is a little less than that of the lr. Only
    slopes that are judged and fail count. No layers are all, or a weight outside them.
    """
    rows = slopes[(slopes["kind"] == "weight_update") & (slopes["stat"] == "rms") & (slopes["step"] > 0)]
    series: dict[tuple[str, int], list[tuple[int, float, str]]] = {}
    columns = (rows[name].tolist() for name in ("site", "layer", "step", "slope", "verdict"))
    for site, layer, step, slope, verdict in zip(*columns, strict=True):
        series.setdefault((str(site), int(layer)), []).append((int(step), float(slope), str(verdict)))
    found: dict[str, dict[int, tuple[int, float]]] = {}
    n_layers: dict[str, int] = {}
    for (site, layer), of in series.items():
        of.sort(key=lambda row: row[0])
        moved = [slope - of[0][1] for _, slope, _ in of]
        n_layers[site] = n_layers.get(site, 0) + 1
        if of[-1][2] != "fail" or not abs(moved[-1]) > LATER[optimizer]:
            continue
        # the first step that moved it half as far as what is noticed
        at = next(i for i, by in enumerate(moved) if abs(by) > NOTICEABLE / 2)
        found.setdefault(site, {})[layer] = of[at][0], moved[-1]
    answer = {}
    for site, layers in found.items():
        steps, changes = zip(*layers.values(), strict=True)
        only = tuple(layers) if len(layers) < n_layers[site] else ()
        answer[site] = min(steps), sum(changes) / len(changes), only
    return answer


def told(site: str, reading: Reading, given: Exponents | None) -> Reading:
    """Return the reading with the table's entries, which are exact, where it agrees with them or cannot tell."""
    if given is None:
        return reading
    declared = entry_of(site, given)
    pairs = [(getattr(reading, field), getattr(declared, field)) for field in FIELDS]
    return Reading(*(read if abs(read - exact) > AGREES else exact for read, exact in pairs))


def errors_of(site: str, reading: Reading, need: Exponents) -> Errors:
    """Return by how much each entry of a parameter is off.

    A factor m^t in the multiplier with m^-t in the init and m^-t (AdamW) or m^-2t (SGD) in the lr changes nothing, and
    is no error: where all three are off it is taken out, so that as few as can be remain.
    """
    wanted = entry_of(site, need)
    init, lr, multiplier = (getattr(reading, field) - getattr(wanted, field) for field in FIELDS)
    power = 1 if need.optimizer == "adamw" else 2
    errors = _noticeable(init, lr, multiplier)
    if all(abs(by) > 0 for by in errors.values()):
        moved = [_noticeable(init + t, lr + power * t, multiplier - t) for t in (multiplier, -init, -lr / power)]
        errors = min(moved, key=lambda errors: sum(by != 0 for by in errors.values()))
    if PARAMETERS[site].role is Role.GATE and errors["init"] < 0:
        errors["init"] = 0.0  # a gate may start at nothing
    return errors


def _noticeable(*errors: float) -> dict[str, float]:
    return {field: 0.0 if abs(by) < NOTICEABLE else by for field, by in zip(FIELDS, errors, strict=True)}


def entry_of(site: str, exponents: Exponents) -> Reading:
    """Return the exponents of a parameter as a reading would show them."""
    entry = exponents.entries[site]
    behind = exponents.multipliers[BEHIND[site]] if site in BEHIND else 0.0
    return Reading(entry.init, entry.lr, entry.multiplier + behind)
