"""Coordinate size against width, for a paper: a column for each parametrization, a row for each site, log2 on log2.

What is drawn in a panel, and which layer and step of a site are judged there, is as in the figures of a page.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mupcheck.imported.sizes import SIZE
from mupcheck.plots import canvas
from mupcheck.plots.canvas import Floats
from mupcheck.plots.coordinates import by_place, place_of, points_of, shown_slopes
from mupcheck.plots.frame import cut_front, text_inches
from mupcheck.plots.panels import (
    MIN_OCTAVES,
    NOT_FINITE,
    ZERO,
    Panel,
    draw_required,
    draw_step,
    shared_span,
)
from mupcheck.plots.paper.layout import (
    EDGE,
    GAP,
    POINTS,
    TICK_POINTS,
    TICKS,
    TITLE,
    UNDER,
    dash_of,
    entries,
    make_figure,
    name_panel,
    whole,
)

MOST_TABLES = {"single": 3, "double": 5}  # side by side; what is more goes on below
BLOCKS = {"single": {1: 2}, "double": {1: 4, 2: 2}}  # sites side by side, by how many tables each has; else 1
MOST_ROWS = {"single": 3, "double": 3}  # of sites
HEIGHT = 0.85  # of a panel, inches
AXIS, SITE = 0.19, 0.16  # inches for what all sizes are, at the left edge; for the name of a site, right of its panels
BETWEEN = 0.12  # rows, inches


def drawn_sites(slopes: pd.DataFrame, columns: str) -> tuple[list[dict], list[dict]]:
    """Return of the sites those that a figure of so many columns has room for, and the rest; failing ones first."""
    rows = shown_slopes(slopes)
    n_tables = slopes["parametrization"].nunique()
    room = MOST_ROWS[columns] * BLOCKS[columns].get(n_tables, 1)
    return rows[:room], rows[room:]


def draw_coordinates(
    sizes: pd.DataFrame, slopes: pd.DataFrame, columns: str, size: float, *, least: float = MIN_OCTAVES
) -> Figure:
    """Draw sizes against width: points are seeds, lines means, one for each step; dashed what is required.

    Args:
        sizes: of one kind and stat: columns parametrization, site, layer, step, width, seed, value.
        slopes: the rows of `fit_slopes` for them; parametrizations are drawn in their order there.
        columns: "single" or "double".
        size: width of the figure, inches.
        least: octaves that a panel's y axis spans at least.
    """
    rows, _ = drawn_sites(slopes, columns)
    names = list(dict.fromkeys(slopes["parametrization"]))
    values, points = points_of(sizes, rows, names)
    steps = sorted({int(step) for step in sizes["step"]})
    looks = canvas.ordered_looks(steps)
    panels, total = lay_out(points, columns, size, least=least)
    lines = entries("step", list(looks), list(looks.values()))
    figure = make_figure(size, total, lines, _marks(values, slopes))
    page = canvas.add_page(figure)
    widths = sorted(sizes["width"].unique())
    _draw_axes(page, rows, names, panels, widths)
    judged = by_place(slopes)
    for row, of_row, points_of_row in zip(rows, panels, points, strict=True):
        for name, panel, each in zip(names, of_row, points_of_row, strict=True):
            slope = judged.get((name, *place_of(row), row["step"]))
            if slope is not None:
                draw_required(page, panel, slope, each[1:, each[0] == slope["step"]])
    flat, flat_points = [panel for row in panels for panel in row], [each for row in points for each in row]
    for i, (step, look) in enumerate(looks.items()):
        of_step = [each[1:, each[0] == step] for each in flat_points]
        draw_step(page, flat, of_step, *look, dash=dash_of(i))
    middle = (panels[0][0].bottom + HEIGHT + panels[-1][-1].bottom) / 2
    kind, stat = slopes["kind"].iloc[0], slopes["stat"].iloc[0]
    short = f"log₂ {stat}"
    what = short if kind == SIZE else f"{short} of {kind.replace('_', ' ')}"
    # the caption says of what, where one row leaves no room
    fits = text_inches(what, points=POINTS) / 2 < min(middle, figure.get_size_inches()[1] - middle) - EDGE
    page.text(EDGE, middle, what if fits else short, rotation=90, va="center", fontsize=POINTS)
    return figure


def lay_out(
    points: Sequence[Sequence[Floats]], columns: str, size: float, *, least: float
) -> tuple[list[list[Panel]], float]:
    """Return a panel for each parametrization of each site, and how high they are together, inches.

    Panels of a site share their limits, and all of them their span, as on a page.
    """
    n_tables = len(points[0])
    side, blocks = min(n_tables, MOST_TABLES[columns]), BLOCKS[columns].get(n_tables, 1)
    blocks = min(blocks, len(points))
    block = (size - AXIS - EDGE - GAP * (blocks - 1)) / blocks
    wide = (block - TICKS - SITE - GAP * (side - 1)) / side
    lines = -(-n_tables // side)  # of panels, of one site
    n_rows = -(-len(points) // blocks)
    pitch = HEIGHT + (TITLE if lines > 1 else BETWEEN)
    total = UNDER + n_rows * lines * pitch - (0 if lines > 1 else BETWEEN - TITLE)
    heights = [np.concatenate([y for _, _, y in row]) for row in points]
    shared = shared_span(heights, least=least)
    xlim = canvas.width_limits(np.concatenate([x for row in points for _, x, _ in row]))
    placed = []
    for i, y in enumerate(heights):
        row, column = divmod(i, blocks)
        left = AXIS + column * (block + GAP) + TICKS
        ylim = canvas.span(y, least=shared)
        placed.append(
            [
                Panel(
                    left=left + j % side * (wide + GAP),
                    bottom=UNDER + ((n_rows - row) * lines - 1 - j // side) * pitch,
                    xlim=xlim, ylim=ylim, width=wide, height=HEIGHT,
                )
                for j in range(n_tables)
            ]
        )  # fmt: skip
    return placed, total


def _marks(values: Floats, slopes: pd.DataFrame) -> list[Artist]:
    """Return the legend entries of what is drawn beside the steps."""
    found: list[Artist] = []
    if slopes["required_high"].notna().any():
        found.append(Line2D([], [], color=canvas.INK, linestyle=canvas.DASHED, linewidth=0.9, label="required"))
    if (values[2] == -np.inf).any():
        found.append(canvas.handle("zero", color=canvas.GREY, marker=ZERO))
    if (np.isnan(values[2]) | (values[2] == np.inf)).any():
        found.append(canvas.handle("not finite", color=canvas.GREY, marker=NOT_FINITE))
    return found


def _draw_axes(
    page: Axes, rows: Sequence[dict], names: Sequence[str], panels: Sequence[Sequence[Panel]], widths: Sequence[int]
) -> None:
    """Draw axes, grid, numbers and names: of sites right of their panels, of parametrizations over the highest."""
    bottoms: dict[float, list[float]] = {}
    for panel in (panel for row in panels for panel in row):
        bottoms.setdefault(panel.left, []).append(panel.bottom)
    several = len({panel.bottom for panel in panels[0]}) > 1
    small: dict[str, Any] = {"fontsize": TICK_POINTS, "color": canvas.GREY}
    grid, spines = [], []
    for site, row in zip(rows, panels, strict=True):
        first = row[0]
        name = site["site"] + (f"[{site['layer']}]" if site["layer"] >= 0 else "")
        # over all its panels, where they go on below
        low, high = min(panel.bottom for panel in row), first.bottom + HEIGHT
        right = max(panel.left + panel.width for panel in row) + 0.05
        style: dict[str, Any] = {"rotation": -90, "va": "center", "ha": "left", "fontsize": POINTS}
        page.text(right, (low + high) / 2, cut_front(name, high - low + BETWEEN - 0.04, points=POINTS), **style)
        for parametrization, panel in zip(names, row, strict=True):
            (left, right), (low, high) = panel.x(np.array(panel.xlim)), (panel.bottom, panel.bottom + HEIGHT)
            spines.append([(left, high), (left, low), (right, low)])
            powers = canvas.whole_powers(panel.ylim, most=4)
            for power, y in zip(powers, panel.y(np.array(powers)), strict=True):
                grid.append([(left, y), (right, y)])
                if panel.left == first.left:
                    page.text(left - 0.04, y, whole(power), ha="right", va="center_baseline", **small)
            ticks = panel.x(np.log2(widths))
            grid += [[(x, low), (x, high)] for x in ticks]
            if panel.bottom == min(bottoms[panel.left]):
                labels = canvas.width_labels(widths, limits=panel.xlim, inches=panel.width)
                for x, label in zip(ticks, labels, strict=True):
                    page.text(x, low - 0.04, label, ha="center", va="top", **small)
                page.text((left + right) / 2, low - 0.19, "width", ha="center", va="top", fontsize=POINTS)
            if several or panel.bottom == max(bottoms[panel.left]):
                name_panel(page, left, high + 0.05, parametrization, panel.width)
    canvas.draw_segments(page, grid, color=canvas.GRID, linewidth=0.5, zorder=0)
    canvas.draw_segments(page, spines, color=canvas.GREY, linewidth=0.6, zorder=1)
