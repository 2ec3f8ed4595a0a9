"""Looks are told apart by any eye, and are the same in the figures and on the page."""

from itertools import combinations

import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from planted_figures import T, planted_lrs

from mupcheck import looks
from mupcheck.learning_rates.drift import transfer
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.report import charts
from mupcheck.theory.parametrization import TABLES

# linear RGB as seen without green, and without red, cones (Machado et al. 2009, severity 1)
EYES = {
    "all cones": np.eye(3),
    "no green": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
    ),
    "no red": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
}
TO_CONES = np.array(
    [[0.41222147, 0.53633254, 0.05144599], [0.2119035, 0.68069955, 0.10739696], [0.08830246, 0.28171884, 0.62997870]]
)
TO_LAB = np.array(
    [[0.21045426, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
)


def linear(color):
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def nearest(colors, eye):
    """The least distance of two colours in Oklab, where 0.02 is just seen."""
    seen = [TO_LAB @ np.cbrt(TO_CONES @ np.clip(EYES[eye] @ linear(color), 0, 1)) for color in colors]
    return min(np.linalg.norm(a - b) for a, b in combinations(seen, 2))


def contrast(color, other):
    low, high = sorted(float(linear(each) @ [0.2126, 0.7152, 0.0722]) for each in (color, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("eye", EYES)
def test_colours_of_widths_are_told_apart(eye):
    for n in range(2, 9):
        assert nearest(looks.spread_colors(n), eye) > 0.04
    assert nearest(looks.spread_colors(4), eye) > 0.07
    rainbow = ["#7a5fc7", "#2f7fd1", "#12908a", "#4d8f28", "#b0761a", "#c8503c"]
    assert eye == "all cones" or nearest(rainbow, eye) < 0.04


def test_colours_of_widths_lighten_in_grey_and_are_seen_on_black_and_white():
    colors = looks.spread_colors(12)
    assert np.all(np.diff([np.dot(to_rgb(color), [0.299, 0.587, 0.114]) for color in colors]) > 0)
    shown = [*colors, *(look.color for look in looks.TABLES.values())]
    assert min(contrast(color, back) for color in shown for back in ("#ffffff", "#15181b")) > 2.4
    assert contrast("#FFFFB0", "#ffffff") < 2.4


def test_every_width_and_table_has_a_look_of_its_own():
    found = looks.width_looks([512, 64, 128, 64])
    assert list(found) == [64, 128, 512]
    for some in (looks.width_looks(range(8)), looks.TABLES, looks.table_looks(("sp", "mine", "yours", "gdn-mup"))):
        for tells in ("color", "marker", "shape"):
            assert len({getattr(look, tells) for look in some.values()}) == len(some)
    assert len({look.color for look in looks.width_looks(range(30)).values()}) == 30
    assert set(looks.TABLES) == set(TABLES)


def test_a_width_and_a_table_look_the_same_in_a_figure_and_on_the_page():
    answers = transfer(planted_lrs(names=("sp", "gdn-mup")))
    widths = [optimum.width for optimum in answers[0].optima]
    curves = [{"width": width} for width in widths[1:]]  # one that lacks a width keeps the looks of the others
    encoding = charts.losses(curves, ((0, 1), (0, 1)), "val_loss", widths, (-8.0, -6.0))["layer"][2]["encoding"]
    means = {
        to_hex(line.get_color()): line.get_marker()
        for line in draw_losses(answers, T).axes[0].lines
        if line.get_label() == "mean"
    }
    assert encoding["color"]["scale"] == {"domain": widths[1:], "range": list(means)[1:]}
    shapes = dict(looks.SHAPES)
    assert encoding["shape"]["scale"]["range"] == [shapes[marker] for marker in means.values()][1:]
    rows = [{"width": 64, "parametrization": answer.parametrization} for answer in answers]
    of_tables = charts.optima(rows)["layer"][2]["encoding"]["color"]["scale"]["range"]
    drifts = [line.get_color() for line in draw_optima(answers, T).axes[0].lines if line.get_label() == "drift"]
    assert of_tables == drifts == [looks.TABLES[answer.parametrization].color for answer in answers]
