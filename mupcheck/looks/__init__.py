"""What is known of figures without drawing any: how a width and a table look, and how large some things are.

A width and a table have one look wherever they are drawn, in a figure or on the page. matplotlib is not needed for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle

MIN_SHARE = 0.2  # of the lowest loss: the least that a loss axis spans, so that flat looks flat
COLUMN_INCHES = {"single": 3.3, "double": 6.9}  # of a paper: one of its columns, and a page of two

# From blue to ochre, lighter as they go on, which is the way that no kind of colour blindness closes. Neighbours are
# as far apart for red-blind and green-blind eyes as for others, and the ends are seen on black and on white.
ORDER = ("#0055b9", "#a447a9", "#b94994", "#c94e7f", "#d3556a", "#da6151", "#da7531", "#c99919")
# the same shape as matplotlib and as Vega call it; a diamond is an optimum
SHAPES = (
    *(("o", "circle"), ("s", "square"), ("^", "triangle-up"), ("v", "triangle-down"), ("P", "cross")),
    *((">", "triangle-right"), ("<", "triangle-left"), ("d", "diamond")),
)


@dataclass(frozen=True)
class Look:
    """A colour "#rrggbb" and a shape: what colour tells, a shape tells too."""

    color: str
    marker: str  # of matplotlib
    shape: str  # of Vega


# a shipped table looks the same in every figure; the hues of Okabe and Ito, the light ones darker, as they lie on white
TABLES = {
    "sp": Look("#d55e00", "s", "square"),
    "sp-fanin": Look("#c58a00", "v", "triangle-down"),
    "mup": Look("#3d9bd6", "P", "cross"),
    "mup-strict": Look("#c46a9b", "D", "diamond"),
    "gdn-mup": Look("#0072b2", "o", "circle"),
    "gdn-mup-code": Look("#009e73", "^", "triangle-up"),
}


def width_looks(widths: Iterable[int]) -> dict[int, Look]:
    """Return how each width looks, by rising width: colours from end to end of ORDER, shapes in turn."""
    distinct = sorted(set(widths))
    colors = spread_colors(len(distinct))
    return {w: Look(color, *shape) for w, color, shape in zip(distinct, colors, cycle(SHAPES), strict=False)}


def table_looks(names: Iterable[str]) -> dict[str, Look]:
    """Return how each table looks: a custom one takes a look that no shipped one among them has, while there is one."""
    distinct = list(dict.fromkeys(names))
    spare = cycle([look for name, look in TABLES.items() if name not in distinct] or TABLES.values())
    return {name: TABLES[name] if name in TABLES else next(spare) for name in distinct}


def spread_colors(n: int) -> list[str]:
    """Return n colours from end to end of ORDER, mixed of neighbours where n is not of its own; of one the first."""
    return [_color_at(i * (len(ORDER) - 1) / max(n - 1, 1)) for i in range(n)]


def _color_at(place: float) -> str:
    """Return the colour at a place in ORDER, such as 1.5 for halfway between its second and third."""
    first = min(int(place), len(ORDER) - 2)
    low, high = ([int(ORDER[i][at : at + 2], 16) for at in (1, 3, 5)] for i in (first, first + 1))
    mixed = (round(a + (b - a) * (place - first)) for a, b in zip(low, high, strict=True))
    return "#" + "".join(f"{part:02x}" for part in mixed)
