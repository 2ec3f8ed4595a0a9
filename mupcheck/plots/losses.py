"""Figure of a learning-rate sweep: loss against lr by width, parametrizations side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.lr_curve import Point
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.looks import MIN_SHARE, width_looks
from mupcheck.plots import canvas
from mupcheck.plots.frame import Caption, cut, frame, text_inches
from mupcheck.plots.optima import describe_drift, draw_optimum

MIN_OCTAVES = 4.0  # of the lr axis
MAX_COLUMNS = 3  # parametrizations side by side: what a page holds
PANEL_WIDTH = {1: 3.8, 2: 3.1, 3: 2.3}  # inches, by how many are side by side
LOSS_HEIGHT = 1.6  # inches of a panel, bands not counted
LEFT, RIGHT, BOTTOM, HEAD, GAP_X, GAP_Y = 0.62, 0.42, 0.42, 0.52, 0.16, 0.22  # inches around panels
BAND_INCHES = 0.11  # one width's line in the bands of diverged runs and of intervals
COUNT_INCHES = 0.24  # between lrs, from which on there is room for how many of the seeds diverged
TINY = 5.5  # points


def draw_losses(answers: Sequence[Transfer], caption: Caption) -> Figure:
    """Draw loss against lr, a panel for each parametrization; below it the same less each width's loss at its optimum.

    Panels of one kind share both axes. In a band at the top each width has a line, with a cross at every lr at which
    seeds diverged, filled where all did; optima are marked on the curves, and with their intervals in a band at the
    bottom of the lower panel.

    Args:
        answers: of one sweep, optimizer and mode, so that their losses compare.
        caption: of the figure.
    """
    optima = [optimum for answer in answers for optimum in answer.optima]
    points = [point for optimum in optima for point in optimum.curve]
    widths = width_looks(optimum.width for optimum in optima)
    looks = {width: (look.color, look.marker) for width, look in widths.items()}
    flagged = any(optimum.flags for optimum in optima if optimum.log2_lr is not None)
    diverged = any(point.n_diverged for point in points)
    band = BAND_INCHES * (len(looks) + 0.6)
    figure, panels = _place_panels(len(answers), above=band if diverged else 0.0, below=band)
    xlim = canvas.span([point.log2_lr for point in points], least=MIN_OCTAVES, pad=0.05)
    lines = {width: (i + 0.8) * BAND_INCHES for i, width in enumerate(looks)}
    least = MIN_SHARE * min((abs(loss) for optimum in optima for _, loss in seed_losses(optimum, False)), default=1.0)
    for shifted in (False, True):
        losses = [loss for optimum in optima for _, loss in seed_losses(optimum, shifted)]
        limits = canvas.span(losses, least=least, pad=0.06)
        for answer, pair in zip(answers, panels, strict=True):
            panel = pair[shifted]
            panel.set_xlim(xlim)
            _set_limits(panel, limits, upward=not shifted)
            if not losses:
                _say_none(panel)
            for optimum in answer.optima:
                look, line = looks[optimum.width], lines[optimum.width]
                _draw_curve(panel, optimum, *look, shifted=shifted)
                if shifted:
                    _draw_interval(panel, optimum, look[0], up=line)
                else:
                    _draw_diverged(panel, optimum, look[0], down=line)
    for answer, (upper, lower) in zip(answers, panels, strict=True):
        _label_axes(upper, lower, answer.loss_name)
        _write_head(upper, answer)
    lefts = [canvas.place(upper)[0] for upper, _ in panels]
    for (upper, lower), left, after in zip(panels, lefts, [*lefts[1:], 0.0], strict=True):
        if after > left:
            continue  # not the last of its row
        _name_lines(lower, {width: up / canvas.place(lower)[3] for width, up in lines.items()}, looks)
        if diverged:
            _name_lines(upper, {width: 1 - down / canvas.place(upper)[3] for width, down in lines.items()}, looks)
    hint = "lower panels: less each width's loss at its optimum; shaded bands: a line for each width"
    frame(figure, caption, hint=hint, handles=_handles(looks, points, flagged=flagged))
    return figure


def _handles(looks: Mapping[int, tuple[str, str]], points: Sequence[Point], *, flagged: bool) -> list[Line2D]:
    """Return the legend entries for what is drawn."""
    entries = [canvas.handle(f"width {w}", color=color, marker=mark, line=True) for w, (color, mark) in looks.items()]
    if any(point.n_diverged < len(point.seed_losses) for point in points):
        entries.append(canvas.handle("one seed", color=canvas.GREY, marker="."))
        entries.append(canvas.handle("optimum, interval", color=canvas.GREY, marker="D"))
    if flagged:
        entries.append(canvas.handle("with a flag", color=canvas.GREY, marker="D", hollow=True))
    found = {point.n_diverged == len(point.seed_losses) for point in points if point.n_diverged}
    for whole, marker, name in ((True, "X", "all seeds diverged"), (False, "x", "some of the seeds diverged")):
        if whole in found:
            entries.append(canvas.handle(name, color=canvas.GREY, marker=marker))
    return entries


def _place_panels(n_answers: int, *, above: float, below: float) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """Return a figure with an upper and a lower panel for each answer, at most MAX_COLUMNS of them side by side.

    The panels are LOSS_HEIGHT and a band high, which is `above` the losses in upper and `below` them in lower panels.
    """
    n_blocks = -(-n_answers // MAX_COLUMNS)
    n_columns = -(-n_answers // n_blocks)
    width, heights = PANEL_WIDTH[n_columns], (LOSS_HEIGHT + above, LOSS_HEIGHT + below)
    block = HEAD + sum(heights) + GAP_Y + BOTTOM
    total = n_blocks * block
    figure = canvas.Drawing(figsize=(LEFT + n_columns * (width + GAP_X) - GAP_X + RIGHT, total))
    panels = []
    for i in range(n_answers):
        left = LEFT + i % n_columns * (width + GAP_X)
        bottom = total - (i // n_columns + 1) * block + BOTTOM
        upper = canvas.add_panel(figure, left, bottom + heights[1] + GAP_Y, width, heights[0])
        panels.append((upper, canvas.add_panel(figure, left, bottom, width, heights[1])))
    return figure, panels


def _say_none(panel: Axes) -> None:
    """Say in a panel without losses that there are none, in place of numbers on its axis."""
    panel.set_yticks([])
    style: dict[str, Any] = {"transform": panel.transAxes, "color": canvas.GREY, "ha": "center", "va": "center"}
    panel.text(0.5, 0.5, "no loss to show", **style)


def _name_lines(panel: Axes, at: Mapping[int, float], looks: Mapping[int, tuple[str, str]]) -> None:
    """Write at the right of a panel's band which width each of its lines is of."""
    style: dict[str, Any] = {"transform": panel.transAxes, "fontsize": TINY, "va": "center_baseline"}
    for width, y in at.items():
        panel.text(1 + 0.05 / canvas.place(panel)[2], y, str(width), color=looks[width][0], **style)


def _label_axes(upper: Axes, lower: Axes, loss_name: str) -> None:
    """Label both axes of a pair of panels; those of loss only where no panel lies to the left."""
    width = canvas.place(upper)[2]
    powers = canvas.whole_powers(upper.get_xlim(), most=int(width / 0.33))
    upper.set_xticks(powers, [""] * len(powers))
    lower.set_xticks(powers, [canvas.power_of_two(power) for power in powers])
    lower.set_xlabel("lr")
    lower.axhline(0, color=canvas.GREY, linewidth=0.6, zorder=1)
    leftmost = canvas.place(upper)[0] < LEFT + 0.01
    for panel, name in ((upper, loss_name), (lower, "above optimum")):
        panel.tick_params(axis="y", labelleft=leftmost)
        panel.set_ylabel(f"{name} (nats/token)" if leftmost else "")
        panel.yaxis.set_label_coords(-0.42 / width, 0.5)


def _write_head(panel: Axes, answer: Transfer) -> None:
    """Write over a panel the parametrization, the verdict, and the drift with its interval."""
    name = cut(answer.parametrization, canvas.place(panel)[2], points=canvas.NORMAL + 1, bold=True)
    canvas.write_above(panel, name, up=0.37, fontweight="bold", fontsize=canvas.NORMAL + 1)
    text, color = canvas.verdict_text(answer.verdict), canvas.MARKS[answer.verdict].color
    canvas.write_above(panel, text, up=0.22, color=color)
    said, room = describe_drift(answer, unit=" octaves per doubling"), canvas.place(panel)[2]
    if text_inches(said, points=canvas.SMALL) > room:
        said = describe_drift(answer)
    canvas.write_above(panel, cut(said, room, points=canvas.SMALL), up=0.08, fontsize=canvas.SMALL)


def seed_losses(optimum: Optimum, shifted: bool) -> list[tuple[float, float]]:
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


def _draw_curve(panel: Axes, optimum: Optimum, color: str, marker: str, *, shifted: bool) -> None:
    """Draw one width's curve: seeds as points, means as a line that breaks where a run diverged, and its optimum."""
    seeds = np.array(seed_losses(optimum, shifted)).reshape(-1, 2)
    panel.plot(*seeds.T, ".", color=color, alpha=0.45, markersize=4, markeredgewidth=0, label="seeds")
    if optimum.loss is None or optimum.log2_lr is None:
        return
    less = optimum.loss if shifted else 0.0
    means = [np.nan if point.loss is None else point.loss - less for point in optimum.curve]
    style: dict[str, Any] = {"marker": marker, "markersize": 3.2, "markeredgewidth": 0, "label": "mean"}
    panel.plot([point.log2_lr for point in optimum.curve], means, color=color, **style)
    if not shifted:
        draw_optimum(panel, optimum.log2_lr, optimum.loss, optimum, color)


def _draw_diverged(panel: Axes, optimum: Optimum, color: str, *, down: float) -> None:
    """Draw a cross at every lr at which seeds diverged, `down` inches from the panel's upper edge.

    It is filled where all of them did; else how many did is written beside it, where the lrs leave room.
    """
    _, _, width, high = canvas.place(panel)
    height, transform = 1 - down / high, panel.get_xaxis_transform()
    lrs = [point.log2_lr for point in optimum.curve]
    apart = np.diff(lrs).min(initial=1.0) / np.ptp(panel.get_xlim()) * width
    style: dict[str, Any] = {"markeredgewidth": 0.9, "label": "diverged", "clip_on": False}
    small: dict[str, Any] = {"fontsize": TINY, "va": "center_baseline", "color": color, "transform": transform}
    for whole, marker, size in ((True, "X", 4.2), (False, "x", 3.2)):
        hit = [p for p in optimum.curve if p.n_diverged and (p.n_diverged == len(p.seed_losses)) == whole]
        panel.plot([p.log2_lr for p in hit], [height] * len(hit), marker, color=color, transform=transform, **style)
        panel.lines[-1].set_markersize(size)
        if not whole and apart >= COUNT_INCHES:
            per_inch = np.ptp(panel.get_xlim()) / width
            for p in hit:
                # on the other side of it where the panel ends
                side = -1 if p.log2_lr - COUNT_INCHES * per_inch > panel.get_xlim()[0] else 1
                x, align = p.log2_lr + side * 0.04 * per_inch, "right" if side < 0 else "left"
                panel.text(x, height, f"{p.n_diverged}/{len(p.seed_losses)}", ha=align, **small)


def _draw_interval(panel: Axes, optimum: Optimum, color: str, *, up: float) -> None:
    """Draw the optimum with its interval, `up` inches from the panel's lower edge."""
    if optimum.log2_lr is None:
        return
    low, high = panel.get_ylim()
    y = low + up / canvas.place(panel)[3] * (high - low)
    canvas.draw_interval(panel, y, *optimum.drawn, along="x", color=color)
    draw_optimum(panel, optimum.log2_lr, y, optimum, color)
