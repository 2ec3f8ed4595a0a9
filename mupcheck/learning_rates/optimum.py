"""From the `runs` table to the best learning rate of each width, with its interval and what is doubtful about it.

Runs are compared only if they agree in everything but width (and what width changes), lr, seed and parametrization.
Source: theory.md section 6.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from mupcheck.imported.frame import runs_of
from mupcheck.learning_rates.joint_fit import Joint, fit_jointly
from mupcheck.learning_rates.lr_curve import (
    Point,
    copied_seeds,
    curve_of,
    fit_minimum,
    grid_floor,
    loss_at,
    lowest_below_divergence,
    mean_curve,
)
from mupcheck.learning_rates.open_sides import edge_shares, near_edge, open_sides, untold_sides
from mupcheck.results.comparable import (
    CONFIDENCE,
    GROUP,
    SAME_BY_MODE,
    check_confidence,
    is_imported,
    other_settings,
    same_by_mode,
)
from mupcheck.results.printing import Best
from mupcheck.results.reading import Results, need_results

# Between the best and the worst finite lr, as a share of the best loss; below it any lr would do. A share, as losses of
# bytes at real sizes lie below 1 nat: 0.05 nats, as this was at losses around 2.5, are 6% of these.
FLAT_RESPONSE = 0.02
MIN_LRS = 3  # a parabola has three coefficients

# What must agree between runs that are compared, with SAME_BY_MODE. Width, lr, seed and parametrization may differ.
SAME = (
    *("base_width", "n_layers", "tied", "vocab_size", "batch_size", "seq_len", "steps", "data", "data_hash"),
    *("weight_decay", "decay_mode", "momentum", "schedule", "warmup_steps", "clip", "dtype", "backend"),
)
CELL = ["parametrization", "width", "log2_lr", "seed"]
RESULTS = ("run_id", "kind", "rules_hash", "status", "train_loss", "val_loss", "clipped_fraction")

# A guard at any width makes the verdict `cannot tell`. DIVERGENCE alone does not: it brackets the optimum.
DIVERGENCE = "next to divergence"
EDGES = ("low edge", "high edge")  # the optimum may lie beyond the grid, anywhere
GUARDS = {
    "incomplete": "runs are missing for some lr and seed; finish the sweep",
    "copied seeds": "seeds gave the same losses, which shows no noise; let the seed reach weights and batches",
    "copied width": "another width gave the same losses, to the last bit; let the width reach the model and the file",
    "no finite lr": "a seed diverged at every lr; add lower lrs",
    "too few lrs": f"fewer than {MIN_LRS} lrs have a finite loss; add lrs",
    "low edge": "the optimum is at the lowest lr that was run; add lower lrs",
    "low divergence": "an lr below the best one diverged, so the best may train by chance; add lower lrs",
    "above divergence": "an lr between the best one and a minimum further down diverged, so the best may train by "
    "chance; add seeds",
    "high edge": "the optimum is at the highest lr that was run; add higher lrs",
    "near edge": "the optimum is within noise of the edge of the lr grid; add lrs beyond it, or seeds",
    "within noise": "on one side of the optimum no lr is worse beyond the seeds' noise; add seeds, or lrs further out",
    "flat": f"the loss varies by less than {FLAT_RESPONSE:.0%} over the grid; train longer or widen the grid",
    "not convex": "the curve does not bend upward around its lowest point, or by less than noise; add seeds",
}


@dataclass(frozen=True, repr=False)
class Optimum(Best):
    """The best log2 lr at one width. `flags` are names of GUARDS, or DIVERGENCE.

    The interval has no end on a side that is open (`open_sides`), as the drift has none there; with one seed, neither.
    """

    sweep: str
    parametrization: str
    optimizer: str
    mode: str
    width: int
    log2_lr: float | None
    ci_low: float | None
    ci_high: float | None
    loss: float | None  # nats per token at log2_lr: on the parabola, so it may lie below all that was measured
    loss_name: str  # val_loss or train_loss
    flags: tuple[str, ...]
    n_seeds: int
    n_lrs: int
    curve: tuple[Point, ...]  # by rising lr
    half_width: float | None = None  # octaves, of the interval before an end was opened; None with one seed

    @property
    def at_edge(self) -> bool:
        """Say whether the optimum lies at an edge of the lr grid, and so perhaps beyond."""
        return any(flag in EDGES for flag in self.flags)

    @property
    def drawn(self) -> tuple[float | None, float | None]:
        """Return the interval as it is drawn: infinite on a side that is not known, without ends with one seed."""
        if self.half_width is None:
            return None, None
        return -math.inf if self.ci_low is None else self.ci_low, math.inf if self.ci_high is None else self.ci_high

    @property
    def lowest(self) -> Point | None:
        """Return the lr with the lowest mean loss that was measured, None where no lr is without divergence."""
        finite = [(point.loss, point) for point in self.curve if point.loss is not None]
        return min(finite, key=lambda each: each[0])[1] if finite else None


class Grid(NamedTuple):
    """What every width of a group should have: at least these lrs, and this many seeds at each lr it has."""

    log2_lrs: frozenset[float]
    n_seeds: int


def find_optima(
    runs: pd.DataFrame | Results,
    *,
    grids: Mapping[str, Collection[float]] | None = None,
    confidence: float = CONFIDENCE,
) -> list[Optimum]:
    """Find the best lr of every (sweep, parametrization, optimizer, mode, width) of the `lr` runs, sorted by these.

    The loss is val_loss where any finished run of the sweep has one, else train_loss. Between a finite and a diverged
    lr the optimum is known to half a grid step only, and its interval says so.

    Args:
        runs: the runs table, where runs of other kinds are left out; or what `load_results` returned, which brings the
            grids of its sweeps; or a frame of losses that others measured (see `imported.frame`).
        grids: log2 lrs that every width of a sweep must have, by the sweep's name, where a refinement added others at
            some widths (default: those that any width of the parametrization has).
        confidence: of the intervals.
    Raises:
        ValueError: if a column is missing, confidence is not in (0, 1), runs to be compared differ in a field they
            must share (SAME), or there are two runs of one parametrization, width, lr and seed.
    """
    check_confidence(confidence)
    if isinstance(runs, pd.DataFrame):
        runs = runs_of(runs)
    else:
        results = need_results(runs, "find_optima()", kind="lr")
        runs, grids = results.runs, grids_of(results) if grids is None else grids
    for column in (*GROUP, *CELL, *RESULTS, *SAME, *(f for by in SAME_BY_MODE.values() for f in by)):
        if column not in runs:
            raise ValueError(f"runs has no column {column!r}; pass the runs table of load_results")
    lr_runs = runs[runs["kind"] == "lr"]
    optima = []
    for _, sweep_runs in lr_runs.groupby("sweep"):
        for _, comparable in sweep_runs.groupby(["optimizer", "mode"]):
            _check_comparable(comparable)
        finished = sweep_runs[sweep_runs["status"] == "ok"]
        loss_name = "val_loss" if finished["val_loss"].notna().any() else "train_loss"
        for _, group in sweep_runs.groupby(GROUP):
            planned = (grids or {}).get(str(group["sweep"].iloc[0]), _planned(group))
            grid = Grid(frozenset(planned), group["seed"].nunique())
            curves = {int(width): curve_of(cells, loss_name) for width, cells in group.groupby("width")}
            key = tuple(str(group[name].iloc[0]) for name in GROUP)
            optima += optima_of(curves, key, loss_name=loss_name, grid=grid, confidence=confidence)
    return optima


def _planned(group: pd.DataFrame) -> Collection[float]:
    """Return the lrs that every width should have: all that any has; of what others planned, those that all have."""
    if not is_imported(group):
        return set(group["log2_lr"])
    return set.intersection(*(set(cells) for _, cells in group.groupby("width")["log2_lr"]))


def optima_of(
    curves: Mapping[int, tuple[Point, ...]],
    key: tuple[str, ...],
    *,
    loss_name: str = "val_loss",
    grid: Grid | None = None,
    confidence: float = CONFIDENCE,
) -> list[Optimum]:
    """Find the best lr of each width from its curve, all of one parametrization, by rising width.

    Args:
        curves: by width.
        key: values of GROUP.
        loss_name: what the losses are.
        grid: what every width should have (default: the lrs of the first one, and as many seeds as any lr has).
        confidence: of the intervals.
    """
    if grid is None:
        n_seeds = max(len(point.seed_losses) for curve in curves.values() for point in curve)
        grid = Grid(frozenset(point.log2_lr for point in next(iter(curves.values()))), n_seeds)
    finite = [width for width, curve in sorted(curves.items()) if any(point.loss is not None for point in curve)]
    joint = fit_jointly([curves[width] for width in finite]) if finite else None
    rows = {width: row for row, width in enumerate(finite)}
    found = [
        _find_optimum(key, width, curve, loss_name, grid, confidence, joint, rows.get(width))
        for width, curve in sorted(curves.items())
    ]
    copies = {width for pair in combinations(found, 2) if _alike(*pair) for width in (pair[0].width, pair[1].width)}
    return [replace(each, flags=(*each.flags, "copied width")) if each.width in copies else each for each in found]


def _alike(one: Optimum, other: Optimum) -> bool:
    """Say whether two widths gave the same losses, to the last bit, wherever both gave any, at MIN_LRS lrs or more."""
    losses = [
        {(point.log2_lr, seed): loss for point in each.curve for seed, loss in point.seed_losses if loss is not None}
        for each in (one, other)
    ]
    shared = losses[0].keys() & losses[1].keys()
    return len({x for x, _ in shared}) >= MIN_LRS and all(losses[0][cell] == losses[1][cell] for cell in shared)


def grids_of(results: Results) -> dict[str, list[float]]:
    """Return the log2 lrs that every width must have, by sweep, where its `sweep.json` says."""
    specs = {name: resolved.get("spec", {}) for name, resolved in results.sweeps.items()}
    return {name: [math.log2(lr) for lr in spec["lrs"]] for name, spec in specs.items() if "lrs" in spec}


def distinct(column: pd.Series) -> list[object]:
    """List the distinct values, null as None and counted as one of them."""
    return list(dict.fromkeys(None if pd.isna(value) else value for value in column.drop_duplicates()))


def _check_comparable(runs: pd.DataFrame) -> None:
    """Raise ValueError naming the first field that runs of one sweep, optimizer and mode should share and do not."""
    sweep = runs["sweep"].iloc[0]
    shared = (*SAME, *same_by_mode(runs["mode"].iloc[0]))
    for field, values in (*((field, distinct(runs[field])) for field in shared), *other_settings(runs)):
        if len(values) > 1:
            raise ValueError(f"runs of sweep {sweep!r} differ in {field}: {values}; make them sweeps of their own")
    for name, group in runs.groupby("parametrization"):
        if len(distinct(group["rules_hash"])) > 1:
            raise ValueError(f"runs of sweep {sweep!r} differ in rules_hash under the name {name!r}; rename one table")
    twice = runs[runs.duplicated(CELL, keep=False)].sort_values(CELL)
    if len(twice):
        cell = ", ".join(f"{name}={twice[name].iloc[0]}" for name in CELL)
        raise ValueError(f"sweep {sweep!r} has several runs of {cell}: {list(twice['run_id'])[:2]}; keep one")


def _find_optimum(
    key: tuple[str, ...],
    width: int,
    curve: tuple[Point, ...],
    loss_name: str,
    grid: Grid,
    confidence: float,
    joint: Joint | None,
    row: int | None,
) -> Optimum:
    """Optimum of one width, `row` of the joint fit; incomplete if it lacks an lr of the group's grid, or a seed."""
    x, losses = mean_curve(curve)
    seeds = sorted({seed for point in curve for seed, _ in point.seed_losses})
    short = any(len(point.seed_losses) < grid.n_seeds for point in curve)
    flags = ["incomplete"] if short or not grid.log2_lrs <= set(x.tolist()) else []
    log2_lr = low = high = half = loss = None
    if joint is not None and row is not None:
        log2_lr = float(joint.log2_lr[row])
        found = joint.interval(np.eye(len(joint.log2_lr))[row], confidence)
        if found is not None:
            half = max(found[1], grid_floor(curve))  # for the bias that widths share and their drift does not see
            low, high = log2_lr - half, log2_lr + half
        loss = loss_at(curve, log2_lr)
        upward = bool(joint.upward[row] and fit_minimum(x, losses[None])[1][0])
        flags += _shape_flags(curve, upward, is_near_edge=sum(edge_shares(curve)) > near_edge(confidence))
        if len(seeds) > 1 and any(untold_sides(curve, confidence)):
            flags.append("within noise")
        if copied_seeds(curve):
            flags.append("copied seeds")
        below, above = open_sides(curve, flags, confidence)
        low, high = (None if below else low), (None if above else high)
    else:
        flags.append("no finite lr")
    sweep, parametrization, optimizer, mode = key
    return Optimum(
        sweep,
        parametrization,
        optimizer,
        mode,
        width=width,
        log2_lr=log2_lr,
        ci_low=low,
        ci_high=high,
        loss=loss,
        loss_name=loss_name,
        flags=tuple(flags),
        n_seeds=len(seeds),
        n_lrs=len(curve),
        curve=curve,
        half_width=half,
    )


def _shape_flags(curve: tuple[Point, ...], upward: bool, is_near_edge: bool) -> list[str]:
    """Flags of a curve whose mean is finite somewhere."""
    losses = mean_curve(curve)[1]
    finite, lowest = losses[np.isfinite(losses)], int(losses.argmin())
    flags = ["too few lrs"] if len(finite) < MIN_LRS else []
    below = lowest_below_divergence(curve)
    if below is not None:
        flags.append("above divergence" if below else "low divergence")
    if lowest == 0:
        flags.append("low edge")
    elif lowest == len(losses) - 1:
        flags.append("high edge")
    elif is_near_edge:
        flags.append("near edge")
    is_beside = 0 < lowest < len(losses) - 1 and not np.isfinite(losses[lowest - 1 : lowest + 2]).all()
    if is_beside and below is None:
        flags.append(DIVERGENCE)
    if len(finite) >= MIN_LRS and np.ptp(finite) < FLAT_RESPONSE * abs(finite.min()):
        flags.append("flat")
    if not upward:
        flags.append("not convex")
    return flags
