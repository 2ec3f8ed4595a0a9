"""Whether the weights moved as table and optimizer say: what was applied, not what was declared.

A probe compares every update with the one that spec and table give (`mupcheck.measuring.shadow`), line by line of each
weight, and writes what is off beyond the most that rounding can do; of right steps nothing is left, so that a departure
is no matter of chance. Here it gets a name: one finding for one cause, whatever it touches. Runs that were recorded
without it are judged by their first change (`first_change`).
"""

from collections.abc import Iterator, Sequence
from math import log2
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.first_change import declared, first_changes
from mupcheck.theory.exponents import PARAMETERS

# Share of a line's step that it is off by beyond rounding. Rounding is bounded, not estimated: 432 clean runs of all
# tables (widths 32 to 128, both optimizers and modes, decay, clipping, bfloat16; 20 million lines of 8 steps) left 0 of
# every one, so this only asks what is worth a word.
DEPARTS = 2e-3
ALONG = 0.95  # share of what is off that is a multiple of the step, or of the weight: then that is what it is
ALIKE = 0.1  # octaves between factors of one cause
NEARLY_ALL = 0.95  # of lines
MOST_CAUSES = 2  # more departures that differ are one cause of many faces, such as a wrong beta
N_SITES = 4  # named
NOT_OFF = -100.0  # octaves, where a factor would be
STILL = 2.0**-6  # of the step: it did not move
WEIGHT = ["layer", "site"]
PARTS = ("rows", "columns")
# What a departure is written with, and 0 where a file leaves it out; `_plain` names.
SAID = (
    "factor", "misfit", "onset", "share", "decay", "decay_share",
    *(f"{axis}_{said}" for axis in PARTS for said in ("wrong", "of", "first", "last", "factor")),
)  # fmt: skip
# Which lines of a weight belong to a head, and how many to each.
HEADS = {
    **dict.fromkeys(("q_proj", "k_proj", "q_conv1d", "k_conv1d"), ("columns", "head_k_dim")),
    **dict.fromkeys(("v_proj", "g_proj", "v_conv1d"), ("columns", "head_v_dim")),
    "o_proj": ("rows", "head_v_dim"),
}
LOOK = "look at what stands between the table and the weight: a scheduler, a group made by hand, a mask"


class Cause(NamedTuple):
    """Weights that are off in one way: `how` "step" (a multiple of it), "decay" or "other"; rows as in `_first`."""

    how: str
    rows: pd.DataFrame


class Seen(NamedTuple):
    """What could be seen: (width, layer, site) of every weight, the recorded steps, and the number of seeds."""

    weights: pd.DataFrame
    steps: tuple[int, ...]
    n_seeds: int


def applied(check: Check) -> Iterator[Finding]:
    """Find weights that did not move as the table and the optimizer's formula say."""
    diagnostic = check.coords["kind"] == "diagnostic"
    misfit = check.rows(diagnostic & (check.coords["stat"] == "applied_misfit"))
    if misfit.empty:
        misfit, off = first_changes(check)
        off = _with_columns(off)
    else:
        key = ["width", "seed", *WEIGHT, "step"]
        off = misfit.loc[misfit["value"] > DEPARTS, key]
        if len(off):
            rows = check.rows(diagnostic)
            wide = rows[rows["stat"].str.startswith("applied")].merge(off, on=key)
            off = wide.pivot_table(index=key, columns="stat", values="value").rename(columns=_plain)
            off = off.reindex(columns=list(SAID)).fillna(0.0).reset_index()
    if off.empty and len(misfit):  # the updates were right: what is stored of the first one must be so, too
        told, off = first_changes(check)
        misfit, off = (told, _with_columns(off)) if len(off) else (misfit, off)
    if off.empty:
        return
    seen = Seen(
        misfit[["width", *WEIGHT]].drop_duplicates(), tuple(sorted(set(misfit["step"]))), misfit["seed"].nunique()
    )
    yield from (_say(cause, off, seen, check) for cause in _causes(_first(off), seen, check))


def _with_columns(off: pd.DataFrame) -> pd.DataFrame:
    return off.reindex(columns=["width", "seed", *WEIGHT, "step", *SAID], fill_value=0.0)


def _plain(stat: str) -> str:
    return {"applied": "factor", "applied_step": "onset"}.get(stat, stat.removeprefix("applied_"))


def _first(off: pd.DataFrame) -> pd.DataFrame:
    """Return one row a width and weight: medians over seeds at the first recorded step that shows it."""
    key = ["width", *WEIGHT]
    first = off[off["step"] == off.groupby(key)["step"].transform("min")]
    rows = first.groupby(key)[list(SAID)].median().reset_index()
    rows["where"] = [_where(row) for row in rows.to_dict("records")]
    rows["whole"] = rows["factor"]
    for axis in PARTS:  # of a part, what that part did
        alone = rows["where"] == axis
        rows.loc[alone, "factor"] = rows.loc[alone, f"{axis}_factor"]
    return rows


def _where(row: dict[str, Any]) -> str:
    """Return which lines are off: "" where all are, or those between two that are not, "rows", "columns" or "both"."""
    some = [axis for axis in PARTS if _is_part(row, axis)]
    return "both" if len(some) == 2 else "".join(some)


def _is_part(row: dict[str, Any], axis: str) -> bool:
    wrong, together = row[f"{axis}_wrong"], row[f"{axis}_last"] - row[f"{axis}_first"] + 1
    return wrong < NEARLY_ALL * row[f"{axis}_of"] and wrong == together


def _causes(rows: pd.DataFrame, seen: Seen, check: Check) -> list[Cause]:
    """Return what is off by its causes, the one that touches most weights first."""
    decays = (rows["decay_share"] >= ALONG) & (rows["decay_share"] > rows["share"] + 1e-6)
    if decays.any():  # of one value each multiple is along both: it belongs to those that tell
        total = rows["decay"] + declared(check, rows)[:, 1]
        alike = (total - total[decays].median()).abs() < 0.05 * abs(total[decays].median()) + 1e-6
        decays |= alike & (rows["decay_share"] >= ALONG)
    causes = [Cause("decay", rows[decays])] if decays.any() else []
    rest = rows[~decays]
    if rest.empty:
        return causes
    if len(scaled := _as_base(rest, seen, check)):
        return [*causes, Cause("base", scaled)]
    along = rest["share"] >= ALONG
    alike = [Cause("step", group) for group in _alike(rest[along])] if along.any() else []
    if not along.all():
        alike.append(Cause("other", rest[~along]))
    if len(alike) > MOST_CAUSES:
        alike = [Cause("other", rest)]
    causes = sorted([*causes, *alike], key=lambda cause: -len(cause.rows))
    # what has no simple form is some weights' share of one cause, which looks simple at a few of the others
    return [Cause("other", rows)] if causes[0].how == "other" else causes


def _alike(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Return rows by cause: weights whose factors are the same at each width, and that are off in the same lines."""
    signed = rows.assign(octaves=rows["factor"].map(_octaves))
    by_weight = signed.pivot_table(index=WEIGHT, columns="width", values="octaves", aggfunc="first").fillna(NOT_OFF)
    where = rows.groupby(WEIGHT)["where"].last()
    groups: list[tuple[NDArray[np.float64], str, list[tuple]]] = []
    for weight, octaves in zip(by_weight.index, by_weight.to_numpy(), strict=True):
        for alike, at, weights in groups:
            if at == where[weight] and np.abs(alike - octaves).max() < ALIKE:
                weights.append(weight)
                break
        else:
            groups.append((octaves, where[weight], [weight]))
    place = pd.MultiIndex.from_frame(rows[WEIGHT])
    return [rows[place.isin(weights)] for _, _, weights in groups]


def _octaves(factor: float) -> float:
    """Return log2 of a factor, one that is negative far from those that are not, and none at all as `STILL`."""
    return log2(max(abs(factor), STILL)) + (100 if factor < -STILL else 0)


def _as_base(rows: pd.DataFrame, seen: Seen, check: Check) -> pd.DataFrame:
    """Return the rows with the `octaves` of width by which a wrong m explains every factor, none where it does not."""
    nothing = rows.iloc[:0]
    if check.table is None or (rows["where"] != "").mean() > 1 - NEARLY_ALL:
        return nothing
    optimizer, mode = check.shared("optimizer"), check.shared("mode")
    exponents = {
        str(site): check.table.rule(PARAMETERS[str(site)].role, optimizer=optimizer, mode=mode).lr
        for site in set(seen.weights["site"])
        if site in PARAMETERS
    }
    every = seen.weights[seen.weights["width"].isin(rows["width"]) & seen.weights["site"].isin(list(exponents))]
    every = every.merge(rows[["width", *WEIGHT, "whole"]], how="left").fillna({"whole": 1.0})
    exponent, octaves = every["site"].map(exponents), every["whole"].map(_octaves)
    if exponent.nunique() < 2 or not rows["site"].isin(list(exponents)).all():
        return nothing  # a table of one lr exponent has no m to be wrong, and all weights alike is another cause
    moved = exponent != 0
    by = (octaves[moved] / exponent[moved]).groupby(every["width"]).median()
    if (octaves - exponent * every["width"].map(by)).abs().max() < ALIKE and by.abs().min() > ALIKE:
        # an eps that is off as well touches others, and less
        return rows.assign(octaves=rows["width"].map(by))[rows["whole"].map(_octaves).abs() > ALIKE]
    return nothing


def _say(cause: Cause, off: pd.DataFrame, seen: Seen, check: Check) -> Finding:
    """Return the finding on one cause; `off` has its weights at every seed and step that shows them."""
    how, rows = cause
    mine = off.merge(rows[["width", *WEIGHT]])
    last = rows[rows["width"] == rows["width"].max()]
    worst = last.loc[last["misfit"].idxmax()]
    widths, onset = sorted(set(map(int, rows["width"]))), int(mine["onset"].min())
    advice = LOOK
    if how == "decay":
        given = declared(check, worst.to_frame().T)[0, 1]
        had = worst["decay"] + given
        done = f"decayed by {_number(had)} where the table gives {given:.3g}"
        done += f" at width {widths[-1]}" if len(widths) > 1 else ""
        advice = "look at which weights the optimizer decays, and whether it decays by lr x decay"
    elif how == "base":
        by = rows.groupby("width")["octaves"].median()
        apart = by.max() - by.min() > ALIKE or len(widths) < seen.weights["width"].nunique()
        base = float(check.runs["base_width"].iloc[0])
        width, octaves = by.index[-1], by.iloc[-1]
        wrong = (
            f"width {width} were {width * 2**octaves:.0f}" if apart else f"the base width were {base / 2**octaves:.0f}"
        )
        done = f"moved as if {wrong}{'' if apart else f' instead of {base:.0f}'}: {_factors(rows)}"
        done += " of what table and optimizer give"
        advice = "look at where m = width / base width is made"
    elif how == "step":
        done = f"moved by {_factors(rows)} of what table and optimizer give{_trend(rows, mine)}"
        advice = _advice(rows, onset, check)
    else:
        which = f"{worst['site']} " if rows["site"].nunique() > 1 else ""
        far = f"{worst['misfit']:.0%} of" if worst["misfit"] < 2 else f"{min(worst['misfit'], 100):.0f} times"
        done = f"moved otherwise than table and optimizer give, {which}off by {far} its step"
        advice = "look at the optimizer's formula, its betas, eps and decay, its state, and whose gradient it takes"
    part = _part(worst, check)
    if part and len(widths) > 1:
        part += f" at width {widths[-1]}"
    text = f"{_who(rows, seen)} {done}{part}{_widths(widths, seen)}{_steps(mine, onset, seen)}{_seeds(mine, seen)}"
    layers = sorted(set(map(int, rows["layer"])))
    sites = tuple(dict.fromkeys(map(str, rows["site"])))
    steps = tuple(sorted(set(map(int, mine["onset"]))))
    return Finding(
        "applied", "fail", text, advice, sites=sites, layers=tuple(layers), widths=tuple(widths), steps=steps
    )


def _number(value: float) -> str:
    return "0" if abs(value) < 1e-4 else f"{value:.3g}"


def _factors(rows: pd.DataFrame) -> str:
    """Write the factors of a cause: one, or one a width, or from the least to the most."""
    by_width = rows.groupby("width")["factor"].agg(["min", "max", "median"])
    if rows["factor"].max() - rows["factor"].min() <= 0.1 * abs(rows["factor"]).max():
        return f"x{rows['factor'].median():.2f}"
    if (by_width["max"] - by_width["min"] <= 0.1 * by_width["max"].abs()).all():
        return ", ".join(f"x{factor:.2f} at width {width}" for width, factor in by_width["median"].items())
    return f"x{rows['factor'].min():.2f} to x{rows['factor'].max():.2f}"


def _trend(rows: pd.DataFrame, mine: pd.DataFrame) -> str:
    """Say what became of one factor at the last of the steps that show it, "" where it stayed."""
    if rows["where"].any() or rows["factor"].max() - rows["factor"].min() > 0.1 * abs(rows["factor"]).max():
        return ""
    factor = mine.groupby("step")["factor"].median().iloc[-1]
    apart = abs(_octaves(factor) - _octaves(rows["factor"].median()))
    return f" (x{factor:.2f} at step {mine['onset'].max():.0f})" if apart > ALIKE else ""


def _who(rows: pd.DataFrame, seen: Seen) -> str:
    """Name the weights: "q_proj, k_proj of layer 1", "every weight of layer 1", "every weight"."""
    here = set(rows[WEIGHT].itertuples(index=False, name=None))
    everyone = set(seen.weights[WEIGHT].itertuples(index=False, name=None))
    if here == everyone:
        return "every weight"
    layers = {layer for layer, _ in here}
    of_layers = {weight for weight in everyone if weight[0] in layers}
    listed = ", ".join(map(str, sorted(layers)))
    if here == of_layers and len(here) > 1 and min(layers) >= 0:
        return f"every weight of layer {listed}"
    sites = list(dict.fromkeys(site for _, site in sorted(here, key=lambda weight: (weight[1], weight[0]))))
    alike = {weight for weight in everyone if weight[1] in sites}
    named = ", ".join(sites[:N_SITES]) + (f" and {len(sites) - N_SITES} more" if len(sites) > N_SITES else "")
    if min(layers) < 0 or here == alike:
        return named
    return f"{named} of layer {listed}"


def _part(row: pd.Series, check: Check) -> str:
    """Name the lines that are off of one weight, "" where all are: "rows 32 to 47", "columns 16 to 31 (head 1)"."""
    if not row["where"]:
        return ""
    named = []
    for axis in PARTS:
        if row["where"] not in (axis, "both"):
            continue
        first, last = int(row[f"{axis}_first"]), int(row[f"{axis}_last"])
        single = row["rows_of"] == 1  # a gain or scalar is one row
        name = {True: "value", False: axis.removesuffix("s")}[single]
        lines = f"{name} {first}" if first == last else f"{name}s {first} to {last}"
        named.append(lines + _heads(row, axis, check))
    return f", {' of '.join(named)}"


def _heads(row: pd.Series, axis: str, check: Check) -> str:
    along, column = HEADS.get(row["site"], ("", ""))
    if along != axis or column not in check.runs:
        return ""
    size = int(check.runs.loc[check.runs["width"] == row["width"], column].iloc[0])
    first, last = int(row[f"{axis}_first"]), int(row[f"{axis}_last"]) + 1
    if first % size or last % size:
        return ""
    heads = (first // size, last // size - 1)
    return f" (head {heads[0]})" if heads[0] == heads[1] else f" (heads {heads[0]} to {heads[1]})"


def _widths(widths: Sequence[int], seen: Seen) -> str:
    if len(widths) == seen.weights["width"].nunique() and len(widths) > 1:
        return ", at every width"
    return f", width{'s' * (len(widths) > 1)} {', '.join(map(str, widths))}"


def _steps(mine: pd.DataFrame, onset: int, seen: Seen) -> str:
    """Say at which updates, counted from 1 as recorded steps are."""
    later = [step for step in seen.steps if step >= onset]
    if set(later) <= set(mine["step"]):
        return f", from step {onset} on" if onset > 1 or len(later) > 1 else f", at step {onset}"
    at = sorted(set(map(int, mine["onset"])))
    return f", at step{'s' * (len(at) > 1)} {', '.join(map(str, at))}"


def _seeds(mine: pd.DataFrame, seen: Seen) -> str:
    n = mine["seed"].nunique()
    return f", {n} of {seen.n_seeds} seeds" if n < seen.n_seeds else ""


def _advice(rows: pd.DataFrame, onset: int, check: Check) -> str:
    """Say what leaves a multiple of the step as it is seen."""
    run, factor = check.runs.iloc[0], rows["factor"].median()
    alike = rows["factor"].max() - rows["factor"].min() <= 0.02 * abs(factor) + 1e-3
    if alike and onset == 1 and not rows["where"].any():
        if run["optimizer"] == "adamw" and {"beta1", "beta2"} <= set(run.index) and pd.notna(run["beta1"]):
            if abs(factor / ((1 - run["beta1"]) / np.sqrt(1 - run["beta2"])) - 1) < 0.02:
                return "look at AdamW's bias correction: without it the first step is (1 - beta1) / sqrt(1 - beta2)"
        elif run["optimizer"] == "sgd" and abs(factor * (1 + run["momentum"]) - 1) < 0.01:
            return "look at the momentum: without Nesterov's the first step is 1 / (1 + momentum)"
    if abs(factor) <= STILL:
        return "look at what holds it still: requires_grad, a mask, a weight left out of the optimizer's groups"
    if factor < 0:
        return "look at the sign of the update"
    if alike and factor > 1.5 and not rows["where"].any():
        return f"{LOOK}; or an update that is taken twice"
    return LOOK
