"""Rows that should be independent and are the same: seeds that repeat one another, widths that are another's."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from mupcheck.coordinates.coded import spelled
from mupcheck.coordinates.evidence import Check
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.grid import QUANTITY, lay_out
from mupcheck.coordinates.starts import WEIGHT_UPDATES
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.parametrization import DECAYED, Role

# Relative, between the seeds of one width: a size that scatters so much agrees with that of another width to the last
# bit of float32 (6e-8) by chance in less than 1 of 10^4 seeds; one that does not, as of a norm's output, may be equal.
SCATTERS = 1e-3
FEWEST_SEEDS = 2  # both of which must agree: less than 1 of 10^8 quantities by chance
MOST = 0.5  # share of the quantities that can tell, from which on it is the width that is another's


def copied_seeds(check: Check) -> Iterator[Finding]:
    """Find seeds that repeat another: the interval counts them as independent."""
    drawn = lay_out(check.runs, check.coords[(check.coords["kind"] == "activation") & (check.coords["stat"] == "rms")])
    holes = np.isnan(drawn.values)  # as a run leaves them that failed, or diverged
    sizes = np.where(holes, np.nan, drawn.values)  # of the many bits of NaN always the same
    # by their bytes, as thousands of columns are compared one by one otherwise
    seeds = np.flatnonzero(~holes.all(axis=(0, 2)))
    bits = {int(drawn.seeds[i]): sizes[:, i].tobytes() for i in seeds}
    counts = Counter(bits.values())
    alike = [seed for seed, of in bits.items() if counts[of] > 1]
    if alike:
        who = "all seeds" if len(alike) == len(bits) else f"seeds {', '.join(map(str, alike))}"
        text = f"{who} gave the same sizes"
        yield Finding("copied seeds", "cannot tell", text, "let the seed reach the initial weights and the batches")
        return
    start = check.sizes("weight")
    matrices = [site for site, of in PARAMETERS.items() if of.role in DECAYED]
    start = start[(start["step"] == 0) & (start["value"] > 0) & start["site"].isin(matrices)]
    draws = start.groupby(["width", "site", "layer"])["value"].agg(["nunique", "size"])
    draws = draws[draws["size"] > 1]
    if len(draws) and (draws["nunique"] == 1).mean() > MOST:
        text = "the initial weights are the same for every seed, to the last bit of their rms"
        yield Finding("copied seeds", "cannot tell", text, "let the seed reach the initial weights", steps=(0,))


def copied_widths(check: Check) -> Iterator[Finding]:
    """Find a width whose sizes are those of another to the last bit in every seed, all of them or some sites'.

    Gate scalars start at the same values at every width, and Adam's steps are lr times as many values as have a
    gradient: both are left out.
    """
    scalars = [site for site, of in PARAMETERS.items() if of.role is Role.GATE_SCALAR]
    rows = check.coords[~check.coords["kind"].isin(["diagnostic", *WEIGHT_UPDATES])]
    rows = rows[~rows["site"].isin(scalars)]
    grid = lay_out(check.runs, rows)
    there = np.asarray((grid.present & ~np.isnan(grid.values)).any(axis=0))  # [S, W]
    for (i, low), (j, high) in combinations(enumerate(grid.widths.tolist()), 2):
        seeds = there[:, i] & there[:, j]
        if seeds.sum() < FEWEST_SEEDS:
            continue
        one, other = (grid.values[:, seeds, at] for at in (i, j))  # [Q, S]
        with np.errstate(invalid="ignore"):
            tells = (one > 0).all(axis=1) & (one.max(axis=1) > (1 + SCATTERS) * one.min(axis=1))
        same = (one == other).all(axis=1) & tells
        if not same.any():
            continue
        # in the order in which they were measured
        found = spelled(rows.drop_duplicates(QUANTITY)).merge(grid.quantities[same], on=QUANTITY)
        sites = tuple(dict.fromkeys(found["site"]))
        layers = tuple(sorted({int(x) for x in found["layer"] if x >= 0}))
        if same.sum() > MOST * tells.sum():
            text = f"width {high} gave the sizes of width {low}, to the last bit in every seed"
            advice = "let the width reach the model and the file"
            yield Finding("copied width", "fail", text, advice, widths=(high, low))
        else:
            listed = ", ".join(sites[:4]) + (", ..." if len(sites) > 4 else "")
            text = f"the sizes of {listed} at width {high} are those at width {low}, to the last bit in every seed"
            advice = "let the width reach it, and see what is recorded there"
            yield Finding("copied width", "fail", text, advice, sites=sites, layers=layers, widths=(high, low))
