"""From the pattern of slopes to the likely cause: the exponents that a run followed, read off, against those required.

What is read is in `readings`. What is required is the table `gdn-mup`, and all that equals it by the symmetry that
moves a factor between init, multiplier and lr (TP-V, appendix J.2.1). A fault of some layers is read in these alone,
and one of later steps in what their changes add to those of the first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd

from mupcheck.coordinates.readings import (
    AGREES,
    FIELDS,
    MADE,
    MLP,
    NOTICEABLE,
    REFERENCE,
    Errors,
    by_step,
    entry_of,
    errors_of,
    from_step_on,
    has_layers,
    layers_of,
    read_exponents,
    told,
    unread,
)
from mupcheck.theory.exponents import BEHIND, PARAMETERS, Exponents, exponents_of
from mupcheck.theory.parametrization import TABLES, Role, Table, write_exponent

MAX_CAUSES = 6
Layers = tuple[int, ...]


@dataclass(frozen=True)
class Cause:
    """A likely cause of a failed check; causes come ranked, the likeliest first.

    Attributes:
        text: what seems wrong, which slopes say so, and what the table says.
        row: where to look in the table, such as "gate_scalar, lr (sgd)" or "multiplier mixer_out".
        change: exponent of m by which that entry is off.
        n_explained: failed slopes that it bears on directly; 0 if it is only all that seems off.
        remedy: what to do about it.
        layers: where it is, if not in all.
        steps: the one from which on it is, if not from the first.
    """

    text: str
    row: str
    change: float
    n_explained: int
    remedy: str = ""
    layers: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        """Say the cause and the row in one line."""
        return f"{self.text} (look at: {self.row})"


def diagnose(
    pooled: pd.DataFrame,
    slopes: pd.DataFrame,
    *,
    optimizer: str,
    mode: str,
    tied: bool,
    table: Table | None = None,
    decay: bool = False,
) -> tuple[Cause, ...]:
    """Return the likely causes of the failed slopes of one group, those that bear on most of them first.

    Args:
        pooled, slopes: rows of `fit_slopes`, over all layers and later steps and for each of them.
        table: what the runs should have followed; with it a cause says whether the table or the code is wrong.
        decay: whether weight decay is on.
    """
    failed, each = (rows[rows["verdict"] == "fail"] for rows in (pooled, slopes))
    if failed.empty:
        failed = each
    need = exponents_of(TABLES[REFERENCE], optimizer=optimizer, mode=mode)
    given = exponents_of(table, optimizer=optimizer, mode=mode) if table is not None else None

    def errors(layer: int | None = None) -> dict[str, Errors]:
        readings = read_exponents(slopes, optimizer=optimizer, mode=mode, layer=layer)
        if tied:
            del readings["readout"]
        off = {}
        for site, reading in readings.items():
            if unread(site, given or need, tied=tied, decay=decay):
                reading = replace(reading, lr=nan if given is None else given.entries[site].lr)
            off[site] = errors_of(site, told(site, reading, given), need)
        return off

    off = errors()
    only = _in_some_layers(off, {layer: errors(layer) for layer in layers_of(slopes)})
    suspects = [suspect for field in FIELDS for suspect in _alike(field, off, only)]
    suspects += _suspect_multipliers(slopes, need, given, tied=tied)
    suspects += _suspect_later(slopes, suspects, optimizer=optimizer)
    causes = [_cause(suspect, _bears_on(failed, each, suspect), need, given) for suspect in suspects]
    if any(cause.n_explained for cause in causes):
        causes = [cause for cause in causes if cause.n_explained]
    elif len(failed):
        # what is off must be behind the failures, as a readout is behind every gradient
        unseen = [suspect for suspect in suspects if suspect.multiplier != "o_raw"]  # the norm behind it hides its size
        causes = [_cause(suspect, failed, need, given, direct=False) for suspect in unseen]
    else:
        causes = []
    ranked = sorted(causes, key=lambda cause: (-cause.n_explained, -abs(cause.change)))
    return tuple(ranked[:MAX_CAUSES])


@dataclass(frozen=True)
class _Suspect:
    """An entry that seems off: a field of weights, or a forward multiplier that is behind none of them."""

    field: str
    sites: tuple[str, ...]
    change: float
    multiplier: str = ""
    layers: Layers = ()
    steps: tuple[int, ...] = ()


def _in_some_layers(
    off: Mapping[str, Errors], by_layer: Mapping[int, Mapping[str, Errors]]
) -> dict[tuple[str, str], Layers]:
    """Return the layers of what is off in some of them alone, and put what it is off by there in place of the mean."""
    only = {}
    for site, errors in off.items():
        for field in FIELDS if PARAMETERS[site].in_block else ():
            each = {layer: of[site][field] for layer, of in by_layer.items()} if has_layers(site, field) else {}
            wrong = {layer: by for layer, by in each.items() if abs(by) > 0}
            if wrong and len(wrong) < len(each) and max(each.values()) - min(each.values()) > AGREES:
                errors[field] = sum(wrong.values()) / len(wrong)
                only[site, field] = tuple(wrong)
    return only


def _alike(field: str, off: Mapping[str, Errors], only: Mapping[tuple[str, str], Layers]) -> Iterator[_Suspect]:
    """Yield the parameters that are off: a role's together where all of them are by about as much, others alone."""
    for role in Role:
        known = {site: of[field] for site, of in off.items() if PARAMETERS[site].role is role and not isnan(of[field])}
        wrong = {site: by for site, by in known.items() if by}
        if not wrong:
            continue
        layers = {site: only.get((site, field), ()) for site in wrong}
        alike = len(wrong) == len(known) and len(set(layers.values())) == 1
        if alike and max(wrong.values()) - min(wrong.values()) < 2 * NOTICEABLE:
            yield _Suspect(field, tuple(wrong), sum(wrong.values()) / len(wrong), layers=next(iter(layers.values())))
            continue
        if field == "multiplier" and set(MLP) <= set(wrong) and layers[MLP[0]] == layers[MLP[1]]:
            yield _Suspect(field, MLP, sum(wrong.pop(site) for site in MLP), layers=layers[MLP[0]])
        yield from (_Suspect(field, (site,), by, layers=layers[site]) for site, by in wrong.items())


def _suspect_later(slopes: pd.DataFrame, suspects: Sequence[_Suspect], *, optimizer: str) -> Iterator[_Suspect]:
    """Yield the lrs that are off from a later step on, as a scheduler that overwrites them makes them."""
    seen = {site for suspect in suspects if suspect.field == "lr" for site in suspect.sites}
    found = {site: of for site, of in from_step_on(slopes, optimizer=optimizer).items() if site not in seen}
    for role in Role:
        mine = {site: of for site, of in found.items() if PARAMETERS[site].role is role}
        for at in dict.fromkeys((step, layers) for step, _, layers in mine.values()):
            alike = {site: by for site, (step, by, layers) in mine.items() if (step, layers) == at}
            step, layers = at
            yield _Suspect("lr", tuple(alike), sum(alike.values()) / len(alike), layers=layers, steps=(step,))


def _suspect_multipliers(
    slopes: pd.DataFrame, need: Exponents, given: Exponents | None, *, tied: bool
) -> Iterator[_Suspect]:
    """Yield the forward multipliers that stand behind no weight of their own and are off.

    That on o before its norm shows in o beside v times q.k, that on tied logits in the gradient that they pass back
    through the embedding.
    """
    start = by_step(slopes).get(0, {})
    o, v, qk, embedding = (start.get(("activation", site), nan) for site in ("o_raw", "v_conv", "qk", "embedding"))
    readings = {"o_raw": o - v - qk}
    if tied:
        readings["logits"] = start.get(("activation_grad", "final_norm"), nan) - embedding
    for site, seen in readings.items():
        if given is not None and not abs(seen - given.multipliers[site]) > AGREES:
            seen = given.multipliers[site]
        change = seen - need.multipliers[site]
        if abs(change) >= NOTICEABLE:
            yield _Suspect("multiplier", (), change, site)


def _bears_on(failed: pd.DataFrame, each: pd.DataFrame, suspect: _Suspect) -> pd.DataFrame:
    """Return the failed slopes that an entry of these parameters sets: their changes, or what they make.

    Of an entry of some layers, or of later steps, those of `each` layer and step that are there, where one failed.
    """
    if suspect.layers or suspect.steps:
        there = each["layer"].isin(suspect.layers) if suspect.layers else True
        there &= each["step"] >= max(suspect.steps, default=0)
        own = _bears_on(each[there], each, replace(suspect, layers=(), steps=()))
        if len(own):
            return own.sort_values("step", ascending=not suspect.steps).drop_duplicates(["kind", "stat", "site"])
    of_weights = failed["kind"].isin(["weight_update", "effective_update"]) & failed["site"].isin(suspect.sites)
    makes = {MADE.get(site, PARAMETERS[site].makes) for site in suspect.sites} | {suspect.multiplier}
    changes = (failed["kind"] == "activation_update") | ((failed["kind"] == "activation") & (failed["step"] > 0))
    by_lr = suspect.field == "lr"
    made = changes if by_lr else failed["kind"].isin(["activation", "activation_grad", "activation_update"])
    return failed[of_weights | (made & failed["site"].isin(makes))]


def _cause(
    suspect: _Suspect, explained: pd.DataFrame, need: Exponents, given: Exponents | None, *, direct: bool = True
) -> Cause:
    field, sites, change = suspect.field, suspect.sites, suspect.change
    shown = write_exponent(_round(change))
    behind = suspect.multiplier or (field == "multiplier" and len(sites) == 1 and BEHIND.get(sites[0], ""))
    if behind and sites and given is not None:
        weight = given.entries[sites[0]].multiplier - need.entries[sites[0]].multiplier
        if abs(weight - change) < NOTICEABLE:
            behind = ""  # the table has it on the weight
    if behind:
        row, who = f"multiplier {behind}", sites[0] if sites else behind
    else:
        role = PARAMETERS[sites[0]].role
        everyone = [name for name, of in PARAMETERS.items() if of.role is role]
        row = f"{role}, {field}" + (f" ({need.optimizer})" if field == "lr" else "")
        who = f"{role} weights" if len(sites) == len(everyone) > 1 else ", ".join(sites)
        if sites == MLP and field == "multiplier":
            who += " together"
    where = f" in layer {', '.join(map(str, suspect.layers))}" if suspect.layers else ""
    when = f" from step {suspect.steps[0]} on" if suspect.steps else ""
    what = {"init": "the initial std", "lr": f"the {need.optimizer} lr", "multiplier": "the output"}[field]
    leads_to = ": " if direct else ", which may be behind "
    text = f"{what} of {who}{where} carries an extra m^{shown}{when}{leads_to}{_evidence(explained)}"
    remedy = f"take m^{shown} out of {row} (m = width / base width)"
    if given is not None:
        said, remedy = _in_table(suspect, behind or "", row, need, given)
        text += said
    n_explained = len(explained) if direct else 0
    return Cause(text, row, _round(change), n_explained, remedy, suspect.layers, suspect.steps)


def _in_table(suspect: _Suspect, behind: str, row: str, need: Exponents, given: Exponents) -> tuple[str, str]:
    """Say what the table has in the entry, and what to do: a wrong table and one not followed are told apart."""
    field = suspect.field
    if behind:
        has, wants = given.multipliers[behind], need.multipliers[behind]
    else:
        has, wants = (getattr(of.entries[suspect.sites[0]], field) for of in (given, need))
    text = f"; your table has exponent {write_exponent(has)} there"
    declared = has - wants
    if suspect.sites:
        together = suspect.sites if suspect.sites == MLP and field == "multiplier" else suspect.sites[:1]
        declared = sum(errors_of(site, entry_of(site, given), need)[field] for site in together)
    if not declared:
        right = f"as {REFERENCE}" if has == wants else "which is right with its other entries"
        return f"{text}, {right}: the code does not follow it", f"let the code follow its table in {row}"
    text += f", {REFERENCE} {write_exponent(wants)}"
    if abs(declared - suspect.change) > AGREES:
        return f"{text}: the code follows neither", f"let the code follow its table in {row}"
    wanted = has - declared  # with its other entries as they are
    return text, f"set {row} to {write_exponent(wanted)}, where it is {write_exponent(has)}"


def _evidence(explained: pd.DataFrame) -> str:
    """Name two of the slopes, of two kinds: those that follow from the entry most directly."""
    kinds = ["activation", "effective_update", "weight_update", "activation_grad", "activation_update"]
    rows = zip(*(explained[name].tolist() for name in ("kind", "site", "slope", "step")), strict=True)
    of_kinds = {kind: rest for kind, *rest in reversed(list(rows))}  # what is written last stays
    return ", ".join(
        f"{kind} of {site} {slope:+.2f}" + (" at step 0" if step == 0 else "")
        for kind, (site, slope, step) in sorted(of_kinds.items(), key=lambda of: kinds.index(of[0]))[:2]
    )


def _round(exponent: float) -> float:
    """Round to the nearest quarter: exponents of tables are halves, and a quarter says that it is none."""
    return round(4 * exponent) / 4
