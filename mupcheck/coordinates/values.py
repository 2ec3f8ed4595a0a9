"""Sizes that are known as values, at every width by itself: where a fault leaves the slope alone it shows here.

At step 0, with what the spec and the table say:

    weights       std m^init, as they were drawn: the mean square of n Gaussian values is std^2 chi2_n / n
    norms         sqrt(mean ms / (ms + eps)) of what comes in, times the gain; 1/sqrt(K) of that for q and k
    layers        y = W x with W drawn apart from x: |W|^2 fan_in |x|^2, with the scatter of its n_out columns; and of
                  what SiLU or a sigmoid makes of such Gaussian values

What a layer makes is a weighted sum of chi2_n_out; at the same mean its variance is at most that of one chi2_n_out, all
tokens alike, and that one's quantiles are taken. All tests of a check together err in LEVEL of the checks that have no
fault (Bonferroni). Measured: none of 62 clean checks, in which weights scatter as said (chi2 quantiles as Gaussian z:
sd 1.0) and layers by a third of it (|z| at most 0.9, where 5.3 is needed); norms are within 7e-7, in
bfloat16 2.2e-4 (CPU, widths 32-256, 2 to 8 seeds; tied and untied, 1-4 layers, every table, other stds).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf, nan, sqrt
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from mupcheck.coordinates.evidence import PLACE, Check, Place, by_place
from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.spec import GAINS, Spec
from mupcheck.learning_rates.quantiles import chi2_isf, chi2_ppf
from mupcheck.theory.exponents import PARAMETERS, Exponents, exponents_of
from mupcheck.theory.parametrization import Table

LEVEL = 1e-4  # chance that any of these tests errs in a check without a fault, at most
SUMMED = 1e-4  # relative; float32 sums of up to 10^8 values, which are no part of what was drawn
# relative; each value is rounded by half of this at most, and nothing else differs between the two
ROUNDED = {"float64": 1e-6, "float32": 1e-5, "bfloat16": 2.0**-9}
# layers whose input and output are both recorded: weight -> (input, output)
LAYERS = {
    "q_proj": ("norm1", "q_pre"),
    "k_proj": ("norm1", "k_pre"),
    "v_proj": ("norm1", "v_pre"),
    "a_proj": ("norm1", "z_alpha"),
    "b_proj": ("norm1", "z_beta"),
    "down_proj": ("mlp_hidden", "mlp_out"),
    "readout": ("final_norm", "logits"),
}
# what is made behind these weights, beside LAYERS: the first one's output through a function, times the other's
SHAPED = {
    "embedding": ("embedding",),
    "gate": ("g_proj",),
    "beta": ("b_proj",),
    "mlp_hidden": ("gate_proj", "up_proj"),
    "mixer_out": ("o_proj",),
}
# the least and the most that a gate scalar is drawn as: log A of A up to 16, the inverse softplus of dt in 0.001 to 0.1
DRAWN_FROM = {"A_log": (0.0, 9.2104), "dt_bias": (2.2521, 6.9073)}
# of what was measured at step 0, by site, layer, width and seed
Sizes = dict[tuple[str, int, int, int], float]
EVEN = 0.999  # of what a norm makes without an eps: below it tokens come out in several sizes


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(expit(x))


def _silu(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(x * expit(x))


SHAPES = {"gate": _silu, "mlp_hidden": _silu, "beta": _sigmoid}
SEED = ["seed", "value"]
GAUSS = np.polynomial.hermite_e.hermegauss(64)  # nodes and weights of his rule over a Gaussian's density


@dataclass(frozen=True)
class Start:
    """What the tests need: the models' widths as specs, and what was measured at step 0, weights as `held`."""

    check: Check
    exponents: Exponents
    specs: Mapping[int, Spec]
    made: Sizes
    held: Sizes
    counts: Mapping[tuple, float]
    rounding: float


def wrong_values(check: Check) -> Iterator[Finding]:
    """Find weights, norms and layers whose size at step 0 is not the known one."""
    if check.table is None or check.runs.empty:
        return
    yield from _scalars_drawn(check, check.table)
    tests = _squares(check, check.table)
    if tests.empty:
        return
    drawn = np.isfinite(tests["dof"])
    tests = pd.concat([tests, _whole(tests[drawn])], ignore_index=True)
    drawn = np.isfinite(tests["dof"])
    alpha = LEVEL / max(2 * int(drawn.sum()), 1)
    dof = tests["dof"].where(drawn, 1.0).clip(lower=1.0)
    low = np.where(drawn, chi2_ppf(alpha, dof) / dof, 1.0) * (1 - 2 * tests["rounding"])
    high = np.where(drawn, chi2_isf(alpha, dof) / dof, 1.0) * (1 + 2 * tests["rounding"])
    off = tests[~tests["ratio"].between(low, high)]
    for (name, site), rows in off.groupby(["name", "site"], sort=False):
        each = rows[rows["width"] > 0]
        yield _finding(str(name), str(site), rows if each.empty else each, tests[tests["site"] == site])


def _scalars_drawn(check: Check, table: Table) -> Iterator[Finding]:
    """Find gate scalars that start larger or smaller than any draw of them, their init exponent included."""
    exponents = exponents_of(table, optimizer=check.shared("optimizer"), mode=check.shared("mode"))
    start, base = _at_start(check, "weight"), check.runs["base_width"].iloc[0]
    for site, (least, most) in DRAWN_FROM.items():
        rows = start[start["site"] == site]
        drawn = rows["value"] / (rows["width"] / base) ** exponents.entries[site].init
        off = rows[(drawn < least * (1 - SUMMED)) | (drawn > most * (1 + SUMMED))]
        if len(off):
            first = off.iloc[0]
            widths, layers = (tuple(sorted({int(value) for value in off[name]})) for name in ("width", "layer"))
            text = f"{site} of layer {first['layer']} starts at an rms of {first['value']:.4g} at width "
            text += f"{first['width']}, where draws of it lie between {least:.3g} and {most:.3g}"
            yield Finding(
                "initial size", "fail", text, SAYS["initial size"][1], sites=(site,), layers=layers, widths=widths,
                steps=(0,),
            )  # fmt: skip


def _whole(tests: pd.DataFrame) -> pd.DataFrame:
    """Return a test of each site over all its layers and widths: a factor too small for one of them shows there."""
    rows = []
    for (name, site), of in tests.groupby(["name", "site"], sort=False):
        row = dict.fromkeys(PLACE, 0) | {"name": name, "site": site, "layer": -1, "dof": of["dof"].sum()}
        row |= {"expected": 1.0, "ratio": np.average(of["ratio"], weights=of["dof"]), "rounding": of["rounding"].max()}
        rows.append(row)
    return pd.DataFrame(rows, columns=tests.columns)


SAYS = {  # what gives the size, and what to look at
    "initial size": (
        "its table and std give",
        "look at how it is drawn: its std at the base width, times m^init of the table",
    ),
    "norm size": (
        "a norm of this eps gives",
        "look at the norm in front of it: its eps, its gain, and whether there is one",
    ),
    "layer size": (
        "its weight and what comes in give",
        "look for a factor or another function between its weight and its output",
    ),
}


def _finding(name: str, site: str, off: pd.DataFrame, tests: pd.DataFrame) -> Finding:
    """Say where a site is off, by what, and where it should be; one that is off as a whole alone is at width 0."""
    worst = off.loc[np.log(off["ratio"].clip(lower=1e-300)).abs().idxmax()]
    factor, (gives, advice) = sqrt(worst["ratio"]), SAYS[name]
    if worst["width"] == 0:
        text = f"{site} starts at x{factor:.4g} of what {gives}, over all layers and widths together"
        return Finding(name, "fail", text, advice, sites=(site,), steps=(0,))
    tests = tests[(tests["name"] == name) & (tests["width"] > 0)]
    widths = tuple(sorted({int(width) for width in off["width"]}))
    layers = tuple(sorted({int(layer) for layer in off["layer"] if layer >= 0}))
    at = f" of layer {worst['layer']}" if worst["layer"] >= 0 else ""
    expected = worst["expected"]
    size = f"{expected * factor:.4g}" if expected else "other than 0"
    text = f"{site}{at} starts at an rms of {size} at width {worst['width']}, where "
    text += f"{gives} {expected:.4g}" + (f" (x{factor:.4g})" if expected else "")
    if len(off) == len(tests) > 1:
        text += ", as at every width" if len(widths) > 1 else ""
    elif len(widths) > 1:
        text += f", and at widths {', '.join(map(str, widths))}"
    return Finding(name, "fail", text, advice, sites=(site,), layers=layers, widths=widths, steps=(0,))


def _squares(check: Check, table: Table) -> pd.DataFrame:
    """Return one row a test: name, site, layer, width, expected rms, measured over expected square, dof, rounding."""
    exponents = exponents_of(table, optimizer=check.shared("optimizer"), mode=check.shared("mode"))
    start = Start(
        check,
        exponents,
        {int(run["width"]): Spec(run) for run in check.runs.drop_duplicates("width").to_dict("records")},
        _by_seed(check, "activation"),
        _by_seed(check, "weight"),
        check.of("n_values").set_index(PLACE)["value"].to_dict(),
        ROUNDED.get(check.shared("dtype"), max(ROUNDED.values())),
    )
    every = (row for part in (_drawn, _normed, _mapped, _shaped) for row in part(start))
    rows = [row for row in every if np.isfinite(row["expected"]) and np.isfinite(row["ratio"])]
    return pd.DataFrame(rows, columns=[*PLACE, "name", "expected", "ratio", "dof", "rounding"])


def _row(
    name: str, place: Place, sizes: NDArray[np.float64], expected: NDArray[np.float64], dof: float, rounding: float
) -> dict[str, Any]:
    """Return the test of one site, layer and width: sizes of its seeds against the expected ones."""
    known = np.isfinite(sizes)
    sizes, expected = sizes[known], expected[known]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = np.where(expected == 0, 1.0 + (sizes != 0), (sizes / expected) ** 2)
    if not len(squares):
        squares = expected = np.array([nan])
    row = dict(zip(PLACE, place, strict=True)) | {"name": name, "expected": expected.mean(), "ratio": squares.mean()}
    # seeds that repeat another say nothing more
    return row | {"dof": dof * len(np.unique(squares)), "rounding": rounding}


def _drawn(start: Start) -> Iterator[dict[str, Any]]:
    """Yield the tests of weights: std m^init."""
    for (site, layer, width), sizes, _ in by_place(_at_start(start.check, "weight")):
        spec, n = start.specs[width], start.counts.get((site, layer, width), nan)
        std = spec.std(site) if site in PARAMETERS else nan
        if not (np.isfinite(std) and np.isfinite(n)):
            continue
        expected = std * spec.m ** start.exponents.entries[site].init
        # no value is drawn for a gain, so it has no scatter
        dof = inf if site in GAINS.values() else n
        yield _row("initial size", (site, layer, width), sizes, np.full(len(sizes), expected), dof, SUMMED)


def _normed(start: Start) -> Iterator[dict[str, Any]]:
    """Yield the tests of what norms make: the probe's `expected_rms` of what came in, times the gain."""
    for (site, layer, width), expected, seeds in by_place(_at_start(start.check, "diagnostic", "expected_rms")):
        if site in SHAPED:
            continue
        if (gain := GAINS.get(site)) is not None:
            multiplier = start.specs[width].m ** start.exponents.entries[gain].multiplier
            expected = expected * multiplier * _of(start.held, gain, layer, width, seeds)
        sizes = _of(start.made, site, layer, width, seeds)
        yield _row("norm size", (site, layer, width), sizes, expected, inf, start.rounding)


def _mapped(start: Start) -> Iterator[dict[str, Any]]:
    """Yield the tests of what matrices make of what comes in."""
    weights, exponents = _at_start(start.check, "weight"), start.exponents
    for (weight, layer, width), sizes, seeds in by_place(weights[weights["site"].isin(LAYERS)]):
        (comes_in, goes_out), spec = LAYERS[weight], start.specs[width]
        n_out, n = spec.n_outputs(weight), start.counts.get((weight, layer, width), nan)
        factor = spec.m ** exponents.entries[weight].multiplier
        if weight == "readout":
            factor *= spec.of("logit_scale") * spec.m ** exponents.multipliers["logits"]
        x, y = (_of(start.made, site, layer, width, seeds) for site in (comes_in, goes_out))
        expected = sizes * x * sqrt(n / n_out) * factor
        yield _row("layer size", (goes_out, layer, width), y, expected, n_out, start.rounding)


def _shaped(start: Start) -> Iterator[dict[str, Any]]:
    """Yield the tests of what is made of Gaussian layers by a function, and of sums whose terms are known by size.

    A layer's outputs are Gaussian with the weight's draw, and so the mean square of what SiLU or a sigmoid makes of
    them is one number, with a scatter over the columns that is that of as many chi2; half of these degrees are taken,
    as its tail is longer. Where a norm's eps takes part, tokens come in several sizes, and nothing is tested.
    """
    made, held, exponents = start.made, start.held, start.exponents
    even, rows = _by_seed(start.check, "diagnostic", "expected_rms"), _at_start(start.check, "activation")
    for (site, layer, width), _, seeds in by_place(rows[rows["site"].isin(SHAPED)]):
        spec = start.specs[width]
        of = partial(_of, layer=layer, width=width, seeds=seeds)

        def acts(name: str, layer: int = layer, width: int = width, spec: Spec = spec, of: Any = of) -> NDArray:
            """Return by what a weight multiplies the rms of its input."""
            fan_in = start.counts.get((name, layer, width), nan) / spec.n_outputs(name) if name != "embedding" else 1.0
            return np.asarray(of(held, name) * sqrt(fan_in) * spec.m ** exponents.entries[name].multiplier)

        inner, columns = SHAPED[site], spec.n_outputs(SHAPED[site][0])
        if site == "embedding":
            expected, dof = acts("embedding"), columns
        elif site == "mixer_out":
            gated, dof = of(even, site), columns
            if np.isnan(gated).any():  # as of an earlier mupcheck
                # the scatter of the mean of o^2 gate^2, whose relative variance is some 15 a value
                gated, dof = of(made, "o_norm") * of(made, "gate"), 1 / (1 / columns + 7.5 / spec.n_outputs("v_proj"))
            expected = acts("o_proj") * gated * spec.m ** exponents.multipliers[site]
        else:
            norm = PARAMETERS[inner[0]].acts_on
            if not (of(even, norm) > EVEN).all():
                continue
            mean, spread = _square(SHAPES[site], acts(inner[0]) * of(made, norm))
            for other in inner[1:]:  # times a Gaussian of its own, whose square has 3 times its mean square as square
                mean, spread = mean * (acts(other) * of(made, norm)) ** 2, 3 * (1 + spread) - 1
            expected, dof = np.sqrt(mean), columns / float(spread.mean())
        yield _row("layer size", (site, layer, width), of(made, site), expected, dof, start.rounding)


def _square(shape: Callable[[NDArray], NDArray], sigma: NDArray[np.float64]) -> tuple[NDArray, NDArray]:
    """Return mean and relative variance of shape(sigma z)^2, z Gaussian, for each sigma."""
    z, weights = GAUSS
    squares = shape(sigma[:, None] * z) ** 2
    weights = weights / weights.sum()
    mean = squares @ weights
    return mean, squares**2 @ weights / mean**2 - 1


def _at_start(check: Check, kind: str, stat: str = "rms") -> pd.DataFrame:
    """Return what was measured of one kind at step 0: site, layer, width, seed, value."""
    rows = check.sizes(kind, stat)
    return rows.loc[rows["step"] == 0, [*PLACE, *SEED]]


def _by_seed(check: Check, kind: str, stat: str = "rms") -> Sizes:
    """Return sizes at step 0 by site, layer, width and seed; of several with one name the first."""
    rows = _at_start(check, kind, stat)
    # from the last to the first, whose value stays
    keys = zip(*(rows[name].tolist()[::-1] for name in (*PLACE, "seed")), strict=True)
    return dict(zip(keys, rows["value"].astype(float).tolist()[::-1], strict=True))


def _of(sizes: Sizes, name: str, layer: int, width: int, seeds: Iterable[int]) -> NDArray[np.float64]:
    """Return the sizes of a site, one a seed, NaN where there is none."""
    return np.array([sizes.get((name, layer, width, seed), nan) for seed in seeds], dtype=float)
