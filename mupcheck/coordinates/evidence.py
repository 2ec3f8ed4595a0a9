"""What a finding is drawn from: the runs of one group, and what they measured."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.coordinates.coded import numbered, places, spelled
from mupcheck.results.path import Path
from mupcheck.theory.parametrization import Table

Place = tuple[str, int, int]
PLACE = ["site", "layer", "width"]
NOWHERE = np.array([], dtype=np.int64)


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

    @cached_property
    def _first(self) -> dict[str, Any]:
        return dict(self.runs.iloc[0])

    @cached_property
    def _whole(self) -> tuple[pd.DataFrame, dict[tuple, NDArray[np.int64]]]:
        """Return the sizes of runs that did not diverge, and the places of each kind and stat among them."""
        ids = self.runs.loc[self.runs["status"] == "ok", "run_id"]
        rows = self.coords[self.coords["run_id"].isin(ids)]
        return rows[["width", "seed", "layer", "site", "step", "value"]], places(rows, ["kind", "stat"])

    @cached_property
    def _diagnostics(self) -> dict[tuple, NDArray[np.int64]]:
        return places(self.diagnostics, ["stat"])

    def shared(self, name: str) -> str:
        """Return what all runs have in a column."""
        return str(self._first[name])

    def of(self, stat: str) -> pd.DataFrame:
        """Return the diagnostics of one stat: width, layer, site, step, value."""
        return self.diagnostics.iloc[self._diagnostics.get((stat,), NOWHERE)]

    def rows(self, which: pd.Series) -> pd.DataFrame:
        """Return some rows of coords, their names as text."""
        return spelled(self.coords[which])

    def sizes(self, kind: str, stat: str = "rms") -> pd.DataFrame:
        """Return what the runs that did not diverge measured of one kind: width, seed, layer, site, step, value."""
        if (kind, stat) not in self._sizes:
            rows, found = self._whole
            self._sizes[kind, stat] = spelled(rows.iloc[found.get((kind, stat), NOWHERE)])
        return self._sizes[kind, stat].copy()


def medians_of(rows: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Return the medians over seeds of the finite diagnostics among rows of coords, with `by` told apart as well."""
    rows = rows[(rows["kind"] == "diagnostic") & np.isfinite(rows["value"])]
    key = [*by, "width", "layer", "site", "stat", "step"]
    numbers, first = numbered(rows, key)
    medians = rows["value"].groupby(numbers).median().loc[0:]
    return spelled(rows[key].iloc[first].reset_index(drop=True).assign(value=medians.to_numpy()))


def by_place(rows: pd.DataFrame) -> Iterator[tuple[Place, NDArray[np.float64], list[int]]]:
    """Yield each site, layer and width, in order, with the values of its rows and their seeds."""
    values, seeds = rows["value"].to_numpy(), rows["seed"].to_numpy()
    for (site, layer, width), at in places(rows, PLACE).items():
        yield (site, layer, width), values[at].astype(float), seeds[at].tolist()
