"""What a finding is drawn from: the runs of one group, and what they measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.coded import numbered, spelled
from mupcheck.results.path import Path
from mupcheck.theory.parametrization import Table

Place = tuple[str, int, int]
PLACE = ["site", "layer", "width"]


@dataclass(frozen=True)
class Check:
    """The runs of one group and what they measured.

    Attributes:
        runs: rows of the `runs` table.
        coords: rows of the `coords` table of those that did not fail, with width and seed; `coded` or not.
        diagnostics: medians over seeds of the finite ones.
        table: what the runs should have followed, None where it is not known.
        missing, planned: runs that the sweep asked for and that are not there, and all that it asked for.
        paths: how the backend compares with the reference, where that is known.
        steps: rows of the `steps` table; none where it was not loaded.
    """

    runs: pd.DataFrame
    coords: pd.DataFrame
    diagnostics: pd.DataFrame
    table: Table | None
    missing: int
    planned: int
    paths: tuple[Path, ...] = ()
    steps: pd.DataFrame = field(default_factory=pd.DataFrame)
    _sizes: dict[tuple[str, str], pd.DataFrame] = field(default_factory=dict, init=False, repr=False, compare=False)

    def shared(self, name: str) -> str:
        """Return what all runs have in a column."""
        return str(self.runs[name].iloc[0])

    def of(self, stat: str) -> pd.DataFrame:
        """Return the diagnostics of one stat: width, layer, site, step, value."""
        return self.diagnostics[self.diagnostics["stat"] == stat]

    def rows(self, which: pd.Series) -> pd.DataFrame:
        """Return some rows of coords, their names as text."""
        return spelled(self.coords[which])

    def sizes(self, kind: str, stat: str = "rms") -> pd.DataFrame:
        """Return what the runs that did not diverge measured of one kind: width, seed, layer, site, step, value."""
        if (kind, stat) not in self._sizes:
            whole = self.runs.loc[self.runs["status"] == "ok", "run_id"]
            rows = self.coords[(self.coords["kind"] == kind) & (self.coords["stat"] == stat)]
            rows = rows[rows["run_id"].isin(whole)]
            self._sizes[kind, stat] = spelled(rows[["width", "seed", "layer", "site", "step", "value"]])
        return self._sizes[kind, stat].copy()


def medians_of(rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the medians over seeds of the finite diagnostics among rows of coords, with `by` told apart as well."""
    rows = rows[(rows["kind"] == "diagnostic") & np.isfinite(rows["value"])]
    key = [*by, "width", "layer", "site", "stat", "step"]
    return spelled(rows.groupby(key, as_index=False, observed=True)["value"].median())


def by_place(rows: pd.DataFrame) -> Iterator[tuple[Place, NDArray[np.float64], list[int]]]:
    """Yield each site, layer and width, in order, with the values of its rows and their seeds."""
    numbers, first = numbered(rows, PLACE)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(first) + 1))
    values, seeds = (rows[name].to_numpy()[order] for name in ("value", "seed"))
    places = zip(*(rows[name].iloc[first].tolist() for name in PLACE), strict=True)
    for place, (start, end) in zip(places, pairwise(ends), strict=True):
        yield place, values[start:end].astype(float), seeds[start:end].tolist()
