"""Sizes laid out by quantity, seed and width, and one line fitted through the widths of each seed."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import nan

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.coded import beside, keys, numbered, spelled
from mupcheck.learning_rates.quantiles import t_ppf
from mupcheck.results.comparable import GROUP, SAME_BY_MODE, other_settings, same_by_mode
from mupcheck.theory.required import OWN

Columns = dict[str, NDArray]  # by name, of equal length
SITE = ["kind", "stat", "site"]
QUANTITY = ["kind", "stat", "site", "layer", "step"]

# What all runs of a group must share; widths legitimately differ in the rest (n_params, and by mode the head shapes).
SAME = (
    "rules_hash", "base_width", "lr", "weight_decay", "decay_mode", "momentum", "schedule", "warmup_steps", "clip",
    "n_layers", "tied", "vocab_size", "batch_size", "seq_len", "steps", "data", "data_hash", "dtype", "backend",
)  # fmt: skip
SAME_OF_OWN = ("tied", "dtype")  # of a user's own model lr and decay are what its optimizer makes of them


@dataclass(frozen=True)
class Grid:
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


def need_columns(table: pd.DataFrame, name: str, columns: Iterable[str]) -> None:
    """Raise ValueError if a table lacks a column."""
    if missing := [column for column in columns if column not in table]:
        raise ValueError(f"{name} has no column {missing[0]!r}; pass the tables that load_results returned")


def need_tables(runs: pd.DataFrame, coords: pd.DataFrame) -> None:
    """Raise ValueError if a table lacks a column that slopes are fitted by."""
    fields = (*SAME, *(field for by_mode in SAME_BY_MODE.values() for field in by_mode))
    need_columns(runs, "runs", ("run_id", "kind", "width", "seed", "status", *GROUP, *fields))
    need_columns(coords, "coords", ("run_id", "value", *QUANTITY))


def joined(runs: pd.DataFrame, coords: pd.DataFrame) -> pd.DataFrame:
    """Give each row of `coords` its run's width and seed; rows of other runs and of those that failed are left out."""
    return beside(coords, runs[runs["status"] != "failed"], ("width", "seed"))


def fixed_sites(runs: pd.DataFrame, coords: pd.DataFrame) -> frozenset[str]:
    """Return the sites of parameters that have as many values in all of these runs."""
    counts = coords[(coords["stat"] == "n_values") & coords["run_id"].isin(runs["run_id"])]
    n_sizes = counts.groupby("site", observed=True)["value"].nunique()
    return frozenset(n_sizes.index[n_sizes == 1])


def check_once(coords: pd.DataFrame) -> None:
    """Raise ValueError if a run has two rows of one quantity: which of them was measured cannot be told."""
    key = keys(coords, ["run_id", *QUANTITY])
    twice = coords[coords.duplicated(["run_id", *QUANTITY]) if key is None else pd.Index(key).duplicated()]
    if len(twice):
        row = twice.iloc[0]
        place = f"{row['kind']} {row['stat']} of {row['site']}, layer {row['layer']}, step {row['step']}"
        raise ValueError(f"coords has two rows of {place} of run {row['run_id']}; remove one of them")


def check_comparable(group: pd.DataFrame, key: tuple[str, ...]) -> None:
    """Refuse runs that differ in more than width and seed: their slope would not be one of width alone."""
    mode = group["mode"].iloc[0]
    shared = SAME_OF_OWN if mode == OWN else (*SAME, *same_by_mode(mode))
    for field, found in (*((field, group[field].unique()) for field in shared), *other_settings(group)):
        if len(found) > 1:
            raise ValueError(
                f"runs of {' '.join(key)} differ in {field} ({found[0]} and {found[1]}), so a slope over their widths "
                "means nothing; give each its own sweep name"
            )
    twice = group[group.duplicated(["width", "seed"])]
    if len(twice):
        width, seed = twice["width"].iloc[0], twice["seed"].iloc[0]
        raise ValueError(f"{' '.join(key)} has two runs of width {width} and seed {seed}; remove one of them")


def lay_out(group: pd.DataFrame, rows: pd.DataFrame) -> Grid:
    """Lay the rows of one group out as [quantity, seed, width], with holes where a run has no such row."""
    # runs that failed count here, so that a width nobody finished is missed rather than forgotten
    seeds, widths = np.unique(group["seed"].to_numpy()), np.unique(group["width"].to_numpy())
    which, first = numbered(rows, QUANTITY)
    if (which < 0).any():  # what has no name is of no quantity
        rows, which = rows[which >= 0], which[which >= 0]
    quantities = spelled(rows[QUANTITY].iloc[first].reset_index(drop=True))
    cell = (
        which,
        np.searchsorted(seeds, rows["seed"].to_numpy()),
        np.searchsorted(widths, rows["width"].to_numpy()),
    )
    values = np.full((len(quantities), len(seeds), len(widths)), nan)
    present = np.zeros(values.shape, dtype=bool)
    values[cell], present[cell] = rows["value"].to_numpy(dtype=float), True
    return Grid(quantities, seeds, widths, values, present)


def fit_grid(grid: Grid, confidence: float) -> Columns:
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
    half = t_ppf((1 + confidence) / 2, np.maximum(dof, 1)) * stderr
    return {
        "slope": slope,
        "slope_stderr": np.where(usable, stderr, nan),
        "ci_low": slope - half,
        "ci_high": slope + half,
        "n_seeds": n,
    }
