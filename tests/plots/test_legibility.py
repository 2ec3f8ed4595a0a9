"""No text is cut off, colours stay legible, and shapes tell what colours do."""

import numpy as np
import pytest
from matplotlib.text import Text
from planted_figures import (
    clashes,
    planted_coords,
    planted_lrs,
    planted_steps,
    sizes_of,
    slopes_of,
)

from mupcheck.learning_rates.drift import transfer
from mupcheck.plots import canvas
from mupcheck.plots.coordinates import draw_coordinates
from mupcheck.plots.frame import Caption
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import draw_slopes
from mupcheck.plots.panels import HEIGHT, WIDTH, Panel
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.wider import draw_wider

# Legible


NAMES = ("sp", "a-custom-table-with-a-name-that-is-very-long", "gdn-mup")


SETTING = "a-sweep-with-a-name-of-some-forty-characters · adamw · head-dim"
FOOTER = (
    "16 seeds · 500 steps · data text:/a/path/to/some/where.txt · base width 32 · lr 2⁻¹⁰ to 2⁻⁴ (7) · 90% intervals"
)
TITLE = Caption(f"{canvas.shorten(NAMES[1], 28)} · weight_update, spectral: change of weights", SETTING, FOOTER)


COST = Caption("Cost of another width's best lr", SETTING, FOOTER)


SIX_WIDTHS = (32, 64, 128, 256, 512, 1024)


FIGURES = {
    "coordinates": lambda: draw_coordinates(*sizes_of(*planted_coords(0.3, steps=(0, 1, 2, 4, 8))), TITLE),
    "coordinates, many": lambda: draw_coordinates(
        *sizes_of(*planted_coords(1.2, widths=(64, 96, 128, 192, 1024, 1536), steps=range(20))), TITLE
    ),
    "slopes": lambda: draw_slopes(*slopes_of(*planted_coords()), TITLE),
    "losses, one": lambda: draw_losses(transfer(planted_lrs(widths=SIX_WIDTHS)), TITLE),
    "losses, three": lambda: draw_losses(transfer(planted_lrs(names=NAMES)), TITLE),
    "losses, four": lambda: draw_losses(transfer(planted_lrs(names=(*NAMES, "mup"))), TITLE),
    "penalty": lambda: draw_penalties(transfer(planted_lrs(-1.0, names=(*NAMES, "mup"))), COST),
    "penalty, two widths": lambda: draw_penalties(transfer(planted_lrs(-1.0, widths=(32, 64), seeds=1)), COST),
    "penalty, six widths": lambda: draw_penalties(transfer(planted_lrs(-0.5, widths=SIX_WIDTHS)), COST),
    "wider": lambda: draw_wider(transfer(planted_lrs(names=NAMES), planted_steps(planted_lrs(names=NAMES))), TITLE),
    "wider, two widths": lambda: draw_wider(
        transfer(planted_lrs(widths=(32, 64)), planted_steps(planted_lrs(widths=(32, 64)))), TITLE
    ),
    "wider, refined": lambda: draw_wider(
        transfer(refined := planted_lrs().assign(log2_lr=lambda r: r["log2_lr"] - 0.25), planted_steps(refined)), TITLE
    ),
    "optima": lambda: draw_optima(transfer(planted_lrs(names=NAMES)), TITLE),
    "optima, in doubt": lambda: draw_optima(
        transfer(planted_lrs(-1, names=(*NAMES, "mup", "x", "y", "z"), seeds=1, low=-7)), TITLE
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_no_text_is_cut_off_or_runs_into_another(name):
    with canvas.drawing_style():
        figure = FIGURES[name]()
        assert clashes(figure) == []
        some = next(text for text in figure.findobj(Text) if text.get_text().strip())
        figure.text(*figure.transFigure.inverted().transform(some.get_window_extent().p0), "in the way")
        figure.text(0.99, 0.5, "over the edge")
        assert len(clashes(figure)) >= 2


def test_ordered_colours_darken_in_grey_and_stay_legible():
    grey = np.array(canvas.ordered_colors(8))[:, :3] @ [0.299, 0.587, 0.114]
    assert np.all(np.diff(grey) > 0)
    assert grey[-1] < 0.7  # of 1 for white: matplotlib's yellow end has 0.87


def test_a_verdict_is_told_by_its_shape_as_well():
    looks = {verdict: (mark.marker, mark.filled) for verdict, mark in canvas.MARKS.items()}
    verdicts = ("pass", "fail", "cannot tell", "info")
    assert len({looks[verdict] for verdict in verdicts}) == len(verdicts)


def test_panel_maps_its_limits_to_its_corners():
    panel = Panel(left=1.0, bottom=2.0, xlim=(5.0, 7.0), ylim=(-3.0, 1.0))
    assert panel.x(np.array([5.0, 7.0])).tolist() == [1.0, 1.0 + WIDTH]
    assert panel.y(np.array([-3.0, 1.0])).tolist() == [2.0, 2.0 + HEIGHT]
