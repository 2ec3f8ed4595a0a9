"""Parametrizations side by side in a figure of coordinate sizes."""

import numpy as np
import pandas as pd
from planted_figures import T, clashes, planted_coords, points, results, sizes_of, slopes_of, texts
from planted_gates import plant

from mupcheck.plots import canvas
from mupcheck.plots.catalog import PAGES, sketches
from mupcheck.plots.coordinates import COLUMNS, MOST_ROWS, draw_coordinates, shown_slopes
from mupcheck.plots.overview import draw_slopes
from mupcheck.plots.panels import MIN_OCTAVES, place_panels


def grown(names, slopes):
    """Runs and coords of checks whose sizes grow by another slope under each name."""
    parts = [planted_coords(slope, names=(name,), noise=0.01) for name, slope in zip(names, slopes, strict=True)]
    return tuple(pd.concat(tables, ignore_index=True) for tables in zip(*parts, strict=True))


def test_sp_stands_beside_mup_on_one_axis():
    sizes, slopes = sizes_of(*grown(("sp", "gdn-mup"), (1.0, 0.0)))
    figure = draw_coordinates(sizes, slopes, T)
    shown = texts(figure)
    assert shown.count("sp") == shown.count("gdn-mup") == len(shown_slopes(slopes)) == 4
    assert shown.count("✗ fail") == shown.count("✓ pass") == 4
    rows = [[np.array([[1.0], [x], [y]]) for y in (0.0, 6.0)] for x in (5.0, 6.0)]
    for left, right in place_panels(rows):
        assert (left.bottom, left.ylim, left.xlim) == (right.bottom, right.ylim, right.xlim)
        assert left.left < right.left
    seeds = points(figure.axes[0], "seeds")
    assert len(seeds) == 2 * 4 * len(sizes["width"].unique()) * 3 * 3


def test_failing_sites_come_first_then_those_in_doubt():
    _, slopes = sizes_of(*planted_coords())
    verdicts = {"embedding": "info", "q_pre": "pass", "mlp_out": "cannot tell", "logits": "fail"}
    ordered = [row["site"] for row in shown_slopes(slopes.assign(verdict=slopes["site"].map(verdicts)))]
    assert ordered == ["logits", "mlp_out", "q_pre", "embedding"]
    assert [row["site"] for row in shown_slopes(slopes)] == ["embedding", "q_pre", "mlp_out", "logits"]


def test_a_layer_that_fails_elsewhere_is_said():
    sizes, slopes = sizes_of(*grown(("sp", "gdn-mup"), (1.0, 0.0)))
    of_mup = (slopes["parametrization"] == "gdn-mup") & (slopes["site"] == "q_pre")
    bad = of_mup & (slopes["layer"] == 0) & (slopes["step"] == 1)
    # sp passes there, so that the two are worst together at another layer
    better = (slopes["parametrization"] == "sp") & (slopes["layer"] == 0)
    slopes = slopes.assign(verdict=slopes["verdict"].mask(bad, "fail").mask(better, "info"))
    assert "✓ pass (✗ [0])" in texts(draw_coordinates(sizes, slopes, T))


def test_what_has_no_room_is_named():
    names = tuple(f"table{i}" for i in range(4))
    sizes, slopes = sizes_of(*planted_coords(names=names))
    wide = [f"site{i}" for i in range(MOST_ROWS)]
    more = [slopes, *(slopes[slopes["site"] == "logits"].assign(site=site) for site in wide)]
    sized = [sizes, *(sizes[sizes["site"] == "logits"].assign(site=site) for site in wide)]
    figure = draw_coordinates(pd.concat(sized), pd.concat(more), T)
    assert COLUMNS.get(len(names), 1) == 1
    said = " ".join(texts(figure))
    assert "not shown, but with --all: site2, site3, site4, site5 (pass)" in said


def test_the_band_of_what_is_tolerated_is_drawn_and_in_the_legend():
    sizes, slopes = sizes_of(*planted_coords())

    def reach(figure):
        boxes = [c.get_datalim(figure.axes[0].transData) for c in figure.axes[0].collections if c.get_alpha() == 0.45]
        return [box.height for box in boxes]

    narrow, wide = (draw_coordinates(sizes, slopes.assign(tolerance=t), T) for t in (0.1, 0.4))
    assert len(reach(narrow)) == 4
    assert all(b > a > 0 for a, b in zip(reach(narrow), reach(wide), strict=True))
    assert {"required", "± tolerance"} <= set(texts(narrow))
    free = draw_coordinates(sizes, slopes.assign(required_low=np.nan, required_high=np.nan), T)
    assert not {"required", "± tolerance"} & set(texts(free))


def test_all_figures_of_a_kind_span_the_same():
    runs, coords = grown(("sp", "gdn-mup"), (2.5, 0.0))
    pages = [sketch for sketch in sketches(results(runs, coords=coords)) if sketch.stem.endswith("_activation")]
    assert [page.stem for page in pages if page.name == PAGES] == ["coords_sp_activation", "coords_gdn-mup_activation"]
    (least,) = {page.draw.keywords["least"] for page in pages}
    flat = [[np.array([[1.0, 1.0], [5.0, 6.0], [0.0, 0.0]])]]
    for given in (MIN_OCTAVES, least):
        ((panel,),) = place_panels(flat, least=given)
        assert np.ptp(panel.ylim) == given
    assert least > MIN_OCTAVES


def test_counts_say_of_what_they_are():
    slopes, pooled = slopes_of(*planted_coords(1.0))
    said = texts(draw_slopes(slopes, pooled, T))
    assert any(text.startswith("pooled slopes: ") for text in said)
    assert any(text.startswith("slopes of single layers and steps: ") for text in said)


def test_pages_of_many_parametrizations_are_legible():
    names = ("sp", "a-custom-table-with-a-name-of-40-letters-", "gdn-mup", "mup")
    with canvas.drawing_style():
        for n in range(1, 5):
            figure = draw_coordinates(*sizes_of(*planted_coords(0.3, names=names[:n], steps=(0, 1, 2, 4, 8, 9))), T)
            assert clashes(figure) == []


def test_gates_are_drawn_only_where_they_say_something():
    def drawn(optimizer, slope, noise):
        runs, _ = planted_coords()
        coords = plant(runs, slope, noise=noise)
        found = sketches(results(runs.assign(optimizer=optimizer), coords=coords))
        return [sketch.stem for sketch in found if sketch.name == "gates"]

    assert drawn("adamw", -0.5, 0.1) == drawn("sgd", -0.5, 0.1) == ["gates_gdn-mup"]
    assert drawn("adamw", -0.5, 9.0) == [], "no reading speaks for any rule"
    assert drawn("sgd", -0.5, 9.0) == ["gates_gdn-mup"]
