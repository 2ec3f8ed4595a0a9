"""From the pattern of slopes to the likely cause: the exponents that a run followed, read off, against those required.

Every exponent shows in a slope of its own, whatever else is wrong:

    init          the weight's rms at step 0
    lr            the weight's first change, under SGD less its gradient's slope (the first step is linear in it)
    multiplier    what a layer makes at step 0, less what it acts on, its init, and 1/2 of what its fan-in grows by;
                  of scalars, what their change does less the change itself

What is required is the table `gdn-mup`, and all that equals it by the symmetry that moves a factor between init,
multiplier and lr (TP-V, appendix J.2.1).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isnan, nan

import pandas as pd

from mupcheck.theory.exponents import BEHIND, PARAMETERS, Exponents, Parameter, exponents_of
from mupcheck.theory.parametrization import TABLES, Role, Table, write_exponent

REFERENCE = "gdn-mup"
NOTICEABLE = 0.25  # half the smallest wrong exponent
AGREES = 0.35  # readings of gates, with few outputs, scatter by some 0.1
MAX_CAUSES = 6
FIELDS = ("init", "lr", "multiplier")
# Two weights make the MLP's hidden layer; only the product of what they make is recorded.
MLP = ("gate_proj", "up_proj")
MADE = BEHIND | dict.fromkeys(MLP, "mlp_hidden")
Slopes = Mapping[tuple[str, str], float]  # (kind, site) -> slope of the rms
Errors = Mapping[str, float]  # of FIELDS, by how much an entry is off; NaN where it cannot be told


@dataclass(frozen=True)
class Cause:
    """A likely cause of a failed check; causes come ranked, the likeliest first.

    Attributes:
        text: what seems wrong, which slopes say so, and what the table says.
        row: where to look in the table, such as "gate_scalar, lr (sgd)" or "multiplier mixer_out".
        change: exponent of m by which that entry is off.
        n_explained: failed slopes that it bears on directly; 0 if it is only all that seems off.
        remedy: what to do about it.
    """

    text: str
    row: str
    change: float
    n_explained: int
    remedy: str = ""

    def __str__(self) -> str:
        """Say the cause and the row in one line."""
        return f"{self.text} (look at: {self.row})"


@dataclass(frozen=True)
class Reading:
    """The exponents that one parameter followed; NaN where its slopes do not tell.

    `multiplier` includes a forward multiplier right behind the weight (BEHIND), which has the same effect.
    """

    init: float
    lr: float
    multiplier: float


def read_exponents(slopes: pd.DataFrame, *, optimizer: str, mode: str) -> dict[str, Reading]:
    """Read off the exponents of every parameter from the slopes per layer and step of one group.

    Args:
        slopes: rows of `fit_slopes`; the mean over layers is read, lr at the first recorded step after 0.
    """
    rms = slopes[slopes["stat"] == "rms"]
    start = _by_site(rms[rms["step"] == 0])
    later = rms.loc[rms["step"] > 0, "step"]
    first = _by_site(rms[rms["step"] == later.min()]) if len(later) else {}
    return {site: _read(site, of, start, first, optimizer, mode) for site, of in PARAMETERS.items()}


def _by_site(rows: pd.DataFrame) -> Slopes:
    means = rows.groupby(["kind", "site"])["slope"].mean()
    return {(str(kind), str(site)): float(slope) for (kind, site), slope in means.items()}


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


def departures(
    slopes: pd.DataFrame, table: Table, *, optimizer: str, mode: str, tied: bool
) -> Iterator[tuple[str, str, float, float]]:
    """Yield (parameter, "init" or "lr", exponent read, exponent in the table) where the two are not the same.

    These two are read without regard to the rest of the model: the lr at step 1 alone, where it shows to rounding.

    Args:
        slopes: rows of `fit_slopes` per layer and step.
        table: what the runs should have followed.
    """
    given = exponents_of(table, optimizer=optimizer, mode=mode)
    fields = ("init", "lr") if (slopes["step"] == 1).any() else ("init",)
    for site, reading in read_exponents(slopes[slopes["step"] < 2], optimizer=optimizer, mode=mode).items():
        for field in fields:
            read, declared = getattr(reading, field), getattr(given.entries[site], field)
            if field == "lr" and _unread(site, given, tied=tied):
                continue
            if abs(read - declared) > AGREES:
                yield site, field, read, declared


def diagnose(
    pooled: pd.DataFrame, slopes: pd.DataFrame, *, optimizer: str, mode: str, tied: bool, table: Table | None = None
) -> tuple[Cause, ...]:
    """Return the likely causes of the failed slopes of one group, those that bear on most of them first.

    Args:
        pooled, slopes: rows of `fit_slopes`, over all layers and later steps and for each of them.
        table: what the runs should have followed; with it a cause says whether the table or the code is wrong.
    """
    failed = pooled[pooled["verdict"] == "fail"]
    if failed.empty:
        failed = slopes[slopes["verdict"] == "fail"]
    need = exponents_of(TABLES[REFERENCE], optimizer=optimizer, mode=mode)
    given = exponents_of(table, optimizer=optimizer, mode=mode) if table is not None else None
    readings = read_exponents(slopes, optimizer=optimizer, mode=mode)
    if tied:
        del readings["readout"]
    if given is not None:
        readings = {
            site: replace(reading, lr=given.entries[site].lr) if _unread(site, given, tied=tied) else reading
            for site, reading in readings.items()
        }
    off = {site: _errors(site, _told(site, reading, given), need) for site, reading in readings.items()}
    suspects = [
        _Suspect(field, sites, change)
        for field in FIELDS
        for sites, change in _alike(field, {site: errors[field] for site, errors in off.items()})
    ]
    suspects += _suspect_multipliers(slopes, need, given, tied=tied)
    causes = [_cause(suspect, _bears_on(failed, suspect), need, given) for suspect in suspects]
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


def _unread(site: str, given: Exponents, *, tied: bool) -> bool:
    """Say whether the lr of a weight cannot be read: tied, where a token's own logit grows with width.

    The softmax is then so certain in wide models that the rows of tokens that are not in the batch get no gradient
    beyond Adam's eps, and the mean over rows falls with width.
    """
    return tied and site == "embedding" and given.optimizer == "adamw" and given.own_logit > 0


@dataclass(frozen=True)
class _Suspect:
    """An entry that seems off: a field of weights, or a forward multiplier that is behind none of them."""

    field: str
    sites: tuple[str, ...]
    change: float
    multiplier: str = ""


def _told(site: str, reading: Reading, given: Exponents | None) -> Reading:
    """Return the reading with the table's entries, which are exact, where it agrees with them or cannot tell."""
    if given is None:
        return reading
    declared = _entry(site, given)
    pairs = [(getattr(reading, field), getattr(declared, field)) for field in FIELDS]
    return Reading(*(read if abs(read - exact) > AGREES else exact for read, exact in pairs))


def _errors(site: str, reading: Reading, need: Exponents) -> Errors:
    """Return by how much each entry of a parameter is off.

    A factor m^t in the multiplier with m^-t in the init and m^-t (AdamW) or m^-2t (SGD) in the lr changes nothing, and
    is no error: where all three are off it is taken out, so that as few as can be remain.
    """
    wanted = _entry(site, need)
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


def _entry(site: str, exponents: Exponents) -> Reading:
    """Return the exponents of a parameter as a reading would show them."""
    entry = exponents.entries[site]
    behind = exponents.multipliers[BEHIND[site]] if site in BEHIND else 0.0
    return Reading(entry.init, entry.lr, entry.multiplier + behind)


def _alike(field: str, off: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the parameters that are off: a role's together where all of them are by about as much, others alone."""
    for role in Role:
        known = {site: by for site, by in off.items() if PARAMETERS[site].role is role and not isnan(by)}
        wrong = {site: by for site, by in known.items() if by}
        if not wrong:
            continue
        if len(wrong) == len(known) and max(wrong.values()) - min(wrong.values()) < 2 * NOTICEABLE:
            yield tuple(wrong), sum(wrong.values()) / len(wrong)
            continue
        if field == "multiplier" and set(MLP) <= set(wrong):
            yield MLP, sum(wrong.pop(site) for site in MLP)
        yield from (((site,), by) for site, by in wrong.items())


def _suspect_multipliers(
    slopes: pd.DataFrame, need: Exponents, given: Exponents | None, *, tied: bool
) -> Iterator[_Suspect]:
    """Yield the forward multipliers that stand behind no weight of their own and are off.

    That on o before its norm shows in o beside v times q.k, that on tied logits in the gradient that they pass back
    through the embedding.
    """
    start = _by_site(slopes[(slopes["stat"] == "rms") & (slopes["step"] == 0)])
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


def _bears_on(failed: pd.DataFrame, suspect: _Suspect) -> pd.DataFrame:
    """Return the failed slopes that an entry of these parameters sets: their changes, or what they make."""
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
    what = {"init": "the initial std", "lr": f"the {need.optimizer} lr", "multiplier": "the output"}[field]
    leads_to = ": " if direct else ", which may be behind "
    text = f"{what} of {who} carries an extra m^{shown}{leads_to}{_evidence(explained)}"
    remedy = f"take m^{shown} out of {row} (m = width / base width)"
    if given is not None:
        said, remedy = _in_table(suspect, behind or "", row, need, given)
        text += said
    return Cause(text, row, _round(change), len(explained) if direct else 0, remedy)


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
        declared = sum(_errors(site, _entry(site, given), need)[field] for site in together)
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
    ranked = explained.assign(order=explained["kind"].map(kinds.index)).sort_values("order", kind="stable")
    rows = ranked.drop_duplicates("kind").head(2)
    return ", ".join(
        f"{row.kind} of {row.site} {row.slope:+.2f}" + (" at step 0" if row.step == 0 else "")
        for row in rows.itertuples()
    )


def _round(exponent: float) -> float:
    """Round to the nearest quarter: exponents of tables are halves, and a quarter says that it is none."""
    return round(4 * exponent) / 4
