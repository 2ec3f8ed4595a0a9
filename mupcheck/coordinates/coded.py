"""Rows of coords in the millions: names as codes, so that they are compared, grouped and joined by number.

Text in millions of rows takes most of the time of a judgement. Who groups rows that are `coded` says observed=True, as
pandas 2 else makes a group of every combination of codes; what leaves the judgement is `spelled`.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

NAMES = ("run_id", "site", "kind", "stat")


def coded(coords: pd.DataFrame) -> pd.DataFrame:
    """Return coords whose names are categories, in the order of the alphabet; what is coded stays."""
    return coords.astype(dict.fromkeys([name for name in NAMES if name in coords], "category"))


def spelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose names are text again."""
    names = [name for name in NAMES if name in rows and isinstance(rows[name].dtype, pd.CategoricalDtype)]
    text = {}
    for name in names:
        # five times as fast as astype, which reads every name anew
        array = rows[name].cat.categories.array.take(rows[name].cat.codes.to_numpy(), allow_fill=True)
        text[name] = pd.Series(array, index=rows.index)
    return rows.assign(**text)


def beside(coords: pd.DataFrame, runs: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Return the rows of coords that are of these runs, with columns of the runs beside them.

    Args:
        runs: each run_id once.
    """
    codes, ids = pd.factorize(coords["run_id"])
    # a row without a run_id has code -1, which takes the last place
    places = np.append(pd.Index(runs["run_id"]).get_indexer(np.asarray(ids)), -1)[codes]
    if (places < 0).any():
        coords, places = coords[places >= 0], places[places >= 0]
    return coords.assign(**{name: runs[name].array.take(places) for name in columns})
