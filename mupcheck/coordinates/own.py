"""What is to be found about a user's own model, whose parameters no table names: first, what its optimizer gives them.

They are read back from the param groups at every recorded step and carry no noise, so that a group that was forgotten,
or overwritten, is found with certainty. What is required of any model is in `theory.required.required_of_own`.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd

from mupcheck.coordinates.diagnosis import MAX_CAUSES, Cause
from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.starts import WEIGHT_UPDATES
from mupcheck.coordinates.training import never_moved
from mupcheck.coordinates.validity import trained
from mupcheck.results.tables import ROWS
from mupcheck.theory.parametrization import write_exponent

SAME_EXPONENT = 0.05  # settings carry no noise; a base that is rounded to a multiple of 8 moves an exponent by less
PULL = 0.25  # of an exponent of lr x weight decay; a wrong one is off by 1/2 or 1
NAMED = 3  # parameters that one line names
UNSURE = 0.5  # of a slope at small widths, where a change is not yet in line with its input
ALIKE = 0.25  # slopes of an input that count as 0
EPS_SHARE = 0.1  # of a gradient's rms, from which on Adam's eps takes part in its step


def groups(check: Check) -> Iterator[Finding]:
    """Find parameters that are in no group of the optimizer, or in two."""
    rows, frozen = check.of("n_groups"), check.of("frozen")
    key = ["width", "layer", "site"]
    rows = rows[rows["step"] == rows["step"].min()]
    frozen = frozen[frozen["step"] == frozen["step"].min()]
    free = frozen.set_index(key)["value"].reindex(pd.MultiIndex.from_frame(rows[key])).to_numpy() == 0
    for wrong, text, advice in (
        (
            rows[free & (rows["value"] == 0)],
            "is in no param group of the optimizer, so it never trains",
            "add it to one",
        ),
        (rows[rows["value"] > 1], "is in two param groups, so it is stepped twice", "take it out of one"),
    ):
        if len(wrong):
            who, sites, layers = _who(wrong)
            yield Finding(
                "param groups", "fail", f"{who} {text}", advice, kinds=WEIGHT_UPDATES, sites=sites, layers=layers
            )


def switched_off(check: Check) -> Iterator[Finding]:
    """Find parameters whose lr is 0 at every recorded step; a warm-up starts at 0 and goes on."""
    rows = check.of("realised_lr")
    most = rows.groupby(["site", "layer", "width"], as_index=False, sort=False)["value"].max()
    if len(off := most[most["value"] == 0]) and len(off) < len(most):
        who, sites, layers = _who(off)
        text = f"{who} has lr 0 at every recorded step, so it never trains"
        advice = "see what sets the lr of its param group"
        yield Finding("realised", "fail", text, advice, kinds=WEIGHT_UPDATES, sites=sites, layers=layers)


def overwritten(check: Check) -> Iterator[Finding]:
    """Find an lr whose exponent of width changes from one step to another: a scheduler or a loader overwrote it."""
    found = exponents(check.of("realised_lr"))
    if found.empty:
        return
    found = found.sort_values("step")
    found["first"] = found.groupby(["site", "layer"])["exponent"].transform("first")
    moved = found[(found["exponent"] - found["first"]).abs() > SAME_EXPONENT]
    moved = moved.drop_duplicates(["site", "layer"])
    for step, at_step in moved.groupby("step"):
        for (was, now), rows in _alike(at_step, ["first", "exponent"]):
            who, sites, layers = _who(rows)
            text = f"{who}: lr goes as m^{was} at the first step and as m^{now} at step {step}"
            advice = "a scheduler or a loader overwrote its param group"
            where: dict[str, Any] = {"sites": sites, "layers": layers, "steps": (int(step),)}
            yield Finding("realised", "fail", text, advice, kinds=WEIGHT_UPDATES, **where)


def unlike_layers(check: Check) -> Iterator[Finding]:
    """Find layers whose lr goes with another power of width than that of the same parameter in most layers."""
    found = exponents(check.of("realised_lr"))
    if found.empty:
        return
    found = found[found["step"] == found["step"].min()]
    # that of most layers, of two that are as many the one that falls more
    found = found.assign(usual=found.groupby("site")["exponent"].transform(lambda of: of.round(2).mode().iloc[0]))
    off = found[(found["exponent"] - found["usual"]).abs() > SAME_EXPONENT]
    for (is_at, others), rows in _alike(off, ["exponent", "usual"]):
        who, sites, layers = _who(rows)
        text = f"{who}: lr goes as m^{is_at}, in the other layers as m^{others}"
        yield Finding(
            "realised", "fail", text, "give all layers one rule", kinds=WEIGHT_UPDATES, sites=sites, layers=layers
        )


def pull(check: Check) -> Iterator[Finding]:
    """Find weight decay whose pull, lr x decay, changes with width (theory.md, section 2)."""
    key = ["site", "layer", "step", "width"]
    lr, decay = (check.of(stat).set_index(key)["value"] for stat in ("realised_lr", "realised_wd"))
    product = (lr * decay).dropna().rename("value").reset_index()
    found = exponents(product)
    if found.empty:
        return
    found = found[(found["step"] == found["step"].min()) & (found["exponent"].abs() > PULL)]
    for (power,), rows in _alike(found, ["exponent"]):
        who, sites, layers = _who(rows)
        text = f"{who}: lr x weight decay goes as m^{power}, as torch multiplies decay by lr"
        advice = "let weight_decay grow as lr falls, so that their product stays"
        yield Finding("decay", "fail", text, advice, sites=sites, layers=layers)


def unseen(check: Check) -> Iterator[Finding]:
    """Say which matrices are judged by nothing, as no operation that uses them was seen."""
    rows = check.sizes("effective_update", "spectral")
    if len(rows):
        who, sites, layers = _who(rows)
        text = f"{who}: no operation that uses it was seen, so it is not judged: its change and spectral norm are all "
        text += "that is known (--all)"
        advice = "use it by F.linear, F.embedding or @, outside of torch.compile"
        yield Finding("unseen", "no pass", text, advice, sites=sites, layers=layers)


def idle(check: Check) -> Iterator[Finding]:
    """Say which parameters no gradient ever arrived at: nothing uses them, and nothing is judged of them."""
    frozen = check.of("frozen")
    free = set(frozen.loc[frozen["value"] == 0, "site"])
    pushed = check.sizes("weight_grad")
    used = set(pushed.loc[pushed["value"] > 0, "site"])
    rows = check.sizes("weight")
    rows = rows[rows["site"].isin(free - used)]
    if len(rows):
        who, sites, layers = _who(rows)
        yield Finding(
            "idle", "warning", f"{who}: no gradient arrives at it", "see that it is used", sites=sites, layers=layers
        )


def trains(check: Check) -> Iterator[Finding]:
    """Find that nothing trained, or too much, by the matrices alone: a bias may start near nothing."""
    matrices = set(check.sizes("weight_update", "spectral")["site"])
    of = check.diagnostics
    yield from trained(replace(check, diagnostics=of[of["site"].isin(matrices)]))
    left_out = {site for finding in groups(check) for site in finding.sites}
    yield from (finding for finding in never_moved(check) if not set(finding.sites) & left_out)


PARTS = (groups, switched_off, overwritten, unlike_layers, trains, pull, unseen, idle)


def causes(pooled: pd.DataFrame, slopes: pd.DataFrame, coords: pd.DataFrame) -> tuple[Cause, ...]:
    """Return what is wrong with failed parameters, what is wrong with most of them first: lr, then init.

    A change acts on an input that may grow itself; what is left of a slope without that is the error of lr.

    Args:
        pooled, slopes: rows of `fit_slopes`.
        coords: rows of `coords` of these runs, with their width.
    """
    failed = pooled[pooled["verdict"] == "fail"]
    failed = slopes[slopes["verdict"] == "fail"] if failed.empty else failed
    lr, inputs = (_median_exponents(coords, stat) for stat in ("realised_lr", "input_rms"))
    norms, eps = _expected(pooled, coords), _slowed(coords)
    lines: dict[tuple[str, float], list[tuple[float, str, str]]] = {}
    for site, row in failed[failed["kind"] == "effective_update"].groupby("site", sort=False):
        slope, of_input = float(row["slope"].iloc[0]), inputs.get(str(site), nan)
        of_input = of_input if abs(of_input) > ALIKE else 0.0
        likely = norms.get(str(site), nan)
        off = round(2 * (likely if abs(likely - slope) <= UNSURE else slope - of_input)) / 2
        given = lr.get(str(site).partition("@")[0], nan)
        text = f"effective update {_goes(slope)}{_in_layers(slopes, str(site), 'effective_update')}: "
        if slope < 0 and (share := eps.get(str(site).partition("@")[0])):
            text += f"eps is {share:.2g} of the gradient's rms at the largest width"
            lines.setdefault(("eps", 0.0), []).append((abs(slope), str(site), text))
            continue
        text += f"lr too {'large' if off > 0 else 'small'} by m^{write_exponent(abs(off))}" if off else ""
        text += f"{' and its' if off else 'as its'} input {_goes(of_input)}" if of_input else ""
        text += f"; its param group gives it lr ~ m^{write_exponent(round(given, 2) + 0.0)}" if given == given else ""
        lines.setdefault(("lr" if off else "input", off), []).append((abs(slope), str(site), text))
    for site, row in failed[failed["kind"] == "weight_gain"].groupby("site", sort=False):
        slope = float(row["slope"].iloc[0])
        off = round(2 * slope) / 2
        text = f"what a new weight makes of its input {_goes(slope)}{_in_layers(slopes, str(site), 'weight_gain')}: "
        text += f"init std too large by m^{write_exponent(off)}"
        lines.setdefault(("init", off), []).append((abs(slope), str(site), text))
    found = []
    parts: dict[str, set[str]] = defaultdict(set)
    for site in map(str, pooled["site"]):
        if ROWS in site:
            parts[site.partition(ROWS)[0]].add(site)
    for (what, off), of in lines.items():
        of.sort(reverse=True)
        who, *others = dict.fromkeys(_whole_or_rows([site for _, site, _ in of], parts))
        text = of[0][2]
        more = f"; likewise {_listed(others)}" if others else ""
        remedy = {
            "lr": f"give {_listed([who, *others])} lr x m^{write_exponent(-off)} in their param groups",
            "init": f"draw {_listed([who, *others])} with std x m^{write_exponent(-off)}",
            "eps": f"give {_listed([who, *others])} a smaller eps, or one that falls with the gradient",
            "input": f"mend what makes the input of {who} first",
        }[what]
        if what == "lr" and any(ROWS in each for each in (who, *others)):
            remedy += ", rows of one weight by mupcheck.parametrize() or as weights of their own"
        found.append(
            Cause(f"{who}: {text}{more}", f"{who}, {what}", off, len(of), f"{remedy} (m = width / base width)")
        )
    order = {"eps": 0, "lr": 1, "init": 2, "input": 3}
    found.sort(key=lambda cause: (order[cause.row.rpartition(", ")[2]], -cause.n_explained))
    return tuple(found[:MAX_CAUSES])


def without_dips(slopes: pd.DataFrame) -> pd.DataFrame:
    """Return slopes of layers and steps; one that is off at a step, and not over the steps, fails nothing.

    What is set wrongly shows at every step. A correct model of small widths may be off in one, as in its first update.
    """
    key = ["kind", "stat", "site", "layer"]
    failed = (slopes["verdict"] == "fail") & (slopes["step"] > 0)
    if not failed.any():
        return slopes
    mean = slopes[slopes["step"] > 0].groupby(key)["slope"].transform("mean").reindex(slopes.index)
    low, high = (slopes[name].astype(float) for name in ("required_low", "required_high"))
    within = mean.between(low - slopes["tolerance"], high + slopes["tolerance"])
    slopes = slopes.copy()
    slopes.loc[failed & within, "reason"] += "; over all steps it lies within the tolerance"
    slopes.loc[failed & within, "verdict"] = "cannot tell"
    return slopes


def exponents(rows: pd.DataFrame) -> pd.DataFrame:
    """Return site, layer, step and `exponent` of m of positive values that are there at two widths or more.

    Args:
        rows: site, layer, step, width, value.
    """
    columns = ["site", "layer", "step", "exponent"]
    rows = rows[rows["value"] > 0]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    rows = rows.assign(x=np.log2(rows["width"].astype(float)), y=np.log2(rows["value"]))
    rows = rows.assign(xy=rows["x"] * rows["y"], xx=rows["x"] ** 2)
    mean = rows.groupby(columns[:3])[["x", "y", "xy", "xx"]].mean()
    spread = mean["xx"] - mean["x"] ** 2
    mean = mean[spread > 1e-9]
    of = (mean["xy"] - mean["x"] * mean["y"]) / spread[spread > 1e-9]
    return of.rename("exponent").round(6).reset_index()


def shown(site: str) -> str:
    """Return a parameter as a person reads it: "layers.*.mlp.up" of "layers.*.mlp.up.weight", "in_proj rows b"."""
    whole, at, use = site.partition("@")
    name, cut, part = whole.partition(ROWS)
    return name.removesuffix(".weight") + cut + part + (f" as {use}" if at else "")


def _whole_or_rows(sites: Sequence[str], parts: Mapping[str, set[str]]) -> list[str]:
    """Return parameters as a person reads them, a fused one once where all its parts are among them."""
    return [
        shown(name if (name := site.partition(ROWS)[0]) in parts and parts[name] <= set(sites) else site)
        for site in sites
    ]


def _median_exponents(coords: pd.DataFrame, stat: str) -> dict[str, float]:
    rows = coords[coords["stat"] == stat]
    rows = rows.groupby(["site", "layer", "step", "width"], as_index=False)["value"].median()
    return exponents(rows).groupby("site")["exponent"].median().to_dict()


def _expected(pooled: pd.DataFrame, coords: pd.DataFrame) -> dict[str, float]:
    """Return the exponents that effective updates come to at large widths, from the spectral norm of the change.

    A change does to an input of order one at most |dW| sqrt(fan_in / fan_out), and does so once it is in line with it;
    at small widths it is only partly so.
    """
    fan_in, fan_out, by = (_median_exponents(coords, stat) for stat in ("fan_in", "fan_out", "multiplier"))
    rows = pooled[(pooled["kind"] == "weight_update") & (pooled["stat"] == "spectral")]
    spectral = rows.set_index("site")["slope"].to_dict()
    return {
        site: spectral.get(site.partition("@")[0], nan) + (grows - fan_out.get(site, nan)) / 2 + by.get(site, 0.0)
        for site, grows in fan_in.items()
    }


def _slowed(coords: pd.DataFrame) -> dict[str, float]:
    """Return of parameters whose gradient at the largest width Adam's eps slows: eps over the gradient's rms there."""
    at = coords[(coords["width"] == coords["width"].max()) & (coords["value"] > 0)]
    gradient = at[(at["kind"] == "weight_grad") & (at["stat"] == "rms")].groupby("site")["value"].median()
    share = at[at["stat"] == "realised_eps"].groupby("site")["value"].median() / gradient
    return share[share > EPS_SHARE].to_dict()


def _in_layers(slopes: pd.DataFrame, site: str, kind: str) -> str:
    """Say in how many of its layers a parameter is off, "" of one outside layers."""
    rows = slopes[(slopes["site"] == site) & (slopes["kind"] == kind) & (slopes["layer"] >= 0)]
    rows = rows[rows["required_high"].notna()]
    if rows.empty:
        return ""
    by_layer = rows.groupby("layer")[["slope", "required_low", "required_high", "tolerance"]].mean()
    off = (by_layer["slope"] > by_layer["required_high"] + by_layer["tolerance"]) | (
        by_layer["slope"] < by_layer["required_low"] - by_layer["tolerance"]
    )
    if 0 < off.sum() <= NAMED and off.sum() < len(off):
        return f" in layer {', '.join(map(str, by_layer.index[off]))} of {len(off)}"
    return f" ({off.sum()} of {len(off)} layers)"


def _goes(slope: float) -> str:
    return f"{'grows' if slope > 0 else 'falls'} as m^{slope:+.1f}"


def _who(rows: pd.DataFrame) -> tuple[str, tuple[str, ...], tuple[int, ...]]:
    """Return who rows are about, as a person reads it, as sites, and in which layers."""
    sites = tuple(dict.fromkeys(map(str, rows["site"])))
    layers = tuple(sorted({int(layer) for layer in rows["layer"] if layer >= 0}))
    in_layers = f" in layer {', '.join(map(str, layers))}" if layers and any(".*." in site for site in sites) else ""
    names = [site.partition(ROWS)[0] for site in sites]
    # settings are those of a whole parameter, whose parts come together
    who = dict.fromkeys(shown(name if names.count(name) > 1 else site) for name, site in zip(names, sites, strict=True))
    return _listed(list(who)) + in_layers, sites, layers


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _alike(rows: pd.DataFrame, by: Sequence[str]) -> Iterable[tuple[tuple[str, ...], pd.DataFrame]]:
    """Return rows by equal values of some columns, exponents written as they are read; those of most rows first."""
    text = {name: rows[name].round(2).map(lambda x: write_exponent(x + 0.0)) for name in by}
    found = [(key, of) for key, of in rows.groupby([text[name] for name in by])]
    return sorted(
        ((key if isinstance(key, tuple) else (key,), of) for key, of in found), key=lambda each: -len(each[1])
    )
