"""The gates' sub-exponent: how their gradients grow with width, and which rule that speaks for.

dL/dz of a gate is an inner product over the V values of a head, of terms of size 1/d (theory.md, section 3). With
rms(dL/dz) ~ d^p the effective update of W_alpha and W_beta, a sum over d inputs, is of order one under SGD if
lr ~ d^(-1-p), that of the scalars A_log and dt_bias if lr ~ d^(-p):

    aligned      p = 0      terms of one sign, V ~ d     the strict limit
    independent  p = -1/2   random signs, V ~ d          the paper
    plain        p = -1     V fixed, as in heads mode    a hidden weight, a vector

Later gradients fall with the loss on the repeated batch, and at every width at its own pace. So the gradient is taken
relative to the one that enters the mixer, dL/d(mixer_out) of the same run, layer and step, whose exponent is -1 (TP-V):
the slope here is that of rms(dL/dz) / rms(dL/dmixer_out), minus 1. The ratio is fitted as any other quantity is, seed
by seed. It tells how the terms align only if they are of size 1/d, so that is measured too, at the values:
rms(v) rms(dL/dv) / rms(dL/dmixer_out), minus 1; where it is not so, as under sp, the answer is "cannot tell".
"""

from dataclasses import dataclass
from math import isnan, nan

import pandas as pd

from mupcheck.coordinates.by_width import pool
from mupcheck.coordinates.coded import spelled
from mupcheck.coordinates.grid import QUANTITY
from mupcheck.coordinates.slopes import MIN_WIDTHS, fit_slopes
from mupcheck.results.comparable import CONFIDENCE, GROUP
from mupcheck.theory.parametrization import TABLES, Role
from mupcheck.theory.required import TOLERANCES

GATES = ("z_alpha", "z_beta")
VALUES = "v_conv"
REFERENCE, REFERENCE_SLOPE = "mixer_out", -1
AT = ["run_id", "layer", "step"]
# kinds: as recorded, relative to the reference, and the terms of the sum, relative too
SIZE, RELATIVE, TERMS = "activation_grad", "relative_grad", "terms"
ADAMW_NOTE = (
    "Under AdamW the step does not depend on the gradient's size: whatever the slope is, the lr exponent is -1 for "
    "gates and 0 for their scalars; only eps has to fall with the gradient."
)


@dataclass(frozen=True)
class Alignment:
    """What the terms of a gate's gradient may do, its exponent p, and the table whose head-dim rule assumes it."""

    name: str
    table: str
    exponent: float


def _alignment(name: str, table: str) -> Alignment:
    rule = TABLES[table].rule(Role.GATE, optimizer="sgd", mode="head-dim")
    return Alignment(name, table, -1 - rule.lr)


ALIGNMENTS = (_alignment("aligned", "mup-strict"), _alignment("independent", "gdn-mup"), _alignment("plain", "mup"))


@dataclass(frozen=True)
class GateSlope:
    """How a gate's gradient grows with width at one layer and step, and what that says of its learning rate.

    `slope` with its interval is relative to the reference; `gradient_slope` is that of the gradient as it is. `near`
    are the alignments near the interval, within half their distance (two or more: not told apart), `rules` the muP
    tables that assume the only one near in this mode. `gate_lr` and `scalar_lr` are the lr exponents that SGD needs.
    Numbers that do not exist are NaN; layer is -1 for all layers together.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    site: str
    layer: int
    step: int
    slope: float
    ci_low: float
    ci_high: float
    gradient_slope: float
    n_widths: int
    n_seeds: int
    near: tuple[str, ...]
    rules: tuple[str, ...]
    gate_lr: float
    scalar_lr: float
    reading: str


def fit_gates(
    runs: pd.DataFrame, coords: pd.DataFrame, *, pooled: bool = False, confidence: float = CONFIDENCE
) -> list[GateSlope]:
    """Fit the slopes of the gates' gradients of coordinate checks.

    Args:
        runs, coords: tables as `load_results` returned them.
        pooled: one slope for step 0 and one for all later steps, over all layers, as `by_width.pool` does.
        confidence: of the intervals, in (0, 1).
    Raises:
        ValueError: if no gradient of a gate was recorded, or runs do not compare (see `fit_slopes`).
    """
    if not (gates := gates_of(runs, coords, pooled=pooled, confidence=confidence)):
        raise ValueError(
            f"no gradients of {' and '.join(GATES)} beside those of {VALUES} and {REFERENCE}; a coordinate check with "
            "full probes records them: mupcheck coord --widths 64,128,256 --opt sgd"
        )
    return gates


def gates_of(
    runs: pd.DataFrame, coords: pd.DataFrame, *, pooled: bool, confidence: float = CONFIDENCE
) -> list[GateSlope]:
    """Return what `fit_gates` does, none where no gradient of a gate was recorded."""
    coords = _gradients(coords)
    relative, terms = _relative(runs, coords), _terms(runs, coords)
    if relative.empty or terms.empty:
        return []
    chosen = pd.concat([_sizes(runs, coords, SIZE, *GATES), relative], ignore_index=True)
    fitted = fit_slopes(runs, pool(chosen) if pooled else chosen, confidence=confidence)
    key = [*GROUP, *(name for name in QUANTITY if name != "kind")]
    raw = fitted.loc[fitted["kind"] == SIZE, [*key, "slope"]].rename(columns={"slope": "gradient_slope"})
    table = fitted[fitted["kind"] == RELATIVE].merge(raw, on=key)
    wrong = _wrong_terms(fit_slopes(runs, pool(terms), confidence=confidence))
    rows = table.sort_values([*GROUP, "site", "layer", "step"]).to_dict("records")
    return [_read(row, wrong.get(tuple(row[name] for name in GROUP), "")) for row in rows]


def has_gates(runs: pd.DataFrame, coords: pd.DataFrame) -> bool:
    """Say whether the coordinate checks among the runs recorded what `fit_gates` needs."""
    coords = _gradients(coords)
    return not (_relative(runs, coords).empty or _terms(runs, coords).empty)


def _gradients(coords: pd.DataFrame) -> pd.DataFrame:
    """Return the few rows that are asked for again and again: of the gates and of what they stand beside."""
    return spelled(coords[coords["site"].isin((*GATES, VALUES, REFERENCE)) & (coords["stat"] == "rms")])


def _sizes(runs: pd.DataFrame, coords: pd.DataFrame, kind: str, *sites: str) -> pd.DataFrame:
    """Return the rms rows of one kind at sites, of coordinate checks that did not fail."""
    checks = runs.loc[(runs["kind"] == "coord") & (runs["status"] != "failed"), "run_id"]
    chosen = (coords["kind"] == kind) & (coords["stat"] == "rms") & coords["site"].isin(sites)
    return coords[chosen & coords["run_id"].isin(checks)]


def _relative(runs: pd.DataFrame, coords: pd.DataFrame) -> pd.DataFrame:
    """Return the gates' gradients relative to the reference."""
    return _over_reference(runs, coords, _sizes(runs, coords, SIZE, *GATES)).assign(kind=RELATIVE)


def _terms(runs: pd.DataFrame, coords: pd.DataFrame) -> pd.DataFrame:
    """Return the size of the terms v dL/dv of a gate's gradient, relative to the reference."""
    values = _sizes(runs, coords, "activation", VALUES)[[*AT, "value"]].rename(columns={"value": "size"})
    table = _sizes(runs, coords, SIZE, VALUES).merge(values, on=AT)
    return _over_reference(runs, coords, table.assign(value=table["value"] * table["size"])).assign(kind=TERMS)


def _over_reference(runs: pd.DataFrame, coords: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Divide rows by the reference's gradient and multiply them by what that should be: width ** REFERENCE_SLOPE."""
    reference = _sizes(runs, coords, SIZE, REFERENCE)[[*AT, "value"]].rename(columns={"value": "reference"})
    table = table.merge(reference, on=AT)
    width = table["run_id"].map(runs.drop_duplicates("run_id").set_index("run_id")["width"]).astype(float)
    return table.assign(value=table["value"] / table["reference"] * width**REFERENCE_SLOPE)[coords.columns]


def _wrong_terms(slopes: pd.DataFrame) -> dict[tuple, str]:
    """Say of which groups the terms are not of size 1/d at the first step recorded, and what they are."""
    first = slopes.sort_values("step").drop_duplicates(GROUP)
    off = (first["ci_low"] > -1 + TOLERANCES[SIZE]) | (first["ci_high"] < -1 - TOLERANCES[SIZE])
    text = "the terms of the gradient's sum are of size width^{:+.2f}, not 1/width, so their alignment does not show; "
    text += "take a table whose activations pass"
    rows = first[off].to_dict("records")
    return {tuple(row[name] for name in GROUP): text.format(row["slope"]) for row in rows}


def _read(row: dict, wrong_terms: str) -> GateSlope:
    """Read one row of `fit_slopes`: what is near its interval, and what follows for the learning rate."""
    low, high, slope = row["ci_low"], row["ci_high"], row["slope"]
    obstacle = _obstacle(row) or wrong_terms
    near = () if obstacle else near_alignments(low, high)
    copied = (*GROUP, "site", "layer", "step", "slope", "ci_low", "ci_high", "gradient_slope", "n_widths", "n_seeds")
    return GateSlope(
        **{name: row[name] for name in copied},
        near=tuple(alignment.name for alignment in near),
        rules=rules_for(near[0], row["mode"]) if len(near) == 1 else (),
        gate_lr=nan if obstacle else -1 - slope,
        scalar_lr=nan if obstacle else -slope,
        reading=f"cannot tell: {obstacle}" if obstacle else read_interval(low, high),
    )


def near_alignments(low: float, high: float) -> tuple[Alignment, ...]:
    """Return the alignments whose exponent +- tolerance, half the distance to the next, an interval reaches."""
    tolerance = TOLERANCES[SIZE]
    return tuple(a for a in ALIGNMENTS if low <= a.exponent + tolerance and high >= a.exponent - tolerance)


def read_interval(low: float, high: float) -> str:
    """Say in words which alignment an interval of the slope speaks for."""
    near = near_alignments(low, high)
    if not near:
        return "above every rule" if low > ALIGNMENTS[0].exponent else "below every rule"
    if len(near) == len(ALIGNMENTS):
        return "not told apart"
    if len(near) > 1:
        return " or ".join(a.name for a in near)
    return near[0].name if low <= near[0].exponent <= high else f"nearest {near[0].name}"


def rules_for(alignment: Alignment, mode: str) -> tuple[str, ...]:
    """Return the muP tables whose SGD rule for gates assumes an alignment in this mode; in heads mode all are plain."""
    lr = -1 - alignment.exponent
    tables = [a.table for a in ALIGNMENTS]
    return tuple(name for name in tables if TABLES[name].rule(Role.GATE, optimizer="sgd", mode=mode).lr == lr)


def _obstacle(row: dict) -> str:
    """Say why a slope cannot be read, "" where it can."""
    if row["n_widths"] < MIN_WIDTHS:
        return f"{row['n_widths']} widths; a slope needs at least {MIN_WIDTHS}"
    if isnan(row["slope"]):
        return "a gradient is 0 or not finite, or no seed has every width"
    if row["n_seeds"] < 2 or isnan(row["ci_low"]):
        return "one seed has no interval over seeds; give at least 2, better 4"
    return ""
