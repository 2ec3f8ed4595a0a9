"""What the training itself must show: a loss that falls, weights that move, changes that are not rounded away."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.starts import WEIGHT_UPDATES, zero_readout
from mupcheck.learning_rates.quantiles import t_isf
from mupcheck.results.comparable import lr_text
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import DECAYED, Role

# of change/size in the first step. A correct table's loss rose in that step from 0.9 on at base width 32 (lrs 2^-10 to
# 2^4, both optimizers, CPU); what a step does at a given change/size grows as sqrt(width): from 0.1 on at some 3,000.
SMALL_STEP = 0.1
LEVEL = 0.01  # one-sided, of the mean over seeds of what a loss fell by
# of a weight's last bit. A change of so many is known to 15%: rounding adds 1/sqrt(12) of a bit a step.
FEWEST_BITS = 2.0
EPSILON = {"float32": 2.0**-23, "bfloat16": 2.0**-23, "float64": 2.0**-52}  # of the weights, where none was recorded
# of change/size of what a norm makes, after the first recorded step: sqrt(2) is a right angle to what it was. Eight
# layers with initial weights of 0.02 (tied, both optimizers and modes, widths 256 to 2048, H100) gave a correct table's
# o_proj slopes of -0.1 to -0.2 at 0.2, -0.4 at 0.8, -0.45 at 1.0 and -0.50 at 1.3 and above; the defaults are at 0.6.
REPLACED = 0.8
LOST = 1.2  # from here on a change says little of how large a step was: 1.3 and 1.4 at 2^3 and 2^6 times the lr of 1.1
NORMED = ("norm1", "o_norm", "norm2", "final_norm")
GAINS = (Role.NORM_GAIN, Role.HEAD_NORM_GAIN)
BFLOAT16 = 2.0**-7
IN_FLOAT32 = ("embedding", "residual", "norm1", "norm2", "final_norm")  # of a training in bfloat16: the residual stream
FORMATS = {BFLOAT16: "bfloat16", 2.0**-10: "float16", 2.0**-23: "float32", 2.0**-52: "float64"}


def last_bit(check: Check) -> float:
    """Return the last bit of a weight of size 1, that of float32 where no dtype was recorded."""
    return EPSILON.get(str(check.shared("dtype")), EPSILON["float32"])


def loss_falls(check: Check) -> Iterator[Finding]:
    """Find a loss that does not fall on the one batch that a coordinate check repeats, at any width.

    One that rises in the first, small step at every width and seed has an update of the wrong sign: a fail.
    """
    if not {"run_id", "step", "loss"} <= set(check.steps):
        return
    whole = check.runs.loc[check.runs["status"] == "ok", ["run_id", "width", "seed"]]
    rows = check.steps.merge(whole, on="run_id")
    if not np.isfinite(rows["loss"]).all():
        worst = rows[~np.isfinite(rows["loss"])].sort_values(["step", "width", "seed"]).iloc[0]
        text = (
            f"a loss is no number at width {worst['width']}, seed {worst['seed']}, step {worst['step']}, of a run that "
        )
        text += "is not said to have diverged"
        at, step = (int(worst[name]) for name in ("width", "step"))
        yield Finding("loss", "no pass", text, "look at what wrote it", widths=(at,), steps=(step,))
        return
    table = rows.pivot_table(index=["width", "seed"], columns="step", values="loss")
    table = table.dropna(axis=1)
    if table.shape[1] < 2 or table.columns[0] != 0:
        return
    first, last = int(table.columns[1]), int(table.columns[-1])
    relative = check.of("relative_update")
    relative = relative[(relative["step"] == first) & (relative["value"] != 1)]
    by_step = table[first] - table[0]
    if (by_step > 0).all() and not relative.empty and relative["value"].max() < SMALL_STEP:
        rise = by_step.groupby("width").mean()
        text = f"the loss rises in step {first} at every width and seed, by {rise.iloc[0]:.2g} nats at width "
        text += f"{rise.index[0]}, on the batch that the step was made from, though no weight changed by more than "
        text += f"{relative['value'].max():.2g} of its size"
        yield Finding("loss", "fail", text, "look at the sign of the update", steps=(first,))
        return
    change = table[last] - table[0]
    still = {int(width): of for width, of in change.groupby("width") if not _falls(of)}
    if still:
        widths, of = tuple(still), next(iter(still.values()))
        text = f"the loss does not fall beyond noise at width {', '.join(map(str, widths))}: after {last} "
        text += f"steps it changed by {of.mean():+.2g} nats on one repeated batch, and fell in {(of < 0).sum()} of "
        text += f"{len(of)} seeds"
        yield Finding("loss", "no pass", text, "use another lr, or look at the sign of the update", widths=widths)


def _falls(changes: pd.Series) -> bool:
    """Say whether changes of a loss, one a seed, are below 0: each of them, or their mean beyond their scatter."""
    n = len(changes)
    if (changes < 0).all():
        return True
    half = t_isf(LEVEL, n - 1) * changes.std() / np.sqrt(n) if n > 1 else np.inf
    return bool(changes.mean() + half < 0)


def replaced(check: Check) -> Iterator[Finding]:
    """Find a first step that leaves little of what comes into the weights, at the smallest width.

    An effective update is what a change does to the input of now. The change was made along the input of then, so where
    the two have little in common it falls as width^-1/2, whatever the rules. Tables agree at the base width: it is not
    the rules that are found here.
    """
    key = ["layer", "site", "step"]
    change, size = (check.sizes(kind) for kind in ("activation_update", "activation"))
    change, size = (rows[rows["site"].isin(NORMED) & (rows["width"] == rows["width"].min())] for rows in (change, size))
    if change.empty or not (change["step"] > 0).any():
        return
    first = int(change.loc[change["step"] > 0, "step"].min())
    change = change[change["step"] == first].groupby(key)["value"].median().droplevel("step")
    size = size[size["step"] == 0].groupby(key)["value"].median().droplevel("step")
    relative = (change / size).dropna()
    if relative.empty or relative.max() <= REPLACED:
        return
    layer, site = relative.idxmax()
    text = f"step {first} leaves little of what comes into the weights: {site} changed by {relative.max():.2g} of its "
    text += f"size{f' in layer {layer}' if layer >= 0 else ''}, and an effective update then falls as width^-1/2"
    width, lr = int(check.runs["width"].min()), float(check.runs["lr"].iloc[0])
    smaller = lr_text(lr / (64 if relative.max() > LOST else 8))
    yield Finding(
        "replaced", "cannot tell", text, f"use a smaller lr, such as {smaller}", ("effective_update",),
        layers=(int(layer),) if layer >= 0 else (), widths=(width,), steps=(first,),
    )  # fmt: skip


def never_moved(check: Check) -> Iterator[Finding]:
    """Find a weight that has a gradient and never moves; one so small that its step is rounded away is `rounded`'s."""
    key = ["site", "layer", "width", "seed"]
    change, gradient, size = (check.sizes(kind) for kind in ("weight_update", "weight_grad", "weight"))
    if change.empty:
        return
    # behind a readout of zeros nothing has had a gradient in the first step
    after = 1 if any(zero_readout(check)) else 0
    most = change[change["step"] > after].groupby(key)["value"].max()
    pushed = gradient[gradient["step"] == after].set_index(key)["value"].reindex(most.index)
    still = most[(most == 0) & (pushed > 0)]
    lr = check.of("realised_lr")
    lr = lr[lr["step"] == after].set_index(key[:3])["value"]
    for site, of in still.groupby("site", sort=False):
        step = pushed[of.index] if check.shared("optimizer") == "sgd" else pd.Series(1.0, index=of.index)
        step = step * lr.reindex(pd.MultiIndex.from_tuples([at[:3] for at in of.index])).to_numpy()
        start = size[size["step"] == 0].set_index(key)["value"].reindex(of.index)
        tiny = step < FEWEST_BITS * last_bit(check) * start
        of = of[~tiny]
        if of.empty:
            continue
        layers, widths = (tuple(sorted({int(at[i]) for at in of.index})) for i in (1, 2))
        layers = tuple(layer for layer in layers if layer >= 0)
        text = f"{site} never moves" + (f" in layer {', '.join(map(str, layers))}" if layers else "")
        text += f" at width {', '.join(map(str, widths))}, though a gradient arrives at it"
        yield Finding(
            "never moves", "fail", text, "let the optimizer have it: its group, its lr, whether it is frozen",
            sites=(str(site),), layers=layers, widths=widths,
        )  # fmt: skip


def decayed(check: Check) -> Iterator[Finding]:
    """Find weight decay on gains, filters and gate scalars, which are to have none, and a matrix that has none."""
    rows = check.of("realised_wd")
    rows = rows[rows["site"].isin(PARAMETERS)]
    if rows.empty:
        return
    has = rows["site"].map(lambda site: PARAMETERS[site].role in DECAYED)
    declared = float(check.runs["weight_decay"].iloc[0]) > 0
    pulled, missed = rows[~has & (rows["value"] > 0)], rows[has & (rows["value"] == 0) & declared]
    for site, of in (*pulled.groupby("site", sort=False), *missed.groupby("site", sort=False)):
        worst = of.iloc[0]
        layers, widths, steps = (tuple(sorted({int(x) for x in of[name]})) for name in ("layer", "width", "step"))
        text = f"{site} had weight decay {worst['value']:.3g} at width {worst['width']}, where the table gives "
        if worst["value"]:
            text, advice = text + "none", "leave gains, filters and gate scalars out of weight decay"
        else:
            text, advice = text + "it some", "let weight decay have every matrix"
        layers = tuple(layer for layer in layers if layer >= 0)
        yield Finding("decayed", "fail", text, advice, sites=(str(site),), layers=layers, widths=widths, steps=steps)


def rounded(check: Check) -> Iterator[Finding]:
    """Find weights whose change is a few bits of what they are stored in: the rest of it is rounded away.

    The format is read off the values themselves (`stored_eps`): weights that an optimizer keeps in bfloat16 hold only
    its values, whatever the training's number type is set to.
    """
    change = check.of("relative_update")
    change = change[(change["value"] > 0) & (change["value"] != 1)]
    if change.empty:
        return
    key = ["width", "layer", "site", "step"]
    found = check.of("stored_eps").set_index(key)["value"]
    own = last_bit(check)
    change = change.assign(eps=found.reindex(pd.MultiIndex.from_frame(change[key])).fillna(own).to_numpy())
    # 1 + 2^-7 is a value of bfloat16, so a gain's first step alone is no sign of it
    gains = change["site"].map(lambda site: site in PARAMETERS and PARAMETERS[site].role in GAINS)
    if not (change.loc[~gains, "eps"] > own).any():
        change.loc[gains, "eps"] = own
    # the most it ever changed by: what rounding took from it then is gone
    most = change.loc[change.groupby(key[:3])["value"].idxmax()]
    for site, rows in most[most["value"] < FEWEST_BITS * most["eps"]].groupby("site", sort=False):
        worst = rows.loc[(rows["value"] / rows["eps"]).idxmin()]
        layers, widths = (tuple(sorted({int(x) for x in rows[name]})) for name in ("layer", "width"))
        text = f"changes of {site} are rounded away: {worst['value']:.2g} of its size at width {worst['width']}, where "
        text += f"it is stored in steps of {worst['eps']:.2g} ({FORMATS.get(worst['eps'], 'as recorded')})"
        coarse = worst["eps"] > own
        advice = "keep the weights in float32" if coarse else "use a larger lr, or --dtype float64"
        layers = tuple(layer for layer in layers if layer >= 0)
        yield Finding(
            "rounded", "cannot tell", text, advice, kinds=WEIGHT_UPDATES, sites=(str(site),), layers=layers,
            widths=widths,
        )  # fmt: skip


def rounded_activations(check: Check) -> Iterator[Finding]:
    """Warn of activations whose change since step 0 is a few bits of bfloat16, where the training computes in it."""
    if check.shared("dtype") != "bfloat16":
        return
    key = ["width", "layer", "site", "step"]
    change, size = (check.sizes(kind).groupby(key)["value"].median() for kind in ("activation_update", "activation"))
    relative = (change / size).dropna()
    relative = relative[(relative > 0) & ~relative.index.isin(IN_FLOAT32, level="site")]
    relative = relative.groupby(["site", "width"]).max()
    few = relative[relative < FEWEST_BITS * BFLOAT16]
    if few.empty:
        return
    sites = tuple(dict.fromkeys(str(site) for site, _ in few.index))
    (site, width), least = few.idxmin(), few.min()
    text = f"bfloat16 rounds small changes of activations away: {site} changed by {least:.2g} of its size at "
    text += f"width {width}, where a bit is {BFLOAT16:.2g}"
    yield Finding("dtype", "warning", text, "use --dtype float32, more steps or a larger lr", sites=sites)
