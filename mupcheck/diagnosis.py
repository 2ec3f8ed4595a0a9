"""From the pattern of slopes to the likely cause: the exponents that a run followed, read off, against those required.

Every exponent shows in a slope of its own, whatever else is wrong:

    init          the weight's rms at step 0
    lr            the weight's first change, under SGD less its gradient's slope (the first step is linear in it)
    multiplier    what a layer makes at step 0, less what it acts on, its init, and 1/2 of what its fan-in grows by

What is required is the table `gdn-mup`, and all that equals it by the symmetry that moves a factor between init,
multiplier and lr (TP-V, appendix J.2.1).
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan

import pandas as pd

from mupcheck.implied import BEHIND, PARAMETERS, Exponents, Parameter, exponents_of
from mupcheck.parametrization import TABLES, Role, Table, write_exponent

REFERENCE = "gdn-mup"
NOTICEABLE = 0.25  # half the smallest wrong exponent
AGREES = 0.35  # readings of gates, with few outputs, scatter by some 0.1
MAX_CAUSES = 6
FIELDS = ("init", "lr", "multiplier")
Slopes = Mapping[tuple[str, str], float]  # (kind, site) -> slope of the rms


@dataclass(frozen=True)
class Cause:
    """A likely cause of a failed check; causes come ranked, the likeliest first.

    Attributes:
        text: what seems wrong, which slopes say so, and what the table says.
        row: where to look in the table, such as "gate_scalar, lr (sgd)" or "multiplier mixer_out".
        change: exponent of m by which that entry is off.
        n_explained: failed slopes that it bears on directly.
    """

    text: str
    row: str
    change: float
    n_explained: int

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
        return Reading(init, lr, 0.0)  # what it makes hardly depends on its size
    made = size(BEHIND.get(site, of.makes))
    growth = exponents_of(TABLES[REFERENCE], optimizer=optimizer, mode=mode).grown(of.fan_in)
    return Reading(init, lr, made - (size(of.acts_on) if of.acts_on else 0.0) - init - growth / 2)


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
    errors = {site: _errors(site, readings[site], need, given) for site in readings}
    causes = []
    for field in FIELDS:
        off = {site: by[field] for site, by in errors.items()}
        for sites, change in _alike(off):
            explained = _bears_on(failed, field, sites)
            if len(explained):
                causes.append(_cause(field, sites, change, explained, need, given))
    ranked = sorted(causes, key=lambda cause: (-cause.n_explained, -abs(cause.change)))
    return tuple(ranked[:MAX_CAUSES])


def _errors(site: str, reading: Reading, need: Exponents, given: Exponents | None) -> dict[str, float]:
    """Return by how much each entry of a parameter is off.

    Where what was read agrees with the table, the table's entries stand for it: they are exact. A factor m^g in the
    multiplier with m^-g in the init and m^-g (AdamW) or m^-2g (SGD) in the lr changes nothing, and is no error.
    """
    seen, wanted = reading, _entry(site, need)
    if given is not None:
        declared = _entry(site, given)
        if not any(abs(getattr(seen, field) - getattr(declared, field)) > AGREES for field in FIELDS):
            seen = declared
    found = {field: getattr(seen, field) - getattr(wanted, field) for field in FIELDS}
    found = {field: 0.0 if isnan(by) or abs(by) < NOTICEABLE else by for field, by in found.items()}
    g = found["multiplier"]
    moved = {"init": -g, "lr": -g * (1 if need.optimizer == "adamw" else 2), "multiplier": g}
    if all(abs(found[field] - moved[field]) < NOTICEABLE for field in FIELDS):
        return dict.fromkeys(FIELDS, 0.0)
    if PARAMETERS[site].role is Role.GATE and found["init"] < 0:
        found["init"] = 0.0  # a gate may start at nothing
    return found


def _entry(site: str, exponents: Exponents) -> Reading:
    """Return the exponents of a parameter as a reading would show them."""
    entry = exponents.entries[site]
    behind = exponents.multipliers[BEHIND[site]] if site in BEHIND else 0.0
    return Reading(entry.init, entry.lr, entry.multiplier + behind)


def _alike(off: Mapping[str, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    """Yield the parameters that are off: a role's together where all of them are by about as much, others alone."""
    for role in Role:
        by = {site: change for site, change in off.items() if PARAMETERS[site].role is role}
        wrong = {site: change for site, change in by.items() if change}
        if not wrong:
            continue
        if len(wrong) == len(by) and max(wrong.values()) - min(wrong.values()) < 2 * NOTICEABLE:
            yield tuple(wrong), sum(wrong.values()) / len(wrong)
        else:
            yield from (((site,), change) for site, change in wrong.items())


def _bears_on(failed: pd.DataFrame, field: str, sites: Collection[str]) -> pd.DataFrame:
    """Return the failed slopes that an entry of these parameters sets: their changes, or what they make."""
    of_weights = failed["kind"].isin(["weight_update", "effective_update"]) & failed["site"].isin(list(sites))
    makes = {BEHIND.get(site, PARAMETERS[site].makes) for site in sites}
    kinds = ["activation_update"] if field == "lr" else ["activation", "activation_grad", "activation_update"]
    return failed[of_weights | (failed["kind"].isin(kinds) & failed["site"].isin(makes))]


def _cause(
    field: str, sites: tuple[str, ...], change: float, explained: pd.DataFrame, need: Exponents, given: Exponents | None
) -> Cause:
    site, role = sites[0], PARAMETERS[sites[0]].role
    everyone = [name for name, of in PARAMETERS.items() if of.role is role]
    who = f"{role} weights" if len(sites) == len(everyone) > 1 else ", ".join(sites)
    row = f"{role}, {field}" + (f" ({need.optimizer})" if field == "lr" else "")
    behind = BEHIND.get(site) if len(sites) == 1 and field == "multiplier" else None
    if behind:
        row = f"multiplier {behind}"
    shown = write_exponent(_round(change))
    what = {"init": "the initial std", "lr": f"the {need.optimizer} lr", "multiplier": "the output"}[field]
    text = f"{what} of {who} carries an extra m^{shown}: {_evidence(explained)}"
    if given is not None:
        text += _in_table(field, site, behind, need, given)
    return Cause(text, row, _round(change), len(explained))


def _in_table(field: str, site: str, behind: str | None, need: Exponents, given: Exponents) -> str:
    """Say what the table has in the entry, so that a wrong table and a table not followed are told apart."""
    if behind:
        has, wants = given.multipliers[behind], need.multipliers[behind]
    else:
        has, wants = getattr(given.entries[site], field), getattr(need.entries[site], field)
    if has == wants:
        return f"; the table has {write_exponent(has)} there, as {REFERENCE}: the code does not follow it"
    return f"; the table has {write_exponent(has)} there, {REFERENCE} {write_exponent(wants)}"


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
