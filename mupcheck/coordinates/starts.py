"""What a check may start from and then show no slopes: no numbers, a readout of zeros, a softmax that is certain."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.theory.required import required

WEIGHT_UPDATES = ("weight_update", "effective_update")
UPDATES = ("activation_update", *WEIGHT_UPDATES)
GRADIENTS = ("activation_grad", "weight_grad")

# Logits of this rms make a softmax uneven. gdn-mup under SGD at an eighth to a half of the base width, with logits that
# fell from 5.7 to 2.8, had slopes of -0.45 where 0 is required; from 1.4 to 0.7, none (widths 32-128, 4 seeds, CPU).
LARGE_LOGITS = 2.0
FALLING = 1.25  # from the smallest width to the largest: sizes that are the same at every width tilt no slope


def no_numbers(check: Check) -> Iterator[Finding]:
    """Find weights, or else what else was measured, that hold an infinity or NaN, as log(0) is, judged or not.

    What nothing is required of stands against a pass all the same.
    """
    whole = check.runs.loc[check.runs["status"] == "ok", "run_id"]
    rows = check.rows(~np.isfinite(check.coords["value"].astype(float)))
    rows = rows[rows["run_id"].isin(whole)]
    if rows.empty:
        return
    # without an eps the ratio to it is none, and a weight of zeros that has not moved has no relative change
    rows = rows[~rows["stat"].isin(["o_norm_eps_ratio", "relative_update"])]
    optimizer, mode = check.shared("optimizer"), check.shared("mode")
    tied = bool(check.runs["tied"].iloc[0]) if "tied" in check.runs else False
    for kind in ("weight", "activation", *UPDATES, *GRADIENTS, "diagnostic"):
        of_kind = rows[rows["kind"] == kind]
        if of_kind.empty:
            continue
        for site, of in of_kind.sort_values(["step", "width", "seed"]).groupby("site", sort=False):
            first = of.iloc[0]
            text = f"{site} holds a value that is no finite number: its {first['stat']} is {first['value']:g} at width "
            text += f"{first['width']}, seed {first['seed']}, step {first['step']}"
            advice = "look at how it is made: the log of 0 is -inf" if kind == "weight" else "find where it comes from"
            judged = any(
                required(kind, str(stat), str(site), optimizer=optimizer, mode=mode, tied=tied, step=int(step))
                for stat, step in set(zip(of["stat"], of["step"], strict=True))
            )
            layers = tuple(sorted({int(layer) for layer in of["layer"] if layer >= 0}))
            yield Finding(
                "no number", "cannot tell" if judged else "no pass", text, advice, sites=(str(site),), layers=layers,
                widths=tuple(sorted({int(width) for width in of["width"]})), steps=(int(first["step"]),),
            )  # fmt: skip
        return  # what comes after follows from it


def zero_readout(check: Check) -> Iterator[Finding]:
    """Find a readout that starts at zero: until it has moved, no gradient passes it, and nothing else moves."""
    start, change = check.sizes("weight"), check.of("relative_update")
    start = start.loc[(start["site"] == "readout") & (start["step"] == 0), "value"]
    # the change of a weight that starts at zero is all there is of it
    change = change.loc[change["site"] == "readout", "value"]
    said = check.runs["readout_std"].dropna() if "readout_std" in check.runs else start
    if not any(len(values) and (values == at).all() for values, at in ((start, 0), (change, 1), (said, 0))):
        return
    steps = sorted({2, 3, 4} | {step for step in check.coords["step"].unique().tolist() if step >= 2})
    advice = f"record steps from 2 on (--record {','.join(map(str, steps))}), or set readout_std above 0"
    text = "the readout starts at 0: no gradient passes it at step 0"
    for kinds, seen in ((UPDATES, f"{text}, so that at step 1 nothing else has moved"), (("activation_grad",), text)):
        rows = pd.concat(map(check.sizes, kinds))
        still = sorted(set(rows.loc[rows["value"] == 0, "site"]))
        if still:
            yield Finding("zero readout", "cannot tell", seen, advice, kinds=kinds, sites=tuple(still))
            return


def certain_softmax(check: Check) -> Iterator[Finding]:
    """Find logits that start so large below the base width that the softmax is certain there, and less so in others.

    Under SGD every change follows the gradient that it passes back; Adam's steps do not.
    """
    base, rows = int(check.runs["base_width"].iloc[0]), check.sizes("activation")
    rows = rows[(rows["site"] == "logits") & (rows["step"] == 0)]
    by_width = rows.groupby("width")["value"].median()
    below = by_width[by_width.index < base]
    if check.shared("optimizer") == "adamw" or below.empty or below.max() <= LARGE_LOGITS:
        return
    if by_width.iloc[0] > FALLING * by_width.iloc[-1]:
        text = (
            f"logits start at an rms of {below.max():.2g} at width {below.idxmax()}, below the base width {base}, and "
        )
        text += (
            f"at {by_width.iloc[-1]:.2g} at {by_width.index[-1]}: the more certain softmax passes other gradients back"
        )
        advice = f"use --base-width {by_width.index[0]}, the smallest width"
        yield Finding("large logits", "cannot tell", text, advice, kinds=UPDATES)
