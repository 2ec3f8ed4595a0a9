"""Slopes p of size ~ width^p with intervals over seeds, and the verdict of each against what is required of it.

Method. Widths and seeds are crossed: every seed gives one least-squares slope of log2(value) against log2(width); the
slope is their mean, its standard error their scatter / sqrt(seeds), its interval Student's t with seeds - 1 degrees of
freedom. So what a seed shares between widths (its data, common random numbers) is counted once. On simulated sizes the
nominal 90% interval covers 87-93% (tests/coordinates/test_slopes.py).

The verdict is by equivalence: `pass` when the interval lies inside required +- tolerance, `fail` when the slope lies
outside beyond doubt, else `cannot tell`; a wide interval never passes. Many slopes are judged at once. A group passes
only if each of them passes, which needs no correction (an intersection-union test); it fails if any one fails, which
does: `fail` takes Holm's step-down test over the judged slopes of the group, so that the chance that any of them fails
by noise alone is at most FAMILY_LEVEL. Half of that is kept for effective updates (weighted Holm), the few that each
isolate one rule, so that the many other slopes do not blunt them.

A slope says little of a single width, so each width and the last pair of widths are judged too (`widths`), at
WIDTH_SHARE of that level.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from math import inf, isnan, nan
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.by_width import pool
from mupcheck.coordinates.grid import (
    QUANTITY,
    Columns,
    Grid,
    check_comparable,
    fit_grid,
    fixed_sites,
    joined,
    lay_out,
    need_tables,
)
from mupcheck.coordinates.needs import needs_of_any, needs_of_trained
from mupcheck.coordinates.widths import DEPARTURES, Judged, fit_departures, p_beyond, with_widths
from mupcheck.imported.frame import sizes_of
from mupcheck.results.comparable import CONFIDENCE, GROUP, check_confidence, find_rules, is_imported
from mupcheck.results.reading import Results, need_results
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.implied import Range, implied_by
from mupcheck.theory.parametrization import TABLES, Table
from mupcheck.theory.required import OWN, TOLERANCES, Required

COLUMNS = [
    *GROUP, *QUANTITY, "slope", "slope_stderr", "ci_low", "ci_high", "required", "required_low", "required_high",
    "implied", "implied_low", "implied_high", "tolerance", "p_fail", "verdict", "as_implied", "n_widths", "n_seeds",
    "reason", "off_width", "off", "p_off", "off_most", "off_stderr", "last", "last_low", "last_high", "p_last", "open",
]  # fmt: skip
MIN_WIDTHS = 3  # two points always lie on a line
FAMILY_LEVEL = 0.05  # chance that any slope of a group fails by noise alone, at most
EFFECTIVE_SHARE = 0.5  # of that chance, kept for effective updates
WIDTH_SHARE = 0.2  # of that chance, added to it for single widths, and as much for the last pair
ONE_OF_MANY = "; outside, but of so many slopes one may be by chance"
ACROSS = "; the interval lies across the tolerance"
VERDICTS = ("pass", "fail", "cannot tell", "info")


def fit_slopes(
    runs: pd.DataFrame | Results,
    coords: pd.DataFrame | None = None,
    *,
    pooled: bool = False,
    confidence: float = CONFIDENCE,
    level: float = FAMILY_LEVEL,
    tables: Mapping[str, Table] | None = None,
    required_by_name: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """Fit the slope of every recorded quantity and judge it against what is required of it and what its table implies.

    Args:
        runs: the `runs` table; rows of kind "coord" are used, those that failed only to know what is missing. Or what
            `load_results` returned, which brings its coords and the tables that its sweeps followed. Or a frame of
            sizes that others measured: width, value and name; seed, step, kind, layer where there are any.
        coords: the `coords` table; diagnostics are left out (see `validity`). Not given with a frame of sizes.
        pooled: fit over all layers, and over all steps after 0, instead of each by itself (see `pool`).
        confidence: of the intervals, in (0, 1).
        level: chance that any slope of a group fails by noise alone, at most.
        tables: by the name in the column `parametrization`; of a name that is not there nothing is implied (default:
            the shipped ones).
        required_by_name: of sizes that others measured, lowest and highest required slope by pattern of their names.

    Returns:
        One row per GROUP and QUANTITY with COLUMNS. `required` is the required slope where it is a single value and NaN
        where it is a range from `required_low` to `required_high`; all three and `tolerance` are NaN where theory
        requires nothing; `implied` likewise. `p_fail` is the chance of a slope so far outside required +- tolerance if
        it were at the edge, adjusted for all slopes of the group (Holm). `as_implied` is None where nothing is implied
        or the interval cannot tell. A seed that lacks a width is left out of a quantity's fit and its `reason` says so;
        a value that has no logarithm makes the slope NaN. `off_width` is the width that is off by `off` octaves where
        that is why the quantity fails, else both are NaN; of `p_off` and what follows see `widths.Departures`. `open`
        says what may decide a quantity that is `cannot tell`: "seeds", "widths", or "" where neither is known to.

    Raises:
        ValueError: if runs that would be fitted together differ in more than width and seed (the message names the
            field), if a width and seed occur twice, if the tables lack a column, or if anything else is given.
    """
    check_confidence(confidence)
    sweeps: Mapping[str, Any] | None = None
    if isinstance(runs, pd.DataFrame) and coords is None and "run_id" not in runs:
        runs, coords = sizes_of(runs)
    if isinstance(runs, pd.DataFrame):
        if coords is None:
            raise ValueError("fit_slopes() of a runs table needs its coords table too; or give it the whole results")
    else:
        results = need_results(runs, "fit_slopes()", kind="coord")
        runs, coords, sweeps = results.runs, results.coords if coords is None else coords, results.sweeps
    need_tables(runs, coords)
    chosen = runs[runs["kind"] == "coord"]
    rows = pool(coords) if pooled else coords[coords["kind"] != "diagnostic"]
    fitted = []
    for key, group in chosen.groupby(GROUP):
        check_comparable(group, key)
        if tables is None and sweeps is not None:
            table = find_rules(group, sweeps.get(key[0], {}).get("tables", {}))
        else:
            table = (TABLES if tables is None else tables).get(group["parametrization"].iloc[0])
        named = required_by_name
        if named is None and is_imported(group):
            named = (sweeps or {}).get(key[0], {}).get("required", {})
        fitted.append(fit_group(group, rows, coords, confidence=confidence, level=level, table=table, named=named))
    fitted = [each for each in fitted if len(each)]
    return pd.concat(fitted, ignore_index=True) if fitted else pd.DataFrame(columns=COLUMNS)


def fit_group(
    group: pd.DataFrame,
    rows: pd.DataFrame,
    coords: pd.DataFrame,
    *,
    confidence: float,
    level: float,
    table: Table | None,
    named: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """Return what `fit_slopes` does of one group whose runs compare.

    Args:
        group: its runs.
        rows, coords: what is fitted, pooled or not, and what was measured, diagnostics included.
        confidence, level: as in `fit_slopes`.
        table: what the runs followed, where that is known.
        named: required slopes by pattern of names, where others measured.
    """
    check_confidence(confidence)
    rows = joined(group, rows)
    if rows.empty:
        return pd.DataFrame(columns=COLUMNS)
    run, foreign = group.iloc[0], is_imported(group)
    fixed = fixed_sites(group, coords) if run["mode"] == OWN else ()
    of = (None if foreign else table, named if foreign else None, fixed)
    return _judge(lay_out(group, rows), run, confidence, level, *of)


def _judge(
    grid: Grid,
    run: pd.Series,
    confidence: float,
    level: float,
    table: Table | None,
    named: Mapping[str, Sequence[float]] | None,
    fixed: Container[str],
) -> pd.DataFrame:
    """Return the columns of `fit_slopes` for one group.

    Args:
        run: any of its runs.
        table: what they followed.
        named: what the user requires by name, where others measured; None where mupcheck did.
        fixed: sites of parameters that are as large at every width.
    """
    # columns beside one another: to set one in a frame takes many times as long
    fit: dict[str, Any] = {name: run[name] for name in GROUP} | {"n_widths": len(grid.widths)}
    fit |= fit_grid(grid, confidence)
    optimizer, mode, tied = run["optimizer"], run["mode"], bool(run["tied"])
    quantities = list(zip(*(grid.quantities[name].tolist() for name in QUANTITY), strict=True))
    if named is not None:
        decay = ""
        needs: list[Required | None] = needs_of_any(quantities, run, named)
    else:
        decay = str(run["decay_mode"]) if run["weight_decay"] > 0 else ""
        needs = needs_of_trained(quantities, run, fixed)
    entailed: Mapping[tuple, Range] = {}
    if table is not None:
        needs = [
            _as_stored(need, kind, site, table, optimizer=optimizer, mode=mode)
            for need, (kind, _, site, _, _) in zip(needs, quantities, strict=True)
        ]
        given: dict[str, Any] = {"below": bool(grid.widths.min() < run["base_width"]), "n_layers": int(run["n_layers"])}
        entailed = implied_by(table, optimizer=optimizer, mode=mode, tied=tied, decay=decay, **given)
    ranges = [entailed.get((kind, stat, site, step > 0), (nan, nan)) for kind, stat, site, _, step in quantities]

    wanted = [(need.low, need.high, need.tolerance) if need else (nan, nan, nan) for need in needs]
    fit["required_low"], fit["required_high"], fit["tolerance"] = np.array(wanted, dtype=float).reshape(-1, 3).T
    fit["required"] = _point(fit["required_low"], fit["required_high"])
    fit["implied_low"], fit["implied_high"] = np.array(ranges, dtype=float).reshape(-1, 2).T
    fit["implied"] = _point(fit["implied_low"], fit["implied_high"])

    obstacles = _obstacles(grid)
    clear = np.array([not obstacle for obstacle in obstacles], dtype=bool)
    effective = np.array([kind == "effective_update" for kind, *_ in quantities], dtype=bool)
    # of a user's own model most of what is recorded is not judged, and takes no part
    n_others = max(int((~np.isnan(fit["tolerance"]) & ~effective).sum()), 1) if mode == OWN else len(effective)
    weights = np.where(effective, EFFECTIVE_SHARE / max(effective.sum(), 1), (1 - EFFECTIVE_SHARE) / n_others)
    low, high = fit["required_low"] - fit["tolerance"], fit["required_high"] + fit["tolerance"]
    fit["p_fail"] = holm(np.where(clear, _p_outside(fit, low, high), nan), weights)
    tolerance = np.array([TOLERANCES.get(kind, max(TOLERANCES.values())) for kind, *_ in quantities])
    low, high = fit["implied_low"] - tolerance, fit["implied_high"] + tolerance
    inside = (low <= fit["ci_low"]) & (fit["ci_high"] <= high)
    outside = holm(np.where(clear, _p_outside(fit, low, high), nan), weights) <= level
    as_implied = [True if yes else False if no else None for yes, no in zip(inside, outside, strict=True)]
    fit["as_implied"] = np.array(as_implied, dtype=object)
    enough = len(grid.widths) >= MIN_WIDTHS and len(grid.seeds) > 1
    at_zero = (grid.values == 0).all(axis=(1, 2)) & enough
    numbers = zip(*(fit[name].tolist() for name in ("slope", "ci_low", "ci_high", "p_fail")), strict=True)
    by_slope = [
        _verdict(need, number, obstacle, at_zero=zero, level=level)
        for need, number, obstacle, zero in zip(needs, numbers, obstacles, at_zero, strict=True)
    ]
    departures = _departures(grid, fit, clear, weights, confidence)
    by_row = zip(*(departures[name].tolist() for name in DEPARTURES), strict=True)
    rows = (dict(zip(DEPARTURES, row, strict=True)) for row in by_row)
    judged = [
        with_widths(verdict, reason, row, level=WIDTH_SHARE * level) if free else Judged(verdict, reason)
        for (verdict, reason), row, free in zip(by_slope, rows, clear, strict=True)
    ]
    fit |= departures
    fit["verdict"], fit["open"] = ([getattr(one, name) for one in judged] for name in ("verdict", "open"))
    for name in ("off_width", "off"):
        fit[name] = np.where([one.off for one in judged], departures[name], nan)
    fit["reason"] = [one.reason + note for one, note in zip(judged, _left_out(grid), strict=True)]
    return pd.concat([grid.quantities, pd.DataFrame(fit, index=grid.quantities.index)], axis=1)[COLUMNS]


def _departures(
    grid: Grid, fit: Columns, clear: NDArray[np.bool_], weights: NDArray[np.float64], confidence: float
) -> Columns:
    """Return the columns DEPARTURES of `widths`, adjusted for all quantities being tested together."""
    if len(grid.widths) < MIN_WIDTHS:
        return {name: np.full(len(clear), nan) for name in DEPARTURES}
    low, high, tolerance = (fit[name] for name in ("required_low", "required_high", "tolerance"))
    found = fit_departures(grid, low, high, tolerance, confidence=confidence)
    for name in ("p_off", "p_last"):
        found[name] = holm(np.where(clear, found[name], nan), weights)
    return found


def _as_stored(
    need: Required | None, kind: str, site: str, table: Table, *, optimizer: str, mode: str
) -> Required | None:
    """Return what is required of a weight's change as it is stored, before the multiplier of its role."""
    if need is None or kind != "weight_update" or site not in PARAMETERS:
        return need
    by = table.rule(PARAMETERS[site].role, optimizer=optimizer, mode=mode).multiplier
    return replace(need, low=need.low - by, high=need.high - by)


def _point(low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the single value of each range, NaN where it is none."""
    return np.where(low == high, low, nan)


def _p_outside(fit: Columns, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return for each slope the p-value against lying between low and high (t, at the nearer of them)."""
    beyond = np.maximum(fit["slope"] - high, low - fit["slope"])
    return p_beyond(beyond, high - low, fit["slope_stderr"], fit["n_seeds"])


def holm(p_values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted for being tested together: rejecting those at most alpha errs with chance alpha at most.

    Weighted step-down test of Holm (Scand. J. Statist. 6, 1979): a larger weight leaves more of alpha to a hypothesis.
    NaN is nothing tested, and stays NaN.
    """
    adjusted = np.full(len(p_values), nan)
    tested = np.flatnonzero(~np.isnan(p_values))
    order = tested[np.argsort(p_values[tested] / weights[tested], kind="stable")]
    remaining = weights[order][::-1].cumsum()[::-1]
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * remaining / weights[order]), 1.0)
    return adjusted


def _obstacles(grid: Grid) -> list[str]:
    """Say for each quantity why its slope cannot be judged, "" where it can."""
    n_widths, n_seeds = len(grid.widths), grid.complete.sum(axis=1)
    invalid = grid.invalid.reshape(len(n_seeds), -1)
    obstacles = [""] * len(n_seeds)
    for q in np.flatnonzero((n_widths < MIN_WIDTHS) | (n_seeds < 2) | invalid.any(axis=1)):
        if invalid[q].any():
            seed, width = np.unravel_index(invalid[q].argmax(), grid.values.shape[1:])
            value = grid.values[q, seed, width]
            why = "nothing moved or arrived there" if value == 0 else "a size is finite and positive"
            obstacles[q] = f"value {value:g} at width {grid.widths[width]}, seed {grid.seeds[seed]}: {why}"
        elif n_widths < MIN_WIDTHS:
            obstacles[q] = f"{n_widths} width{'s' * (n_widths > 1)}; a slope needs at least {MIN_WIDTHS}"
        elif n_seeds[q] == 0:
            obstacles[q] = "no seed has a value at every width"
        else:
            obstacles[q] = "one seed, so the interval is only that of the fit's residuals; give at least 2, better 4"
    return obstacles


def _left_out(grid: Grid) -> list[str]:
    """Say for each quantity which seeds were left out of its fit, "" where none was."""
    notes = [""] * len(grid.quantities)
    for q, seed in np.argwhere(~grid.complete):
        width = grid.widths[(~grid.present[q, seed]).argmax()]
        notes[q] += f"; seed {grid.seeds[seed]} left out: it has no value at width {width}"
    return notes


def _verdict(
    need: Required | None, numbers: Sequence[float], obstacle: str, *, at_zero: bool, level: float
) -> tuple[str, str]:
    """Return the verdict on one slope and the reason as a person reads it; numbers: slope, ci_low, ci_high, p_fail."""
    slope, low, high, p_fail = numbers
    shown = "" if isnan(slope) else f"slope {slope:+.2f}" + ("" if isnan(low) else f" [{low:+.2f}, {high:+.2f}]")
    if need is None:
        return "info", "; ".join(filter(None, (shown, obstacle, "theory does not pin it")))
    shown = f"{shown}, required {need}" if shown else f"required {need}"
    if at_zero and need.low == -inf:
        return "pass", f"0 at every width, required {need}"
    if obstacle:
        return "cannot tell", f"{shown}; {obstacle}"
    if need.low - need.tolerance <= low and high <= need.high + need.tolerance:
        return "pass", shown
    if p_fail <= level:
        return "fail", shown
    if high < need.low - need.tolerance or low > need.high + need.tolerance:
        return "cannot tell", shown + ONE_OF_MANY
    return "cannot tell", shown + ACROSS


def farthest_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `fit_slopes`, the slope farthest from what is required first, those without one last."""
    return table.iloc[distance(table).reset_index(drop=True).sort_values(ascending=False, kind="stable").index]


def not_passing(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that fail, then those that cannot be told, of each the farthest off first."""
    return pd.concat([farthest_first(table[table["verdict"] == verdict]) for verdict in ("fail", "cannot tell")])


def distance(table: pd.DataFrame) -> pd.Series:
    """Return how far each slope of `fit_slopes` lies outside what is required, below 0 where it is inside."""
    return np.maximum(table["required_low"] - table["slope"], table["slope"] - table["required_high"])
