"""Figures of a learning-rate sweep."""

import re
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from planted_figures import (
    WIDTHS,
    T,
    planted_lrs,
    planted_steps,
    points,
    texts,
)

from mupcheck.learning_rates.drift import transfer
from mupcheck.looks import MIN_SHARE
from mupcheck.plots.losses import MAX_COLUMNS, draw_losses
from mupcheck.plots.optima import MIN_OCTAVES as MIN_OCTAVES_OF_LR
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.penalties import draw_penalties
from mupcheck.plots.wider import draw_wider

# Learning rates

MARKED = ("worse", "better")


def diverge(runs, where):
    return runs.assign(status=np.where(where, "diverged", "ok"))


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_losses_are_all_inside_and_panels_share_axes(n):
    names = [f"rules{i}" for i in range(n)]
    runs = planted_lrs(-0.5, names=names)
    figure = draw_losses(transfer(runs), T)
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
    clean, hit = (draw_losses(transfer(r), T).axes[0] for r in (runs, diverge(runs, gone)))
    assert (len(points(clean, "diverged")), points(hit, "diverged")[:, 0].tolist()) == (0, [-3.0])
    assert "2/3" in {text.get_text() for text in hit.texts}
    assert "2/3" not in {text.get_text() for text in clean.texts}
    assert len(points(hit, "seeds")) == len(runs) - gone.sum()
    assert np.isnan(points(hit, "mean")).any()
    assert not np.isnan(points(clean, "mean")).any()


def test_shifted_curves_are_those_less_the_loss_at_the_optimum():
    answers = transfer(planted_lrs())
    upper, lower = draw_losses(answers, T).axes
    means = [points(axes, "mean")[:, 1].reshape(len(WIDTHS), -1) for axes in (upper, lower)]
    at_optimum = np.array([[optimum.loss] for optimum in answers[0].optima])
    assert means[1] == pytest.approx(means[0] - at_optimum)
    assert upper.get_ylabel() == "val_loss (nats/token)"


def test_flat_losses_and_equal_optima_look_flat():
    answers = transfer(planted_lrs(bend=0.001))
    upper = draw_losses(answers, T).axes[0]
    span = np.ptp(upper.get_ylim())
    lowest = points(upper, "seeds")[:, 1].min()
    assert MIN_SHARE * lowest <= span < 2 * MIN_SHARE * lowest  # a share, so that losses below 1 nat are seen too
    optima = draw_optima(transfer(planted_lrs()), T).axes[0]
    assert np.ptp(optima.get_ylim()) == pytest.approx(MIN_OCTAVES_OF_LR)
    steep = draw_optima(transfer(planted_lrs(-2.0, low=-20)), T).axes[0]
    assert np.ptp(steep.get_ylim()) > MIN_OCTAVES_OF_LR


def test_a_flagged_optimum_is_open_and_a_missing_one_a_cross():
    def fills(runs):
        axes = draw_optima(transfer(runs), T).axes[0]
        marks = [line for line in axes.lines if line.get_label() == "optimum"]
        missing = sum(line.get_label() == "no optimum" for line in axes.lines)
        return [to_hex(line.get_markerfacecolor()) == "#ffffff" for line in marks], missing

    assert fills(planted_lrs()) == ([False] * 3, 0)
    assert fills(planted_lrs(-1.0, low=-8)) == ([False, False, True], 0)
    runs = planted_lrs()
    assert fills(diverge(runs, runs["width"] == 32)) == ([False, False], 1)


def test_drift_and_verdict_are_said_beside_the_optima():
    held, drifting = (texts(draw_optima(transfer(planted_lrs(d)), T)) for d in (0.0, -1.0))
    assert "✓ transfers" in held
    assert "✗ drifts" in drifting
    assert any(re.match(r"drift −(0\.9|1\.0)", text) for text in drifting)


def test_a_drift_at_the_edge_of_the_grid_is_a_bound():
    beyond = transfer(planted_lrs(-2.5))
    assert any(optimum.at_edge for optimum in beyond[0].optima)
    figure = draw_optima(beyond, T)
    assert len(points(figure.axes[0], "goes on")), "an interval with one end goes on at the other"
    assert len(points(figure.axes[0], "drift")) == 0
    said = texts(figure)
    assert any(re.fullmatch(r"drift at most −1\.\d\d octaves per doubling", text) for text in said)
    assert not any(text.startswith("drift −") for text in said)


def test_an_interval_open_to_both_sides_goes_on_at_both_and_none_is_drawn_of_one_seed():
    (answer,) = transfer(planted_lrs())
    for half_width, heads, bars in ((0.3, 2, 3), (None, 0, 2)):
        first = replace(answer.optima[0], ci_low=None, ci_high=None, half_width=half_width)
        axes = draw_optima([replace(answer, optima=(first, *answer.optima[1:]))], T).axes[0]
        assert len(points(axes, "goes on")) == heads
        assert sum(line.get_label() == "interval" for line in axes.lines) == bars


def test_a_drift_known_from_one_side_is_said_with_that_end():
    (answer,) = transfer(planted_lrs(-0.5))
    slope, low, high = (
        f"{x:+.2f}".replace("-", "−") for x in (answer.drift.slope, answer.drift.ci_low, answer.drift.ci_high)
    )
    for unknown, said in ((["ci_low"], f" [?, {high}]"), (["ci_high"], f" [{low}, ?]"), (["ci_low", "ci_high"], "")):
        drift = replace(answer.drift, **dict.fromkeys(unknown))
        found = texts(draw_losses([replace(answer, drift=drift)], T))
        assert f"drift {slope}{said} octaves per doubling" in found


def test_divergence_is_a_bar_and_its_drift_is_said():
    runs = planted_lrs(names=("sp",))
    gone = runs["log2_lr"] > -4 - np.log2(runs["width"] / WIDTHS[0])
    clean, hit = (draw_optima(transfer(r), T) for r in (runs, diverge(runs, gone)))
    assert len(points(clean.axes[0], "diverges")) == 0
    assert points(hit.axes[0], "diverges")[:, 1].tolist() == [-3, -4, -5]
    low, high = hit.axes[0].get_ylim()
    assert low < -5 < -3 < high
    assert any("divergence −1.00" in text for text in texts(hit))
    assert not any("divergence" in text for text in texts(clean))


def test_every_cost_is_written_in_its_cell_and_darker_where_higher():
    runs = planted_lrs(-1.0)
    answers = transfer(runs)
    figure = draw_penalties(answers, T)
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
    dead = draw_penalties(transfer(diverge(runs, (runs["width"] == 128) & (runs["log2_lr"] > -7.5))), T)
    assert texts(dead).count("diverges") == 2
    one_seed = texts(draw_penalties(transfer(planted_lrs(-1.0, seeds=1)), T))
    assert one_seed.count("no interval") == 6


def test_where_wider_is_worse_is_crossed_and_what_diverged_is_said():
    runs = planted_lrs()

    def drawn(runs, **options):
        figure = draw_wider(transfer(runs, planted_steps(planted_lrs(), **options)), T)
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


def test_a_diverged_run_is_marked_at_its_lr_on_the_line_of_its_width():
    runs = planted_lrs()
    some = (runs["log2_lr"] >= -4) & (runs["width"] >= 64) & ((runs["seed"] == 0) | (runs["log2_lr"] == -3))
    axes = draw_losses(transfer(diverge(runs, some)), T).axes[0]
    marks = points(axes, "diverged")
    assert sorted(marks[:, 0]) == [-4, -4, -3, -3], "beside its lr a cross is at none that was run"
    assert len(set(marks[:, 1])) == 2, "a line for each width"
    kinds = {line.get_marker() for line in axes.lines if line.get_label() == "diverged" and len(line.get_xdata())}
    assert kinds == {"X", "x"}, "all seeds, or some"
    assert {"32", "64", "128"} <= {text.get_text() for text in axes.texts}


def test_widths_are_told_apart_without_colour():
    axes = draw_losses(transfer(planted_lrs()), T).axes[0]
    assert len({line.get_marker() for line in axes.lines if line.get_label() == "mean"}) == len(WIDTHS)


@pytest.mark.parametrize("drift", [0.0, -1.0])
def test_the_cone_is_what_transfers(drift):
    answers = transfer(planted_lrs(drift, names=("sp", "mup")))
    figure = draw_optima(answers, T)
    (cone,) = [patch for patch in figure.axes[0].patches if patch.get_label() == "cone"]
    (x0, y0), (x1, high), (_, low) = cone.get_xy()[:3]
    assert ((high - y0) / (x1 - x0), (low - y0) / (x1 - x0)) == pytest.approx((0.25, -0.25))
    ends = np.concatenate([line.get_xydata()[-1:] for line in figure.axes[0].lines if line.get_label() == "drift"])
    inside = np.abs(ends[:, 1] - y0) <= 0.25 * (ends[:, 0] - x0) + 0.05
    assert inside.all() == (drift == 0.0)
    assert "transfers: ±0.25 octaves per doubling" in texts(figure)
