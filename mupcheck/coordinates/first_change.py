"""What a first update was, from sizes alone: of runs recorded before updates were compared, or by somebody else.

AdamW's first step is lr for every value with a gradient far above eps, SGD's (1 + momentum) lr times the gradient,
whatever the model. Both show in rms(W_1 - W_0): of 672 weights each, at widths 32 to 128 and 8 seeds, its ratio to what
is expected was 0.997 to 1.000 under AdamW and 1 to within rounding, at most 0.002, under SGD. A sign, a part of a
matrix and whatever comes after the first step do not show.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.evidence import Check
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import DECAYED, factors

OFF = 0.02  # eight times what clean runs show
ROUNDINGS = 3 * 2.0**-24  # the most that a float32 weight, its new value and their difference are off by together
FAR_ABOVE_EPS = 1e4  # of rms(sqrt(v)) / eps, so that next to none of the gradients is near it
FEWEST_SEEDS = 2  # all of which must agree that AdamW's step is too small
MOST = 0.5  # a step that may be off by more than this share of it says nothing
# Rows of tokens that are not in the batch have no gradient, or nearly none: AdamW moves them by less than lr.
SPARSE = ("embedding", "readout")
KEY = ["width", "seed", "layer", "site"]


def first_changes(check: Check) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the weights whose first change can be told, and those of them that are off.

    Returns:
        two tables with width, seed, layer, site and step, the second with factor, misfit and onset as well.
    """
    rows = _changes(check)
    if rows.empty:
        return rows, rows
    run, adam = check.runs.iloc[0], check.shared("optimizer") == "adamw"
    lr, decay = declared(check, rows).T
    scale = 1 / run["warmup_steps"] if run["warmup_steps"] else 1.0
    gradient = 1.0 if adam else rows["grad"] * (1 + run["momentum"])
    expected = lr * scale * gradient
    # the decay's share of the step is not told apart from the gradient's: it may be off by all of it
    pull = decay * rows["weight"] / (1.0 if adam else rows["grad"])
    doubt = ROUNDINGS * rows["weight"] / expected + pull
    rows = rows.assign(factor=rows["value"] / expected, doubt=doubt + OFF)[doubt < MOST]
    short = 1 - rows["factor"]
    off = -short > rows["doubt"]
    low = short > rows["doubt"]
    if adam:
        low &= ~rows["site"].isin(SPARSE) & (rows["eps_ratio"] > FAR_ABOVE_EPS)
        # of a few values one may have a gradient near eps, in a seed: code that steps too little does so in all
        by_weight = low.groupby([rows["width"], rows["layer"], rows["site"]])
        low &= by_weight.transform("all") & (by_weight.transform("size") >= FEWEST_SEEDS)
    found = rows[off | low]
    if adam:
        rows = rows[~rows["site"].isin(SPARSE) | off]  # the others say nothing
    return rows, found.assign(misfit=(found["factor"] - 1).abs(), onset=1.0, share=1.0)


def _changes(check: Check) -> pd.DataFrame:
    """Return the size of each weight's first change as value, with its own, its gradient's and its eps ratio."""
    run = check.runs.iloc[0]
    sgd = check.shared("optimizer") == "sgd"
    clipped = sgd and check.runs["clipped_fraction"].max() > 0
    if check.table is None or clipped or (sgd and pd.isna(run.get("momentum"))):
        return pd.DataFrame(columns=[*KEY, "step"])
    rows = _at(check, "weight_update", 1).assign(step=1)
    for name, kind in (("weight", "weight"), ("grad", "weight_grad")):
        rows = rows.merge(_at(check, kind, 0).rename(columns={"value": name}), on=KEY)
    ratios = check.rows((check.coords["stat"] == "adam_eps_ratio") & (check.coords["step"] == 1))
    rows = rows.merge(ratios[[*KEY, "value"]].rename(columns={"value": "eps_ratio"}), on=KEY, how="left")
    finite = np.isfinite(rows[["value", "weight", "grad"]].astype(float)).all(axis=1)
    return rows[finite & (rows["grad"] > 0) & rows["site"].isin(list(PARAMETERS))]


def _at(check: Check, kind: str, step: int) -> pd.DataFrame:
    rows = check.sizes(kind)
    return rows.loc[rows["step"] == step, [*KEY, "value"]]


def declared(check: Check, rows: pd.DataFrame) -> NDArray[np.float64]:
    """Return the lr and weight decay that the table gives the weight of each row, [rows, 2]; 0 where it has none."""
    run = check.runs.iloc[0]
    setting = {name: run[name] for name in ("optimizer", "mode", "decay_mode")}
    found = {}
    for site, width in set(zip(rows["site"], rows["width"], strict=True)):
        if check.table is None or site not in PARAMETERS:
            found[site, width] = (0.0, 0.0)
            continue
        role = PARAMETERS[site].role
        by = factors(check.table, role, m=width / run["base_width"], **setting)
        found[site, width] = run["lr"] * by.lr, run["weight_decay"] * by.weight_decay if role in DECAYED else 0.0
    return np.array([found[place] for place in zip(rows["site"], rows["width"], strict=True)]).reshape(-1, 2)
