"""Figure of the gates' sub-exponent: slope of each gate's gradient by step and layer, against the three rules."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mupcheck.coordinates.gates import ALIGNMENTS, SIZE, GateSlope, rules_for
from mupcheck.plots import canvas
from mupcheck.plots.canvas import Color
from mupcheck.plots.frame import MIN_WIDTH, Caption, frame
from mupcheck.theory.required import ACTIVATIONS, TOLERANCES

WIDTH, HEIGHT, GAP = 2.9, 2.5, 0.22  # of a panel, and between them, inches
LEFT, RIGHT, BOTTOM, TOP = 0.62, 1.32, 0.45, 0.26  # margins, inches
DODGE = 0.6  # of a step's place, over which its layers are spread
MOST_OUTSIDE = 1.0  # an interval is cut off with an arrowhead this far beyond the rules' bands


def says_something(gates: Sequence[GateSlope]) -> bool:
    """Say whether the gates' gradients tell something of a rule: under SGD, or where any reading speaks for one."""
    return any(gate.optimizer == "sgd" or len(gate.near) == 1 for gate in gates)


def draw_gates(gates: Sequence[GateSlope], caption: Caption) -> Figure:
    """Draw what `fit_gates` returned of one parametrization: a panel for each gate, a place for each step.

    Dashed lines are the exponents that the rules assume, shaded bands what is near each. The interval of a filled mark
    is near one of them, that of a hollow one near none or several; the dash beside it is the gradient's slope as it
    is, not relative to the gradient that enters the mixer.

    Args:
        gates: slopes of one parametrization, optimizer and mode.
        caption: of the figure.
    """
    sites = list(dict.fromkeys(gate.site for gate in gates))
    steps = sorted({gate.step for gate in gates})
    layers = sorted({gate.layer for gate in gates})
    looks = canvas.ordered_looks(layers)
    handles: list[Artist] = [
        canvas.handle(f"layer {layer}", color=color, marker=marker, line=True)
        for layer, (color, marker) in looks.items()
    ]
    handles.append(canvas.handle("cannot tell", color=canvas.GREY, marker="o", hollow=True))
    handles.append(canvas.handle("gradient as it is", color=canvas.GREY, marker="_"))
    handles.append(Line2D([], [], color=canvas.GREY, linestyle=canvas.DASHED, linewidth=0.8, label="a rule"))
    handles.append(Patch(color=canvas.GRID, label="near it"))

    width = max(LEFT + len(sites) * (WIDTH + GAP) - GAP + RIGHT, MIN_WIDTH)
    figure = canvas.Drawing(figsize=(width, BOTTOM + HEIGHT + TOP))
    limits = _limits(gates)
    for i, site in enumerate(sites):
        panel = canvas.add_panel(figure, LEFT + i * (WIDTH + GAP), BOTTOM, WIDTH, HEIGHT)
        _draw_frame(panel, steps, limits, labelled=i == 0)
        panel.set_title(f"{site}: {ACTIVATIONS[site]}", fontsize=canvas.NORMAL, fontweight="bold", loc="left", pad=5)
        for gate in (gate for gate in gates if gate.site == site):
            offset = DODGE * ((layers.index(gate.layer) + 0.5) / len(layers) - 0.5)
            _draw_gate(panel, steps.index(gate.step) + offset, gate, *looks[gate.layer])
        if i == len(sites) - 1:
            _name_rules(panel, gates[0].mode)
    below = "slope p of rms(dL/dz) ~ width^p with its interval; the gradient entering the mixer is taken to have −1"
    frame(figure, caption, hint=below, handles=handles)
    return figure


def _limits(gates: Sequence[GateSlope]) -> tuple[float, float]:
    """Return y limits that hold every slope and rule, and of the intervals what is not far off."""
    low, high = ALIGNMENTS[-1].exponent - TOLERANCES[SIZE], ALIGNMENTS[0].exponent + TOLERANCES[SIZE]
    ends = np.array([[gate.ci_low, gate.ci_high] for gate in gates])
    slopes = np.array([[gate.slope, gate.gradient_slope] for gate in gates])
    shown = np.concatenate(
        [np.clip(ends, low - MOST_OUTSIDE, high + MOST_OUTSIDE).ravel(), slopes.ravel(), [low, high]]
    )
    return canvas.span(shown, least=high - low, pad=0.03)


def _draw_frame(panel: Axes, steps: Sequence[int], limits: tuple[float, float], *, labelled: bool) -> None:
    """Draw axes, and the band and exponent of each rule."""
    panel.set_xlim(-0.5, len(steps) - 0.5)
    panel.set_ylim(*limits)
    panel.set_xticks(range(len(steps)), [str(step) for step in steps])
    panel.grid(visible=False)
    panel.set_xlabel("step")
    ticks = [tick / 2 for tick in range(-16, 17) if limits[0] <= tick / 2 <= limits[1]]
    panel.set_yticks(ticks if labelled else [], [canvas.signed(tick, 1) for tick in ticks] if labelled else [])
    if labelled:
        panel.set_ylabel("slope")
    for i, alignment in enumerate(ALIGNMENTS):
        near = (alignment.exponent - TOLERANCES[SIZE], alignment.exponent + TOLERANCES[SIZE])
        panel.axhspan(*near, color=(canvas.SHADE, canvas.GRID)[i % 2], linewidth=0, zorder=0)
        panel.axhline(
            alignment.exponent, color=canvas.GREY, linestyle=canvas.DASHED, linewidth=0.8, zorder=1, label="rule"
        )


def _draw_gate(panel: Axes, x: float, gate: GateSlope, color: Color, marker: str) -> None:
    """Draw one slope with its interval, and the gradient's slope as it is."""
    if not np.isfinite(gate.slope):
        y = panel.get_ylim()[0]
        style: dict[str, Any] = {"rotation": 90, "fontsize": canvas.SMALL, "ha": "center", "va": "bottom"}
        panel.text(x, y, " no slope", color=color, **style)
        return
    if np.isfinite([gate.ci_low, gate.ci_high]).all():
        canvas.draw_interval(panel, x, gate.ci_low, gate.ci_high, along="y", color=color)
    face = color if len(gate.near) == 1 else "white"
    panel.plot(x, gate.slope, marker, color=color, markerfacecolor=face, markersize=4, zorder=3, label="slope")
    panel.plot(x, gate.gradient_slope, "_", color=canvas.GREY, markersize=5, zorder=2, label="gradient as it is")


def _name_rules(panel: Axes, mode: str) -> None:
    """Write at the right of a panel what the terms do, and which tables assume it in this mode."""
    right = panel.get_xlim()[1]
    offset: dict[str, Any] = {"textcoords": "offset points", "va": "center", "annotation_clip": False}
    for alignment in ALIGNMENTS:
        exponent = f"{alignment.exponent:g}".replace("-", "−").replace("0.5", "½")
        text = f"{exponent} {alignment.name}" + "".join(f"\n{table}" for table in rules_for(alignment, mode))
        panel.annotate(text, (right, alignment.exponent), xytext=(5, 0), **offset)
