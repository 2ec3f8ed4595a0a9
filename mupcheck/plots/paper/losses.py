"""Loss against log2 learning rate, a curve for each width and a panel for each parametrization, for a paper."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.looks import MIN_SHARE, Look, width_looks
from mupcheck.plots import canvas
from mupcheck.plots.frame import text_inches
from mupcheck.plots.losses import MIN_OCTAVES, seed_losses
from mupcheck.plots.optima import draw_optimum
from mupcheck.plots.paper.layout import (
    EDGE,
    GAP,
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

MOST_COLUMNS = {"single": 2, "double": 4}  # panels side by side
LOSS_HEIGHT = {"single": 1.2, "double": 1.6}  # inches of a panel, bands not counted
BAND_INCHES = 0.085  # a width's line in the bands of diverged runs and of optima
AXIS = 0.16  # left of the numbers, for the name of the axis, inches
LOSSES = {"val_loss": "validation loss", "train_loss": "training loss"}


def draw_losses(answers: Sequence[Transfer], columns: str, size: float) -> Figure:
    """Draw loss against log2 lr: seeds as points, their means as lines; all panels share both axes.

    In a shaded band at the bottom each width has a line, the smallest on top, with its optimum and interval; in one at
    the top, where any run diverged, a cross at every lr at which seeds did, filled where all did.

    Args:
        answers: of one sweep, optimizer and mode.
        columns: "single" or "double".
        size: width of the figure, inches.
    """
    optima = [optimum for answer in answers for optimum in answer.optima]
    points = [point for optimum in optima for point in optimum.curve]
    losses = [loss for optimum in optima for _, loss in seed_losses(optimum, False)]
    looks, diverged = width_looks(optimum.width for optimum in optima), any(point.n_diverged for point in points)
    band = BAND_INCHES * (len(looks) + 0.6)
    high = LOSS_HEIGHT[columns] + band * (1 + diverged)
    n_columns = min(len(answers), MOST_COLUMNS[columns])
    n_rows = -(-len(answers) // n_columns)
    limits = canvas.span(losses, least=MIN_SHARE * min(map(abs, losses), default=1.0), pad=0.06)
    ticks = _name_ticks(canvas.round_ticks(limits, most=5) if losses else [])
    numbers = max((text_inches(name, points=TICK_POINTS) for name in ticks.values()), default=0.0)
    first = AXIS + max(TICKS, numbers + 0.06)
    wide = (size - first - EDGE - GAP * (n_columns - 1)) / n_columns
    lines = entries("width", list(looks), [(look.color, look.marker) for look in looks.values()])
    figure = make_figure(size, n_rows * (TITLE + high + UNDER), lines, _marks(optima, diverged=diverged))
    page = canvas.add_page(figure)
    xlim = canvas.span([point.log2_lr for point in points], least=MIN_OCTAVES, pad=0.05)
    for i, answer in enumerate(answers):
        row, column = divmod(i, n_columns)
        left, bottom = first + column * (wide + GAP), (n_rows - 1 - row) * (TITLE + high + UNDER) + UNDER
        panel = canvas.add_panel(figure, left, bottom, wide, high)
        panel.set_xlim(xlim)
        powers = canvas.whole_powers(xlim, most=max(2, int(wide / 0.27)))
        panel.set_xticks(powers, [whole(power) for power in powers])
        panel.set_xlabel("log₂ learning rate")
        _set_losses(panel, limits, below=band, above=band * diverged)
        panel.set_yticks(list(ticks), ticks.values() if column == 0 else [""] * len(ticks))
        panel.set_ylabel(f"{LOSSES.get(answer.loss_name, answer.loss_name)} (nats)" if column == 0 else "")
        panel.yaxis.set_label_coords((EDGE + 0.1 - first) / wide, 0.5)
        panel.tick_params(labelsize=TICK_POINTS, pad=2)
        panel.xaxis.labelpad = 2
        name_panel(page, left, bottom + high + 0.05, answer.parametrization, wide)
        for line, (width, look) in enumerate(looks.items()):
            for optimum in answer.optima:
                if optimum.width == width:
                    _draw_width(panel, optimum, look, line, band=band)
        if not losses:
            panel.text(0.5, 0.5, "no loss to show", transform=panel.transAxes, ha="center", color=canvas.GREY)
    return figure


def _marks(optima: Sequence[Optimum], *, diverged: bool) -> list[Artist]:
    """Return the legend entries of the marks in the bands."""
    found: list[Artist] = []
    if any(optimum.log2_lr is not None for optimum in optima):
        found.append(canvas.handle("optimum", color=canvas.GREY, marker="D"))
    if diverged:
        found.append(canvas.handle("diverged", color=canvas.GREY, marker="x"))
    return found


def _set_losses(panel: Axes, limits: tuple[float, float], *, below: float, above: float) -> None:
    """Give the panel to the losses but for so many inches below and above them, which are shaded."""
    high = canvas.place(panel)[3]
    per_inch = (limits[1] - limits[0]) / (high - below - above)
    ends = limits[0] - below * per_inch, limits[1] + above * per_inch
    panel.set_ylim(ends)
    panel.axhspan(ends[0], limits[0], color=canvas.SHADE, linewidth=0, zorder=0)
    panel.axhspan(limits[1], ends[1], color=canvas.SHADE, linewidth=0, zorder=0)


def _name_ticks(ticks: Sequence[float]) -> dict[float, str]:
    """Return what is written at each tick, all with as many digits as one of them needs."""
    digits = max((len(f"{tick:.9f}".rstrip("0").partition(".")[2]) for tick in ticks), default=0)
    return {tick: f"{tick:.{digits}f}" for tick in ticks}


def _draw_width(panel: Axes, optimum: Optimum, look: Look, line: int, *, band: float) -> None:
    """Draw one width's curve, where it diverged, and its optimum with its interval on its line of the lower band."""
    seeds = np.array(seed_losses(optimum, False)).reshape(-1, 2)
    panel.plot(*seeds.T, ".", color=look.color, alpha=0.45, markersize=3, markeredgewidth=0, label="seeds")
    lrs = [point.log2_lr for point in optimum.curve]
    means = [np.nan if point.loss is None else point.loss for point in optimum.curve]
    style: dict[str, Any] = {"marker": look.marker, "markersize": 3, "markeredgewidth": 0, "label": "mean"}
    panel.plot(lrs, means, color=look.color, linewidth=1.1, linestyle=dash_of(line), **style)
    down = (line + 0.8) * BAND_INCHES / canvas.place(panel)[3]
    for whole_one, marker, size in ((True, "X", 3.2), (False, "x", 2.8)):
        hit = [p.log2_lr for p in optimum.curve if p.n_diverged and (p.n_diverged == len(p.seed_losses)) == whole_one]
        cross: dict[str, Any] = {"transform": panel.get_xaxis_transform(), "markersize": size, "label": "diverged"}
        panel.plot(hit, [1 - down] * len(hit), marker, color=look.color, markeredgewidth=0.8, **cross)
    if optimum.log2_lr is None:
        return
    low, high = panel.get_ylim()
    y = low + (band / canvas.place(panel)[3] - down) * (high - low)
    canvas.draw_interval(panel, y, *optimum.drawn, along="x", color=look.color)
    draw_optimum(panel, optimum.log2_lr, y, optimum, look.color)
    panel.lines[-1].set_markersize(3.4)
