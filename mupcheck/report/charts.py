"""The page's charts as Vega-Lite specifications; what they draw are rows of `rows.py`, under the names given here.

Vega-Lite was chosen for its size (0.9 MB in the page; Plotly 4.6), its licence (BSD-3-Clause), marks in SVG that the
page's own style colours in light and dark and that can be saved as they are, descriptions for screen readers, and data
apart from the drawing: rows never become code. `vl-convert-python` carries it, so that nothing is fetched.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mupcheck.looks import Look, table_looks, width_looks
from mupcheck.report.rows import Row

Spec = dict[str, Any]
Ends = tuple[float, float]

# of runs, which have no order: middling in lightness, so that they are told apart on white and on black
RUN_COLORS = ["#7a5fc7", "#2f7fd1", "#12908a", "#4d8f28", "#b0761a", "#c8503c", "#b43e8f", "#6b7280"]
VERDICT_COLORS = {"pass": "#2f8f4e", "fail": "#cc4b2c", "cannot tell": "#8a63c9", "info": "#7d8590"}
POWER = "'2^' + replace(format(datum.value, '~g'), '−', '-')"
INK = "currentColor"
MORE = "More"
# Of charts whose height is that of their rows. Vega-Lite fits no width to its container without a warning there, so the
# page does (page.js).
TO_FIT = 300

CONFIG: Spec = {
    "background": "transparent",
    "font": "system-ui, sans-serif",  # the page's; by name, as widths of texts are measured by it
    "view": {"stroke": None},
    "axis": {
        "labelColor": INK,
        "titleColor": INK,
        "domainColor": INK,
        "tickColor": INK,
        "gridColor": INK,
        "gridOpacity": 0.12,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "orient": "top"},
    "text": {"color": INK},
    "rule": {"color": INK},
}


def chart(
    name: str,
    title: str,
    spec: Spec,
    rows: dict[str, list[Row]],
    *,
    table: str,
    about: str,
    main: bool = False,
    under: str = MORE,
) -> Spec:
    """Return a chart as the page embeds it.

    Args:
        name: of its element and of files saved from it.
        title: of the figure.
        spec: Vega-Lite.
        rows: by the names that the specification has for them.
        table: which of them its CSV and its table hold.
        about: what a screen reader says of it.
        main: whether it is one of those that answer.
        under: the heading of the others.
    """
    spec = {"config": CONFIG, "description": about} | spec
    return {"name": name, "title": title, "about": about, "spec": spec, "rows": rows, "table": table} | {
        "main": main,
        "under": under,
    }


def losses(
    curves: list[Row], limits: tuple[Ends, Ends], loss_name: str, widths: Sequence[int], lrs: tuple[float, float]
) -> Spec:
    """Return loss against lr by width, of one parametrization; the parameter `shifted` takes each width's optimum off.

    Args:
        curves: rows, for their widths.
        limits: the ends of the loss axis, as measured and shifted, which parametrizations of a sweep share.
        loss_name: for the axis.
        widths: of all parametrizations of the sweep, which share their looks.
        lrs: the least and greatest log2 lr of all of them.
    """
    scale = {"domain": list(lrs), "zero": False, "nice": False, "padding": 12}
    x = {"field": "log2_lr", "type": "quantitative", "title": "lr", "scale": scale}
    x["axis"] = {"labelExpr": POWER, "tickMinStep": 1, "grid": False}
    domain = {"expr": f"shifted ? {list(limits[1])} : {list(limits[0])}"}
    y = {"field": "y", "type": "quantitative", "scale": {"domain": domain, "zero": False}}
    y["axis"] = {"title": f"{loss_name} (nats)"}
    shown = {row["width"] for row in curves}
    looks = looks_of("width", {width: look for width, look in width_looks(widths).items() if width in shown})
    pick = [{"calculate": "shifted ? datum.above : datum.loss", "as": "y"}]
    tips = [{"field": name} for name in ("width", "log2_lr", "loss", "seeds", "diverged")]
    lines = [{"filter": "isValid(datum.y)"}]
    return {
        "width": "container",
        "height": 260,
        "params": [{"name": "shifted", "value": False}],
        "layer": [
            {
                "data": {"name": "seeds"},
                "transform": pick,
                "mark": {"type": "circle", "size": 16, "opacity": 0.6, "aria": False},
                "encoding": {"x": x, "y": y, "color": looks["color"]},
            },
            {
                "data": {"name": "curves"},
                "transform": [*pick, *lines],
                "mark": {"type": "line", "strokeWidth": 1.8, "aria": False},
                "encoding": {"x": x, "y": y, "color": looks["color"]},
            },
            {
                "data": {"name": "curves"},
                "transform": [*pick, *lines],
                "mark": {"type": "point", "filled": True, "size": 40, "opacity": 1},
                "encoding": {"x": x, "y": y, **looks, "tooltip": tips},
            },
            {
                "data": {"name": "lost"},
                "transform": pick,
                "mark": {"type": "text", "text": "×", "fontSize": 15},
                "encoding": {"x": x, "y": y, "color": looks["color"], "tooltip": tips},
            },
            {
                "data": {"name": "optima"},
                "transform": [*pick, *lines],
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {"x": x | {"field": "low"}, "x2": {"field": "high"}, "y": y, "color": looks["color"]},
            },
            {
                "data": {"name": "optima"},
                "transform": [*pick, *lines],
                "mark": {"type": "point", "shape": "diamond", "size": 130, "fill": "canvas", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": looks["color"],
                    "tooltip": [{"field": name} for name in ("width", "log2_lr", "ci_low", "ci_high", "loss", "flags")],
                },
            },
        ],
    }


def optima(rows: list[Row]) -> Spec:
    """Return the best lr against width with its intervals, and the drift's line; a colour a parametrization."""
    widths = sorted({row["width"] for row in rows})
    names = list(dict.fromkeys(row["parametrization"] for row in rows))
    x = {"field": "at", "type": "quantitative", "title": "width", "scale": {"type": "log", "base": 2, "padding": 20}}
    x["axis"] = {"values": widths, "format": "d", "grid": False}
    y = {"field": "log2_lr", "type": "quantitative", "title": "best lr", "scale": {"zero": False, "padding": 12}}
    y["axis"] = {"labelExpr": POWER, "tickMinStep": 1}
    color, shape = looks_of("parametrization", table_looks(names)).values()
    placed = [{"filter": "isValid(datum.log2_lr)"}]
    tips = [{"field": name} for name in ("parametrization", "width", "log2_lr", "ci_low", "ci_high", "flags")]
    return {
        "width": "container",
        "height": 300,
        "layer": [
            {
                "data": {"name": "drifts"},
                "mark": {"type": "line", "strokeWidth": 1.5, "strokeDash": [5, 4], "aria": False},
                "encoding": {"x": x, "y": y, "color": color},
            },
            {
                "data": {"name": "optima"},
                "transform": placed,
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}, "color": color},
            },
            {
                "data": {"name": "optima"},
                "transform": placed,
                "mark": {"type": "point", "filled": True, "size": 80, "opacity": 1},
                "encoding": {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tips},
            },
        ],
    }


def penalties() -> Spec:
    """Return the matrix of what each width's best lr costs every other width; grey is what is not known."""
    text = "isValid(datum.percent) ? format(datum.percent, '.1f') + '%' : '?'"
    x = {"field": "lr_of", "type": "ordinal", "title": "width whose best lr is used", "axis": {"labelAngle": 0}}
    y = {"field": "trained", "type": "ordinal", "title": "width trained"}
    tips = [{"field": name} for name in ("trained", "lr_of", "nats", "percent", "ci_low", "ci_high", "reason")]
    scale = {"domain": [0, 5], "clamp": True, "range": ["#f3ead2", "#d98a2b"]}
    return {
        "width": TO_FIT,
        "height": {"step": 44},
        "layer": [
            {
                "data": {"name": "penalties"},
                "mark": {"type": "rect", "stroke": "canvas", "strokeWidth": 2, "invalid": None},
                "encoding": {
                    "x": x,
                    "y": y,
                    "tooltip": tips,
                    "color": {
                        "condition": {"test": "!isValid(datum.percent)", "value": "#9aa0a6"},
                        "field": "percent",
                        "type": "quantitative",
                        "scale": scale,
                        "legend": None,
                    },
                },
            },
            {
                "data": {"name": "penalties"},
                "transform": [{"calculate": text, "as": "text"}],
                "mark": {"type": "text", "fontSize": 13, "color": "#1b1b1b", "aria": False},
                "encoding": {"x": x, "y": y, "text": {"field": "text"}},
            },
        ],
    }


def slopes() -> Spec:
    """Return the forest of slopes with their intervals, over the band of what passes and what the table implies."""
    y = {
        "field": "label",
        "type": "nominal",
        "sort": None,
        "title": None,
        "axis": {"labelLimit": 400, "maxExtent": 420, "domain": False},
    }
    x = {"type": "quantitative", "title": "slope: size ~ width^slope", "scale": {"zero": True, "padding": 8}}
    x["axis"] = {"orient": "top"}  # in sight where the answer is read, of many rows
    colors = {"domain": list(VERDICT_COLORS), "range": list(VERDICT_COLORS.values())}
    verdict = {"field": "verdict", "type": "nominal", "scale": colors}
    shapes = {"domain": list(VERDICT_COLORS), "range": ["circle", "cross", "diamond", "circle"]}
    tips = [{"field": name} for name in ("kind", "stat", "site", "layer", "step", "slope", "ci_low", "ci_high")]
    tips += [{"field": name} for name in ("required_low", "required_high", "implied_low", "verdict", "reason")]
    rows = {"data": {"name": "slopes"}}
    return {
        "width": TO_FIT,
        "height": {"step": 18},
        "layer": [
            rows
            | {
                "mark": {"type": "bar", "opacity": 0.22, "color": "#2f8f4e", "height": 14, "aria": False},
                "encoding": {"y": y, "x": x | {"field": "band_low"}, "x2": {"field": "band_high"}},
            },
            rows
            | {
                "mark": {"type": "tick", "thickness": 2, "size": 14, "color": INK, "opacity": 0.6, "aria": False},
                "encoding": {"y": y, "x": x | {"field": "implied_low"}},
            },
            rows
            | {
                "mark": {"type": "rule", "strokeWidth": 2, "aria": False},
                "encoding": {"y": y, "x": x | {"field": "ci_low"}, "x2": {"field": "ci_high"}, "color": verdict},
            },
            rows
            | {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "y": y,
                    "x": x | {"field": "slope"},
                    "color": verdict,
                    "tooltip": tips,
                    "shape": verdict | {"scale": shapes},
                },
            },
        ],
    }


def layers() -> Spec:
    """Return one quantity's slopes, layer by step."""
    x = {"field": "step", "type": "ordinal", "title": "step", "axis": {"labelAngle": 0}}
    y = {"field": "layer", "type": "ordinal", "title": "layer"}
    tips = [{"field": name} for name in ("layer", "step", "slope", "ci_low", "ci_high", "verdict")]
    scale = {"domain": [-1, 0, 1], "clamp": True, "range": ["#3f7fc4", "#efece6", "#c9663c"]}
    return {
        "width": TO_FIT,
        "height": {"step": 40},
        "layer": [
            {
                "data": {"name": "layers"},
                "mark": {"type": "rect", "stroke": "canvas", "strokeWidth": 2},
                "encoding": {
                    "x": x,
                    "y": y,
                    "tooltip": tips,
                    "color": {"field": "slope", "type": "quantitative", "scale": scale, "legend": {"title": "slope"}},
                },
            },
            {
                "data": {"name": "layers"},
                "transform": [{"calculate": "format(datum.slope, '+.2f')", "as": "text"}],
                "mark": {"type": "text", "fontSize": 12, "color": "#1b1b1b", "aria": False},
                "encoding": {"x": x, "y": y, "text": {"field": "text"}},
            },
        ],
    }


def curves() -> Spec:
    """Return what was recorded of chosen runs, step by step; the parameter `shown` is loss, grad_norm or lr."""
    y = {"field": "y", "type": "quantitative", "scale": {"zero": False}, "axis": {"title": {"expr": "shown"}}}
    x = {"field": "step", "type": "quantitative", "title": "step", "axis": {"grid": False}}
    return {
        "width": "container",
        "height": 260,
        "params": [{"name": "shown", "value": "loss"}],
        "data": {"name": "curves"},
        "transform": [{"calculate": "datum[shown]", "as": "y"}, {"filter": "isValid(datum.y)"}],
        "mark": {"type": "line", "strokeWidth": 1.6, "point": {"size": 18}},
        "encoding": {
            "x": x,
            "y": y,
            "color": {
                "field": "run",
                "type": "nominal",
                "scale": {"range": RUN_COLORS},
                "legend": {"columns": 1, "labelLimit": 400, "title": None},
            },
            "tooltip": [{"field": name} for name in ("run", "step", "loss", "grad_norm", "lr")],
        },
    }


def looks_of(field: str, looks: Mapping[Any, Look]) -> dict[str, Spec]:
    """Return the encodings of colour and shape by a field whose values look so."""
    domain, found = list(looks), list(looks.values())
    colors, shapes = [look.color for look in found], [look.shape for look in found]
    encoding = {"field": field, "type": "nominal"}
    return {
        "color": encoding | {"scale": {"domain": domain, "range": colors}},
        "shape": encoding | {"scale": {"domain": domain, "range": shapes}},
    }


def span(values: Sequence[float], *, least: float, above: float = 0.0) -> Ends:
    """Return the ends of an axis that shows all values, some air around them, and `above` of it free at its top."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    grow = max(least - (high - low), 0.0) / 2
    low, high = low - grow, high + grow
    air = 0.05 * (high - low)
    return low - air, high + air + above * (high - low)
