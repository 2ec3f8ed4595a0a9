"""Figure of a coordinate check: coordinate size against width, parametrizations side by side, a row for each site."""

from collections.abc import Mapping, Sequence
from math import inf

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mupcheck.plots import canvas
from mupcheck.plots.canvas import Floats
from mupcheck.plots.frame import Caption, cut, cut_front, frame, text_inches
from mupcheck.plots.overview import SEVERITY, count_verdicts, in_order
from mupcheck.plots.panels import (
    COLUMNS,
    GAP_X,
    HEAD,
    HEIGHT,
    INNER,
    LEFT,
    MIN_OCTAVES,
    NOT_FINITE,
    OVER_LABELS,
    RIGHT,
    TOP,
    WIDTH,
    ZERO,
    Panel,
    draw_frames,
    draw_required,
    draw_step,
    log2,
    place_panels,
)

MOST_ROWS = 6  # of sites on a page with several parametrizations
MEANING = {
    "activation": "size at each site, against width",
    "activation_update": "change at each site since step 0, against width",
    "activation_grad": "size of the loss gradient at each site, against width",
    "effective_update": "what each weight's change does to its input, against width",
    "weight_update": "change of each weight since step 0, against width",
    "weight": "size of each weight, against width",
    "weight_grad": "size of each weight's gradient, against width",
    "size": "as others measured it, against width",
}


def draw_coordinates(
    sizes: pd.DataFrame, slopes: pd.DataFrame, caption: Caption, *, least: float = MIN_OCTAVES
) -> Figure:
    """Draw coordinate size against width, log2 against log2: sites, failing ones first, and a colour for each step.

    Of each site one layer is shown, the same for all parametrizations, with the slope of one step: those judged worst
    (of equals the last step, then the deepest layer). A dashed line is the slope required there, through the mean of
    that step, a wedge where a range is required; around it, lighter, what is within the tolerance. Panels of a site
    share their axes, and all panels their span. With several parametrizations no more than MOST_ROWS rows are drawn,
    and a line names the sites left out. The whole page is one Axes in inches: an Axes for each panel takes three times
    as long.

    Args:
        sizes: of one kind and stat: columns parametrization, site, layer, step, width, seed, value.
        slopes: the rows of `fit_slopes` for them; parametrizations are drawn in their order there.
        caption: of the figure.
        least: octaves that a panel's y axis spans at least.
    """
    names = list(dict.fromkeys(slopes["parametrization"]))
    rows = shown_slopes(slopes)
    room = len(rows) if len(names) == 1 else MOST_ROWS * COLUMNS.get(len(names), 1)
    rows, left_out = rows[:room], rows[room:]
    values, points = points_of(sizes, rows, names)
    steps = sorted({int(step) for step in sizes["step"]})
    looks = canvas.ordered_looks(steps)

    panels = place_panels(points, least=least)
    n_columns = min(COLUMNS.get(len(names), 1), len(rows)) if len(names) > 1 else COLUMNS[1]
    block = len(names) * (WIDTH + INNER) - INNER
    top = panels[0][0].bottom + HEIGHT + TOP + (HEAD if len(names) > 1 else 0)
    figure = canvas.Drawing(figsize=(LEFT + n_columns * (block + GAP_X) - GAP_X + RIGHT, top))
    page = canvas.add_page(figure)
    draw_frames(page, panels, sorted(sizes["width"].unique()), n_columns)
    judged = by_place(slopes)
    flat, flat_points = [panel for row in panels for panel in row], [each for row in points for each in row]
    for row, of_row, points_of_row in zip(rows, panels, points, strict=True):
        if len(names) > 1:
            _write_site(page, of_row[0], row)
        for name, panel, each in zip(names, of_row, points_of_row, strict=True):
            slope = judged.get((name, *place_of(row), row["step"]))
            if slope is None:
                continue
            if len(names) > 1:
                _write_beside(page, panel, slope, worst=_worst_of(judged, name, row["site"]))
            else:
                _write_head(page, panel, slope)
            draw_required(page, panel, slope, each[1:, each[0] == slope["step"]])
    for step, look in looks.items():
        draw_step(page, flat, [each[1:, each[0] == step] for each in flat_points], *look)
    for of_row in panels[::n_columns]:
        page.text(0.1, of_row[0].bottom + HEIGHT / 2, slopes["stat"].iloc[0], rotation=90, va="center")

    frame(
        figure,
        caption,
        remarks=[_counts(slopes), *_not_shown(left_out)],
        hint=_hint(names),
        handles=_handles(looks, values, required=any(not np.isnan(row["required_high"]) for row in rows)),
    )
    return figure


def points_of(sizes: pd.DataFrame, rows: Sequence[dict], names: Sequence[str]) -> tuple[Floats, list[list[Floats]]]:
    """Return step, log2 width and log2 size, [3, size], of all sizes, and those of each row's site by parametrization.

    Args:
        sizes: as of `draw_coordinates`.
        rows: of `shown_slopes`.
        names: of the parametrizations.
    """
    values = np.stack([sizes["step"].to_numpy(dtype=float), log2(sizes["width"]), log2(sizes["value"])])
    at = sizes.groupby(["parametrization", "site", "layer"]).indices
    none = np.array([], dtype=int)
    return values, [[values[:, at.get((name, *place_of(row)), none)] for name in names] for row in rows]


def shown_slopes(slopes: pd.DataFrame) -> list[dict]:
    """Return for each site the slope whose layer and step are drawn, failing sites first, then in order of the model.

    It is the layer and step with the worst verdict; with several parametrizations, at which most of them are bad, and
    sites at which more of them are come first.
    """
    key = ["site", "layer", "step"]
    table = slopes.assign(severity=slopes["verdict"].map(SEVERITY.index))
    grouped = table.groupby(key)["severity"]
    table = table.assign(worst=grouped.transform("max"), together=grouped.transform("sum"))
    ranked = table.sort_values(["worst", "together", "step", "layer", "severity"], kind="stable")
    chosen = ranked.drop_duplicates("site", keep="last").set_index("site", drop=False).to_dict("index")
    order = {site: (-row["worst"], -row["together"]) for site, row in chosen.items()}
    return [chosen[site] for site in sorted(in_order(chosen), key=order.__getitem__)]


def place_of(row: Mapping) -> tuple[str, int]:
    """Return site and layer of a slope."""
    return row["site"], row["layer"]


def by_place(slopes: pd.DataFrame) -> dict[tuple, dict]:
    """Return the rows of `fit_slopes` by (parametrization, site, layer, step)."""
    return {(row["parametrization"], *place_of(row), row["step"]): row for row in slopes.to_dict("records")}


def _worst_of(judged: Mapping[tuple, dict], name: str, site: str) -> dict:
    """Return the slope of a site that is judged worst under one parametrization."""
    rows = [row for (of, at, _, _), row in judged.items() if (of, at) == (name, site)]
    return max(rows, key=lambda row: SEVERITY.index(row["verdict"]))


def _counts(slopes: pd.DataFrame) -> str:
    """Return how many slopes have which verdict, by parametrization."""
    of, groups = "slopes of single layers and steps", list(slopes.groupby("parametrization", sort=False))
    if len(groups) == 1:
        return count_verdicts(slopes, of)
    return f"{of}: " + "; ".join(count_verdicts(rows, canvas.shorten(str(name), 28)) for name, rows in groups)


def _hint(names: Sequence[str]) -> str:
    said = (
        "points: seeds; lines: means; above a panel: slope [interval] → required, of the [layer] and step judged worst"
    )
    return said + ("; (✗ [0]): another layer or step of it is judged worse, and which layer" if len(names) > 1 else "")


def _not_shown(left_out: Sequence[Mapping]) -> list[str]:
    """Name the sites that there is no room for."""
    said = []
    for verdict in reversed(SEVERITY):
        sites = [row["site"] for row in left_out if row["verdict"] == verdict]
        if sites:
            said.append(f"{', '.join(sites)} ({canvas.verdict_name(verdict)})")
    return [f"not shown, but with --all: {'; '.join(said)}"] if said else []


def _handles(looks: Mapping[int, tuple[canvas.Color, str]], values: Floats, *, required: bool) -> list[Artist]:
    """Return the legend entries for what is drawn."""
    entries: list[Artist] = [
        canvas.handle(f"step {step}", color=color, marker=marker, line=True) for step, (color, marker) in looks.items()
    ]
    if required:
        entries.append(Line2D([], [], color=canvas.INK, linestyle=canvas.DASHED, linewidth=0.9, label="required"))
        entries.append(Patch(color=canvas.FAINT, label="± tolerance"))
    if not np.isfinite(values[2]).all():
        entries.append(canvas.handle("zero", color=canvas.GREY, marker=ZERO))
        entries.append(canvas.handle("infinite or NaN", color=canvas.GREY, marker=NOT_FINITE))
    return entries


def _write_head(page: Axes, panel: Panel, slope: Mapping) -> None:
    """Write over a panel its site[layer] and verdict, and below them step, slope [interval] and what is required."""
    layer = f"[{slope['layer']}]" if slope["layer"] >= 0 else ""
    left, top = panel.left - OVER_LABELS, panel.bottom + HEIGHT
    verdict = canvas.verdict_text(slope["verdict"])
    room = WIDTH + OVER_LABELS - text_inches(verdict) - 0.08
    page.text(left, top + 0.19, cut_front(slope["site"] + layer, room, bold=True), fontweight="bold")
    color = canvas.MARKS[slope["verdict"]].color
    page.text(panel.left + WIDTH, top + 0.19, verdict, ha="right", color=color)
    measured = canvas.estimate(slope["slope"], slope["ci_low"], slope["ci_high"])
    page.text(left, top + 0.055, f"step {slope['step']}: {measured}{_requirement(slope)}", fontsize=canvas.SMALL)


def _write_site(page: Axes, panel: Panel, slope: Mapping) -> None:
    """Write over the panels of a site its name[layer], and behind it the step and what is required."""
    layer = f"[{slope['layer']}]" if slope["layer"] >= 0 else ""
    left, up, name = panel.left - OVER_LABELS, panel.bottom + HEIGHT + 0.33, slope["site"] + layer
    page.text(left, up, name, fontweight="bold")
    after = left + text_inches(name, bold=True) + 0.1
    page.text(after, up, f"step {slope['step']}{_requirement(slope)}", fontsize=canvas.SMALL, color=canvas.GREY)


def _write_beside(page: Axes, panel: Panel, slope: Mapping, *, worst: Mapping) -> None:
    """Write over one of a site's panels whose it is and the verdict, and below them the slope [interval]."""
    up, verdict = panel.bottom + HEIGHT, canvas.verdict_text(slope["verdict"])
    if SEVERITY.index(worst["verdict"]) > SEVERITY.index(slope["verdict"]):
        verdict += f" ({canvas.MARKS[worst['verdict']].symbol} [{worst['layer']}])"
    room = WIDTH - text_inches(verdict) - 0.08
    page.text(panel.left, up + 0.175, cut(slope["parametrization"], room))
    color = canvas.MARKS[slope["verdict"]].color
    page.text(panel.left + WIDTH, up + 0.175, verdict, ha="right", color=color)
    measured = canvas.estimate(slope["slope"], slope["ci_low"], slope["ci_high"])
    page.text(panel.left, up + 0.055, measured, fontsize=canvas.SMALL)


def _requirement(slope: Mapping) -> str:
    """Return " → 0", " → −½…0" or " → ≤0"; nothing where theory requires nothing."""
    low, high = slope["required_low"], slope["required_high"]
    if np.isnan(high):
        return ""
    ends = [f"{p:g}".replace("-", "−").replace("0.5", "½") for p in (low, high)]
    if low == -inf:
        return f" → ≤{ends[1]}"
    return f" → {ends[1]}" if low == high else f" → {ends[0]}…{ends[1]}"
