"""One table out of one file or several: its columns by what they are, read when they are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mupcheck.imported.columns import FILE, LOSSES, NAMES, STEMS, plain
from mupcheck.imported.files import Source
from mupcheck.imported.values import Cells, Column, numbers, texts

MOST_ROWS = 3  # that a message names
# what two rows of one cell have in common, or which is not what should tell them apart
SAME = (
    "width",
    *STEMS["lr"],
    *STEMS["loss"],
    "seed",
    "parametrization",
    "optimizer",
    "mode",
    "value",
    "name",
    "status",
)
# what came of a run is nothing that tells it from another
NOT_APART = {name for key in STEMS["loss"] for name in NAMES[LOSSES][key]}


@dataclass(frozen=True)
class Part:
    """What is used of one file: columns by key, of the rows that are `kept`."""

    source: Source
    columns: Mapping[str, str]
    loaded: Mapping[str, Column]
    kept: NDArray[np.int64]

    def where(self, row: int) -> str:
        """Name a row, counted from 0 among those that are kept."""
        return self.source.where(int(self.kept[row]))


@dataclass(frozen=True)
class Loaded:
    """The rows of all files under each other. `told` is what reading found, for the line that says what was read."""

    parts: tuple[Part, ...]
    told: dict[str, str] = field(default_factory=dict)

    @cached_property
    def columns(self) -> dict[str, str]:
        """Return the column of each key that any file has, as the first that has it calls it."""
        merged: dict[str, str] = {}
        for part in self.parts:
            merged = dict(part.columns) | merged
        return merged

    @property
    def label(self) -> str:
        """Return what the table is called in messages."""
        return self.parts[0].source.label

    @property
    def n_rows(self) -> int:
        """Return how many rows there are."""
        return sum(len(part.kept) for part in self.parts)

    @property
    def key_of_lr(self) -> str:
        """Return under which key the learning rates are."""
        return next(key for key in STEMS["lr"] if key in self.columns)

    def place(self, row: int) -> tuple[Part, int]:
        """Return the part that a row is in, and its place there."""
        for part in self.parts:
            if row < len(part.kept):
                return part, row
            row -= len(part.kept)
        raise IndexError(row)

    def where(self, row: int) -> str:
        """Name a row: "runs.csv row 7"."""
        part, at = self.place(row)
        return part.where(at)

    def column(self, key: str) -> Column:
        """Return a key's column, for what is to be said of it; its rows are those of the whole table."""
        return Column(self.columns[key], pa.chunked_array([], pa.null()), self.where)

    def numbers(self, key: str) -> Cells:
        """Return the numbers of a key; empty in a file that lacks it."""
        read = [self._numbers(part, key) for part in self.parts]
        return Cells(np.concatenate([each.values for each in read]), np.concatenate([each.empty for each in read]))

    def texts(self, key: str) -> NDArray[np.object_]:
        """Return a key as text, None where nothing stands."""
        read = []
        for part in self.parts:
            name = part.columns.get(key)
            if name == FILE:
                read.append(np.full(len(part.kept), part.source.stem, dtype=object))
            elif name is None:
                read.append(np.full(len(part.kept), None, dtype=object))
            else:
                read.append(texts(part.loaded[key]).astype(object))
        return np.concatenate(read)

    def _numbers(self, part: Part, key: str) -> Cells:
        name = part.columns.get(key)
        if name is None:
            return Cells(np.full(len(part.kept), np.nan), np.ones(len(part.kept), dtype=bool))
        if name == FILE:
            raise ValueError(f"{part.source.label}: a file's name is no {key}")
        return numbers(part.loaded[key])

    def apart(self, rows: Sequence[int]) -> str:
        """Say what tells two rows of one run apart, and what to do about them."""
        (one, a), (other, b) = self.place(int(rows[0])), self.place(int(rows[1]))
        if one is not other:
            return "; say what the files are: --columns parametrization=FILE, or seed=FILE"
        same = {column for key, column in one.columns.items() if key in SAME}
        names = [name for name in one.source.names if name not in same and plain(name) not in NOT_APART]
        both = [int(one.kept[a]), int(one.kept[b])]
        for name in names:
            pair = one.source.load([name])[name].data.take(both).to_pylist()
            if pair[0] != pair[1]:
                seen = " and ".join(repr(value)[:30] for value in pair)
                return (
                    f"; they differ in {name} ({seen}): take one with --where {name}=VALUE, or say what it is, such as "
                    f"--columns seed={name} or parametrization={name}"
                )
        more = "" if "seed" in self.columns else ", or add a column seed"
        return f" and nothing else tells them apart; remove one{more}"


def load_part(source: Source, columns: Mapping[str, str], wheres: Mapping[str, str]) -> Part:
    """Read what is used of a table.

    Args:
        columns: by key.
        wheres: of the rows, value by column: only those that have it are kept.
    Raises:
        ValueError: if a column of `wheres` is not there, or no row is left.
    """
    for name in wheres:
        if name not in source.names:
            raise ValueError(f"--where: {source.label} has no column {name!r}; it has {', '.join(source.names[:12])}")
    in_file = {key: name for key, name in columns.items() if name != FILE}
    found = source.load(list(dict.fromkeys([*in_file.values(), *wheres])))
    n_rows = len(next(iter(found.values())).data)
    mask = np.ones(n_rows, dtype=bool)
    for name, value in wheres.items():
        mask &= _is(found[name], value)
        if not mask.any():
            seen = sorted({str(word) for word in texts(found[name])})[:6]
            raise ValueError(f"--where {name}={value} leaves no row of {source.label}; there is {', '.join(seen)}")
    kept = np.flatnonzero(mask)

    def where(row: int) -> str:
        return source.where(int(kept[row]))

    loaded = {}
    for key, name in in_file.items():
        data = found[name].data if len(kept) == n_rows else found[name].data.filter(pa.array(mask))
        loaded[key] = found[name]._replace(data=data, where=where)
    return Part(source, dict(columns), loaded, kept)


def _is(column: Column, value: str) -> NDArray[np.bool_]:
    """Return which cells are a value: as text, or as the number that both are."""
    words = texts(column)
    same = np.asarray(words == value)
    try:
        return same | (numbers(column).values == float(value))
    except ValueError:
        return same


def rows_text(table: Loaded, rows: Sequence[int] | NDArray[np.int64]) -> str:
    """Name rows: "runs.csv rows 3 and 9"."""
    named = [table.where(int(row)) for row in list(rows)[:MOST_ROWS]]
    files, numbers_ = zip(*(name.rsplit(" row ", 1) for name in named), strict=True)
    if len(set(files)) > 1 or len(named) == 1:
        return " and ".join(named)
    return f"{files[0]} rows {', '.join(numbers_[:-1])} and {numbers_[-1]}"


def need_whole(table: Loaded, columns: Mapping[str, NDArray[np.float64]]) -> None:
    """Raise ValueError if a cell is empty that may not be."""
    for key, values in columns.items():
        missing = np.isnan(values)
        if missing.any():
            table.column(key).fault(int(missing.argmax()), f"nothing stands where the {key} should")
