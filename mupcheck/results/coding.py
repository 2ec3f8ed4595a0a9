"""Names in millions of rows as codes: read off a Parquet file as they stand there, never spelled out.

Parquet keeps a column of names as codes already. Of 5.3 million rows of coords four columns of text take two seconds
to spell, and two thirds of the memory of the table; as codes a tenth of either.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    import pandas as pd

NAMES = {"coords": ("run_id", "site", "kind", "stat")}  # columns of a table that has the same few names in many rows
CODES = pa.dictionary(pa.int32(), pa.string())


def with_codes(tables: Iterable[pa.Table], columns: Collection[str]) -> list[pa.Table]:
    """Return the rows of tables, in their order, with columns of text as dictionaries; those that are stay.

    Args:
        tables: of one schema, but for such columns.
        columns: of each of them.
    """
    # of a thousand small tables, as of runs that are not compacted, each would be coded by itself
    alike = groupby(
        tables, key=lambda table: [pa.types.is_dictionary(table.schema.field(each).type) for each in columns]
    )
    return [_coded(pa.concat_tables(some), columns) for _, some in alike]


def _coded(table: pa.Table, columns: Collection[str]) -> pa.Table:
    for name in columns:
        at, field = table.schema.get_field_index(name), table.schema.field(name)
        if not pa.types.is_dictionary(field.type):
            table = table.set_column(at, field.with_type(CODES), table[name].dictionary_encode().cast(CODES))
    return table


def in_order(names: pd.Series) -> pd.Series:
    """Return categories in the order of the alphabet and none that no row has, as astype("category") makes them."""
    import numpy as np
    import pandas as pd

    if names.empty:  # of which pandas does not know that they would be text
        return pa.array([], pa.string()).to_pandas().astype("category").rename(names.name)
    codes, categories = names.cat.codes.to_numpy(), names.cat.categories
    here = np.bincount(codes[codes >= 0], minlength=len(categories)) > 0
    order = [place for place in categories.argsort() if here[place]]
    if order == list(range(len(categories))):
        return names
    places = np.full(len(categories) + 1, -1)  # the last is that of a row without a name
    places[order] = np.arange(len(order))
    made = pd.Categorical.from_codes(places[codes], dtype=pd.CategoricalDtype(categories[order]))
    return pd.Series(made, index=names.index, name=names.name)
