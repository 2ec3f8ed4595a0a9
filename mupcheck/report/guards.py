"""What the judge's guards on eps and gates looked at, drawn against width with the limits at which they act."""

from collections.abc import Iterator

import pandas as pd

from mupcheck.coordinates.guards import guarded
from mupcheck.looks import table_looks
from mupcheck.report.charts import VERDICT_COLORS, Spec, chart, looks_of
from mupcheck.report.rows import Row, plain_rows


def guard_charts(runs: pd.DataFrame, coords: pd.DataFrame) -> Iterator[Spec]:
    """Yield what the judge's guards on eps and gates looked at, with their limits."""
    for guard, table in guarded(runs, coords):
        made = plain_rows(table)
        yield chart(
            f"guard-{guard.stat}",
            guard.stat,
            _against_width(made, guard.stat, share=not guard.below),
            {"guards": made, "limit": [{"limit": guard.limit}]},
            table="guards",
            about=f"{guard.says} Of all layers and steps the {'least' if guard.below else 'most'}, by site; line: "
            f"{guard.limit:g}.",
            under="Eps and saturation",
        )


def _against_width(rows: list[Row], stat: str, *, share: bool) -> Spec:
    """Return a diagnostic against width, a line for every site, over the limit at which a guard acts.

    Args:
        rows: of all parametrizations, which are told apart by colour.
        stat: its name, for the axis.
        share: whether it is one, from 0 to 1; else a ratio, on a logarithmic axis.
    """
    widths = sorted({row["width"] for row in rows})
    x: Spec = {"field": "width", "type": "quantitative", "scale": {"type": "log", "base": 2, "padding": 16}}
    x["axis"] = {"values": widths, "format": "d", "grid": False, "title": "width"}
    y: Spec = {"field": "value", "type": "quantitative", "scale": {"domain": [0, 1]} if share else {"type": "log"}}
    y["axis"] = {"title": stat, "format": "%" if share else "~e", "tickCount": 5}
    color, shape = looks_of(
        "parametrization", table_looks(list(dict.fromkeys(r["parametrization"] for r in rows)))
    ).values()
    tips = [{"field": name} for name in ("parametrization", "site", "width", "value", "layer", "step")]
    drawn = {"data": {"name": "guards"}, "transform": [] if share else [{"filter": "datum.value > 0"}]}
    return {
        "width": "container",
        "height": 200,
        "layer": [
            {
                "data": {"name": "limit"},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 2, "color": VERDICT_COLORS["fail"]},
                "encoding": {"y": y | {"field": "limit"}, "tooltip": [{"field": "limit"}]},
            },
            drawn
            | {
                "mark": {"type": "line", "strokeWidth": 1, "opacity": 0.5, "aria": False},
                "encoding": {"x": x, "y": y, "color": color, "detail": {"field": "site"}},
            },
            drawn
            | {
                "mark": {"type": "point", "filled": True, "size": 30, "opacity": 0.9},
                "encoding": {"x": x, "y": y, "color": color, "shape": shape, "tooltip": tips},
            },
        ],
    }
