"""The small panels of a page of coordinate sizes: where they lie, what their axes span, and what is drawn in one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from mupcheck.plots import canvas
from mupcheck.plots.canvas import Floats

COLUMNS = {1: 4, 2: 3, 3: 2}  # sites side by side on a page, by how many parametrizations each has; else 1
WIDTH, HEIGHT, INNER = 1.52, 1.05, 0.1  # of a panel, and between those of a site, inches
GAP_X, GAP_Y = 0.5, 0.58  # between sites, inches
LEFT, RIGHT, BOTTOM, TOP, HEAD = 0.52, 0.14, 0.42, 0.36, 0.15  # margins, and the line above several panels, inches
OVER_LABELS = 0.28  # inches left of a panel: its head begins over the tick labels

MIN_OCTAVES = 4.0  # of a panel's y axis, so that flat looks flat
MAX_SHARED_OCTAVES = 10.0  # up to here all panels share their span, and beyond, if more than MANY of them need it:
MANY = 0.25  # one wild site does not flatten the others
EDGE = 0.05  # inches from a panel's edge: marks of values that have no logarithm
ZERO, NOT_FINITE = "1", "x"  # these marks
STEEP = -50.0  # drawn for the lower end of "at most"


@dataclass(frozen=True)
class Panel:
    """Where a panel lies on the page, in inches, and what log2 width and log2 size its edges stand for."""

    left: float
    bottom: float
    xlim: tuple[float, float]
    ylim: tuple[float, float]
    width: float = WIDTH
    height: float = HEIGHT

    def x(self, log2_width: float | Floats) -> Floats:
        """Return inches from the page's left edge."""
        low, high = self.xlim
        return self.left + (np.asarray(log2_width) - low) / (high - low) * self.width

    def y(self, log2_size: float | Floats) -> Floats:
        """Return inches from the page's lower edge: within the panel, values without a logarithm at its edges."""
        low, high = self.ylim
        inside = self.bottom + (np.asarray(log2_size) - low) / (high - low) * self.height
        at_top = np.where(np.isfinite(inside), inside, self.bottom + self.height - EDGE)
        return np.where(inside == -inf, self.bottom + EDGE, at_top)


def place_panels(points: Sequence[Sequence[Floats]], *, least: float = MIN_OCTAVES) -> list[list[Panel]]:
    """Place a panel for each parametrization of each site; all of one y span where MAX_SHARED_OCTAVES allows.

    Args:
        points: (step, log2 width, log2 size) of the points of each panel, [3, point], by site and parametrization.
        least: octaves that a panel spans at least.
    """
    n_names = len(points[0])
    columns, block = COLUMNS.get(n_names, 1), n_names * (WIDTH + INNER) - INNER
    sizes = [np.concatenate([y for _, _, y in row]) for row in points]
    shared = shared_span(sizes, least=least)
    xlim = canvas.width_limits(np.concatenate([x for row in points for _, x, _ in row]))
    last_row = (len(points) - 1) // columns
    pitch = HEIGHT + GAP_Y + (HEAD if n_names > 1 else 0)
    return [
        [
            Panel(
                left=LEFT + i % columns * (block + GAP_X) + j * (WIDTH + INNER),
                bottom=BOTTOM + (last_row - i // columns) * pitch,
                xlim=xlim,
                ylim=canvas.span(y, least=shared),
            )
            for j in range(n_names)
        ]
        for i, y in enumerate(sizes)
    ]


def shared_octaves(sizes: pd.DataFrame) -> float:
    """Return the span that the panels of all figures of one kind share, whatever their parametrization."""
    groups = sizes.groupby(["site", "layer"])["value"]
    return shared_span([log2(values) for _, values in groups], least=MIN_OCTAVES)


def shared_span(log2_sizes: Sequence[Floats], *, least: float) -> float:
    """Return how many octaves the panels span that show these, each its own."""
    spans = [float(np.diff(canvas.span(y, least=least)).item()) for y in log2_sizes]
    wild = sum(span > MAX_SHARED_OCTAVES for span in spans)
    return MAX_SHARED_OCTAVES if 0 < wild <= MANY * len(spans) else max(spans)


def draw_frames(page: Axes, panels: Sequence[Sequence[Panel]], widths: Sequence[int], n_columns: int) -> None:
    """Draw axes, grid and tick labels; sizes are written left of a site, widths below the lowest of each column."""
    grid, spines = [], []
    small: dict[str, Any] = {"fontsize": canvas.SMALL, "color": canvas.GREY}
    labels = canvas.width_labels(widths, limits=panels[0][0].xlim, inches=WIDTH)
    for i, row in enumerate(panels):
        for j, panel in enumerate(row):
            (left, right), (low, high) = panel.x(np.array(panel.xlim)), (panel.bottom, panel.bottom + panel.height)
            spines.append([(left, high), (left, low), (right, low)])
            # not so high that the label runs into the panel's head
            powers = canvas.whole_powers((panel.ylim[0], panel.ylim[1] - 0.05 * np.ptp(panel.ylim)), most=4)
            for power, y in zip(powers, panel.y(np.array(powers)), strict=True):
                grid.append([(left, y), (right, y)])
                if j == 0:
                    page.text(left - 0.05, y, canvas.power_of_two(power), ha="right", va="center_baseline", **small)
            ticks = panel.x(np.log2(widths))
            grid += [[(x, low), (x, high)] for x in ticks]
            if i + n_columns >= len(panels):
                for x, label in zip(ticks, labels, strict=True):
                    page.text(x, low - 0.05, label, ha="center", va="top", **small)
                page.text((left + right) / 2, low - 0.2, "width", ha="center", va="top")
    canvas.draw_segments(page, grid, color=canvas.GRID, linewidth=0.5, zorder=0)
    canvas.draw_segments(page, spines, color=canvas.GREY, linewidth=0.6, zorder=1)


def draw_step(
    page: Axes, panels: Sequence[Panel], shown: Sequence[Floats], color: canvas.Color, mark: str, *, dash: Any = "-"
) -> None:
    """Draw one step [2, point] of all panels: seeds as points, means as lines, at the edge what has no logarithm."""
    marks: dict[str, list[Floats]] = {".": [], ZERO: [], NOT_FINITE: []}
    lines = []
    for panel, (x, y) in zip(panels, shown, strict=True):
        at = np.stack([panel.x(x), panel.y(y)])  # [2, point]
        finite, zero = np.isfinite(y), y == -inf
        for marker, chosen in ((".", finite), (ZERO, zero), (NOT_FINITE, ~finite & ~zero)):
            marks[marker].append(at[:, chosen])
        widths = np.unique(x[finite])
        means = np.array([y[finite & (x == width)].mean() for width in widths])
        lines.append(np.stack([panel.x(widths), panel.y(means)], axis=1))
    for (marker, parts), size, label in zip(marks.items(), (4, 3.5, 3.5), ("seeds", "zero", "not finite"), strict=True):
        x, y = np.concatenate(parts, axis=1)
        if len(x):
            alpha, edge = (0.6, 0) if marker == "." else (1, 0.8)
            page.plot(x, y, marker, color=color, alpha=alpha, markersize=size, markeredgewidth=edge, label=label)
    canvas.draw_segments(page, lines, color=color, linewidth=1.1, linestyle=dash, zorder=2, label="means")
    page.plot(*np.concatenate(lines).T, mark, color=color, markersize=2.8, markeredgewidth=0, label="mean")


def draw_required(page: Axes, panel: Panel, slope: Mapping, judged: Floats) -> None:
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
    within = [middle_y + p * (x - middle_x) for p in (max(low - slope["tolerance"], STEEP), high + slope["tolerance"])]
    for (lower, upper), shade in ((within, 0.45), (edges, 0.6)):
        low_y, high_y = (panel.y(np.clip(edge, *panel.ylim)) for edge in (lower, upper))
        page.fill_between(panel.x(x), low_y, high_y, color=canvas.FAINT, alpha=shade, linewidth=0, zorder=1)


def log2(values: pd.Series) -> Floats:
    """Return log2; -inf for zero, NaN for what is negative or no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(values.to_numpy(dtype=float))
