"""Figure of a learning-rate sweep: what each width's best learning rate costs every other width."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.penalty import Penalty
from mupcheck.plots import canvas
from mupcheck.plots.frame import MIN_WIDTH, Caption, cut, frame
from mupcheck.plots.losses import MAX_COLUMNS

MIN_NATS = 0.1  # of the colour scale, so that a small cost looks small
CELL_WIDTH, CELL_HEIGHT = 0.86, 0.36  # inches
MIN_PANEL_WIDTH = 2.2  # inches: for the verdict above it
LEFT, RIGHT, BOTTOM, HEAD, GAP_X = 0.62, 0.14, 0.42, 0.42, 0.36  # inches around panels
WORTH_NATS = 0.01  # a cost below it says nothing that the verdict does not


def says_something(answers: Sequence[Transfer]) -> bool:
    """Say whether any other width's best lr costs something beyond the noise, or makes a width diverge."""
    costs = [p for answer in answers for p in answer.penalty if p.source != p.target]
    known = [(p.nats, p.ci_low) for p in costs if p.nats is not None]
    beyond = any(nats >= WORTH_NATS and (low is None or low > 0) for nats, low in known)
    return beyond or any("diverges" in p.reason for p in costs if p.nats is None)


def draw_penalties(answers: Sequence[Transfer], caption: Caption) -> Figure:
    """Draw the penalty matrix of each parametrization: a row for the width trained, a column for the width tuned.

    Above each stands the verdict on the cost of its lower left corner: tuned at the smallest width, trained at the
    largest. A cell holds nats with the interval below it, and the percent of the loss; a cell without a number says
    why. All panels share their colours.

    Args:
        answers: of one sweep, optimizer and mode.
        caption: of the figure.
    """
    most = max((p.nats for answer in answers for p in answer.penalty if p.nats is not None), default=0.0)
    scale = mpl.colors.PowerNorm(0.5, 0.0, max(most, MIN_NATS))  # a cost grows as the square of the distance
    n_columns = min(len(answers), MAX_COLUMNS)
    n_widths = max(len(answer.optima) for answer in answers)
    width = max(MIN_PANEL_WIDTH, CELL_WIDTH * n_widths)
    height, n_blocks = CELL_HEIGHT * n_widths, -(-len(answers) // n_columns)
    block = HEAD + height + BOTTOM
    size = max(LEFT + n_columns * (width + GAP_X) - GAP_X + RIGHT, MIN_WIDTH), n_blocks * block
    figure = canvas.Drawing(figsize=size)
    for i, answer in enumerate(answers):
        left = LEFT + i % n_columns * (width + GAP_X)
        bottom = size[1] - (i // n_columns + 1) * block + BOTTOM
        n_own = len(answer.optima)
        panel = canvas.add_panel(
            figure, left, bottom + height - CELL_HEIGHT * n_own, CELL_WIDTH * n_own, CELL_HEIGHT * n_own
        )
        _draw_matrix(panel, answer, scale, labelled=i % n_columns == 0)
        canvas.write_above(panel, cut(answer.parametrization, width, bold=True), up=0.22, fontweight="bold")
        mark, verdict = canvas.MARKS[answer.cost.verdict], answer.cost.verdict
        canvas.write_above(panel, f"{mark.symbol} cost: {verdict}", up=0.08, color=mark.color)
    hint = (
        "in a cell: nats per token lost, percent of the loss, and the interval of the nats; hatched: not known, and why"
    )
    frame(figure, caption, hint=hint)
    return figure


def _draw_matrix(panel: Axes, answer: Transfer, scale: mpl.colors.Normalize, *, labelled: bool) -> None:
    widths = [optimum.width for optimum in answer.optima]
    panel.set_xlim(0, len(widths))
    panel.set_ylim(len(widths), 0)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    panel.set_xticks([i + 0.5 for i in range(len(widths))], [str(width) for width in widths])
    panel.set_yticks([i + 0.5 for i in range(len(widths))], [str(width) for width in widths])
    panel.set_xlabel("width whose best lr is used")
    panel.set_ylabel("width trained" if labelled else "")
    for penalty in answer.penalty:
        _draw_cell(panel, penalty, scale, widths.index(penalty.source), widths.index(penalty.target))


def _draw_cell(panel: Axes, penalty: Penalty, scale: mpl.colors.Normalize, x: int, y: int) -> None:
    """Draw one cell, its text dark on light and light on dark."""
    if penalty.nats is None:
        panel.add_patch(Rectangle((x, y), 1, 1, facecolor=canvas.SHADE, edgecolor="white", hatch="////", linewidth=1))
        lines, color = ["?", cut(_shortly(penalty.reason), 0.95 * CELL_WIDTH, points=canvas.SMALL - 0.5)], canvas.INK
    else:
        face = mpl.colormaps["YlOrBr"](0.85 * float(scale(penalty.nats)))
        panel.add_patch(Rectangle((x, y), 1, 1, facecolor=face, edgecolor="white", linewidth=1, label="penalty"))
        color = canvas.INK if sum(face[:3]) > 1.4 else "white"
        lines = [f"{penalty.nats:.3f} ({penalty.percent:.1f}%)", "no interval"]
        if penalty.source == penalty.target:
            lines = ["0"]
        elif penalty.ci_low is not None and penalty.ci_high is not None:
            lines[1] = f"[{penalty.ci_low:.3f}, {penalty.ci_high:.3f}]"
    style: dict[str, Any] = {"ha": "center", "va": "center", "color": color}
    places = ((0.32, canvas.NORMAL), (0.7, canvas.SMALL - 0.5)) if lines[1:] else ((0.5, canvas.NORMAL),)
    for text, (down, size) in zip(lines, places, strict=True):
        panel.text(x + 0.5, y + down, text, fontsize=size, **style)


def _shortly(reason: str) -> str:
    """Return a reason that fits a cell."""
    known = {"diverge": "diverges", "outside": "not in its grid", "no optimum": "no optimum", "edge": "edge of grid"}
    return next((short for word, short in known.items() if word in reason), reason)
