"""Slopes p of size ~ width^p with intervals over seeds, and the verdict of each against what is required of it.

Method. Widths and seeds are crossed: every seed gives one least-squares slope of log2(value) against log2(width); the
slope is their mean, its standard error their scatter / sqrt(seeds), its interval Student's t with seeds - 1 degrees of
freedom. So what a seed shares between widths (its data, common random numbers) is counted once. The verdict is by
equivalence: `pass` when the interval lies inside required +- tolerance, `fail` when it lies wholly outside, else
`cannot tell`; a wide interval never passes.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, isnan, nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from mupcheck.expected import Required, required

GROUP = ["sweep", "parametrization", "optimizer", "mode"]
SITE = ["kind", "stat", "site"]
QUANTITY = ["kind", "stat", "site", "layer", "step"]
COLUMNS = [
    *GROUP, *QUANTITY, "slope", "slope_stderr", "ci_low", "ci_high", "required", "required_low", "required_high",
    "implied", "tolerance", "verdict", "as_implied", "n_widths", "n_seeds", "reason",
]  # fmt: skip
MIN_WIDTHS = 3  # two points always lie on a line
FAMILY_CONFIDENCE = 0.99  # that no slope of a group fails by chance alone
N_WORST = 5  # offenders that a summary names
VERDICTS = ("pass", "fail", "cannot tell", "info")

# Diagnostics, and where they call for a warning (theory.md, section 5).
LIMITS = (
    ("o_norm_eps_ratio", "any below", 10.0, "eps, not mean(o^2), sets the size of o_norm; their ratio is below 10"),
    ("adam_eps_ratio", "any below", 10.0, "Adam's eps slows the update; rms(sqrt(v))/eps is below 10"),
    (
        "relative_update",
        "any above",
        0.5,
        "saturated, where every rule shows slope 0; a weight's change/size is above 0.5",
    ),
    ("relative_update", "all below", 1e-4, "nothing trained; every weight's change/size is below 1e-4"),
)

# What all runs of a group must share; widths legitimately differ in the rest (n_params, and by mode the head shapes).
SAME = (
    "rules_hash", "base_width", "lr", "weight_decay", "decay_mode", "momentum", "schedule", "warmup_steps", "clip",
    "n_layers", "tied", "vocab_size", "batch_size", "seq_len", "steps", "data", "data_hash", "dtype", "backend",
)  # fmt: skip
SAME_BY_MODE = {"head-dim": ("n_heads",), "heads": ("head_k_dim", "head_v_dim")}


@dataclass(frozen=True)
class _Grid:
    """The values of one group: Q quantities over S seeds and W widths; `present` tells a NaN from no value."""

    quantities: pd.DataFrame  # Q rows of QUANTITY
    seeds: NDArray  # [S]
    widths: NDArray  # [W]
    values: NDArray[np.float64]  # [Q, S, W]
    present: NDArray[np.bool_]  # [Q, S, W]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """Return where there is a value that has a logarithm, [Q, S, W]."""
        return self.present & np.isfinite(self.values) & (self.values > 0)

    @property
    def invalid(self) -> NDArray[np.bool_]:
        """Return where there is a value that has none: 0, negative, NaN or infinite, [Q, S, W]."""
        return self.present & ~self.valid

    @property
    def complete(self) -> NDArray[np.bool_]:
        """Return which seeds have a value at every width, [Q, S]."""
        return np.asarray(self.present.all(axis=2))


def fit_slopes(runs: pd.DataFrame, coords: pd.DataFrame, *, confidence: float = 0.90) -> pd.DataFrame:
    """Fit the slope of every recorded quantity and judge it against what is required of it.

    Args:
        runs: the `runs` table; rows of kind "coord" are used, those that failed only to know what is missing.
        coords: the `coords` table; diagnostics are left out (see `warnings_from`).
        confidence: of the intervals, in (0, 1).

    Returns:
        One row per GROUP and QUANTITY with COLUMNS. `required` is the required slope where it is a single value and NaN
        where it is a range from `required_low` to `required_high`; all three and `tolerance` are NaN where theory
        requires nothing. `implied` and `as_implied` are None. A seed that lacks a width is left out of a quantity's
        fit and its `reason` says so; a value that has no logarithm makes the slope NaN.

    Raises:
        ValueError: if runs that would be fitted together differ in more than width and seed (the message names the
            field), if a width and seed occur twice, or if the tables lack a column.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence} is not between 0 and 1; try 0.9")
    fields = (*SAME, *(field for by_mode in SAME_BY_MODE.values() for field in by_mode))
    _need(runs, "runs", ("run_id", "kind", "width", "seed", "status", *GROUP, *fields))
    _need(coords, "coords", ("run_id", "value", *QUANTITY))
    chosen = runs[runs["kind"] == "coord"]
    rows_of = dict(list(_joined(chosen, coords[coords["kind"] != "diagnostic"]).groupby(GROUP)))
    tables = []
    for key, group in chosen.groupby(GROUP):
        _check_comparable(group, key)
        if key in rows_of:
            table = _judge(_grid(group, rows_of[key]), group.iloc[0], confidence)
            tables.append(table.assign(**dict(zip(GROUP, key, strict=True))))
    return pd.concat(tables, ignore_index=True)[COLUMNS] if tables else pd.DataFrame(columns=COLUMNS)


def pool(coords: pd.DataFrame) -> pd.DataFrame:
    """Return `coords` with one row per run, kind, stat and site for step 0, and one for all later steps.

    Its value is the geometric mean over layers and steps, so its slope is the mean of their slopes, with less noise
    than any of them; `layer` is -1 and `step` the last of all. What is required is the same at every layer and later
    step.
    """
    measured = coords[coords["kind"] != "diagnostic"]
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(measured["value"].to_numpy(dtype=float))
    key = ["run_id", *SITE, "later"]
    table = measured.assign(log=logs, later=measured["step"] > 0).groupby(key, as_index=False)
    pooled = table.agg(log=("log", lambda log: log.mean(skipna=False)))
    # a run that diverged lacks the last steps, and stays comparable all the same
    step = np.where(pooled["later"], measured["step"].max(), 0)
    return pooled.assign(layer=-1, step=step, value=np.exp(pooled["log"])).drop(columns=["log", "later"])


def _need(table: pd.DataFrame, name: str, columns: Iterable[str]) -> None:
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name} has no column {missing[0]!r}; pass the tables that load_results returned")


def _joined(runs: pd.DataFrame, coords: pd.DataFrame) -> pd.DataFrame:
    """Give each row of `coords` its run's GROUP, width and seed; rows of runs that failed are left out."""
    finished = runs.loc[runs["status"] != "failed", ["run_id", "width", "seed", *GROUP]]
    return coords.merge(finished, on="run_id")


def _check_comparable(group: pd.DataFrame, key: tuple[str, ...]) -> None:
    """Refuse runs that differ in more than width and seed: their slope would not be one of width alone."""
    for field in (*SAME, *SAME_BY_MODE[group["mode"].iloc[0]]):
        if len(found := group[field].unique()) > 1:
            raise ValueError(
                f"runs of {' '.join(key)} differ in {field} ({found[0]} and {found[1]}), so a slope over their widths "
                "means nothing; give each its own sweep name"
            )
    twice = group[group.duplicated(["width", "seed"])]
    if len(twice):
        width, seed = twice["width"].iloc[0], twice["seed"].iloc[0]
        raise ValueError(f"{' '.join(key)} has two runs of width {width} and seed {seed}; remove one of them")


def _grid(group: pd.DataFrame, rows: pd.DataFrame) -> _Grid:
    """Lay the rows of one group out as [quantity, seed, width], with holes where a run has no such row."""
    # runs that failed count here, so that a width nobody finished is missed rather than forgotten
    seeds, widths = np.unique(group["seed"].to_numpy()), np.unique(group["width"].to_numpy())
    by_quantity = rows.groupby(QUANTITY)
    quantities = by_quantity.size().index.to_frame(index=False)
    cell = (
        by_quantity.ngroup().to_numpy(),
        np.searchsorted(seeds, rows["seed"].to_numpy()),
        np.searchsorted(widths, rows["width"].to_numpy()),
    )
    values = np.full((len(quantities), len(seeds), len(widths)), nan)
    present = np.zeros(values.shape, dtype=bool)
    values[cell], present[cell] = rows["value"].to_numpy(dtype=float), True
    return _Grid(quantities, seeds, widths, values, present)


def _fit(grid: _Grid, confidence: float) -> pd.DataFrame:
    """Return slope, slope_stderr, ci_low, ci_high and n_seeds of each quantity, NaN where they do not exist.

    With one seed the standard error is that of the regression's residuals (widths - 2 degrees of freedom).
    """
    n_widths = len(grid.widths)
    x = np.log2(grid.widths) - np.log2(grid.widths).mean()
    y = np.log2(np.where(grid.valid, grid.values, 1.0))  # [Q, S, W]
    spread = x @ x or nan  # one width has no slope
    by_seed = y @ x / spread  # [Q, S]

    n = grid.complete.sum(axis=1)  # [Q]
    usable = (n > 0) & ~grid.invalid.any(axis=(1, 2))
    slope = np.where(usable, (by_seed * grid.complete).sum(axis=1) / np.maximum(n, 1), nan)
    scatter = ((by_seed - slope[:, None]) ** 2 * grid.complete).sum(axis=1) / np.maximum(n - 1, 1) / np.maximum(n, 1)
    residual = y - y.mean(axis=2, keepdims=True) - by_seed[..., None] * x
    rest = ((residual**2).sum(axis=2) * grid.complete).sum(axis=1) / max(n_widths - 2, 1) / spread

    dof = np.where(n > 1, n - 1, n_widths - 2)
    stderr = np.where(dof > 0, np.sqrt(np.where(n > 1, scatter, rest)), nan)
    half = stats.t.ppf((1 + confidence) / 2, np.maximum(dof, 1)) * stderr
    return pd.DataFrame(
        {
            "slope": slope,
            "slope_stderr": np.where(usable, stderr, nan),
            "ci_low": slope - half,
            "ci_high": slope + half,
            "n_seeds": n,
        }
    )


def _judge(grid: _Grid, run: pd.Series, confidence: float) -> pd.DataFrame:
    """Return the columns of `fit_slopes` for one group; `run` is any of its runs."""
    table = pd.concat([grid.quantities, _fit(grid, confidence)], axis=1)
    table["n_widths"] = len(grid.widths)
    needs = [
        required(kind, stat, site, optimizer=run["optimizer"], mode=run["mode"], tied=bool(run["tied"]), step=step)
        for kind, stat, site, step in zip(table["kind"], table["stat"], table["site"], table["step"], strict=True)
    ]
    numbers = table[["slope", "ci_low", "ci_high"]].to_numpy().tolist()
    enough = len(grid.widths) >= MIN_WIDTHS and len(grid.seeds) > 1
    at_zero = (grid.values == 0).all(axis=(1, 2)) & enough
    judged = [
        _verdict(need, slope, low, high, obstacle, at_zero=zero)
        for need, (slope, low, high), obstacle, zero in zip(needs, numbers, _obstacles(grid), at_zero, strict=True)
    ]
    table["required"] = [need.low if need and need.low == need.high else nan for need in needs]
    table["required_low"] = [need.low if need else nan for need in needs]
    table["required_high"] = [need.high if need else nan for need in needs]
    table["tolerance"] = [need.tolerance if need else nan for need in needs]
    table["verdict"] = [verdict for verdict, _ in judged]
    table["reason"] = [reason + note for (_, reason), note in zip(judged, _left_out(grid), strict=True)]
    return table.assign(implied=None, as_implied=None)


def _obstacles(grid: _Grid) -> list[str]:
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


def _left_out(grid: _Grid) -> list[str]:
    """Say for each quantity which seeds were left out of its fit, "" where none was."""
    notes = [""] * len(grid.quantities)
    for q, seed in np.argwhere(~grid.complete):
        width = grid.widths[(~grid.present[q, seed]).argmax()]
        notes[q] += f"; seed {grid.seeds[seed]} left out: it has no value at width {width}"
    return notes


def _verdict(
    need: Required | None, slope: float, low: float, high: float, obstacle: str, *, at_zero: bool
) -> tuple[str, str]:
    """Return the verdict on one slope with interval [low, high], and the reason as a person reads it."""
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
    if high < need.low - need.tolerance or low > need.high + need.tolerance:
        return "fail", shown
    return "cannot tell", f"{shown}; the interval lies across the tolerance: more seeds or widths can decide"


def summarize(slopes: pd.DataFrame, pooled: pd.DataFrame) -> pd.DataFrame:
    """Return one verdict per GROUP.

    The pooled slopes decide: of some 500 slopes, one per layer and step, a few are always too noisy alone. One of those
    fails the group only if it fails with the interval that all of them together need (Bonferroni): a fault of a single
    layer shows, the worst of many noisy ones does not. Without a judged effective update there is no pass.

    Args:
        slopes: what `fit_slopes` returned.
        pooled: what `fit_slopes` returned of the `pool`ed coords.

    Returns:
        One row per GROUP with `verdict`: `fail` if any slope fails, else `cannot tell` if a pooled one cannot be told
        (or none passes), else `pass`. Beside it n_pass, n_fail, n_cannot_tell and n_info count pooled slopes, and
        `worst` lists at most N_WORST lines, one per kind and site, of the slopes that decided against a pass, the
        farthest from what is required first.
    """
    rows = []
    groups = dict(list(pooled.groupby(GROUP)))
    for key, table in slopes.groupby(GROUP):
        counts = {verdict: int((groups[key]["verdict"] == verdict).sum()) for verdict in VERDICTS}
        pool_failed, alone = groups[key][groups[key]["verdict"] == "fail"], _fails_among_all(table)
        failed = pd.concat([pool_failed, alone])
        judged = groups[key][groups[key]["verdict"] != "info"]
        if len(failed):
            verdict, worst = "fail", _worst(failed)
        elif counts["cannot tell"]:
            verdict, worst = "cannot tell", _worst(groups[key][groups[key]["verdict"] == "cannot tell"])
        elif counts["pass"] and not (judged["kind"] == "effective_update").any():
            verdict, worst = (
                "cannot tell",
                ["no effective update was recorded; record a step after 0, with full probes"],
            )
        elif counts["pass"]:
            verdict, worst = "pass", []
        else:
            verdict, worst = "cannot tell", ["no quantity with a required slope could be judged"]
        rows.append((*key, verdict, *counts.values(), worst))
    counted = [f"n_{verdict.replace(' ', '_')}" for verdict in VERDICTS]
    return pd.DataFrame(rows, columns=[*GROUP, "verdict", *counted, "worst"])


def _fails_among_all(slopes: pd.DataFrame) -> pd.DataFrame:
    """Return the slopes that fail with an interval that holds for all of them at once."""
    failed = slopes[slopes["verdict"] == "fail"]
    n_judged = int((slopes["verdict"] != "info").sum())
    level = 1 - (1 - FAMILY_CONFIDENCE) / (2 * max(n_judged, 1))
    half = stats.t.ppf(level, np.maximum(failed["n_seeds"] - 1, 1)) * failed["slope_stderr"]
    above = failed["slope"] - half > failed["required_high"] + failed["tolerance"]
    below = failed["slope"] + half < failed["required_low"] - failed["tolerance"]
    return failed[above | below]


def farthest_first(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `fit_slopes`, the slope farthest from what is required first, those without one last."""
    distance = np.maximum(table["required_low"] - table["slope"], table["slope"] - table["required_high"])
    return table.iloc[distance.reset_index(drop=True).sort_values(ascending=False, kind="stable").index]


def _worst(table: pd.DataFrame) -> list[str]:
    return [
        f"{row.kind} {row.stat} of {_place(row.site, row.layer, row.step)}: {row.reason}"
        for row in farthest_first(table).drop_duplicates(["kind", "site"]).head(N_WORST).itertuples()
    ]


def _place(site: str, layer: int, step: int) -> str:
    return f"{site}{f', layer {layer}' if layer >= 0 else ''}, step {step}"


def warnings_from(runs: pd.DataFrame, coords: pd.DataFrame) -> list[str]:
    """Say what the diagnostics of coordinate checks warn of: at most one line per GROUP, width and kind of trouble.

    Diagnostics are medians over seeds, at the layer, parameter and step where they are worst (theory.md, section 5).
    """
    watched = coords[(coords["kind"] == "diagnostic") & coords["stat"].isin([limit[0] for limit in LIMITS])]
    # a weight that starts at zero has no relative update: its change is all there is of it
    key = ["run_id", "layer", "site"]
    weights = coords[(coords["kind"] == "weight") & (coords["step"] == 0) & (coords["value"] == 0)]
    from_zero = pd.MultiIndex.from_frame(watched[key]).isin(pd.MultiIndex.from_frame(weights[key]))
    watched = watched[~(from_zero & (watched["stat"] == "relative_update")) & np.isfinite(watched["value"])]
    by = [*GROUP, "width", "stat", "layer", "site", "step"]
    table = _joined(runs[runs["kind"] == "coord"], watched).groupby(by, as_index=False)["value"].median()

    lines = []
    for (*group, width), rows in table.groupby([*GROUP, "width"]):
        for stat, bad, limit, text in LIMITS:
            found = rows[rows["stat"] == stat]
            if bad == "all below":  # of what was reached in the end
                found = found[found["step"] == found["step"].max()]
            if found.empty:
                continue
            worst = found.loc[found["value"].idxmin() if bad == "any below" else found["value"].idxmax()]
            if worst["value"] > limit if bad == "any above" else worst["value"] < limit:
                place = _place(worst["site"], worst["layer"], worst["step"])
                lines.append(f"{' '.join(group)}, width {width}: {text} ({worst['value']:.2g} at {place})")
    return lines
