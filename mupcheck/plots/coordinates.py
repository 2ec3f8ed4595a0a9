"""Figure of a coordinate check: every coordinate size against width, a small panel for each site."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mupcheck.plots import canvas
from mupcheck.plots.canvas import Floats
from mupcheck.plots.overview import count_verdicts, worst_by_site

COLUMNS, LEGEND_COLUMNS = 4, 8
WIDTH, HEIGHT, GAP_X, GAP_Y = 1.52, 1.05, 0.5, 0.56  # of a panel, inches
LEFT, RIGHT, BOTTOM, TOP = 0.52, 0.14, 0.42, 1.0  # margins of the page, the legend not counted, inches
OVER_LABELS = 0.28  # inches left of a panel: its head begins over the tick labels

MIN_OCTAVES = 4.0  # of a panel's y axis, so that flat looks flat
MAX_SHARED_OCTAVES = 10.0  # panels share their span up to here, so that one wild site does not flatten the others
EDGE = 0.05  # inches from a panel's edge: marks of values that have no logarithm
STEEP = -50.0  # drawn for the lower end of "at most"


@dataclass(frozen=True)
class Panel:
    """Where a panel lies on the page, in inches, and what log2 width and log2 size its edges stand for."""

    left: float
    bottom: float
    xlim: tuple[float, float]
    ylim: tuple[float, float]

    def x(self, log2_width: float | Floats) -> Floats:
        """Return inches from the page's left edge."""
        low, high = self.xlim
        return self.left + (np.asarray(log2_width) - low) / (high - low) * WIDTH

    def y(self, log2_size: float | Floats) -> Floats:
        """Return inches from the page's lower edge: within the panel, values without a logarithm at its edges."""
        low, high = self.ylim
        inside = self.bottom + (np.asarray(log2_size) - low) / (high - low) * HEIGHT
        at_top = np.where(np.isfinite(inside), inside, self.bottom + HEIGHT - EDGE)
        return np.where(inside == -inf, self.bottom + EDGE, at_top)


def draw_coordinates(sizes: pd.DataFrame, slopes: pd.DataFrame, *, title: str) -> Figure:
    """Draw coordinate size against width, log2 against log2: a panel for each site, a colour for each step.

    A panel shows one layer, that of the worst verdict (the last step, then the deepest layer among equals). Its dashed
    line is the slope required there, through the mean of that step; a wedge where a range is required. The whole page
    is one Axes in inches: an Axes for each of 26 panels takes three times as long.

    Args:
        sizes: of one parametrization, kind and stat: columns site, layer, step, width, seed, value.
        slopes: the rows of `fit_slopes` for them.
        title: of the figure.
    """
    worst = worst_by_site(slopes)
    points = np.stack([sizes["step"].to_numpy(dtype=float), _log2(sizes["width"]), _log2(sizes["value"])])
    rows_of = sizes.groupby(["site", "layer"]).indices
    shown = [points[:, rows_of[slope["site"], slope["layer"]]] for slope in worst]
    steps = sorted(sizes["step"].unique())
    colors = dict(zip(steps, canvas.ordered_colors(len(steps)), strict=True))
    handles = [canvas.handle(f"step {step}", color=color, marker="o", line=True) for step, color in colors.items()]
    handles.append(Line2D([], [], color=canvas.INK, linestyle=canvas.DASHED, linewidth=0.9, label="required"))
    if not np.isfinite(points[2]).all():
        handles.append(canvas.handle("zero", color=canvas.GREY, marker="v"))
        handles.append(canvas.handle("infinite or NaN", color=canvas.GREY, marker="^"))

    panels = place_panels(shown)
    top = TOP + canvas.legend_inches(len(handles), LEGEND_COLUMNS)
    figure = Figure(figsize=(LEFT + COLUMNS * (WIDTH + GAP_X) - GAP_X + RIGHT, panels[0].bottom + HEIGHT + top))
    page = canvas.add_page(figure)
    widths = sorted(sizes["width"].unique())
    _draw_frames(page, panels, widths)
    for panel, slope, rows in zip(panels, worst, shown, strict=True):
        _write_head(page, panel, slope)
        _draw_required(page, panel, slope, rows[1:, rows[0] == slope["step"]])
    for step, color in colors.items():
        _draw_step(page, panels, [rows[1:, rows[0] == step] for rows in shown], color)
    for panel in panels[::COLUMNS]:
        page.text(0.1, panel.bottom + HEIGHT / 2, worst[0]["stat"], rotation=90, va="center")

    below = "points: seeds; lines: means; above a panel: the [layer] and step judged worst, slope [interval] → required"
    canvas.write_title(figure, title, below, at_right=count_verdicts(slopes))
    canvas.legend(figure, handles, columns=LEGEND_COLUMNS)
    return figure


def place_panels(shown: Sequence[Floats]) -> list[Panel]:
    """Place a panel for each set of points, by rows; all of one y span where MAX_SHARED_OCTAVES allows.

    Args:
        shown: (step, log2 width, log2 size) of the points of each panel, [3, point].
    """
    needed = [np.diff(canvas.span(y, least=MIN_OCTAVES)).item() for _, _, y in shown]
    shared = min(max(needed), MAX_SHARED_OCTAVES)
    xlim = canvas.width_limits(np.concatenate([x for _, x, _ in shown]))
    last_row = (len(shown) - 1) // COLUMNS
    return [
        Panel(
            left=LEFT + i % COLUMNS * (WIDTH + GAP_X),
            bottom=BOTTOM + (last_row - i // COLUMNS) * (HEIGHT + GAP_Y),
            xlim=xlim,
            ylim=canvas.span(y, least=shared),
        )
        for i, (_, _, y) in enumerate(shown)
    ]


def _draw_frames(page: Axes, panels: Sequence[Panel], widths: Sequence[int]) -> None:
    """Draw axes, grid and tick labels of every panel; widths are written below the lowest panel of each column."""
    grid, spines = [], []
    small: dict[str, Any] = {"fontsize": canvas.SMALL, "color": canvas.GREY}
    labels = canvas.width_labels(widths, limits=panels[0].xlim, inches=WIDTH)
    for i, panel in enumerate(panels):
        (left, right), (low, high) = panel.x(np.array(panel.xlim)), (panel.bottom, panel.bottom + HEIGHT)
        spines.append([(left, high), (left, low), (right, low)])
        # not so high that the label runs into the panel's head
        powers = canvas.whole_powers((panel.ylim[0], panel.ylim[1] - 0.05 * np.ptp(panel.ylim)), most=4)
        for power, y in zip(powers, panel.y(np.array(powers)), strict=True):
            grid.append([(left, y), (right, y)])
            page.text(left - 0.05, y, canvas.power_of_two(power), ha="right", va="center_baseline", **small)
        ticks = panel.x(np.log2(widths))
        grid += [[(x, low), (x, high)] for x in ticks]
        if i + COLUMNS >= len(panels):
            for x, label in zip(ticks, labels, strict=True):
                page.text(x, low - 0.05, label, ha="center", va="top", **small)
            page.text((left + right) / 2, low - 0.2, "width", ha="center", va="top")
    canvas.draw_segments(page, grid, color=canvas.GRID, linewidth=0.5, zorder=0)
    canvas.draw_segments(page, spines, color=canvas.GREY, linewidth=0.6, zorder=1)


def _draw_step(page: Axes, panels: Sequence[Panel], shown: Sequence[Floats], color: canvas.Color) -> None:
    """Draw one step [2, point] of all panels: seeds as points, means as lines, at the edge what has no logarithm."""
    marks: dict[str, list[Floats]] = {".": [], "v": [], "^": []}
    lines = []
    for panel, (x, y) in zip(panels, shown, strict=True):
        at = np.stack([panel.x(x), panel.y(y)])  # [2, point]
        finite, zero = np.isfinite(y), y == -inf
        for marker, chosen in ((".", finite), ("v", zero), ("^", ~finite & ~zero)):
            marks[marker].append(at[:, chosen])
        widths = np.unique(x[finite])
        means = np.array([y[finite & (x == width)].mean() for width in widths])
        lines.append(np.stack([panel.x(widths), panel.y(means)], axis=1))
    for (marker, parts), size, label in zip(marks.items(), (4, 3.5, 3.5), ("seeds", "zero", "not finite"), strict=True):
        x, y = np.concatenate(parts, axis=1)
        if len(x):
            alpha = 0.6 if marker == "." else 1
            page.plot(x, y, marker, color=color, alpha=alpha, markersize=size, markeredgewidth=0, label=label)
    canvas.draw_segments(page, lines, color=color, linewidth=1.1, zorder=2, label="means")


def _draw_required(page: Axes, panel: Panel, slope: Mapping, judged: Floats) -> None:
    """Draw the required slope, or the wedge of a required range, through the mean of the points judged, [2, point]."""
    low, high = slope["required_low"], slope["required_high"]
    judged = judged[:, np.isfinite(judged[1])]
    if not judged.size or np.isnan(high):
        return
    middle_x, middle_y = judged.mean(axis=1)
    x = np.union1d(np.linspace(*panel.xlim, 101), middle_x)
    edges = [middle_y + p * (x - middle_x) for p in (max(low, STEEP), high)]
    style: dict[str, Any] = {"color": canvas.INK, "linestyle": canvas.DASHED, "linewidth": 0.9, "zorder": 1.5}
    for edge in edges[1:] if low in (high, -inf) else edges:
        inside = (panel.ylim[0] <= edge) & (edge <= panel.ylim[1])
        page.plot(panel.x(x[inside])[[0, -1]], panel.y(edge[inside])[[0, -1]], label="required", **style)
    if low < high:
        lower, upper = (panel.y(np.clip(edge, *panel.ylim)) for edge in edges)
        page.fill_between(panel.x(x), lower, upper, color=canvas.FAINT, alpha=0.6, linewidth=0, zorder=1)


def _write_head(page: Axes, panel: Panel, slope: Mapping) -> None:
    """Write over a panel its site[layer] and verdict, and below them step, slope [interval] and what is required."""
    layer = f"[{slope['layer']}]" if slope["layer"] >= 0 else ""
    left, top = panel.left - OVER_LABELS, panel.bottom + HEIGHT
    page.text(left, top + 0.19, slope["site"] + layer, fontweight="bold")
    color = canvas.MARKS[slope["verdict"]].color
    page.text(panel.left + WIDTH, top + 0.19, canvas.verdict_text(slope["verdict"]), ha="right", color=color)
    measured = canvas.estimate(slope["slope"], slope["ci_low"], slope["ci_high"])
    page.text(left, top + 0.055, f"step {slope['step']}: {measured}{_requirement(slope)}", fontsize=canvas.SMALL)


def _requirement(slope: Mapping) -> str:
    """Return " → 0", " → −½…0" or " → ≤0"; nothing where theory requires nothing."""
    low, high = slope["required_low"], slope["required_high"]
    if np.isnan(high):
        return ""
    ends = [f"{p:g}".replace("-", "−").replace("0.5", "½") for p in (low, high)]
    if low == -inf:
        return f" → ≤{ends[1]}"
    return f" → {ends[1]}" if low == high else f" → {ends[0]}…{ends[1]}"


def _log2(values: pd.Series) -> Floats:
    """Return log2; -inf for zero, NaN for what is negative or no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(values.to_numpy(dtype=float))
