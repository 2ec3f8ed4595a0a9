"""Figure of a learning-rate sweep: the optimum against width, and its drift."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.optimum import Optimum
from mupcheck.learning_rates.verdict import bound_text
from mupcheck.looks import table_looks
from mupcheck.plots import canvas
from mupcheck.plots.frame import Caption, cut, frame, wrap

MIN_OCTAVES = 4.0  # of the axis of optima, so that flat looks flat
SAME_START_OCTAVES = 0.5  # drift lines that start no further apart share a cone
LEFT, BOTTOM, TOP = 0.62, 0.42, 0.06  # margins, inches
PANEL_WIDTH, PANEL_HEIGHT = 3.4, 2.6  # inches; higher where the notes need it
LINE_INCHES, NOTES_INCHES = 0.15, 3.0  # of the notes: height of a line, width of the column
NOTES_ROOM = NOTES_INCHES - 0.5  # for text


def draw_optima(answers: Sequence[Transfer], caption: Caption) -> Figure:
    """Draw the optimum's lr against width with its interval, and the line of its drift, for each parametrization.

    The shaded cone is what still transfers: a drift of at most the tolerance from where a line starts. An open marker
    has a flag, named beside the panel; a width without an optimum is a cross at the lower edge. A bar is the lr from
    which a width diverges, where the grid reached it.

    Args:
        answers: of one sweep, optimizer and mode.
        caption: of the figure.
    """
    notes = [_notes(answer) for answer in answers]
    lines = sum(map(len, notes)) + len(answers) - 1
    height = max(PANEL_HEIGHT, lines * LINE_INCHES)
    figure = canvas.Drawing(figsize=(LEFT + PANEL_WIDTH + NOTES_INCHES, TOP + height + BOTTOM))
    panel = canvas.add_panel(figure, LEFT, BOTTOM, PANEL_WIDTH, height)
    widths = sorted({optimum.width for answer in answers for optimum in answer.optima})
    panel.set_xlim(canvas.width_limits(np.log2(widths), pad=0.12))
    panel.set_xticks(np.log2(widths), canvas.width_labels(widths, limits=panel.get_xlim(), inches=PANEL_WIDTH))
    panel.set_ylim(canvas.span([x for answer in answers for x in _reach(answer)], least=MIN_OCTAVES))
    powers = canvas.whole_powers(panel.get_ylim(), most=8)
    panel.set_yticks(powers, [canvas.power_of_two(power) for power in powers])
    panel.set_xlabel("width")
    panel.set_ylabel("best lr")
    looks = table_looks(answer.parametrization for answer in answers)
    handles = _draw_cones(panel, answers, widths)
    # beside one another, so that equal optima do not hide each other
    step = min(0.06, 0.2 / len(answers)) * np.diff(np.log2(widths)).min(initial=1.0)
    line = 0
    for i, (answer, note) in enumerate(zip(answers, notes, strict=True)):
        color, marker = looks[answer.parametrization].color, looks[answer.parametrization].marker
        _draw_drift(panel, answer, color, marker, aside=step * (i - (len(answers) - 1) / 2))
        _write_notes(panel, note, color, marker, line=line)
        line += len(note) + 1
    frame(figure, caption, handles=_handles(answers) + handles)
    return figure


def _handles(answers: Sequence[Transfer]) -> list[Artist]:
    """Return the legend entries for what is drawn."""
    optima = [optimum for answer in answers for optimum in answer.optima]
    found = [optimum for optimum in optima if optimum.log2_lr is not None]
    grey = canvas.GREY
    entries = {
        canvas.handle("optimum, interval", color=grey, marker="o"): any(not optimum.flags for optimum in found),
        canvas.handle("with a flag", color=grey, marker="o", hollow=True): any(optimum.flags for optimum in found),
        canvas.handle("no optimum", color=grey, marker="x"): len(found) < len(optima),
        canvas.handle("drift", color=grey, line=True): any(answer.drift.slope is not None for answer in answers),
        canvas.handle("diverges from here", color=grey, marker="_"): any(
            lr is not None for answer in answers for lr in answer.divergence.log2_lr
        ),
    }
    return [entry for entry, drawn in entries.items() if drawn]


def _draw_cones(panel: Axes, answers: Sequence[Transfer], widths: Sequence[int]) -> list[Artist]:
    """Shade what still transfers, from where each drift line starts; return the legend entry."""
    low, high = np.log2(widths[0]), panel.get_xlim()[1]
    starts: list[float] = []
    for answer in answers:
        drift = answer.drift
        if drift.slope is None or drift.intercept is None:
            continue
        start = drift.intercept + drift.slope * low
        if all(abs(start - other) > SAME_START_OCTAVES for other in starts):
            starts.append(start)
    tolerance = max(answer.tolerance for answer in answers)
    style: dict[str, Any] = {"facecolor": canvas.FAINT, "alpha": 0.55, "linewidth": 0}
    for start in starts:
        reach = tolerance * (high - low)
        panel.fill([low, high, high], [start, start + reach, start - reach], label="cone", zorder=0.5, **style)
        panel.plot([low, high], [start, start], color=canvas.GREY, linestyle=":", linewidth=0.8, zorder=1)
    return [Patch(label=f"transfers: ±{tolerance:g} octaves per doubling", **style)] if starts else []


def draw_optimum(
    panel: Axes, x: float, y: float, optimum: Optimum, color: canvas.Color | str, marker: str = "D"
) -> None:
    """Draw the mark of an optimum, open if it has a flag."""
    style: dict[str, Any] = {"markersize": 4.5, "markeredgewidth": 0.9, "zorder": 3, "label": "optimum"}
    panel.plot(x, y, marker, color=color, markerfacecolor="white" if optimum.flags else color, **style)


def describe_drift(answer: Transfer, *, unit: str = "") -> str:
    """Return "drift −0.89 [−1.15, −0.63]", octaves per doubling of width."""
    if answer.drift.slope is None:
        return "no drift: fewer than two optima"
    if any(optimum.at_edge for optimum in answer.optima):
        bound = bound_text(answer.drift).partition(" octaves")[0]
        return f"{bound.replace('-', '−')}{unit}" if bound else "drift not known: an optimum at the grid's edge"
    return f"drift {canvas.estimate(answer.drift.slope, answer.drift.ci_low, answer.drift.ci_high)}{unit}"


def _reach(answer: Transfer) -> list[float]:
    """Return the log2 lrs that the axis must hold: optima, their intervals as far as the lr grid goes, divergence."""
    grid = [point.log2_lr for optimum in answer.optima for point in optimum.curve]
    found = [optimum for optimum in answer.optima if optimum.log2_lr is not None]
    ends = [end for optimum in found for end in (optimum.ci_low, optimum.ci_high) if end is not None]
    inside = np.clip(ends, min(grid), max(grid)).tolist()
    known = [optimum.log2_lr for optimum in found] + list(answer.divergence.log2_lr)
    return [log2_lr for log2_lr in known if log2_lr is not None] + inside


def _draw_drift(panel: Axes, answer: Transfer, color: str, marker: str, *, aside: float) -> None:
    """Draw one parametrization's optima, `aside` octaves of width from where they belong, and its drift line."""
    drift = answer.drift
    beyond = any(optimum.at_edge for optimum in answer.optima)
    if drift.slope is not None and drift.intercept is not None and not beyond:
        ends = np.log2([answer.optima[0].width, answer.optima[-1].width])
        line = drift.intercept + drift.slope * ends
        panel.plot(ends + aside, line, color=color, linewidth=1, alpha=0.7, label="drift")
    for optimum, threshold in zip(answer.optima, answer.divergence.log2_lr, strict=True):
        x = float(np.log2(optimum.width)) + aside
        if threshold is not None:
            panel.plot(x, threshold, "_", color=color, markersize=9, markeredgewidth=1.4, label="diverges")
            panel.plot(x, threshold, marker, color=color, markersize=2.5, label="whose")
        if optimum.log2_lr is None:
            edge = panel.get_xaxis_transform()
            panel.plot(x, 0.03, "x", color=color, markersize=5, transform=edge, label="no optimum")
            continue
        canvas.draw_interval(panel, x, *optimum.drawn, along="y", color=color)
        draw_optimum(panel, x, optimum.log2_lr, optimum, color, marker)


def _notes(answer: Transfer) -> list[str]:
    """Return the lines that stand beside the panel for a parametrization: name, verdict, drift, and why in doubt."""
    flagged: dict[str, list[str]] = {}
    for optimum in answer.optima:
        for flag in optimum.flags:
            flagged.setdefault(flag, []).append(str(optimum.width))
    said = [describe_drift(answer, unit=" octaves per doubling")]
    if flagged:
        said.append("flags: " + "; ".join(f"{flag} at {', '.join(widths)}" for flag, widths in flagged.items()))
    elif answer.reason.startswith("drift"):
        said = [re.sub(r"-(?=\d)", "−", answer.reason.replace("+-", "±"))]
    else:
        said.append(answer.reason)
    divergence = answer.divergence
    if divergence.slope is not None:
        said.append(f"divergence {canvas.estimate(divergence.slope, divergence.ci_low, divergence.ci_high)}")
    lines = [line for text in said for line in wrap(text, NOTES_ROOM, points=canvas.SMALL)]
    return [cut(answer.parametrization, NOTES_ROOM, bold=True), canvas.verdict_text(answer.verdict), *lines]


def _write_notes(panel: Axes, lines: Sequence[str], color: str, marker: str, *, line: int) -> None:
    """Write lines beside a panel, `line` lines below its upper edge, the first one with its marker."""
    _, _, width, height = canvas.place(panel)
    verdict = next(mark.color for mark in canvas.MARKS.values() if lines[1].startswith(mark.symbol))
    small = ({"fontsize": canvas.SMALL} for _ in lines[2:])
    styles: list[dict[str, Any]] = [{"fontweight": "bold"}, {"color": verdict}, *small]
    for i, (text, style) in enumerate(zip(lines, styles, strict=True)):
        x, y = 1 + 0.36 / width, 1 - (line + i + 0.5) * LINE_INCHES / height
        panel.text(x, y, text, transform=panel.transAxes, va="center", **style)
        if i == 0:
            mark: dict[str, Any] = {"color": color, "markersize": 4.5, "transform": panel.transAxes, "clip_on": False}
            panel.plot(x - 0.13 / width, y, marker, **mark)
