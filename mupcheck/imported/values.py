"""Text as numbers, exactly and by the million; the first cell that is none is named by row and column."""

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

NOTHING = ("", "-", "–", "—", "n/a", "na", "none", "null", "<na>")  # a cell in which nothing stands
POWER = re.compile(r"^([-+]?\d+(?:\.\d+)?)\s*(?:\^|\*\*)\s*[({]?\s*([-+]?\d+(?:\.\d+)?)\s*[)}]?$")  # 2^-9
RATIO = re.compile(r"^([-+]?\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)$")  # 1/512
COMMA = re.compile(r"^[-+]?\d+,\d+(?:[eE][-+]?\d+)?$")  # 0,001 where the columns are parted otherwise
SHOWN = 40  # characters of a cell


class Cells(NamedTuple):
    """A column of numbers; `empty` where nothing stood, which is NaN in `values`, as what is NaN itself is."""

    values: NDArray[np.float64]
    empty: NDArray[np.bool_]


class Column(NamedTuple):
    """One column of a table, and how messages name its rows."""

    name: str
    data: pa.ChunkedArray
    where: Callable[[int], str]
    decimal_comma: bool = False

    def fault(self, row: int, said: str) -> NoReturn:
        """Raise ValueError that names a cell."""
        raise ValueError(f"{self.where(row)}, column {self.name!r}: {said}")


def numbers(column: Column) -> Cells:
    """Return the numbers of a column, NaN and infinities included.

    Raises:
        ValueError: if a cell is none; the message names the first such row.
    """
    data = column.data
    if pa.types.is_dictionary(data.type):
        data = data.cast(data.type.value_type)
    if pa.types.is_null(data.type):
        return Cells(np.full(len(data), np.nan), np.ones(len(data), dtype=bool))
    if pa.types.is_integer(data.type) or pa.types.is_floating(data.type) or pa.types.is_decimal(data.type):
        empty = _numpy(data.is_null(nan_is_null=False)).astype(bool)
        return Cells(_numpy(pc.cast(data, pa.float64(), safe=False)).astype(float), empty)
    if not (pa.types.is_string(data.type) or pa.types.is_large_string(data.type)):
        column.fault(0, f"holds {data.type}, not numbers; name another column")
    text = pc.utf8_trim_whitespace(data)
    empty = pc.fill_null(pc.is_in(pc.utf8_lower(text), value_set=pa.array(NOTHING, type=data.type)), True)
    text = pc.if_else(empty, pa.scalar(None, data.type), text)
    try:
        values = pc.cast(text, pa.float64())
    except pa.ArrowInvalid:
        values = _by_value(text, column)
    return Cells(_numpy(values).astype(float), _numpy(empty).astype(bool))


def texts(column: Column) -> NDArray[Any]:
    """Return a column as text, None where nothing stands."""
    data = column.data
    if pa.types.is_nested(data.type):
        column.fault(0, f"holds {data.type}, not text; name another column")
    if not pa.types.is_string(data.type):
        data = pc.cast(data, pa.string())
    text = pc.utf8_trim_whitespace(data)
    codes = _encoded(text)
    words = np.array([*(word if word and word.lower() not in NOTHING else None for word in _words(codes)), None])
    return words[codes.indices.fill_null(len(words) - 1).to_numpy(zero_copy_only=False)]


def _encoded(text: pa.Array | pa.ChunkedArray) -> pa.DictionaryArray:
    """Return text as its distinct words and, for each row, which one it is."""
    codes = (text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text).dictionary_encode()
    return codes.combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes


def _words(codes: pa.DictionaryArray) -> list[str | None]:
    return codes.dictionary.to_pylist()


def _numpy(data: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    return data.to_numpy() if isinstance(data, pa.ChunkedArray) else data.to_numpy(zero_copy_only=False)


def _by_value(text: pa.ChunkedArray, column: Column) -> pa.Array:
    """Read each distinct text once, in the ways that people write numbers in tables."""
    codes = _encoded(text)
    read: list[float | None] = []
    for i, word in enumerate(_words(codes)):
        value = number_of(str(word), decimal_comma=column.decimal_comma)
        if value is None:
            row = int(pc.index(codes.indices, i).as_py())
            shown = str(word) if len(str(word)) <= SHOWN else f"{str(word)[:SHOWN]}..."
            column.fault(row, f"{shown!r} is not a number{_hint(str(word))}")
        read.append(value)
    return pc.take(pa.array(read, type=pa.float64()), codes.indices)


def number_of(word: str, *, decimal_comma: bool = False) -> float | None:
    """Return the number that a text is, None where it is none: "1e-3", "2^-9", "1/512"."""
    if match := POWER.match(word):
        with suppress(OverflowError, ZeroDivisionError):
            value = float(match[1]) ** float(match[2])
            return value if isinstance(value, float) else None  # a root of what is below 0 is none
        return None
    if match := RATIO.match(word):
        return float(match[1]) / float(match[2]) if float(match[2]) else None
    if decimal_comma and COMMA.match(word):
        word = word.replace(",", ".")
    try:
        return None if "_" in word else float(word)
    except ValueError:
        return None


def _hint(word: str) -> str:
    if word[:1] in "[{(":
        return "; it is a list: name a column with one number a row"
    if COMMA.match(word):
        return "; write it with a point and without separators"
    if re.match(r"^[-+]?[\d.]+\s*[a-zA-Z%]", word):
        return "; write it in full, without a unit"
    return ""
