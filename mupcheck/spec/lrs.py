"""Learning rates as people write them: a list, or FROM:TO:FACTOR."""

import math
import re

MAX_RUNS = 100_000


def parse_lrs(text: str) -> tuple[float, ...]:
    """Read a list of learning rates "1e-3,2e-3", or "FROM:TO:FACTOR" with both ends included.

    2^-7 and 2^1/2 (or 2^(1/2), the square root of 2) are numbers too.

    Raises:
        ValueError: if a number is not one, is not above 0, or the factor is not above 1.
    """
    if re.search(r"[^\s,:]\s+[^\s,:]", text.strip("[] ")):
        with_commas = ",".join(text.strip("[] ").replace(",", " ").split())
        raise ValueError(f"lrs = {text!r} is not allowed; a list has commas: {with_commas}")
    if text.strip(" ,") and re.search(r"^\s*,|,\s*,", text):
        raise ValueError(f"lrs = {text!r} has an empty place; write a value between two commas")
    if ":" not in text:
        return tuple(_parse_number(part) for part in text.split(",") if part.strip())
    parts = text.split(":")
    if len(parts) != 3:
        raise ValueError(f"lrs = {text!r} is not FROM:TO:FACTOR, such as 1e-4:1e-1:2")
    first, last, factor = (_parse_number(part) for part in parts)
    if not (first > 0 and last >= first and factor > 1):
        raise ValueError(f"lrs = {text!r}: needs 0 < FROM <= TO and FACTOR > 1, such as 1e-4:1e-1:2")
    count = math.floor((math.log(last) - math.log(first)) / math.log(factor) + 1e-9) + 1
    if count > MAX_RUNS:
        raise ValueError(f"lrs = {text!r} gives {count:,} learning rates; try a larger factor")
    try:
        lrs = [first * factor**i for i in range(count)]
    except OverflowError:
        raise ValueError(f"lrs = {text!r} spans more than a float holds; try a smaller range") from None
    if math.isclose(lrs[-1], last, rel_tol=1e-9):
        lrs[-1] = last  # a rounding error would make it another lr, and another run
    return tuple(lrs)


def _parse_number(text: str) -> float:
    try:
        base, caret, exponent = text.strip().partition("^")
        value = float(base) ** _parse_exponent(exponent) if caret else float(base)
    except (ValueError, OverflowError, ZeroDivisionError):
        value = math.nan
    if isinstance(value, complex) or not math.isfinite(value):
        raise ValueError(f"lrs: {text.strip()!r} is not a number above 0; write 0.001, 1e-3 or 2^-10")
    return value


def _parse_exponent(text: str) -> float:
    """Read -7, -1.5, 1/2 or (1/2): a fraction is all of it exponent."""
    if text.startswith("(") and text.endswith(")"):
        text = text[1:-1]
    above, slash, below = text.partition("/")
    return int(above) / int(below) if slash else float(above)
