"""Whether a coordinate check can be judged at all: what puts its slopes in doubt, and what to change.

Everything is read from the tables, whoever trained the runs. A finding makes the verdicts that it affects `cannot
tell`, fails the check where a setting is wrong by itself, stands against a pass, or only warns. Source: theory.md,
sections 4 and 5.
"""

from collections.abc import Callable, Iterator, Sequence
from math import log2

import numpy as np
import pandas as pd

from mupcheck.coordinates.applied import applied
from mupcheck.coordinates.copies import copied_seeds, copied_widths
from mupcheck.coordinates.evidence import Check, medians_of
from mupcheck.coordinates.finding import EFFECTS, Finding
from mupcheck.coordinates.grid import QUANTITY, joined, need_columns
from mupcheck.coordinates.path import wrong_path
from mupcheck.coordinates.starts import UPDATES, WEIGHT_UPDATES, certain_softmax, no_numbers, zero_readout
from mupcheck.coordinates.training import (
    EPSILON,
    decayed,
    last_bit,
    loss_falls,
    never_moved,
    replaced,
    rounded,
    rounded_activations,
)
from mupcheck.coordinates.values import wrong_values
from mupcheck.results.comparable import GROUP, is_imported
from mupcheck.results.path import Path
from mupcheck.results.reading import SAME_COMMAND, say_missing
from mupcheck.theory.exponents import PARAMETERS, growth
from mupcheck.theory.parametrization import Role, Table, factors

EPS_RATIO = 10.0  # below it eps takes part: it makes an rms or a step more than 5% smaller
TRAINED = 1e-4  # of change/size: below it float32 rounds much of a change away
SATURATED = 0.5  # of change/size: above it every rule shows slope 0 (theory.md, section 4)
CLOSED = 0.5  # share of gates beyond 1% or 99%, which pass next to no gradient
CLIPPED = 0.1  # share of steps
DRAWN_ALIKE = 1e-3  # relative; heads repeat the same draws, so sizes differ by rounding only
REALISED_TOLERANCE = 1e-6  # read back, a product of a few float64 factors agrees to rounding, in float32 too
REALISED = {"realised_lr": "lr", "realised_wd": "weight_decay", "realised_eps": "eps"}
# What a gate that passes no gradient leaves without meaning.
BEHIND_GATES = {
    "alpha_saturated": ("z_alpha", "a_proj", "A_log", "dt_bias"),
    "beta_saturated": ("z_beta", "beta", "b_proj"),
}
RUNS_COLUMNS = (
    *GROUP, "run_id", "status", "width", "base_width", "seed", "n_params", "clipped_fraction", "lr", "schedule",
    "warmup_steps", "weight_decay", "decay_mode", "batch_size", "seq_len", "dtype",
)  # fmt: skip
COORDS_COLUMNS = ("run_id", *QUANTITY, "value")
Part = Callable[[Check], Iterator[Finding]]


def examine(
    runs: pd.DataFrame,
    coords: pd.DataFrame,
    *,
    table: Table | None = None,
    missing: int = 0,
    planned: int = 0,
    paths: tuple[Path, ...] = (),
    steps: pd.DataFrame | None = None,
    parts: Sequence[Part] | None = None,
) -> tuple[Finding, ...]:
    """Return what there is to find about the runs of one GROUP, what counts most first.

    Args:
        runs: rows of the `runs` table, all of one GROUP.
        coords: the `coords` table.
        table: what the runs should have followed; None leaves out what it would tell.
        missing, planned: runs that the sweep asked for and that are not there, and all that it asked for.
        paths: how the backend compares with the reference, as `paths_of` returns it.
        steps: the `steps` table, for the losses; without it nothing is said of them.
        parts: what to look for (default: PARTS).

    Raises:
        ValueError: if the runs are not of one GROUP, or a table lacks a column.
    """
    need_columns(runs, "runs", RUNS_COLUMNS)
    need_columns(coords, "coords", COORDS_COLUMNS)
    if len(runs[GROUP].drop_duplicates()) != 1:
        raise ValueError(f"runs of {len(runs[GROUP].drop_duplicates())} groups; pass those of one")
    mine = joined(runs, coords)
    medians = medians_of(mine)
    none = pd.DataFrame()
    check = Check(runs, mine, medians, table, missing, planned, paths, none if steps is None else steps)
    if parts is None:
        parts = OF_IMPORTED if is_imported(runs) else PARTS
    found = [finding for part in parts for finding in part(check)]
    return tuple(sorted(found, key=lambda finding: EFFECTS.index(finding.effect)))


def _missing(check: Check) -> Iterator[Finding]:
    if lacking := check.missing + int((check.runs["status"] == "failed").sum()):
        text = say_missing(lacking, check.shared("sweep"), planned=check.planned)
        yield Finding("missing runs", "no pass", text, SAME_COMMAND)


def _diverged(check: Check) -> Iterator[Finding]:
    lost = check.runs[check.runs["status"] == "diverged"]
    if len(lost):
        widths = ", ".join(map(str, sorted(set(lost["width"]))))
        text = f"{len(lost)} of {len(check.runs)} runs diverged, at width {widths}"
        yield Finding("diverged", "no pass", text, "try a smaller lr")


def _width(check: Check) -> Iterator[Finding]:
    """Find a width that did not reach the model, or not all of it."""
    advice = f"let the width reach every weight ({check.shared('mode')} mode)"
    counts = check.runs.groupby("width")["n_params"].agg(["min", "max"])
    if (counts["min"] != counts["max"]).any() or (counts["min"].diff().dropna() <= 0).any():
        listed = ", ".join(f"{n:,} at width {width}" for width, n in counts["min"].items())
        yield Finding("width", "cannot tell", f"parameter counts do not grow with width: {listed}", advice)
    for site, rows in check.of("n_values").groupby("site"):
        if site not in PARAMETERS:
            continue
        sizes = rows.groupby("width")["value"].first()
        declared = growth(str(site), check.shared("mode"))
        low, small = sizes.index[0], sizes.iloc[0]
        for width, size in sizes.iloc[1:].items():
            grown = log2(size / small) / log2(width / low)
            if abs(grown - declared) > 1e-9:
                text = f"{site} has {small:,.0f} values at width {low} and {size:,.0f} at {width}"
                text += f", which grows as width^{grown:.2g} instead of width^{declared:g}"
                yield Finding("width", "cannot tell", text, advice)
                break


def _scalars(check: Check) -> Iterator[Finding]:
    """Find gate scalars that start at another size at another width: they are drawn from common random numbers."""
    start = check.rows((check.coords["kind"] == "weight") & (check.coords["step"] == 0))
    for site, of in PARAMETERS.items():
        if of.role is not Role.GATE_SCALAR or (rows := start[start["site"] == site]).empty:
            continue
        exponent = 0.0
        if check.table is not None:
            setting = {"optimizer": check.shared("optimizer"), "mode": check.shared("mode")}
            exponent = check.table.rule(of.role, **setting).multiplier
        if check.shared("mode") == "heads":
            # only whole repetitions of the base width's heads hold the same draws
            rows = rows[rows["width"] % check.runs["base_width"].iloc[0] == 0]
        rows = rows.assign(value=rows["value"] * rows["width"].astype(float) ** exponent)
        by_seed = rows.groupby(["seed", "layer"])["value"]
        if len(rows) and (by_seed.max() / by_seed.min()).median() > 1 + DRAWN_ALIKE:
            sizes = rows.groupby("width")["value"].median()
            text = f"{site} starts at {sizes.iloc[0]:.3g} at width {sizes.index[0]} and at {sizes.iloc[-1]:.3g} at "
            text += f"{sizes.index[-1]}, its multiplier included: the gates are other gates at another width"
            yield Finding("gate scalars", "fail", text, "set the init exponent of gate_scalar to 0")


def _clipping(check: Check) -> Iterator[Finding]:
    """Find clipping: it renormalises SGD's step, and then slopes are not the table's alone (theory.md, section 6)."""
    clipped = check.runs.groupby("width")["clipped_fraction"].mean()
    if clipped.max() > CLIPPED:
        text = f"clipping was active, most at width {clipped.idxmax()} ({clipped.max():.0%} of the steps)"
        hides = check.shared("optimizer") == "sgd"
        effect = "cannot tell" if hides else "warning"
        yield Finding("clipping", effect, text, "set clip = 0", kinds=UPDATES)


def _realised(check: Check) -> Iterator[Finding]:
    """Find a weight whose lr, decay or eps was not what the table says, at any recorded step.

    All weights and widths share one base value at a step: the run's lr times its schedule, its weight decay, its eps.
    """
    if check.table is None:
        return
    run = check.runs.iloc[0]
    unscheduled = run["schedule"] == "constant" and run["warmup_steps"] == 0
    shared = {"lr": run["lr"] if unscheduled else None, "weight_decay": run["weight_decay"], "eps": None}
    for stat, field in REALISED.items():
        rows = check.of(stat)
        rows = rows[rows["site"].isin(PARAMETERS)]
        if field == "weight_decay":
            rows = rows[rows["value"] > 0]  # gains and filters have none
        if rows.empty or (field == "eps" and run["optimizer"] == "sgd"):
            continue
        places = set(zip(rows["site"], rows["width"], strict=True))
        by_weight = {(site, width): _declared(check, field, site, width) for site, width in places}
        declared = np.array([by_weight[site, width] for site, width in zip(rows["site"], rows["width"], strict=True)])
        base = rows["value"] / declared
        # what the runs do not say, or a schedule scales, is what most weights had
        expected = base.groupby(rows["step"]).transform("median") if shared[field] is None else shared[field]
        as_declared = np.isclose(base, expected, rtol=REALISED_TOLERANCE, atol=0)
        off = rows.assign(expected=expected * declared)[~as_declared]
        for site, wrong in off.groupby("site"):
            worst = wrong.iloc[-1]
            everywhere = rows[rows["site"] == site]
            layers, widths, steps = (_only(wrong, everywhere, name) for name in ("layer", "width", "step"))
            text = f"{site} had {field} {worst['value']:.3g} at width {worst['width']}, "
            text += f"where the table gives {worst['expected']:.3g}"
            text += f", in layer {', '.join(map(str, layers))}" if layers else ""
            text += f", from step {steps[0]} on" if steps else ""
            advice = "find what overwrote it: a scheduler, a loader, a group made by hand"
            yield Finding(
                "realised", "fail", text, advice, kinds=WEIGHT_UPDATES, sites=(str(site),), layers=layers,
                widths=widths, steps=steps,
            )  # fmt: skip


def _only(some: pd.DataFrame, of: pd.DataFrame, name: str) -> tuple[int, ...]:
    """Return the values of a column that are in some of the rows, an empty tuple where all are."""
    found = sorted({int(value) for value in some[name]})
    return () if len(found) == of[name].nunique() else tuple(found)


def _declared(check: Check, field: str, site: str, width: int) -> float:
    """Return what the table multiplies a weight's lr, weight_decay or eps by at a width."""
    assert check.table is not None
    optimizer, mode, decay_mode = (check.shared(name) for name in ("optimizer", "mode", "decay_mode"))
    m = width / check.runs["base_width"].iloc[0]
    role = PARAMETERS[site].role
    found = factors(check.table, role, optimizer=optimizer, mode=mode, m=m, decay_mode=decay_mode)
    return float(getattr(found, field))


def _decay(check: Check) -> Iterator[Finding]:
    """Find weight decay that changes with width because lr does (theory.md, section 2)."""
    key = ["site", "layer", "step", "width"]
    if not check.of("realised_wd")["value"].ne(0).any():
        return
    lr, decay = (check.of(stat).set_index(key)["value"] for stat in ("realised_lr", "realised_wd"))
    pull = (lr * decay).loc[lambda product: product > 0].sort_index()
    if pull.empty:
        return
    yield Finding("decay", "warning", "weight decay is on, so updates hold its pull too", "use --weight-decay 0")
    # of one step, as a schedule moves it from step to step
    ends = pull.groupby(key[:-1]).agg(["min", "max"])
    ratio = ends["max"] / ends["min"]
    if ratio.max() > 1.5:
        site, layer, step = ratio.idxmax()
        by_width = pull.loc[site, layer, step]
        (low, high), mode = by_width.index[[0, -1]], check.shared("decay_mode")
        text = f"lr x weight decay of {site} goes from {by_width.iloc[0]:.2g} at width {low}"
        text += f" to {by_width.iloc[-1]:.2g} at {high}, with {mode} decay"
        advice = (
            "use --decay-mode independent, or --weight-decay 0 for this check"
            if mode == "coupled"
            else "find what overwrote its lr or decay"
        )
        yield Finding("decay", "fail", text, advice)


def trained(check: Check) -> Iterator[Finding]:
    """Find that nothing trained, or that so much did that every rule looks alike."""
    relative = check.of("relative_update")
    # the change of a weight that starts at zero is all there is of it, to the last bit
    relative = relative[relative["value"] != 1]
    if relative.empty:
        return
    last = relative[relative["step"] == relative["step"].max()]
    by_width = last.groupby("width")["value"].max()
    bit = last_bit(check)
    if by_width.min() < TRAINED * bit / EPSILON["float32"] and not any(zero_readout(check)):
        text = f"nothing trained: at width {by_width.idxmin()} no weight changed by more than {by_width.min():.1g}"
        text += " of its size"
        advice = "use more steps, a larger lr, no warm-up"
        advice += "" if bit == EPSILON["float64"] else ", or --dtype float64"
        yield Finding("nothing trained", "cannot tell", text, advice, kinds=UPDATES)
    full = last[last["value"] > SATURATED]
    for site, rows in full.groupby("site"):
        worst = rows.loc[rows["value"].idxmax()]
        text = f"saturated, where every rule shows slope 0: {site} changed by {worst['value']:.2g} of its size"
        text += f" at width {worst['width']}"
        yield Finding(
            "saturated",
            "cannot tell",
            text,
            "use a smaller lr or fewer steps",
            kinds=WEIGHT_UPDATES,
            sites=(str(site),),
        )
    if len(full):
        worst = full.loc[full["value"].idxmax()]
        text = (
            f"saturated, so that activations say nothing of the rules: {worst['site']} changed by {worst['value']:.2g}"
        )
        text += " of its size"
        kinds = ("activation", "activation_update")
        yield Finding("saturated", "cannot tell", text, "use a smaller lr or fewer steps", kinds=kinds, later=True)


def _eps(check: Check) -> Iterator[Finding]:
    """Find an eps that sets a size: of o_norm, where o is too small, or of Adam's step."""
    ratios = check.of("o_norm_eps_ratio")
    if not ratios.empty and ratios["value"].min() < EPS_RATIO:
        worst = ratios.loc[ratios["value"].idxmin()]
        text = "eps, not mean(o^2), sets the size of o_norm: "
        text += f"mean(o^2)/eps is {worst['value']:.2g} at width {worst['width']}"
        sites = ("o_norm", "o_norm_gain", "mixer_out", "o_proj")
        yield Finding(
            "o_norm eps", "cannot tell", text, "use a larger init of o, or multiplier o_raw = +1/2", sites=sites
        )
    ratios = check.of("adam_eps_ratio")
    # where no gradient arrived, as behind a readout that starts at zero, eps is not why nothing moved
    for site, rows in ratios[(ratios["value"] > 0) & (ratios["value"] < EPS_RATIO)].groupby("site"):
        worst = rows.loc[rows["value"].idxmin()]
        text = (
            f"Adam's eps slows the update of {site}: rms(sqrt(v))/eps is {worst['value']:.2g} at width {worst['width']}"
        )
        advice = "use a smaller eps, or scale it with the gradient (eps in the table)"
        yield Finding("adam eps", "cannot tell", text, advice, kinds=WEIGHT_UPDATES, sites=(str(site),))


def _gates(check: Check) -> Iterator[Finding]:
    """Find gates that are shut or wide open, and so pass no gradient."""
    for stat, sites in BEHIND_GATES.items():
        shares = check.of(stat)
        if not shares.empty and shares["value"].max() > CLOSED:
            worst = shares.loc[shares["value"].idxmax()]
            text = f"{worst['value']:.0%} of {worst['site']} lie beyond 1% or 99% at width {worst['width']}"
            advice = "use a smaller init of the gates or of what feeds them"
            kinds = ("activation_grad", *WEIGHT_UPDATES)
            yield Finding("gates saturated", "cannot tell", text, advice, kinds=kinds, sites=sites)


def _protocol(check: Check) -> Iterator[Finding]:
    """Warn of settings that bias slopes (theory.md, section 4)."""
    run = check.runs.iloc[0]
    if (tokens := run["batch_size"] * run["seq_len"]) > run["base_width"]:
        text = f"{tokens} tokens a step at base width {run['base_width']} bias slopes by 0.1 to 0.2"
        yield Finding("tokens", "warning", text, "use fewer tokens than the base width, such as 16")
    if run["warmup_steps"] > 0:
        yield Finding("warm-up", "warning", f"{run['warmup_steps']} steps of warm-up", "set warmup_steps = 0")


PARTS: tuple[Part, ...] = (
    _missing, _diverged, no_numbers, zero_readout, certain_softmax, copied_seeds, copied_widths, _width, wrong_values,
    _scalars, applied, _clipping, _realised, decayed, _decay, loss_falls, never_moved, replaced, rounded,
    rounded_activations, trained, _eps, _gates, wrong_path, _protocol,
)  # fmt: skip
# of these what holds of any model, whatever its sites are called
OF_ANY_MODEL: tuple[Part, ...] = (_missing, _diverged, no_numbers, copied_seeds, copied_widths, loss_falls, rounded)
# what can be said where neither sites nor settings are known
OF_IMPORTED: tuple[Part, ...] = (_missing, _diverged, copied_seeds, copied_widths)
