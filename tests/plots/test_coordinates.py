"""Figures of coordinate sizes show every seed, and mark what cannot be drawn."""

from dataclasses import replace

import numpy as np
import pytest
from planted_figures import (
    MEASURED,
    SEEDS,
    WIDTHS,
    T,
    planted_coords,
    points,
    sizes_of,
    texts,
)

from mupcheck.plots.coordinates import draw_coordinates, shown_slopes
from mupcheck.plots.panels import HEIGHT, MIN_OCTAVES, WIDTH, place_panels

# Coordinate sizes


def stray(figure, panels):
    """How many drawn seeds lie in no panel."""
    seeds = points(figure.axes[0], "seeds")
    inside = [
        (np.abs(seeds[:, 0] - panel.left - WIDTH / 2) <= WIDTH / 2 + 1e-9)
        & (np.abs(seeds[:, 1] - panel.bottom - HEIGHT / 2) <= HEIGHT / 2 + 1e-9)
        for panel in panels
    ]
    return int((~np.any(inside, axis=0)).sum())


@pytest.mark.parametrize("slope", [0.0, 1.5, -9.0])
def test_every_seed_of_the_layer_shown_is_inside_its_panel(slope):
    sizes, slopes = sizes_of(*planted_coords(slope))
    figure = draw_coordinates(sizes, slopes, T)
    panels = panels_of(sizes, slopes)
    assert len(panels) == len(MEASURED["activation", "rms"])
    assert len(points(figure.axes[0], "seeds")) == len(panels) * len(WIDTHS) * SEEDS * 3
    assert stray(figure, panels) == 0
    assert stray(figure, [replace(panel, bottom=panel.bottom + HEIGHT) for panel in panels]) > 0


def panels_of(sizes, slopes):
    """The panels that `draw_coordinates` places."""
    shown = []
    for row in shown_slopes(slopes):
        rows = sizes[(sizes["site"] == row["site"]) & (sizes["layer"] == row["layer"])]
        shown.append([np.stack([rows["step"], np.log2(rows["width"]), np.log2(rows["value"])])])
    return [panel for (panel,) in place_panels(shown)]


def test_flat_looks_flat_and_panels_share_their_span():
    spans = {round(np.ptp(panel.ylim), 6) for panel in panels_of(*sizes_of(*planted_coords(noise=0.001, steps=(1,))))}
    assert spans == {MIN_OCTAVES}
    runs, coords = planted_coords()
    coords.loc[coords["site"] == "q_pre", "value"] **= 20
    *_, calm, wild = sorted(np.ptp(panel.ylim) for panel in panels_of(*sizes_of(runs, coords)))
    assert wild > 10 > calm - 1e-9, "one wild site must not flatten the others"


def test_a_line_of_the_required_slope_goes_through_the_mean_of_what_was_judged():
    sizes, slopes = sizes_of(*planted_coords(1.0))
    figure, panels = draw_coordinates(sizes, slopes, T), panels_of(sizes, slopes)
    row = shown_slopes(slopes)[0]
    rows = sizes[(sizes["site"] == row["site"]) & (sizes["step"] == row["step"])]
    (left, y), (right, y_right) = points(figure.axes[0], "required")[:2]
    assert (row["required"], row["verdict"], left, right) == (0, "fail", panels[0].left, panels[0].left + WIDTH)
    assert y == y_right == pytest.approx(panels[0].y(np.log2(rows["value"]).mean()))


def test_what_has_no_logarithm_is_marked_at_the_edge():
    runs, coords = planted_coords()
    assert not {"zero", "infinite or NaN"} & set(texts(draw_coordinates(*sizes_of(runs, coords), T)))
    of_embedding = coords.index[(coords["site"] == "embedding") & (coords["kind"] == "activation")]
    coords.loc[of_embedding[:3], "value"] = [0.0, np.nan, np.inf]
    sizes, slopes = sizes_of(runs, coords)
    figure = draw_coordinates(sizes, slopes, T)
    assert {"zero", "infinite or NaN"} <= set(texts(figure))
    with np.errstate(divide="ignore"):
        panel = panels_of(sizes, slopes)[0]
    (zero,), none = points(figure.axes[0], "zero"), points(figure.axes[0], "not finite")
    assert 0 < zero[1] - panel.bottom < 0.1
    assert len(none) == 2
    assert np.all(np.abs(panel.bottom + HEIGHT - none[:, 1]) < 0.1)


def test_the_worst_layer_and_step_is_the_one_shown():
    runs, coords = planted_coords()
    assert not any("fail" in text for text in texts(draw_coordinates(*sizes_of(runs, coords), T)))
    bad = (
        (coords["site"] == "q_pre") & (coords["layer"] == 0) & (coords["step"] == 1) & (coords["kind"] == "activation")
    )
    width = coords["run_id"].str.split("-").str[-2].astype(int)
    coords.loc[bad, "value"] *= width[bad]
    shown = texts(draw_coordinates(*sizes_of(runs, coords), T))
    assert {"q_pre[0]", "mlp_out[1]", "✗ fail"} <= set(shown)
    assert sum(text.startswith("step 1: +1.") and text.endswith("→ 0") for text in shown) == 1


def test_an_upper_bound_and_a_range_are_said_as_such():
    sizes, slopes = sizes_of(*planted_coords(), kind="activation")
    for low, high, said in ((-np.inf, 0.0, "→ ≤0"), (-0.5, 0.0, "→ −½…0"), (-1.0, -1.0, "→ −1")):
        figure = draw_coordinates(sizes, slopes.assign(required_low=low, required_high=high), T)
        assert sum(text.endswith(said) for text in texts(figure)) == 4
        assert len(points(figure.axes[0], "required")) == 4 * 2 * (2 if low == -0.5 else 1)
    figure = draw_coordinates(sizes, slopes.assign(required_low=np.nan, required_high=np.nan), T)
    assert not len(points(figure.axes[0], "required"))
