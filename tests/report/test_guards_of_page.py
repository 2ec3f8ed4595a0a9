"""Eps, gates and a user's parameters on the page: the numbers of coordinates/, with the judge's limits."""

import pandas as pd
import pytest
from planted_figures import WIDTHS, planted_coords, results

from mupcheck.coordinates.guards import guarded
from mupcheck.coordinates.validity import CLOSED, EPS_RATIO
from mupcheck.gate.check import check_results
from mupcheck.report.content import sections_of
from mupcheck.report.guards import guard_charts
from mupcheck.report.tables import parameters_grid

SITE = "layers.*.up.weight"


def diagnostics(runs, coords, **values):
    rows = [
        (run["run_id"], step, 0, SITE, "diagnostic", stat, value(run["width"]))
        for run in runs.to_dict("records")
        for stat, value in values.items()
        for step in (0, 4)
    ]
    return pd.concat([coords, pd.DataFrame(rows, columns=coords.columns)], ignore_index=True)


@pytest.fixture
def check():
    runs, coords = planted_coords(names=("sp", "gdn-mup"))
    values = {"o_norm_eps_ratio": lambda width: 1e4 / width, "alpha_saturated": lambda width: width / 1000}
    return runs, diagnostics(runs, coords, **values)


def test_charts_hold_what_the_guards_look_at_and_their_limits(check):
    charts = list(guard_charts(*check))
    assert [chart["rows"]["limit"] for chart in charts] == [[{"limit": EPS_RATIO}], [{"limit": CLOSED}]]
    for chart, (guard, table) in zip(charts, guarded(*check), strict=True):
        assert pd.DataFrame(chart["rows"]["guards"]).equals(table.astype({"value": float}))
        assert guard.says in chart["about"] and chart["title"] == guard.stat
        # on an axis that holds the limit as well, logarithmic for a ratio
        (scale,) = {str(layer["encoding"]["y"]["scale"]) for layer in chart["spec"]["layer"]}
        assert ("log" in scale) == guard.below


def test_a_check_has_them_under_a_heading_of_their_own_and_a_check_without_has_none(check):
    of = results(check[0], coords=check[1])
    (section,) = sections_of(check_results(of), of)
    assert [c["name"].rpartition("-")[2] for c in section.charts if c["under"] == "Eps and saturation"] == [
        "o_norm_eps_ratio",
        "alpha_saturated",
    ]
    plain = results(*planted_coords()[:1])
    (section,) = sections_of(check_results(plain), plain)
    assert not any(chart["under"] == "Eps and saturation" for chart in section.charts)


def test_parameters_are_told_with_their_role_and_what_they_were_given():
    runs, coords = planted_coords()
    coords = diagnostics(runs, coords, realised_lr=lambda width: 0.32 / width, realised_wd=lambda width: 0.1)
    record = {"site": SITE, "rows": "", "count": 2, "growth": [1.0, 1.0], "matrix": True, "role": "hidden", "why": ""}
    gain = record | {"site": "norm.weight", "growth": [0.0, 1.0], "matrix": False, "role": None, "count": 1}
    grid = parameters_grid(runs, coords, [record, gain])
    given = "m^-1: " + ", ".join(f"{0.32 / width:.3g}" for width in WIDTHS)
    assert grid.rows == (
        ("layers.*.up", "", "2", "+1", "+1", "hidden", given, "0.1", "not recorded"),
        ("norm", "", "1", "", "+1", "?", *["not recorded"] * 3),
    )
    # of results without roles, as an earlier audit left them
    assert [row[:6] for row in parameters_grid(runs, coords, ()).rows] == [("layers.*.up", "", "", "", "", "?")]
    assert parameters_grid(*planted_coords(), [record]) is None
