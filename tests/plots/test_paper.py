"""Figures for a paper show what the analysis returned, and so do their captions."""

import re

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from planted_figures import WIDTHS, planted_coords, planted_lrs, points, results, sizes_of, texts

from mupcheck.learning_rates.drift import transfer
from mupcheck.looks import COLUMN_INCHES
from mupcheck.plots import canvas, figures, plot_results
from mupcheck.plots.catalog import choose, sketches
from mupcheck.plots.panels import MIN_OCTAVES
from mupcheck.plots.paper import coordinates, losses
from mupcheck.plots.paper.layout import DASHES

NAMES = ("sp", "gdn-mup")
BOTH = pytest.mark.parametrize("columns", COLUMN_INCHES)


def drawn_losses(runs, columns="single"):
    """The answers, and the panels they are drawn in."""
    answers = transfer(runs)
    figure = losses.draw_losses(answers, columns, COLUMN_INCHES[columns])
    return answers, [axes for axes in figure.axes if axes.get_xlabel()]


def lines(axes, label):
    return [line for line in axes.lines if line.get_label() == label]


@BOTH
def test_losses_are_those_of_transfer(columns):
    runs = planted_lrs(-0.5, names=NAMES)
    answers, panels = drawn_losses(runs, columns)
    assert len(panels) == len(answers) == 2
    for answer, axes in zip(answers, panels, strict=True):
        mine = runs[runs["parametrization"] == answer.parametrization]
        assert sorted(points(axes, "seeds")[:, 1]) == pytest.approx(sorted(mine["val_loss"]))
        for optimum, mean in zip(answer.optima, lines(axes, "mean"), strict=True):
            assert mean.get_xdata().tolist() == [point.log2_lr for point in optimum.curve]
            assert mean.get_ydata().tolist() == [point.loss for point in optimum.curve]
        placed = [line.get_xdata()[0] for line in lines(axes, "optimum")]
        assert placed == [optimum.log2_lr for optimum in answer.optima]
        ends = [tuple(line.get_xdata()) for line in lines(axes, "interval")]
        low, high = axes.get_xlim()
        assert ends == [(max(o.ci_low, low), min(o.ci_high, high)) for o in answer.optima]
        (low_x, high_x), (low, high) = axes.get_xlim(), axes.get_ylim()
        x, y = points(axes, "seeds").T
        assert low_x < x.min() <= x.max() < high_x and low < y.min() <= y.max() < high
    assert panels[0].get_xlim() == panels[1].get_xlim() and panels[0].get_ylim() == panels[1].get_ylim()
    assert [axes.get_ylabel() for axes in panels] == ["validation loss (nats)", ""]


def test_a_flag_opens_an_optimum_and_a_diverged_run_is_a_cross_above_every_loss():
    _, (axes,) = drawn_losses(planted_lrs())
    assert not lines(axes, "diverged") or not len(points(axes, "diverged"))
    runs = planted_lrs(-1.0, low=-8)
    gone = (runs["width"] >= 64) & (runs["log2_lr"] == -3) & ((runs["seed"] == 0) | (runs["width"] == 128))
    (answer,), (axes,) = drawn_losses(runs.assign(status=np.where(gone, "diverged", "ok")))
    open_ones = [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in lines(axes, "optimum")]
    assert open_ones == [bool(optimum.flags) for optimum in answer.optima] and True in open_ones
    marks = [(line.get_marker(), *point) for line in lines(axes, "diverged") for point in line.get_xydata()]
    assert sorted((marker, x) for marker, x, _ in marks) == [("X", -3), ("x", -3)]
    low, high = axes.get_ylim()
    above = [low + y * (high - low) for *_, y in marks]
    assert min(above) > points(axes, "seeds")[:, 1].max() and len(set(above)) == 2
    assert np.isnan(points(axes, "mean")).any()


def test_lines_are_told_apart_without_colour():
    _, (axes,) = drawn_losses(planted_lrs(widths=(32, 64, 128, 256, 512, 1024)))
    looks = {(line.get_marker(), str(line._dash_pattern)) for line in lines(axes, "mean")}
    assert len({marker for marker, _ in looks}) == len({dash for _, dash in looks}) == 6 == len(DASHES)
    runs, coords = planted_coords(steps=(0, 1, 2))
    page = coordinates.draw_coordinates(*sizes_of(runs, coords), "single", 3.3).axes[0]
    assert len({line.get_marker() for line in lines(page, "mean")}) == 3
    dashes = {str(c.get_linestyle()) for c in page.collections if c.get_label() == "means"}
    assert len(dashes) == 3


@BOTH
def test_sizes_are_those_that_were_judged(columns):
    sizes, slopes = sizes_of(*planted_coords(0.7, names=NAMES))
    figure = coordinates.draw_coordinates(sizes, slopes, columns, COLUMN_INCHES[columns])
    page = figure.axes[0]
    names = dict.fromkeys(slopes["parametrization"])
    rows, left_out = coordinates.drawn_sites(slopes, columns)
    assert len(rows) + len(left_out) == slopes["site"].nunique() and len(rows) == {"single": 3, "double": 4}[columns]
    of = [sizes[(sizes["site"] == row["site"]) & (sizes["layer"] == row["layer"])] for row in rows]
    given = [
        [np.log2(mine.loc[mine["parametrization"] == name, ["width", "value"]]).to_numpy().T for name in names]
        for mine in of
    ]
    stacked = [[np.vstack([np.zeros(each.shape[1]), each]) for each in row] for row in given]
    panels, _ = coordinates.lay_out(stacked, columns, COLUMN_INCHES[columns], least=MIN_OCTAVES)
    expected = np.concatenate(
        [
            np.stack([panel.x(x), panel.y(y)], axis=1)
            for row, of_row in zip(given, panels, strict=True)
            for (x, y), panel in zip(row, of_row, strict=True)
        ]
    )
    shown = points(page, "seeds")
    assert len(shown) == len(rows) * 2 * len(WIDTHS) * 3 * 3
    assert sorted(map(tuple, shown.round(9))) == sorted(map(tuple, expected.round(9)))
    for of_row in panels:
        left, right = of_row
        assert (left.bottom, left.ylim, left.xlim) == (right.bottom, right.ylim, right.xlim)
        assert left.left + left.width < right.left and right.left + right.width < COLUMN_INCHES[columns]
    required = points(page, "required").reshape(-1, 2, 2)
    pinned = [row for row in rows if row["required_high"] == row["required_low"] == 0]
    assert pinned and sum(np.ptp(line[:, 1]) < 1e-9 for line in required) >= 2 * len(pinned)


def test_names_and_choice_are_those_of_the_page():
    both = results(planted_coords(names=NAMES)[0], planted_lrs(), coords=planted_coords(names=NAMES)[1])
    found = sketches(both, "paper")
    answers = {sketch.stem for sketch in found if sketch.answers}
    kinds = ("coords_activation", "coords_effective_update", "loss_vs_lr")
    assert answers == {f"paper_{kind}_{columns}" for kind in kinds for columns in COLUMN_INCHES}
    assert {sketch.name for sketch in found} <= {sketch.name for sketch in sketches(both)}
    chosen = choose(found, "loss_vs_lr,coords_activation_*", every=False)
    assert {sketch.name for sketch in chosen} >= {"loss_vs_lr", "coords_activation_grad"}
    assert [sketch.stem for sketch in choose(found, "*loss*_single", every=False)] == ["paper_loss_vs_lr_single"]
    with pytest.raises(ValueError, match="'penalty' is no figure of these results; known: coords_"):
        choose(found, "penalty", every=True)
    assert set(figures(results(planted_lrs()), style="paper")) == {"paper_loss_vs_lr_single", "paper_loss_vs_lr_double"}


def test_a_caption_says_what_was_found(tmp_path):
    runs, coords = planted_coords(1.0, names=NAMES)
    costly = planted_lrs(-1.0, names=("gdn-mup", "mine_100%"))
    files = plot_results(results(runs, costly, coords=coords), tmp_path, style="paper")
    said = {file.stem: file.read_text() for file in files if file.suffix == ".txt"}
    assert len(said) == 6 and all(text.endswith(".\n") and text.count("\n") == 1 for text in said.values())
    assert all(text.isascii() and "%" not in text for text in said.values())
    of_losses = said["paper_loss_vs_lr_single"]
    for answer in transfer(costly):
        assert answer.sentence.replace("%", " percent") in of_losses
        assert answer.how_measured.replace("%", " percent") in of_losses
    assert of_losses.startswith("Validation loss") and "muP (GDN) is the table gdn-mup" in of_losses
    assert ("open: in doubt" in of_losses) == any(o.flags for a in transfer(costly) for o in a.optima)
    slopes = sizes_of(runs, coords)[1]
    of_sizes = said["paper_coords_activation_single"]
    rows, (left_out,) = coordinates.drawn_sites(slopes, "single")
    for row in rows:
        at = row["site"] + (f"[{row['layer']}]" if row["layer"] >= 0 else "")
        assert f"{at} at step {row['step']}" in of_sizes
        assert f"slope {row['slope']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}], " in of_sizes
    assert f"Not shown: {left_out['site']}." in of_sizes and "Not shown" not in said["paper_coords_activation_double"]
    assert re.search(r"SP: fail; \d+ judged", of_sizes) and "Measured: coordinate check check" in of_sizes


def test_nothing_of_a_page_stands_in_the_ink():
    shown = figures(results(planted_lrs(-1.0, names=NAMES)), style="paper")
    for figure in shown.values():
        said = texts(figure)
        assert {"SP", "μP (GDN)", "width 32", "optimum"} <= set(said)
        assert not any(word in text for text in said for word in ("drift", "seeds", "Loss against", "lrs"))


@pytest.mark.filterwarnings("error")
def test_results_without_an_answer_are_drawn_as_such():
    gone = planted_lrs().assign(status="diverged")
    _, (axes,) = drawn_losses(gone)
    assert "no loss to show" in {text.get_text() for text in axes.texts}
    assert len(points(axes, "diverged")) == gone.groupby(["width", "log2_lr"]).ngroups
    runs, coords = planted_coords()
    dead = coordinates.draw_coordinates(*sizes_of(runs, coords.assign(value=0.0)), "double", 6.9)
    assert "zero" in texts(dead) and len(points(dead.axes[0], "zero")) == 4 * len(runs) * 3
    imported = sizes_of(*planted_coords())
    free = coordinates.draw_coordinates(
        imported[0], imported[1].assign(required_low=np.nan, required_high=np.nan), "single", 3.3
    )
    assert "required" not in texts(free)


def test_a_figure_in_a_notebook_keeps_its_style():
    (figure, _) = figures(results(planted_lrs()), style="paper").values()
    assert figure.style == "paper" and figure._repr_png_()[:4] == b"\x89PNG"
    assert canvas.Drawing().style == "page"


def test_every_table_has_a_panel_however_many_there_are():
    names = [f"rules{i}" for i in range(7)]
    for columns, size in COLUMN_INCHES.items():
        _, panels = drawn_losses(planted_lrs(names=names, seeds=1), columns)
        assert len(panels) == 7
        parts = [planted_coords(names=(name,)) for name in names]
        tables = (pd.concat(each, ignore_index=True) for each in zip(*parts, strict=True))
        said = texts(coordinates.draw_coordinates(*sizes_of(*tables), columns, size))
        assert set(names) <= set(said)
