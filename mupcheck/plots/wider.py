"""Figure of a learning-rate sweep: whether the wider of two models has the lower loss, lr by lr and step by step."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from mupcheck.learning_rates.drift import Transfer
from mupcheck.learning_rates.wider import Comparison
from mupcheck.plots import canvas
from mupcheck.plots.frame import MIN_WIDTH, Caption, frame

MIN_NATS = 0.05  # of the colour scale, so that noise looks like noise
LARGE_SHARE = 90  # percentile of the differences at which the colours end: one lr that blows up hides the rest else
WIDTH, LINE, GAP_X = 1.9, 0.14, 0.26  # of a panel, height of an lr's row and between panels, inches
LEFT, RIGHT, BOTTOM, HEAD = 0.74, 0.8, 0.44, 0.56  # inches around panels
DARK = 1.4  # sum of red, green and blue below which a mark is white
MARKS = {"wider is worse beyond the noise": "x", "better beyond it": "."}
COLORS = "PuOr"  # orange is worse, purple better; told apart in grey by the marks


def draw_wider(answers: Sequence[Transfer], caption: Caption) -> Figure:
    """Draw the loss of each width less that of the next narrower one: a row for each lr, a column for each tenth.

    A cross is worse beyond the noise, a dot better beyond it. An lr at which a run diverged is said as such.

    Args:
        answers: of one sweep, optimizer and mode; those without comparisons are left out.
        caption: of the figure.
    """
    shown = [answer for answer in answers if answer.wider_is_better.comparisons]
    rows = [_by_pair(answer) for answer in shown]
    heights = [LINE * len(_lrs(answer)) for answer in shown]
    n_columns = max(map(len, rows), default=1)
    total = sum(heights) + len(shown) * (HEAD + BOTTOM)
    figure = canvas.Drawing(figsize=(max(LEFT + n_columns * (WIDTH + GAP_X) - GAP_X + RIGHT, MIN_WIDTH), total))
    sizes = np.abs([nats for a in shown for c in a.wider_is_better.comparisons for nats in c.nats])
    reach = max(MIN_NATS, float(np.percentile(sizes, LARGE_SHARE)) if len(sizes) else 0.0)
    colors = ScalarMappable(mpl.colors.Normalize(-reach, reach), mpl.colormaps[COLORS].reversed())
    bottom = total
    for answer, pairs, height in zip(shown, rows, heights, strict=True):
        bottom -= HEAD + height
        for i, ((narrow, wide), comparisons) in enumerate(pairs.items()):
            panel = canvas.add_panel(figure, LEFT + i * (WIDTH + GAP_X), bottom, WIDTH, height)
            _draw_pair(panel, comparisons, _lrs(answer), colors, labelled=i == 0)
            canvas.write_above(panel, f"{wide} against {narrow}", up=0.07)
            if i == 0:
                _write_head(panel, answer)
        bottom -= BOTTOM
    _draw_scale(figure, colors, reach)
    hint = (
        "loss of the wider model less that of the narrower one, by lr and tenth of the steps; no mark: within the noise"
    )
    handles = [canvas.handle(name, color=canvas.INK, marker=marker) for name, marker in MARKS.items()]
    frame(figure, caption, hint=hint, handles=handles)
    return figure


def _by_pair(answer: Transfer) -> dict[tuple[int, int], list[Comparison]]:
    pairs: dict[tuple[int, int], list[Comparison]] = {}
    for comparison in answer.wider_is_better.comparisons:
        pairs.setdefault((comparison.narrow, comparison.wide), []).append(comparison)
    return pairs


def _lrs(answer: Transfer) -> list[float]:
    return sorted({comparison.log2_lr for comparison in answer.wider_is_better.comparisons})


def _draw_pair(
    panel: Axes, comparisons: Sequence[Comparison], lrs: Sequence[float], colors: ScalarMappable, *, labelled: bool
) -> None:
    """Draw the comparisons of two widths, the highest lr on top."""
    panel.set_xlim(0, 100)
    panel.set_ylim(0, len(lrs))
    panel.grid(False)
    panel.set_facecolor(canvas.SHADE)
    panel.set_xticks([0, 50, 100])
    panel.set_xlabel("% of the steps")
    whole = all(float(log2_lr).is_integer() for log2_lr in lrs)
    names = [canvas.power_of_two(int(log2_lr)) if whole else f"{2**log2_lr:.2g}" for log2_lr in lrs]
    panel.set_yticks([i + 0.5 for i in range(len(lrs))], names if labelled else [""] * len(lrs))
    panel.set_ylabel("lr" if labelled else "")
    panel.yaxis.set_label_coords(-0.56 / WIDTH, 0.5)
    at_lr = {comparison.log2_lr: comparison for comparison in comparisons}
    for row, log2_lr in enumerate(lrs):
        comparison = at_lr.get(log2_lr)
        if comparison is None or comparison.share is None:
            reason = "not run at both widths" if comparison is None else comparison.reason
            style: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": canvas.SMALL, "color": canvas.GREY}
            panel.text(50, row + 0.46, reason, **style)
            continue
        n = len(comparison.nats)
        faces = colors.to_rgba(np.array(comparison.nats))
        left, step = np.arange(n) * 100 / n, 100 / n
        panel.barh([row + 0.5] * n, step, 1, left=left, color=faces, edgecolor="white", linewidth=0.4, label="tenths")
        ink = np.where((faces[:, :3].sum(axis=1) > DARK)[:, None], mpl.colors.to_rgba(canvas.INK), 1.0)
        for flags, marker, name in ((comparison.worse, "x", "worse"), (comparison.better, ".", "better")):
            on, size = np.array(flags, dtype=bool), {"x": 8, ".": 6}[marker]
            look: dict[str, Any] = {"c": ink[on], "marker": marker, "linewidth": 0.8, "label": name, "zorder": 3}
            panel.scatter(left[on] + step / 2, [row + 0.5] * on.sum(), s=size, **look)


def _write_head(panel: Axes, answer: Transfer) -> None:
    """Write over the first panel of a row the parametrization and what was found."""
    wider = answer.wider_is_better
    share = "" if wider.share is None else f", lower at {wider.share:.0%} of the steps"
    canvas.write_above(panel, canvas.shorten(answer.parametrization, 32), up=0.38, fontweight="bold")
    canvas.write_above(panel, f"wider is better: {wider.verdict}{share}", up=0.23)


def _draw_scale(figure: Figure, colors: ScalarMappable, reach: float) -> None:
    """Draw what the colours mean at the right edge."""
    width, height = figure.get_size_inches()
    length = min(1.3, height - HEAD - BOTTOM)
    axes = canvas.add_panel(figure, width - RIGHT + 0.16, height - HEAD - length, 0.1, length)
    bar = figure.colorbar(colors, cax=axes, extend="both", extendfrac=0.06)
    bar.set_ticks([-reach, 0, reach], labels=[canvas.signed(-reach), "0", canvas.signed(reach)])
    bar.set_label("nats", labelpad=-4)
    bar.outline.set_visible(False)
