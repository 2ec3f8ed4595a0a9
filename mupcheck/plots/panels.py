"""Where the small panels of a page of coordinate sizes lie, what their axes span, and their frames."""

from collections.abc import Sequence
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


def place_panels(points: Sequence[Sequence[Floats]], *, least: float = MIN_OCTAVES) -> list[list[Panel]]:
    """Place a panel for each parametrization of each site; all of one y span where MAX_SHARED_OCTAVES allows.

    Args:
        points: (step, log2 width, log2 size) of the points of each panel, [3, point], by site and parametrization.
        least: octaves that a panel spans at least.
    """
    n_names = len(points[0])
    columns, block = COLUMNS.get(n_names, 1), n_names * (WIDTH + INNER) - INNER
    sizes = [np.concatenate([y for _, _, y in row]) for row in points]
    shared = _shared(sizes, least=least)
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
    return _shared([log2(values) for _, values in groups], least=MIN_OCTAVES)


def _shared(log2_sizes: Sequence[Floats], *, least: float) -> float:
    """Return how many octaves the panels span that show these."""
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
            (left, right), (low, high) = panel.x(np.array(panel.xlim)), (panel.bottom, panel.bottom + HEIGHT)
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


def log2(values: pd.Series) -> Floats:
    """Return log2; -inf for zero, NaN for what is negative or no number."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log2(values.to_numpy(dtype=float))
