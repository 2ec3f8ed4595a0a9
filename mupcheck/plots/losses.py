"""Figure of a learning-rate sweep: loss against lr by width, parametrizations side by side."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.plots import canvas
from mupcheck.plots.optima import describe_drift, draw_optimum

MIN_NATS = 0.5  # of a loss axis, so that flat looks flat
MIN_OCTAVES = 4.0  # of the lr axis
MAX_COLUMNS = 3  # parametrizations side by side: what a page holds
PANEL_WIDTH = {1: 3.8, 2: 3.1, 3: 2.3}  # inches, by how many are side by side
LOSS_HEIGHT = 1.6  # inches of a panel, bands not counted
LEFT, RIGHT, BOTTOM, TITLE, HEAD, GAP_X, GAP_Y = 0.62, 0.14, 0.42, 0.62, 0.52, 0.16, 0.22  # inches around panels
BAND_INCHES = 0.09  # one width's line in the bands of diverged runs and of intervals
DODGE_OCTAVES = 0.16  # between crosses of one lr


def draw_losses(answers: Sequence[Transfer], *, title: str) -> Figure:
    """Draw loss against lr, a panel for each parametrization; below it the same less each width's loss at its optimum.

    Panels of one kind share both axes. A diverged run is a cross in a band at the top, one line of it for each width;
    optima are marked on the curves, and with their intervals in a band at the bottom of the lower panel.

    Args:
        answers: of one sweep, optimizer and mode, so that their losses compare.
        title: of the figure.
    """
    optima = [optimum for answer in answers for optimum in answer.optima]
    points = [point for optimum in optima for point in optimum.curve]
    widths = sorted({optimum.width for optimum in optima})
    colors = dict(zip(widths, canvas.ordered_colors(len(widths)), strict=True))
    diverged = any(point.n_diverged for point in points)
    handles = [canvas.handle(f"width {width}", color=color, marker="o", line=True) for width, color in colors.items()]
    handles.append(canvas.handle("optimum, interval", color=canvas.GREY, marker="D"))
    if diverged:
        handles.append(canvas.handle("diverged run", color=canvas.GREY, marker="x"))

    band = BAND_INCHES * (len(widths) + 0.6)
    figure, panels = _place_panels(len(answers), len(handles), above=band if diverged else 0.0, below=band)
    xlim = canvas.span([point.log2_lr for point in points], least=MIN_OCTAVES, pad=0.05)
    lines = {width: (i + 0.8) * BAND_INCHES for i, width in enumerate(widths)}
    for shifted in (False, True):
        losses = [loss for optimum in optima for _, loss in _seed_losses(optimum, shifted)]
        limits = canvas.span(losses, least=MIN_NATS, pad=0.06)
        for answer, pair in zip(answers, panels, strict=True):
            panel = pair[shifted]
            panel.set_xlim(xlim)
            _set_limits(panel, limits, upward=not shifted)
            for optimum in answer.optima:
                color, line = colors[optimum.width], lines[optimum.width]
                _draw_curve(panel, optimum, color, shifted=shifted)
                if shifted:
                    _draw_interval(panel, optimum, color, up=line)
                else:
                    _draw_diverged(panel, optimum, color, down=line)
    for answer, (upper, lower) in zip(answers, panels, strict=True):
        _label_axes(upper, lower, answer.loss_name)
        _write_head(upper, answer)
    below = "points: seeds; lines: means, if none diverged; lower: loss less the optimum's"
    canvas.write_title(figure, title, below)
    canvas.legend(figure, handles, columns=_legend_columns(len(answers)))
    return figure


def _place_panels(
    n_answers: int, n_handles: int, *, above: float, below: float
) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure with an upper and a lower panel for each answer, at most MAX_COLUMNS of them side by side.

    The panels are LOSS_HEIGHT and a band high, which is `above` the losses in upper and `below` them in lower panels.
    """
    n_blocks = -(-n_answers // MAX_COLUMNS)
    n_columns = -(-n_answers // n_blocks)
    width, heights = PANEL_WIDTH[n_columns], (LOSS_HEIGHT + above, LOSS_HEIGHT + below)
    block = sum(heights) + GAP_Y
    top = HEAD + TITLE + canvas.legend_inches(n_handles, _legend_columns(n_answers))
    total = BOTTOM + n_blocks * block + (n_blocks - 1) * (HEAD + BOTTOM) + top
    figure = Figure(figsize=(LEFT + n_columns * (width + GAP_X) - GAP_X + RIGHT, total))
    panels = []
    for i in range(n_answers):
        left = LEFT + i % n_columns * (width + GAP_X)
        bottom = total - top - block - i // n_columns * (block + HEAD + BOTTOM)
        upper = canvas.add_panel(figure, left, bottom + heights[1] + GAP_Y, width, heights[0])
        panels.append((upper, canvas.add_panel(figure, left, bottom, width, heights[1])))
    return figure, panels


def _legend_columns(n_answers: int) -> int:
    return {1: 4, 2: 5}.get(n_answers, 6)


def _label_axes(upper: Axes, lower: Axes, loss_name: str) -> None:
    """Label both axes of a pair of panels; those of loss only where no panel lies to the left."""
    width = canvas.place(upper)[2]
    powers = canvas.whole_powers(upper.get_xlim(), most=int(width / 0.33))
    upper.set_xticks(powers, [""] * len(powers))
    lower.set_xticks(powers, [canvas.power_of_two(power) for power in powers])
    lower.set_xlabel("lr")
    lower.axhline(0, color=canvas.GREY, linewidth=0.6, zorder=1)
    leftmost = canvas.place(upper)[0] < LEFT + 0.01
    for panel, name in ((upper, loss_name), (lower, f"{loss_name}, shifted")):
        panel.tick_params(axis="y", labelleft=leftmost)
        panel.set_ylabel(f"{name} (nats/token)" if leftmost else "")
        panel.yaxis.set_label_coords(-0.42 / width, 0.5)


def _write_head(panel: Axes, answer: Transfer) -> None:
    """Write over a panel the parametrization, the verdict, and the drift with its interval."""
    name = canvas.shorten(answer.parametrization, int(canvas.place(panel)[2] / 0.085))
    canvas.write_above(panel, name, up=0.37, fontweight="bold", fontsize=canvas.NORMAL + 1)
    text, color = canvas.verdict_text(answer.verdict), canvas.MARKS[answer.verdict].color
    canvas.write_above(panel, text, up=0.22, color=color)
    canvas.write_above(panel, f"drift {describe_drift(answer)}", up=0.08, fontsize=canvas.SMALL)


def _seed_losses(optimum: Optimum, shifted: bool) -> list[tuple[float, float]]:
    """Return (log2 lr, loss) of every run with a loss; `shifted`: less the loss at the optimum, none without one."""
    if shifted and optimum.loss is None:
        return []
    less = optimum.loss if shifted and optimum.loss is not None else 0.0
    return [(p.log2_lr, loss - less) for p in optimum.curve for _, loss in p.seed_losses if loss is not None]


def _set_limits(panel: Axes, limits: tuple[float, float], *, upward: bool) -> None:
    """Give LOSS_HEIGHT of the panel to the losses; what it has beyond is a shaded band for marks without a loss."""
    per_inch = (limits[1] - limits[0]) / LOSS_HEIGHT
    band = (canvas.place(panel)[3] - LOSS_HEIGHT) * per_inch
    low, high = (limits[1], limits[1] + band) if upward else (limits[0] - band, limits[0])
    panel.set_ylim(min(low, limits[0]), max(high, limits[1]))
    panel.set_yticks(canvas.round_ticks(limits, most=6))
    panel.axhspan(low, high, color=canvas.SHADE, linewidth=0, zorder=0)


def _draw_curve(panel: Axes, optimum: Optimum, color: canvas.Color, *, shifted: bool) -> None:
    """Draw one width's curve: seeds as points, means as a line that breaks where a run diverged, and its optimum."""
    seeds = np.array(_seed_losses(optimum, shifted)).reshape(-1, 2)
    panel.plot(*seeds.T, ".", color=color, alpha=0.6, markersize=4.5, markeredgewidth=0, label="seeds")
    if optimum.loss is None or optimum.log2_lr is None:
        return
    less = optimum.loss if shifted else 0.0
    means = [np.nan if point.loss is None else point.loss - less for point in optimum.curve]
    panel.plot([point.log2_lr for point in optimum.curve], means, color=color, label="mean")
    if not shifted:
        draw_optimum(panel, optimum.log2_lr, optimum.loss, optimum, color)


def _draw_diverged(panel: Axes, optimum: Optimum, color: canvas.Color, *, down: float) -> None:
    """Draw a cross for every diverged run, those of one lr side by side, `down` inches from the panel's upper edge."""
    x = [
        point.log2_lr + DODGE_OCTAVES * (i - (point.n_diverged - 1) / 2)
        for point in optimum.curve
        for i in range(point.n_diverged)
    ]
    height = 1 - down / canvas.place(panel)[3]
    style: dict[str, Any] = {"markersize": 3, "markeredgewidth": 0.9, "label": "diverged", "clip_on": False}
    panel.plot(x, [height] * len(x), "x", color=color, transform=panel.get_xaxis_transform(), **style)


def _draw_interval(panel: Axes, optimum: Optimum, color: canvas.Color, *, up: float) -> None:
    """Draw the optimum with its interval, `up` inches from the panel's lower edge."""
    if optimum.log2_lr is None:
        return
    low, high = panel.get_ylim()
    y = low + up / canvas.place(panel)[3] * (high - low)
    if optimum.ci_low is not None and optimum.ci_high is not None:
        canvas.draw_interval(panel, y, optimum.ci_low, optimum.ci_high, along="x", color=color)
    draw_optimum(panel, optimum.log2_lr, y, optimum, color)
