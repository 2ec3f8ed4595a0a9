"""The overview holds every slope."""

import numpy as np
from planted_figures import (
    MEASURED,
    T,
    planted_coords,
    points,
    slopes_of,
    texts,
)

from mupcheck.plots import canvas
from mupcheck.plots.overview import draw_slopes

# Slopes


def test_overview_holds_every_slope():
    runs, coords = planted_coords(2.5)
    slopes, pooled = slopes_of(runs, coords)
    figure = draw_slopes(slopes, pooled, T)
    assert len(figure.axes) == len(MEASURED)
    worst = slopes.drop_duplicates(["kind", "stat", "site"])
    drawn = [offsets for axes in figure.axes for c in axes.collections for offsets in drawn_points(c)]
    drawn += [point for axes in figure.axes for point in points(axes, "goes on")]
    assert len(drawn) == len(slopes) + len(worst)
    low, high = figure.axes[0].get_xlim()
    assert low < -1.7
    assert low <= min(x for x, _ in drawn) <= max(x for x, _ in drawn) <= high


def drawn_points(collection):
    return collection.get_offsets() if collection.get_label() in canvas.MARKS else []


def test_an_interval_beyond_the_axis_ends_in_an_arrowhead():
    slopes, pooled = slopes_of(*planted_coords())
    wide = pooled.assign(ci_high=99.0)
    heads = [[p for axes in draw_slopes(slopes, s, T).axes for p in points(axes, "goes on")] for s in (pooled, wide)]
    assert (len(heads[0]), len(heads[1])) == (0, len(slopes.drop_duplicates(["kind", "stat", "site"])))


def test_a_slope_that_could_not_be_fitted_is_said():
    runs, coords = planted_coords()
    coords.loc[coords["site"] == "q_proj", "value"] = np.nan
    assert texts(draw_slopes(*slopes_of(runs, coords), T)).count("no slope") == 5
    assert "no slope" not in texts(draw_slopes(*slopes_of(*planted_coords()), T))
