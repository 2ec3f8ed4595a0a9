"""Figure of every slope of a coordinate check at once, each with its interval, against what is required of it."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from math import inf
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import ArrayLike

from mupcheck.imported.sizes import SIZE
from mupcheck.plots import canvas
from mupcheck.plots.frame import Caption, cut_front, frame, text_inches
from mupcheck.theory.required import ACTIVATIONS, WEIGHTS

SITES = [*ACTIVATIONS, *(site for site in WEIGHTS if site not in ACTIVATIONS)]
SEVERITY = ("info", "pass", "cannot tell", "fail")
# (kind, stat) of the columns, in two blocks that share their rows
OF_SITES = [("activation", "rms"), ("activation", "mean_abs"), ("activation_update", "rms"), ("activation_grad", "rms")]
OF_WEIGHTS = [
    *(("effective_update", "rms"), ("weight_update", "rms"), ("weight_update", "spectral")),
    *(("weight", "rms"), ("weight_grad", "rms")),
]

MIN_SLOPE = 1.75  # the axis reaches this far to both sides of 0 at least: the shipped faults are at most 3/2
LINE, WIDTH, GAP = 0.165, 1.38, 0.14  # height of a row, width of a column and between columns, inches
LEFT, RIGHT, BOTTOM, TOP, BETWEEN = 1.12, 0.14, 0.45, 0.36, 0.85  # margins, and between the blocks, inches
MOST_LEFT, AIR = 2.4, 0.12  # where names are long; beside them, a ring of air, as the ticks have


def draw_slopes(slopes: pd.DataFrame, pooled: pd.DataFrame, caption: Caption) -> Figure:
    """Draw every slope of one parametrization against what is required: a column for each kind, a row for each site.

    A row holds the slopes of its layers and steps as small marks, and as a large one with its interval the pooled slope
    that decides, the worse one of step 0 and of later steps. The grey bar is what passes there, required +- tolerance;
    its dark lines are what is required, or the ends of a required range.

    Args:
        slopes: rows of `fit_slopes`, of single layers and steps.
        pooled: the same of all layers, at step 0 and at later steps, as in a `Judgement`.
        caption: of the figure.
    """
    found = {
        key: (rows, pooled[(pooled["kind"] == key[0]) & (pooled["stat"] == key[1])])
        for key, rows in slopes.groupby(["kind", "stat"])
    }
    blocks = [[found[key] for key in keys if key in found] for keys in (OF_SITES, OF_WEIGHTS, of_others(found))]
    blocks = [block for block in blocks if block]
    names = [in_order(pd.concat([rows for rows, _ in block])["site"]) for block in blocks]
    judged = pd.concat([table[table["verdict"] != "info"] for table in (slopes, pooled)])
    reach = max(MIN_SLOPE, 1.08 * float(judged["slope"].abs().fillna(0).max() if len(judged) else 0))

    n_columns = max([4, *map(len, blocks)])
    height = TOP + LINE * sum(map(len, names)) + BETWEEN * (len(blocks) - 1) + BOTTOM
    # names of torch modules are long
    left = min(MOST_LEFT, max([LEFT, *(AIR + text_inches(name) for name in chain.from_iterable(names))]))
    figure = canvas.Drawing(figsize=(left + n_columns * (WIDTH + GAP) - GAP + RIGHT, height))
    base = height - TOP
    for block, sites in zip(blocks, names, strict=True):
        base -= LINE * len(sites)
        for i, (rows, of_all) in enumerate(block):
            panel = canvas.add_panel(figure, left + i * (WIDTH + GAP), base, WIDTH, LINE * len(sites))
            shown = [cut_front(site, left - AIR) for site in sites] if i == 0 else []
            _draw_column(panel, rows, of_all, sites, reach, shown)
        base -= BETWEEN

    handles: list[Artist] = [canvas.verdict_handle(verdict) for verdict in reversed(SEVERITY)]
    handles.append(canvas.handle("required", color=canvas.GREY, marker="|"))
    handles.append(Patch(color=canvas.FAINT, label="± tolerance"))
    if any(line.get_label() == "goes on" for axes in figure.axes for line in axes.lines):
        handles.append(canvas.handle("goes on beyond the axis", color=canvas.GREY, marker=">"))
    hint = "large: pooled over layers and steps, which decides, with its interval; small: single layers and steps"
    remarks = [count_verdicts(pooled, "pooled slopes"), count_verdicts(slopes, "slopes of single layers and steps")]
    frame(figure, caption, remarks=remarks, hint=hint, handles=handles)
    return figure


def of_others(found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the (kind, stat) of what others measured, without the word for how: it has no column above."""
    return sorted(key for key in found if SIZE in key)


def worst_by_site(slopes: pd.DataFrame) -> list[dict]:
    """Return for each site, in order, the row of the worst verdict; of equals the last step, then the deepest layer."""
    severity = slopes["verdict"].map(SEVERITY.index)
    ranked = slopes.assign(severity=severity).sort_values(["severity", "step", "layer"], kind="stable")
    rows = {row["site"]: row for row in ranked.drop_duplicates("site", keep="last").to_dict("records")}
    return [rows[site] for site in in_order(rows)]


def count_verdicts(slopes: pd.DataFrame, of: str) -> str:
    """Return "pooled slopes: 1 fail, 12 pass": how many, and of what, have which verdict."""
    counts = slopes["verdict"].value_counts()
    said = [f"{counts[name]} {canvas.verdict_name(name)}" for name in reversed(SEVERITY) if name in counts]
    return f"{of}: " + ", ".join(said)


def in_order(sites: Iterable[str]) -> list[str]:
    """Return the distinct sites in the order of the model, unknown ones last."""
    return sorted(set(sites), key=lambda site: (SITES.index(site) if site in SITES else len(SITES), site))


def _draw_column(
    panel: Axes, rows: pd.DataFrame, pooled: pd.DataFrame, sites: Sequence[str], reach: float, shown: Sequence[str]
) -> None:
    """Draw the slopes of one kind and stat, a line of the panel for each of the sites; they are called as `shown`."""
    panel.set_title("\n".join(dict.fromkeys(rows[["kind", "stat"]].iloc[0])), fontsize=canvas.NORMAL, pad=5)
    panel.set_xlim(-reach, reach)
    apart = 1 if reach < 3 else 2  # room for five labels
    panel.set_xticks([tick for tick in range(-8, 9, apart) if abs(tick) <= reach])
    panel.set_xlabel("slope")
    panel.set_ylim(len(sites) - 0.5, -0.5)
    panel.set_yticks(range(len(shown)), shown)
    panel.tick_params(axis="y", labelcolor=canvas.INK)
    panel.hlines(range(len(sites)), -reach, reach, color=canvas.GRID, linewidth=0.5, zorder=0)
    panel.axvline(0, color=canvas.GREY, linewidth=0.5, zorder=1)
    line = {site: i for i, site in enumerate(sites)}
    worst = worst_by_site(pooled)
    _draw_bars(panel, [(line[slope["site"]], slope) for slope in worst])
    for verdict, of_verdict in rows.groupby("verdict"):
        # a fault of one layer stands out of the rest
        alpha = 1.0 if verdict == "fail" else 0.45
        lines = of_verdict["site"].map(line)
        _draw_marks(panel, of_verdict["slope"], lines, str(verdict), size=5, alpha=alpha)
    for slope in worst:
        y = line[slope["site"]]
        if np.isnan(slope["slope"]):
            style: dict[str, Any] = {"fontsize": canvas.SMALL, "va": "center_baseline", "ha": "right"}
            panel.text(reach, y, "no slope", color=canvas.MARKS[slope["verdict"]].color, **style)
            continue
        color = canvas.MARKS[slope["verdict"]].color
        canvas.draw_interval(panel, y, slope["ci_low"], slope["ci_high"], along="x", color=color)
    for verdict in SEVERITY:
        chosen = [slope for slope in worst if slope["verdict"] == verdict]
        lines = np.array([line[slope["site"]] for slope in chosen])
        _draw_marks(panel, np.array([slope["slope"] for slope in chosen]), lines, verdict, size=16)


def _draw_marks(
    panel: Axes, slopes: ArrayLike, lines: ArrayLike, verdict: str, *, size: float, alpha: float = 1.0
) -> None:
    """Draw slopes with the mark of their verdict, as arrowheads those beyond the axis: nothing is required of them."""
    low, high = panel.get_xlim()
    slopes, lines = np.asarray(slopes, dtype=float), np.asarray(lines, dtype=float)
    inside = ~((slopes < low) | (slopes > high))
    canvas.scatter_verdict(panel, slopes[inside], lines[inside], verdict, size=size, alpha=alpha)
    style: dict[str, Any] = {"markersize": 3, "markeredgewidth": 0, "clip_on": False, "label": "goes on"}
    for beyond, edge, marker in ((slopes < low, low, "<"), (slopes > high, high, ">")):
        if beyond.any():
            panel.plot([edge] * beyond.sum(), lines[beyond], marker, color=canvas.MARKS[verdict].color, **style)


def _draw_bars(panel: Axes, slopes: Sequence[tuple[int, Mapping]]) -> None:
    """Draw what is required of each (line, slope): a grey bar of what passes, dark lines at the ends of the range."""
    pinned = [(y, slope) for y, slope in slopes if not np.isnan(slope["required_high"])]
    left = [max(slope["required_low"] - slope["tolerance"], panel.get_xlim()[0]) for _, slope in pinned]
    right = [slope["required_high"] + slope["tolerance"] for _, slope in pinned]
    points_high = 0.74 * LINE * 72
    panel.hlines([y for y, _ in pinned], left, right, color=canvas.FAINT, linewidth=points_high, zorder=1)
    ends = [(y, slope[end]) for y, slope in pinned for end in ("required_low", "required_high") if slope[end] > -inf]
    lines = np.array([y for y, _ in ends])
    panel.vlines([x for _, x in ends], lines - 0.37, lines + 0.37, color=canvas.GREY, linewidth=0.9, zorder=1.5)
