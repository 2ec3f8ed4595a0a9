"""Frames with the columns that matter: losses or sizes that others measured, as the judges' tables.

A frame without the column run_id is such a one. Its columns may have the names that people use (`columns.NAMES`). What
it does not say is null in the table that comes of it, and the judges take null as not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from mupcheck.imported.columns import LOSSES, SIZES, choose, need
from mupcheck.imported.files import Source, source_of
from mupcheck.imported.losses import runs_of_losses
from mupcheck.imported.sizes import tables_of_sizes
from mupcheck.imported.table import Loaded, load_part
from mupcheck.results.tables import SCHEMAS

FRAME = "the frame"


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a runs table as it is, and a frame of losses as one.

    Args:
        frame: width, lr (or log2_lr) and a loss; seed, parametrization, optimizer, status, step and run where there
            are any. NaN is a run that diverged.
    Raises:
        ValueError: if a column is missing, or a cell cannot be what it should.
    """
    if "run_id" in frame and "kind" in frame:
        return frame
    return completed(runs_of_losses(_loaded(frame, LOSSES), "frame")[0])


def sizes_of(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return runs and coords of a frame of sizes.

    Args:
        frame: width, value and name; seed, step, kind, stat, layer, parametrization where there are any.
    Raises:
        ValueError: as `runs_of`.
    """
    runs, coords, _ = tables_of_sizes(_loaded(frame, SIZES), "frame")
    return completed(runs), coords


def completed(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with a column for all that a runs table has, null where nothing is said."""
    n = len(runs)
    absent: dict[str, Any] = {}
    for field in SCHEMAS["runs"]:
        if field.name not in runs:
            number = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
            absent[field.name] = np.full(n, np.nan) if number else np.full(n, None, dtype=object)
    return pd.concat([runs, pd.DataFrame(absent, index=runs.index)], axis=1)


def _loaded(frame: pd.DataFrame, holds: str) -> Loaded:
    source = source_of_frame(frame)
    chosen = choose(source.names, holds, {}, FRAME)
    try:
        need(chosen, source.names, holds, FRAME)
    except ValueError as error:
        raise ValueError(str(error).partition("; say which")[0] + "; rename its columns") from None
    return Loaded((load_part(source, chosen, {}),))


def source_of_frame(frame: pd.DataFrame) -> Source:
    """Return a frame as a source of columns; rows are counted from 0, as its own are.

    Raises:
        ValueError: if it has no rows, or a column's name twice.
    """
    names: Sequence[str] = [str(name) for name in frame.columns]
    if not len(frame) or not names:
        raise ValueError(f"{FRAME} has no rows; give a row a run")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"{FRAME} has the column {twice!r} twice; rename one")
    columns = [_array(frame.iloc[:, i]) for i in range(len(names))]
    return source_of(pa.table(columns, names=list(names)), FRAME, "frame", first=0)


def _array(column: pd.Series) -> pa.Array:
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiub":
        return pa.array(column.to_numpy())  # NaN stays what it is
    try:
        return pa.array(column)
    except (pa.ArrowException, TypeError, ValueError):
        return pa.array([None if value is None else str(value) for value in column])
