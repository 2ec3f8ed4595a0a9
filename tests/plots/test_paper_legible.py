"""At the width of a column nothing overlaps, is cut off or too small, and a file is as wide as it was asked for."""

import numpy as np
import pytest
from matplotlib.text import Text
from planted_figures import clashes, planted_coords, planted_lrs, sizes_of

from mupcheck.learning_rates.drift import transfer
from mupcheck.looks import COLUMN_INCHES
from mupcheck.plots import canvas
from mupcheck.plots.paper.coordinates import draw_coordinates
from mupcheck.plots.paper.losses import draw_losses

NAMES = ("sp", "a-custom-table-with-a-name-that-is-very-long", "gdn-mup", "mup-strict", "x", "y", "sp-fanin")
SIX_WIDTHS = (64, 96, 128, 192, 1024, 1536)
LEAST_POINTS = 6.0


def diverged(runs):
    return runs.assign(status=np.where(runs["log2_lr"] > -6 + (runs["seed"] > 0), "diverged", "ok"))


def long_sites(tables):
    return (table.assign(site="model.layers.0.linear_attn." + table["site"]) for table in tables)


CASES = {
    "one table": lambda *a: draw_losses(transfer(planted_lrs(widths=SIX_WIDTHS)), *a),
    "two": lambda *a: draw_losses(transfer(planted_lrs(-1.0, names=("sp", "gdn-mup"))), *a),
    "many tables": lambda *a: draw_losses(transfer(diverged(planted_lrs(names=NAMES))), *a),
    "losses of tens": lambda *a: draw_losses(transfer(planted_lrs(bend=8.0, names=NAMES[:2])), *a),
    "small losses": lambda *a: draw_losses(
        transfer(planted_lrs(bend=1e-5).assign(val_loss=lambda r: (r["val_loss"] - 2.4) / 1000)), *a
    ),
    "a wide grid": lambda *a: draw_losses(transfer(planted_lrs(low=-22, names=NAMES[:2], seeds=1)), *a),
    "sizes of one": lambda *a: draw_coordinates(*sizes_of(*planted_coords(0.3, steps=(0, 1, 2, 4, 8))), *a),
    "sizes of two": lambda *a: draw_coordinates(*sizes_of(*planted_coords(0.3, names=NAMES[:2])), *a),
    "sizes of many": lambda *a: draw_coordinates(*sizes_of(*planted_coords(-9.0, names=NAMES)), *a),
    "a row": lambda *a: draw_coordinates(*sizes_of(*planted_coords(), "weight_update", "spectral"), *a),
    "a row of updates": lambda *a: draw_coordinates(*sizes_of(*planted_coords(), "activation_update"), *a),
    "many steps": lambda *a: draw_coordinates(
        *sizes_of(*planted_coords(1.2, widths=SIX_WIDTHS, steps=range(0, 2000, 100))), *a
    ),
    "long sites": lambda *a: draw_coordinates(*long_sites(sizes_of(*planted_coords(names=NAMES[:3]))), *a),
}


@pytest.mark.parametrize("columns", COLUMN_INCHES)
@pytest.mark.parametrize("case", CASES)
def test_no_text_overlaps_is_cut_off_or_too_small(case, columns):
    with canvas.drawing_style("paper"):
        figure = CASES[case](columns, COLUMN_INCHES[columns])
        assert clashes(figure) == []
        sizes = [text.get_fontsize() for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(sizes) >= LEAST_POINTS and max(sizes) == 8.0
        assert figure.get_size_inches()[0] == COLUMN_INCHES[columns]


def test_what_is_wrong_would_be_seen():
    with canvas.drawing_style("paper"):
        figure = CASES["two"]("single", 3.3)
        some = next(text for text in figure.findobj(Text) if text.get_text() == "SP")
        figure.text(*figure.transFigure.inverted().transform(some.get_window_extent().p0), "in the way")
        figure.text(0.99, 0.5, "over the edge")
        assert len(clashes(figure)) >= 2
