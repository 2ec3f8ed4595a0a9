"""Tables whose cells hold dicts, as those have that W&B's own example of an export writes: config and summary."""

import ast
import json
import re
from typing import Any

import pyarrow as pa

from mupcheck.imported.files import Source, flat_rows, source_of
from mupcheck.imported.values import texts

DICTS = ("config", "summary", "summary_metrics", "hparams")
NO_NUMBER = re.compile(r"(?<![\w'\"])(-?)(nan|inf|NaN|Infinity)(?![\w'\"])")  # what Python prints and does not read
LONGEST = 100_000  # characters of a cell


def as_flat(source: Source) -> Source:
    """Return a table as it is, or with a column for each entry of the dicts in its cells: config.lr, summary.loss.

    Raises:
        ValueError: if a cell that should hold a dict holds none; the message names its row.
    """
    found = [name for name in source.names if name.strip().lower() in DICTS]
    if not found:
        return source
    loaded = source.load(source.names)
    cells = {name: texts(loaded[name]) for name in found if pa.types.is_string(loaded[name].data.type)}
    cells = {name: words for name, words in cells.items() if str(words[0]).startswith("{")}
    if not cells:
        return source
    rest = {name: column.data for name, column in loaded.items() if name not in cells}
    rows: list[dict[str, Any]] = [{} for _ in next(iter(cells.values()))]
    for name, words in cells.items():
        for row, word in enumerate(words):
            entries = {} if word is None else _dict_of(str(word))
            if entries is None:
                loaded[name].fault(row, f"{str(word)[:40]!r} is no dict, as the rows above it hold")
            rows[row][name.strip().lower()] = entries
    table = flat_rows(rows, source.label)
    for name, data in rest.items():
        if name not in table.column_names:
            table = table.append_column(name, data)
    return source_of(table, source.label, source.stem, where=source.where)


def _dict_of(text: str) -> dict[str, Any] | None:
    """Return a dict as JSON or Python writes it, None where it is neither."""
    if len(text) > LONGEST:
        return None
    for read, word in ((json.loads, text), (ast.literal_eval, NO_NUMBER.sub(r"'\1\2'", text))):
        try:
            found = read(word)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        return found if isinstance(found, dict) else None
    return None
