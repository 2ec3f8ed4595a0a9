"""Rows of coords in the millions: names as codes, so that they are compared, grouped and joined by number.

Text in millions of rows takes most of the time of a judgement. Who groups rows that are `coded` says observed=True, as
pandas 2 else makes a group of every combination of codes; what leaves the judgement is `spelled`.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mupcheck.results import coding

NAMES = coding.NAMES["coords"]


def coded(coords: pd.DataFrame) -> pd.DataFrame:
    """Return coords whose names are categories, in the order of the alphabet; what is coded stays."""
    return coords.astype(dict.fromkeys([name for name in NAMES if name in coords], "category"))


def spelled(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows whose names are text again."""
    text = {}
    for name in (name for name in NAMES if name in rows):
        held = rows[name].array
        if isinstance(held, pd.Categorical):
            # five times as fast as astype, which reads every name anew
            text[name] = held.categories.array.take(held.codes, allow_fill=True)
    return rows.assign(**text)


def keys(rows: pd.DataFrame, columns: Sequence[str]) -> NDArray[np.int64] | None:
    """Return one number a row that tells these columns apart, and rises as they do, the first column first.

    A tenth of the time that pandas takes to group, to sort or to look for the same rows by five columns is enough to
    do it by one. None where a row lacks a name or a number, a column is of floats, or the numbers would not fit.

    Args:
        columns: of names, `coded` or not, and of integers.
    """
    total, most = np.zeros(len(rows), dtype=np.int64), 1
    for name in columns if len(rows) else ():
        column = rows[name]
        if not pd.api.types.is_numeric_dtype(column.dtype):
            held = column if isinstance(column.dtype, pd.CategoricalDtype) else column.astype("category")
            digits = held.array.codes.astype(np.int64)
        elif pd.api.types.is_float_dtype(column.dtype) or column.hasnans:
            return None
        else:
            digits = column.to_numpy(dtype=np.int64)
            digits = digits - digits.min()
        if digits.min() < 0 or most * (int(digits.max()) + 1) >= 2**62:
            return None
        total = total * (int(digits.max()) + 1) + digits
        most *= int(digits.max()) + 1
    return total


def numbered(rows: pd.DataFrame, columns: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return which of the different values of columns each row has, and the place of the first row of each.

    They are in order, the first column first, as `groupby` has them; a row that lacks one has number -1.
    """
    if (key := keys(rows, columns)) is None:
        numbers = rows.groupby(list(columns), observed=True).ngroup().fillna(-1).to_numpy(dtype=np.int64)
        found = numbers.max(initial=-1) + 1
    else:
        numbers, values = pd.factorize(key, sort=True)
        found = len(values)
    first = np.empty(found + 1, dtype=np.int64)
    first[numbers[::-1]] = np.arange(len(rows))[::-1]  # what is written last stays
    return numbers, first[:found]


def places(rows: pd.DataFrame, columns: Sequence[str]) -> dict[tuple, NDArray[np.int64]]:
    """Return the places of the rows that have each of the different values of columns, in their order."""
    numbers, first = numbered(rows, columns)
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(first) + 1))
    values = zip(*(rows[name].iloc[first].tolist() for name in columns), strict=True)
    return {value: order[start:end] for value, (start, end) in zip(values, pairwise(ends), strict=True)}


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
