"""Whether every width lies on the line, and whether the line bends at its end: what a slope alone does not see.

Least squares over three equally spaced widths gives the middle one weight 0, and over four a middle one a tenth of
what it gives the ends, so a width at which something is wrong hardly moves the slope. Two statistics see it. Both are
taken per seed and tested as slopes are (Student's t over seeds, equivalence, Holm):

    residual   how far a width lies from the line through all. Beyond RESIDUAL_SHARE of the slope's tolerance the width
               is wrong: *fail*. A factor of two at any width (GROSS, from the line through the others) must be excluded
               by the interval, else the quantity is not known well enough to pass.
    last pair  the slope of the two largest widths alone. Beyond the tolerance where the whole is within, the size is
               not a power of width yet: *cannot tell*, and a larger width decides.

A wrong end tilts the line, so a factor of two there may also be excluded by what is left if the slope is as required.

Which width is wrong is another question, as a wrong end tilts the line and so moves every residual: it is the one
without which the others lie best on a line with the required slope.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.finding import Finding
from mupcheck.coordinates.grid import Columns, Grid
from mupcheck.learning_rates.quantiles import t_ppf, t_sf

Floats = NDArray[np.float64]

# Of the slope's tolerance, in octaves: 0.15 where that is 0.25.
RESIDUAL_SHARE = 0.6
GROSS = 1.0  # octaves: a factor of two
CURVED = "curved"
OFF = "width off"  # the finding's name
NAMED = 5  # sites that a finding lists
ALIKE = 0.3  # octaves between factors that are told as one
TIE = 1e-6  # of an octave's misfit for each octave that the width is off


DEPARTURES = [
    "off_width", "off", "alone", "p_off", "off_most", "most_width", "off_stderr", "last", "last_low", "last_high",
    "p_last",
]  # fmt: skip


def fit_departures(grid: Grid, low: Floats, high: Floats, tolerance: Floats, *, confidence: float) -> Columns:
    """Return what the widths of Q quantities do beside the line, by seeds that have a value at every width.

    Args:
        grid: sizes of Q quantities over seeds and at least 3 widths.
        low, high: required slopes, [Q]; -inf and inf where there is no bound, NaN where nothing is required.
        tolerance: of the slopes, [Q].
        confidence: of the intervals, in (0, 1).

    Returns:
        DEPARTURES, [Q] each, NaN where there is no such number: the first width to suspect, by how many octaves its
        size lies above the line through the others and whether these, `alone`, lie on a line as required; `p_off`, the
        chance of a residual so far beyond the tolerance at any width if it were at its edge; `off_most`, the largest
        factor (octaves) that the intervals leave at any width, at `most_width`, with the `off_stderr` behind it;
        `last`, the slope of the two largest widths, with its interval, and `p_last`, as `p_off`.
    """
    x = np.log2(grid.widths)
    n = grid.complete.sum(axis=1)
    usable = (n > 1) & ~grid.invalid.any(axis=(1, 2)) & ~np.isnan(tolerance)
    y = np.log2(np.where(grid.valid, grid.values, 1.0))  # [Q, S, W]
    quantile = t_ppf((1 + confidence) / 2, np.maximum(n - 1, 1))[:, None]

    from_all = np.eye(len(x)) - _hat(x)
    residual, stderr = _over_seeds(y @ from_all, grid.complete, usable)
    edge = RESIDUAL_SHARE * tolerance[:, None]
    p_residual = p_beyond(np.abs(residual) - edge, 2 * edge, stderr, n[:, None])
    # of three widths the residuals are one number, thrice
    tests = 1 if len(x) == 3 else len(x)
    p_off = np.minimum(p_residual.min(axis=1) * tests, 1.0)

    off, stderr = _over_seeds(y @ (from_all / np.diag(from_all)), grid.complete, usable)  # [Q, W]
    most = np.abs(off) + quantile * stderr
    # a table as required has a slope near that, which says more of an end than a line through few noisy others
    apart = (np.eye(len(x)) - 1 / len(x)) * len(x) / (len(x) - 1)
    above, spread = _over_seeds(y @ apart, grid.complete, usable)
    bounded = np.isfinite(low) & np.isfinite(high)
    ends = (np.where(bounded, of, 0.0)[:, None] for of in (low - edge[:, 0], high + edge[:, 0]))
    tilts = [end * (x @ apart) for end in ends]
    tilted = np.maximum(*(np.abs(above - tilt) for tilt in tilts)) + quantile * spread
    better = bounded[:, None] & (tilted < most)
    most, stderr = np.where(better, tilted, most), np.where(better, spread, stderr)
    if len(x) == 3:
        # where one end is off by two, the slope is by one half, and does not pass
        most[:, [0, 2]] = -np.inf
    mean, _ = _over_seeds(y, grid.complete, usable)
    suspect, alone = _suspects(mean, x, low, high, tolerance, np.abs(off))

    last, last_stderr = _over_seeds((y[..., [-1]] - y[..., [-2]]) / (x[-1] - x[-2]), grid.complete, usable)
    half = quantile * last_stderr
    outside = np.maximum(last[:, 0] - high, low - last[:, 0]) - tolerance
    rows, worst = np.arange(len(n)), np.where(usable, most.argmax(axis=1), 0)
    found = {
        "off_width": grid.widths[suspect].astype(float),
        "off": off[rows, suspect],
        "alone": alone,
        "p_off": p_off,
        "off_most": most[rows, worst],
        "most_width": grid.widths[worst].astype(float),
        "off_stderr": stderr[rows, worst],
        "last": last[:, 0],
        "last_low": (last - half)[:, 0],
        "last_high": (last + half)[:, 0],
        "p_last": p_beyond(outside, high - low + 2 * tolerance, last_stderr[:, 0], n),
    }
    return {name: of if name == "alone" else np.where(usable, of, np.nan) for name, of in found.items()}


@dataclass(frozen=True)
class Judged:
    """The verdict on one quantity, its reason, what may decide it ("seeds", "widths" or ""), and if a width is off."""

    verdict: str
    reason: str
    open: str = ""
    off: bool = False


def with_widths(verdict: str, reason: str, row: Mapping[str, Any], *, level: float) -> Judged:
    """Return the verdict on a quantity with what its widths say beside the verdict on its slope.

    Args:
        verdict, reason: on the slope.
        row: of DEPARTURES, its p-values adjusted for all that are tested.
        level: chance that any quantity of the group fails or is held open by noise alone, at most.
    """
    if verdict == "info":
        return Judged(verdict, reason)
    if row["p_off"] <= level and row["alone"]:
        return Judged("fail", f"{reason}; width {row['off_width']:.0f} is off by {factor_text(row['off'])}", off=True)
    if row["p_off"] <= level and verdict != "fail":
        return Judged("fail", f"{reason}; the widths lie on no line, with or without any one of them")
    if verdict == "pass" and row["p_last"] <= level:
        shown = f"{row['last']:+.2f} [{row['last_low']:+.2f}, {row['last_high']:+.2f}]"
        return Judged("cannot tell", f"{reason}; {CURVED}, {shown} over the last two widths", "widths")
    if verdict == "pass" and row["off_most"] >= GROSS:
        shown = f"width {row['most_width']:.0f} may be off by {factor_text(row['off_most'])}"
        return Judged("cannot tell", f"{reason}; {shown}", "seeds")
    return Judged(verdict, reason, "seeds" if verdict == "cannot tell" else "")


def find_widths(failed: pd.DataFrame, slopes: pd.DataFrame) -> Iterator[Finding]:
    """Find the widths at which sizes are off, the one with most of them first.

    They are the reason why a check fails where most of what fails is off at one width, and beside it otherwise.

    Args:
        failed: the rows of `fit_slopes` that fail a group.
        slopes: its rows per layer and step, which tell where.
    """
    off = failed[failed["off_width"].notna()]
    effect = "fail" if 2 * len(off) >= len(failed) else "warning"
    counts = off["off_width"].value_counts()
    for width in counts.index:
        rows = off[off["off_width"] == width]
        rows = rows.iloc[rows["off"].abs().argsort()[::-1]]
        sites = tuple(dict.fromkeys(rows["site"]))
        shown = ", ".join(sites[:NAMED]) + (f" and {len(sites) - NAMED} more" if len(sites) > NAMED else "")
        least, most = rows["off"].iloc[-1], rows["off"].iloc[0]
        by = factor_text(float(rows["off"].median()))
        if abs(most - least) > ALIKE:
            by = f"{factor_text(least)} to {factor_text(most)}"
        there = slopes[(slopes["off_width"] == width) & slopes["site"].isin(sites)]
        alike = slopes[slopes["site"].isin(sites) & slopes["kind"].isin(rows["kind"]) & slopes["p_off"].notna()]
        layers, steps = (
            tuple(sorted(set(there[name]))) if len(there) and set(there[name]) < set(alike[name]) else ()
            for name in ("layer", "step")
        )
        text = f"width {width:.0f} is off by {by} in {shown}"
        text += "".join(
            f", {name} {', '.join(map(str, found))}" for name, found in (("layer", layers), ("step", steps)) if found
        )
        yield Finding(
            OFF,
            effect,
            text,
            f"find what is done otherwise at width {width:.0f}",
            kinds=tuple(dict.fromkeys(rows["kind"])),
            sites=sites,
            layers=layers,
            widths=(int(width),),
            steps=steps,
        )


def factor_text(octaves: float) -> str:
    """Write a factor as "x1000", "x2.0" or "x0.25"."""
    factor = 2**octaves
    return f"x{factor:.0f}" if 10 <= factor < 1e6 else f"x{factor:.1f}" if 1 <= factor < 10 else f"x{factor:.2g}"


def _hat(x: Floats) -> Floats:
    """Return the matrix that takes sizes at x to the line through them, [W, W]."""
    design = np.stack([np.ones_like(x), x - x.mean()], axis=1)
    return np.asarray(design @ np.linalg.pinv(design))


def _over_seeds(values: Floats, complete: NDArray[np.bool_], usable: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """Return the mean over complete seeds of [Q, S, K] and its standard error, each [Q, K]."""
    n = np.maximum(complete.sum(axis=1), 1)[:, None]
    kept = complete[..., None]
    mean = (values * kept).sum(axis=1) / n
    stderr = np.sqrt((((values - mean[:, None]) ** 2) * kept).sum(axis=1) / np.maximum(n - 1, 1) / n)
    return np.where(usable[:, None], mean, np.nan), np.where(usable[:, None], stderr, np.nan)


def p_beyond(beyond: Floats, allowed: Floats, stderr: Floats, n_seeds: NDArray[np.int_]) -> Floats:
    """Return p-values of Student's t for numbers that lie so far beyond an edge of what is allowed.

    Args:
        beyond: distance to the nearer edge, below 0 inside.
        allowed: distance between the edges, as noise that is wide beside it may lead beyond either; inf for one edge.
        stderr: of the numbers, over n_seeds seeds. All broadcast together.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        near, far = (np.where(by == 0, 0.0, by / stderr) for by in (beyond, beyond + allowed))
    dof = np.maximum(n_seeds - 1, 1)
    return np.asarray(np.minimum(t_sf(near, dof) + t_sf(far, dof), 1.0))


def _suspects(
    mean: Floats, x: Floats, low: Floats, high: Floats, tolerance: Floats, off: Floats
) -> tuple[NDArray[np.int_], NDArray[np.bool_]]:
    """Return for each quantity the width without which the others lie best as required, and whether they do, [Q].

    Where two do as well, as under a bound, it is the one that is off by less.
    """
    misfit, fits = np.full_like(mean, np.inf), np.zeros(mean.shape, dtype=bool)
    for w in range(len(x)):
        others = np.delete(mean, w, axis=1)
        others = others - others.mean(axis=1, keepdims=True)
        z = np.delete(x, w)
        z = z - z.mean()
        slope = others @ z / (z @ z)
        nearest = np.clip(slope, low, high)
        bend = np.abs(others - slope[:, None] * z).max(axis=1)
        misfit[:, w] = np.sqrt(((others - nearest[:, None] * z) ** 2).mean(axis=1)) + TIE * off[:, w]
        fits[:, w] = (np.abs(slope - nearest) <= tolerance) & (bend <= RESIDUAL_SHARE * tolerance)
    suspect = np.where(np.isnan(misfit), np.inf, misfit).argmin(axis=1)
    return suspect, fits[np.arange(len(mean)), suspect]
