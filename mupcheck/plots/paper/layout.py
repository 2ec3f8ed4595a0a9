"""What the figures of a paper share: their widths, names of parametrizations, line patterns, and the legend on top."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mupcheck.plots import canvas
from mupcheck.plots.frame import cut, legend_rows

POINTS, TICK_POINTS = 8.0, 7.0  # of text; of numbers at ticks
LEGEND_LINE, ENTRY_INCHES = 0.15, 0.35  # height of a line; of an entry, beside its text
TITLE = 0.18  # inches over a panel
EDGE, GAP = 0.06, 0.1  # at the figure's edge; between panels that share an axis, inches
TICKS = 0.3  # left of a panel, for the numbers of its axis, inches
UNDER = 0.4  # below a panel, for the numbers and the name of its axis, inches
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (7, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
# as a paper writes the shipped tables; others are called as they are
NAMES = {
    "sp": "SP",
    "sp-fanin": "SP (fan-in)",
    "mup": "μP",
    "mup-strict": "μP (strict)",
    "gdn-mup": "μP (GDN)",
    "gdn-mup-code": "μP (GDN code)",
}


def make_figure(width: float, panels: float, lines: Sequence[Artist], marks: Sequence[Artist]) -> Figure:
    """Return a figure so many inches wide, with `panels` inches for panels below its legend.

    The legend's lines and marks share a row, or each have their own.
    """
    rows = _rows([*lines, *marks], width)
    if len(rows) > 1:
        rows = _rows(lines, width) + _rows(marks, width)
    total = EDGE + LEGEND_LINE * len(rows) + panels
    figure = canvas.Drawing(figsize=(width, total))
    figure.style = "paper"
    for i, row in enumerate(rows):
        figure.legend(
            handles=row, loc="upper center", bbox_to_anchor=(0.5, 1 - (EDGE + i * LEGEND_LINE) / total),
            ncols=len(row), fontsize=POINTS, handlelength=2.0, columnspacing=0.9, handletextpad=0.4,
        )  # fmt: skip
    return figure


def _rows(handles: Sequence[Artist], width: float) -> list[list[Artist]]:
    return list(legend_rows(handles, width - 2 * EDGE, points=POINTS, entry=ENTRY_INCHES))


def entries(what: str, values: Sequence[int], looks: Sequence[tuple[Any, str]]) -> list[Artist]:
    """Return legend entries of values in order, such as "width 128", "256", "512", each with its pattern."""
    return [
        Line2D(
            [], [], color=color, marker=marker, markersize=3.2, markeredgewidth=0, linewidth=1.1, linestyle=dash,
            label=f"{what} {value}" if i == 0 else str(value),
        )
        for i, (value, (color, marker), dash) in enumerate(zip(values, looks, cycle(DASHES), strict=False))
    ]  # fmt: skip


def dash_of(i: int) -> Any:
    """Return the pattern of the i-th line of those that have an order."""
    return DASHES[i % len(DASHES)]


def name_panel(page: Axes, x: float, y: float, parametrization: str, room: float) -> None:
    """Write over a panel of `room` inches whose it is, its lower left corner at x, y of the page."""
    page.text(x, y, cut(called(parametrization), room, points=POINTS, bold=True), fontweight="bold", fontsize=POINTS)


def called(parametrization: str) -> str:
    """Return how a paper calls a parametrization."""
    return NAMES.get(parametrization, parametrization)


def whole(power: float) -> str:
    """Return a whole number with a true minus sign."""
    return f"{power:g}".replace("-", "−")
