"""Figures of planted results: all that was measured is on them, inside the axes, beside cases in which it is not."""

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from planted_figures import (
    MEASURED,
    SEEDS,
    WIDTHS,
    clashes,
    planted_coords,
    planted_lrs,
    planted_steps,
    points,
    results,
    sizes_of,
    texts,
)

from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.learning_rates.drift import transfer
from mupcheck.plots import canvas, plot_results
from mupcheck.plots.coordinates import HEIGHT, MIN_OCTAVES, WIDTH, Panel, draw_coordinates, place_panels
from mupcheck.plots.losses import MAX_COLUMNS, MIN_NATS, draw_losses
from mupcheck.plots.optima import MIN_OCTAVES as MIN_OCTAVES_OF_LR
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import draw_slopes, worst_by_site
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.wider import draw_wider


def test_files_are_those_documented(tmp_path, monkeypatch):
    def savefig(figure, path, **options):
        path.write_text("")

    monkeypatch.setattr(Figure, "savefig", savefig)
    steps = planted_steps(planted_lrs())
    files = plot_results(results(planted_coords()[0], planted_lrs(), steps=steps), tmp_path)
    kinds = ("activation", "activation_update", "activation_grad", "effective_update", "weight_update")
    stems = [*(f"check/coords_gdn-mup_{kind}" for kind in (*kinds, "weight_update_spectral")), "check/slopes_gdn-mup"]
    stems += ["lrs/loss_vs_lr", "lrs/optimum_vs_width", "lrs/penalty", "lrs/wider_is_better"]
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"{s}.{end}" for s in stems for end in ("png", "svg")
    ]
    assert all(file.exists() for file in files)
    names = {file.stem for file in plot_results(results(planted_lrs()), tmp_path)}
    assert names == {"loss_vs_lr", "optimum_vs_width", "penalty"}, "without steps no width can be compared step by step"


def test_the_same_results_give_the_same_bytes(tmp_path):
    runs, coords = planted_coords()
    coords = coords[coords["kind"] == "effective_update"]
    first, again = (plot_results(results(runs, coords=coords), tmp_path / out) for out in "ab")
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in again]
    assert all(file.stat().st_size > 5000 for file in first)
    assert not any(b"dc:date" in file.read_bytes() for file in first)
    # figures that did not depend on their data would repeat as well
    other = plot_results(results(runs, coords=coords.assign(value=coords["value"] ** 2)), tmp_path / "c")
    assert not any(a.read_bytes() == b.read_bytes() for a, b in zip(first, other, strict=True))


def test_figures_of_a_folder_lie_in_each_sweeps_own(tmp_path, monkeypatch):
    loaded = []

    def load(path, *, tables):
        loaded.append(tables)
        return results(planted_lrs())

    monkeypatch.setattr("mupcheck.plots.load_results", load)
    (tmp_path / "lrs" / "runs").mkdir(parents=True)
    for path in (tmp_path, tmp_path / "lrs"):
        assert {file.parent for file in plot_results(path)} == {tmp_path / "lrs" / "figures"}
    assert loaded[0] == ("runs", "steps", "coords")


def test_two_optimizers_of_one_sweep_do_not_overwrite_each_other(tmp_path):
    runs = pd.concat([planted_lrs(), planted_lrs().assign(optimizer="sgd")], ignore_index=True)
    names = {file.name for file in plot_results(results(runs), tmp_path)}
    assert {"loss_vs_lr_adamw_head-dim.png", "loss_vs_lr_sgd_head-dim.png"} <= names


def test_a_name_that_is_no_file_name_stays_in_the_folder(tmp_path):
    runs, coords = planted_coords(names=(r"../$\a$",))
    files = plot_results(results(runs, coords=coords[coords["stat"] == "spectral"]), tmp_path)
    assert {file.parent for file in files} == {tmp_path}
    assert "slopes_..%2F%24%5Ca%24.png" in {file.name for file in files}


def test_user_faults_are_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to") as unwritable:
        plot_results(results(planted_lrs()), tmp_path / "file")
    with pytest.raises(ValueError, match="out is not given"):
        plot_results(results(planted_lrs()))
    with pytest.raises(ValueError, match="nothing to draw") as nothing:
        plot_results(results(planted_coords()[0], coords=planted_coords()[1][:0]), tmp_path / "out")
    with pytest.raises(ValueError, match="no runs under"):
        plot_results(tmp_path)
    assert "\n" not in str(unwritable.value) + str(nothing.value)


def test_the_users_settings_do_not_show_and_are_kept(tmp_path):
    plain = plot_results(results(planted_lrs()), tmp_path / "a")
    with mpl.rc_context({"font.size": 20, "figure.facecolor": "black"}):
        themed = plot_results(results(planted_lrs()), tmp_path / "b")
        assert mpl.rcParams["font.size"] == 20
    assert [file.read_bytes() for file in plain] == [file.read_bytes() for file in themed]


@pytest.mark.filterwarnings("error")
def test_results_without_an_answer_are_drawn_as_such():
    runs, coords = planted_coords()
    dead = fit_slopes(runs, coords.assign(value=0.0))
    assert "no slope" in texts(draw_slopes(dead, title="t"))
    figure = draw_coordinates(*sizes_of(runs, coords.assign(value=0.0)), title="t")
    assert len(points(figure.axes[0], "zero")) == 4 * len(runs) * 3
    one_width = draw_coordinates(*sizes_of(*planted_coords(widths=(64,))), title="t")
    assert "? cannot tell" in texts(one_width)
    gone = planted_lrs().assign(status="diverged")
    assert len(points(draw_losses(transfer(gone), title="t").axes[0], "diverged")) == len(gone)
    assert "? cannot tell" in texts(draw_optima(transfer(gone), title="t"))


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
    figure = draw_coordinates(sizes, slopes, title="t")
    panels = panels_of(sizes, slopes)
    assert len(panels) == len(MEASURED["activation", "rms"])
    assert len(points(figure.axes[0], "seeds")) == len(panels) * len(WIDTHS) * SEEDS * 3
    assert stray(figure, panels) == 0
    assert stray(figure, [replace(panel, bottom=panel.bottom + HEIGHT) for panel in panels]) > 0


def panels_of(sizes, slopes):
    """The panels that `draw_coordinates` places."""
    shown = []
    for row in worst_by_site(slopes):
        rows = sizes[(sizes["site"] == row["site"]) & (sizes["layer"] == row["layer"])]
        shown.append(np.stack([rows["step"], np.log2(rows["width"]), np.log2(rows["value"])]))
    return place_panels(shown)


def test_flat_looks_flat_and_panels_share_their_span():
    spans = {round(np.ptp(panel.ylim), 6) for panel in panels_of(*sizes_of(*planted_coords(noise=0.001, steps=(1,))))}
    assert spans == {MIN_OCTAVES}
    runs, coords = planted_coords()
    coords.loc[coords["site"] == "q_pre", "value"] **= 20
    wild, calm = (np.ptp(panels_of(*sizes_of(runs, coords))[i].ylim) for i in (1, 0))
    assert wild > 10 > calm - 1e-9, "one wild site must not flatten the others"


def test_a_line_of_the_required_slope_goes_through_the_mean_of_what_was_judged():
    sizes, slopes = sizes_of(*planted_coords(1.0))
    figure, panels = draw_coordinates(sizes, slopes, title="t"), panels_of(sizes, slopes)
    row = worst_by_site(slopes)[0]
    rows = sizes[(sizes["site"] == row["site"]) & (sizes["step"] == row["step"])]
    (left, y), (right, y_right) = points(figure.axes[0], "required")[:2]
    assert (row["required"], row["verdict"], left, right) == (0, "fail", panels[0].left, panels[0].left + WIDTH)
    assert y == y_right == pytest.approx(panels[0].y(np.log2(rows["value"]).mean()))


def test_what_has_no_logarithm_is_marked_at_the_edge():
    runs, coords = planted_coords()
    assert not {"zero", "infinite or NaN"} & set(texts(draw_coordinates(*sizes_of(runs, coords), title="t")))
    of_embedding = coords.index[(coords["site"] == "embedding") & (coords["kind"] == "activation")]
    coords.loc[of_embedding[:3], "value"] = [0.0, np.nan, np.inf]
    sizes, slopes = sizes_of(runs, coords)
    figure = draw_coordinates(sizes, slopes, title="t")
    assert {"zero", "infinite or NaN"} <= set(texts(figure))
    with np.errstate(divide="ignore"):
        panel = panels_of(sizes, slopes)[0]
    (zero,), none = points(figure.axes[0], "zero"), points(figure.axes[0], "not finite")
    assert 0 < zero[1] - panel.bottom < 0.1
    assert len(none) == 2
    assert np.all(np.abs(panel.bottom + HEIGHT - none[:, 1]) < 0.1)


def test_the_worst_layer_and_step_is_the_one_shown():
    runs, coords = planted_coords()
    assert not any("fail" in text for text in texts(draw_coordinates(*sizes_of(runs, coords), title="t")))
    bad = (
        (coords["site"] == "q_pre") & (coords["layer"] == 0) & (coords["step"] == 1) & (coords["kind"] == "activation")
    )
    width = coords["run_id"].str.split("-").str[-2].astype(int)
    coords.loc[bad, "value"] *= width[bad]
    shown = texts(draw_coordinates(*sizes_of(runs, coords), title="t"))
    assert {"q_pre[0]", "mlp_out[1]", "✗ fail"} <= set(shown)
    assert sum(text.startswith("step 1: +1.") and text.endswith("→ 0") for text in shown) == 1


def test_an_upper_bound_and_a_range_are_said_as_such():
    sizes, slopes = sizes_of(*planted_coords(), kind="activation")
    for low, high, said in ((-np.inf, 0.0, "→ ≤0"), (-0.5, 0.0, "→ −½…0"), (-1.0, -1.0, "→ −1")):
        figure = draw_coordinates(sizes, slopes.assign(required_low=low, required_high=high), title="t")
        assert sum(text.endswith(said) for text in texts(figure)) == 4
        assert len(points(figure.axes[0], "required")) == 4 * 2 * (2 if low == -0.5 else 1)
    figure = draw_coordinates(sizes, slopes.assign(required_low=np.nan, required_high=np.nan), title="t")
    assert not len(points(figure.axes[0], "required"))


# Slopes


def test_overview_holds_every_slope():
    runs, coords = planted_coords(2.5)
    slopes = fit_slopes(runs, coords)
    figure = draw_slopes(slopes, title="t")
    assert len(figure.axes) == len(MEASURED)
    worst = slopes.drop_duplicates(["kind", "stat", "site"])
    drawn = [offsets for axes in figure.axes for c in axes.collections for offsets in drawn_points(c)]
    assert len(drawn) == len(slopes) + len(worst)
    low, high = figure.axes[0].get_xlim()
    assert low < -1.7
    assert low < min(x for x, _ in drawn) <= max(x for x, _ in drawn) < high


def drawn_points(collection):
    return collection.get_offsets() if collection.get_label() in canvas.MARKS else []


def test_an_interval_beyond_the_axis_ends_in_an_arrowhead():
    slopes = fit_slopes(*planted_coords())
    wide = slopes.assign(ci_high=99.0)
    heads = [[p for axes in draw_slopes(s, title="t").axes for p in points(axes, "goes on")] for s in (slopes, wide)]
    assert (len(heads[0]), len(heads[1])) == (0, len(slopes.drop_duplicates(["kind", "stat", "site"])))


def test_a_slope_that_could_not_be_fitted_is_said():
    runs, coords = planted_coords()
    coords.loc[coords["site"] == "q_proj", "value"] = np.nan
    assert texts(draw_slopes(fit_slopes(runs, coords), title="t")).count("no slope") == 5
    assert "no slope" not in texts(draw_slopes(fit_slopes(*planted_coords()), title="t"))


# Learning rates


def diverge(runs, where):
    return runs.assign(status=np.where(where, "diverged", "ok"))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_losses_are_all_inside_and_panels_share_axes(n):
    names = [f"rules{i}" for i in range(n)]
    runs = planted_lrs(-0.5, names=names)
    figure = draw_losses(transfer(runs), title="t")
    upper, lower = figure.axes[::2], figure.axes[1::2]
    assert len(upper) == len(lower) == n
    assert len({round(axes.get_position().x0, 6) for axes in upper}) <= MAX_COLUMNS
    for row in (upper, lower):
        # the same to rounding: the bands' share of a panel is computed from its place on the page
        assert np.ptp([(*axes.get_xlim(), *axes.get_ylim()) for axes in row], axis=0) == pytest.approx(0, abs=1e-9)
    drawn = np.concatenate([points(axes, "seeds") for axes in upper])
    assert sorted(drawn[:, 1]) == pytest.approx(sorted(runs["val_loss"]))
    for axes in figure.axes:
        (low_x, high_x), (low, high) = axes.get_xlim(), axes.get_ylim()
        x, y = points(axes, "seeds").T
        assert low_x < x.min() <= x.max() < high_x
        assert low < y.min() <= y.max() < high


def test_a_diverged_run_is_a_cross_and_breaks_the_line():
    runs = planted_lrs()
    gone = (runs["width"] == 64) & (runs["log2_lr"] == -3) & (runs["seed"] > 0)
    clean, hit = (draw_losses(transfer(r), title="t").axes[0] for r in (runs, diverge(runs, gone)))
    assert (len(points(clean, "diverged")), len(points(hit, "diverged"))) == (0, gone.sum())
    assert len(points(hit, "seeds")) == len(runs) - gone.sum()
    assert np.isnan(points(hit, "mean")).any()
    assert not np.isnan(points(clean, "mean")).any()


def test_shifted_curves_are_those_less_the_loss_at_the_optimum():
    answers = transfer(planted_lrs())
    upper, lower = draw_losses(answers, title="t").axes
    means = [points(axes, "mean")[:, 1].reshape(len(WIDTHS), -1) for axes in (upper, lower)]
    at_optimum = np.array([[optimum.loss] for optimum in answers[0].optima])
    assert means[1] == pytest.approx(means[0] - at_optimum)
    assert upper.get_ylabel() == "val_loss (nats/token)"


def test_flat_losses_and_equal_optima_look_flat():
    answers = transfer(planted_lrs(bend=0.001))
    upper = draw_losses(answers, title="t").axes[0]
    assert np.ptp(upper.get_ylim()) >= MIN_NATS
    optima = draw_optima(transfer(planted_lrs()), title="t").axes[0]
    assert np.ptp(optima.get_ylim()) == pytest.approx(MIN_OCTAVES_OF_LR)
    steep = draw_optima(transfer(planted_lrs(-2.0, low=-20)), title="t").axes[0]
    assert np.ptp(steep.get_ylim()) > MIN_OCTAVES_OF_LR


def test_a_flagged_optimum_is_open_and_a_missing_one_a_cross():
    def fills(runs):
        axes = draw_optima(transfer(runs), title="t").axes[0]
        marks = [line for line in axes.lines if line.get_label() == "optimum"]
        missing = sum(line.get_label() == "no optimum" for line in axes.lines)
        return [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in marks], missing

    assert fills(planted_lrs()) == ([False] * 3, 0)
    assert fills(planted_lrs(-1.0, low=-8)) == ([False, False, True], 0)
    runs = planted_lrs()
    assert fills(diverge(runs, runs["width"] == 32)) == ([False, False], 1)


def test_drift_and_verdict_are_said_beside_the_optima():
    held, drifting = (texts(draw_optima(transfer(planted_lrs(d)), title="t")) for d in (0.0, -1.0))
    assert "✓ transfers" in held
    assert "✗ drifts" in drifting
    assert any(text.startswith("drift −1.0") for text in drifting)


def test_divergence_is_a_bar_and_its_drift_is_said():
    runs = planted_lrs(names=("sp",))
    gone = runs["log2_lr"] > -4 - np.log2(runs["width"] / WIDTHS[0])
    clean, hit = (draw_optima(transfer(r), title="t") for r in (runs, diverge(runs, gone)))
    assert len(points(clean.axes[0], "diverges")) == 0
    assert points(hit.axes[0], "diverges")[:, 1].tolist() == [-3, -4, -5]
    low, high = hit.axes[0].get_ylim()
    assert low < -5 < -3 < high
    assert any("divergence −1.00" in text for text in texts(hit))
    assert not any("divergence" in text for text in texts(clean))


def test_every_cost_is_written_in_its_cell_and_darker_where_higher():
    runs = planted_lrs(-1.0)
    answers = transfer(runs)
    figure = draw_penalties(answers, title="t")
    cells = [patch for patch in figure.axes[0].patches if patch.get_label() == "penalty"]
    assert len(cells) == len(WIDTHS) ** 2
    grey = {p.get_xy(): np.dot(p.get_facecolor()[:3], [0.299, 0.587, 0.114]) for p in cells}
    assert grey[0, 0] == grey[1, 1] > grey[1, 0] > grey[2, 0]
    shown = texts(figure)
    for penalty in answers[0].penalty:
        if penalty.source != penalty.target:
            assert f"{penalty.nats:.3f} ({penalty.percent:.1f}%)" in shown
            assert f"[{penalty.ci_low:.3f}, {penalty.ci_high:.3f}]" in shown
    assert shown.count("0") == len(WIDTHS)
    dead = draw_penalties(transfer(diverge(runs, (runs["width"] == 128) & (runs["log2_lr"] > -7.5))), title="t")
    assert texts(dead).count("diverges") == 2
    one_seed = texts(draw_penalties(transfer(planted_lrs(-1.0, seeds=1)), title="t"))
    assert one_seed.count("no interval") == 6


def test_where_wider_is_worse_is_crossed_and_what_diverged_is_said():
    runs = planted_lrs()

    def drawn(runs, **options):
        figure = draw_wider(transfer(runs, planted_steps(planted_lrs(), **options)), title="t")
        marks = [c for axes in figure.axes for c in axes.collections if c.get_label() in ("worse", "better")]
        rows = {name: {float(y) for c in marks if c.get_label() == name for _, y in c.get_offsets()} for name in MARKED}
        return figure, rows

    (held, rows), (_, harmed) = drawn(runs), drawn(runs, worse=0.5)
    n_lrs = runs["log2_lr"].nunique()
    assert rows == {"worse": set(), "better": {i + 0.5 for i in range(n_lrs)}}
    assert harmed["worse"] == {n_lrs - 1.5, n_lrs - 0.5}  # 2^-4 and 2^-3
    assert "wider is better: holds, lower at 100% of the steps" in texts(held)
    assert held.axes[0].get_ylim() == (0, n_lrs)
    gone, _ = drawn(diverge(runs, (runs["width"] == 128) & (runs["log2_lr"] == -3)))
    assert "width 128 diverged" in texts(gone)
    elsewhere, _ = drawn(runs[(runs["width"] > 32) | (runs["log2_lr"] < -4)])
    assert texts(elsewhere).count("not run at both widths") == 2


MARKED = ("worse", "better")


# Legible


NAMES = ("sp", "a-custom-table-with-a-name-that-is-very-long", "gdn-mup")


TITLE = f"{canvas.shorten(NAMES[1], 28)} · adamw · head-dim: weight_update, spectral"


COST = "Cost of another width's best lr · adamw · head-dim"


SIX_WIDTHS = (32, 64, 128, 256, 512, 1024)


FIGURES = {
    "coordinates": lambda: draw_coordinates(*sizes_of(*planted_coords(0.3, steps=(0, 1, 2, 4, 8))), title=TITLE),
    "coordinates, many": lambda: draw_coordinates(
        *sizes_of(*planted_coords(1.2, widths=(64, 96, 128, 192, 1024, 1536), steps=range(20))), title=TITLE
    ),
    "slopes": lambda: draw_slopes(fit_slopes(*planted_coords()), title=TITLE),
    "losses, one": lambda: draw_losses(transfer(planted_lrs(widths=SIX_WIDTHS)), title="t"),
    "losses, three": lambda: draw_losses(transfer(planted_lrs(names=NAMES)), title="t"),
    "losses, four": lambda: draw_losses(transfer(planted_lrs(names=(*NAMES, "mup"))), title="t"),
    "penalty": lambda: draw_penalties(transfer(planted_lrs(-1.0, names=(*NAMES, "mup"))), title=COST),
    "penalty, two widths": lambda: draw_penalties(transfer(planted_lrs(-1.0, widths=(32, 64), seeds=1)), title=COST),
    "penalty, six widths": lambda: draw_penalties(transfer(planted_lrs(-0.5, widths=SIX_WIDTHS)), title=COST),
    "wider": lambda: draw_wider(transfer(planted_lrs(names=NAMES), planted_steps(planted_lrs(names=NAMES))), title="t"),
    "wider, two widths": lambda: draw_wider(
        transfer(planted_lrs(widths=(32, 64)), planted_steps(planted_lrs(widths=(32, 64)))), title="t"
    ),
    "wider, refined": lambda: draw_wider(
        transfer(refined := planted_lrs().assign(log2_lr=lambda r: r["log2_lr"] - 0.25), planted_steps(refined)),
        title="t",
    ),
    "optima": lambda: draw_optima(transfer(planted_lrs(names=NAMES)), title="t"),
    "optima, in doubt": lambda: draw_optima(
        transfer(planted_lrs(-1, names=(*NAMES, "mup", "x", "y", "z"), seeds=1, low=-7)), title="t"
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
