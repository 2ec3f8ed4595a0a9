"""Planted gradients of the gates are read as what was planted, and what cannot be told is said so."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from planted_figures import clashes, planted_coords, points, texts
from planted_gates import LAYERS, STEPS, plant, planted

from mupcheck.coordinates.gates import ALIGNMENTS, fit_gates, has_gates, near_alignments, read_interval, rules_for
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.plots import Caption, canvas, draw_gates, plot_results
from mupcheck.results.reading import Results
from mupcheck.theory.parametrization import TABLES, Role


@pytest.mark.parametrize(
    ("slope", "name", "table"), [(0, "aligned", "mup-strict"), (-0.5, "independent", "gdn-mup"), (-1, "plain", "mup")]
)
def test_a_planted_exponent_is_read_as_its_rule(slope, name, table):
    gates = fit_gates(*planted(slope, noise=0.05))
    assert [(g.site, g.layer, g.step) for g in gates] == [
        (site, layer, step) for site in ("z_alpha", "z_beta") for layer in LAYERS for step in STEPS
    ]
    for gate in gates:
        assert gate.near == (name,) and gate.rules == (table,)
        assert gate.reading in (name, f"nearest {name}")
        assert gate.slope == pytest.approx(slope, abs=0.1)  # 4 seeds with a scatter of about 0.03 each
        assert (gate.gate_lr, gate.scalar_lr) == (-1 - gate.slope, -gate.slope)


def test_in_heads_mode_every_mup_table_has_the_plain_rule():
    for slope, rules in ((-1, ("mup-strict", "gdn-mup", "mup")), (-0.5, ())):
        runs, coords = planted(slope)
        runs = runs.assign(mode="heads", n_heads=runs["width"] // 32, head_k_dim=8, head_v_dim=16)
        assert {gate.rules for gate in fit_gates(runs, coords)} == {rules}


def test_a_gradient_that_falls_with_the_loss_is_read_all_the_same():
    gates = fit_gates(*planted(-0.5, loss_slope=-0.25))
    assert all(gate.near == ("independent",) for gate in gates)
    late = [gate for gate in gates if gate.step == 4]
    for gate in late:
        assert gate.slope == pytest.approx(-0.5, abs=1e-9)
        assert gate.gradient_slope == pytest.approx(-1.5, abs=1e-9)  # read as it is, it would be below every rule
        assert read_interval(gate.gradient_slope, gate.gradient_slope) == "below every rule"


def test_the_reference_counts_as_minus_one():
    # half an exponent too small everywhere, as behind a wrong multiplier after the mixer: not the gates' doing
    assert all(gate.near == ("independent",) for gate in fit_gates(*planted(-1, reference=-1.5)))


@pytest.mark.parametrize(("values", "told"), [(0.5, False), (-1.0, False), (0.1, True)])
def test_terms_that_are_not_of_size_one_over_width_tell_nothing_of_their_alignment(values, told):
    for gate in fit_gates(*planted(-0.5, values=values, noise=0.05)):
        assert (gate.near == ("independent",)) == told
        if not told:
            assert gate.reading.startswith(
                f"cannot tell: the terms of the gradient's sum are of size width^{values - 1:+.1f}"
            )


def test_slope_and_interval_are_those_of_fit_slopes():
    runs, coords = planted(-0.6, noise=0.3)
    wide = (
        coords[coords["kind"] == "activation_grad"]
        .pivot_table(index=["run_id", "step", "layer"], columns="site", values="value")
        .reset_index()
    )
    wide = wide.merge(runs[["run_id", "width"]])
    ratio = wide.assign(value=wide["z_beta"] / wide["mixer_out"] / wide["width"], site="z_beta", kind="x", stat="rms")
    fitted = fit_slopes(runs, ratio[coords.columns]).set_index(["layer", "step"])
    for gate in fit_gates(runs, coords):
        if gate.site == "z_beta":
            right = fitted.loc[(gate.layer, gate.step)]
            assert (gate.slope, gate.ci_low, gate.ci_high) == pytest.approx(
                (right["slope"], right["ci_low"], right["ci_high"]), abs=1e-12
            )


def test_pooled_slopes_are_one_before_and_one_after_the_first_step():
    gates = fit_gates(*planted(-0.5, noise=0.2), pooled=True)
    assert [(g.site, g.layer, g.step) for g in gates] == [(s, -1, t) for s in ("z_alpha", "z_beta") for t in (0, 4)]
    each = fit_gates(*planted(-0.5, noise=0.2))
    later = [g.slope for g in each if g.site == "z_beta" and g.step]
    assert gates[-1].slope == pytest.approx(np.mean(later), abs=1e-9)


@pytest.mark.parametrize(
    ("low", "high", "reading"),
    [
        (-0.6, -0.4, "independent"),
        (-0.7, -0.55, "nearest independent"),
        (-0.8, -0.7, "independent or plain"),
        (-2.0, 1.0, "not told apart"),
        (-0.1, 0.1, "aligned"),
        (0.3, 0.4, "above every rule"),
        (-1.6, -1.3, "below every rule"),
    ],
)
def test_an_interval_in_words(low, high, reading):
    assert read_interval(low, high) == reading
    assert (len(near_alignments(low, high)) > 1) == (" or " in reading or "not" in reading)


def test_the_exponents_are_those_of_the_tables():
    # an lr exponent -1 - p for W_alpha and W_beta, -p for A_log and dt_bias (theory.md, section 3)
    assert [(a.name, a.exponent) for a in ALIGNMENTS] == [("aligned", 0), ("independent", -0.5), ("plain", -1)]
    right = zip(ALIGNMENTS, (("mup-strict", "head-dim"), ("gdn-mup", "head-dim"), ("gdn-mup", "heads")), strict=True)
    for alignment, (name, mode) in right:
        assert name in rules_for(alignment, mode)
        scalar = TABLES[name].rule(Role.GATE_SCALAR, optimizer="sgd", mode=mode).lr
        assert scalar == -alignment.exponent


def test_what_cannot_be_told_says_why():
    runs, coords = planted(-0.5, noise=0.1)

    def spoilt(rows, value):
        return runs, coords.assign(value=coords["value"].mask(rows, value))

    for tables, said in (
        (planted(-0.5, noise=0.1, seeds=(0,)), "one seed"),
        (planted(-0.5, widths=(64, 128)), "2 widths"),
        (spoilt(coords["site"] == "z_beta", 0.0), "is 0 or not finite"),
        (spoilt(coords["site"] == "mixer_out", 0.0), "is 0 or not finite"),
        (spoilt(coords["step"] == 1, np.nan), "is 0 or not finite"),
    ):
        gates = [gate for gate in fit_gates(*tables) if gate.site == "z_beta" and gate.step == 1]
        assert len(gates) == len(LAYERS)
        for gate in gates:
            assert gate.reading.startswith("cannot tell: ") and said in gate.reading
            assert gate.near == () and gate.rules == () and np.isnan([gate.gate_lr, gate.scalar_lr]).all()


def test_gradients_that_were_not_recorded_are_asked_for():
    runs, coords = planted(-0.5)
    for lacking in (*(coords[coords["site"] != site] for site in ("mixer_out", "v_conv")), coords[:0]):
        assert not has_gates(runs, lacking)
        with pytest.raises(ValueError, match=r"no gradients of z_alpha and z_beta beside .*mupcheck coord"):
            fit_gates(runs, lacking)
    assert has_gates(runs, coords)


def test_runs_that_do_not_compare_are_refused():
    runs, coords = planted(-0.5)
    with pytest.raises(ValueError, match="differ in lr"):
        fit_gates(runs.assign(lr=np.where(runs["seed"] == 0, 0.1, 0.2)), coords)


@pytest.fixture
def figure():
    with canvas.drawing_style():
        yield draw_gates(
            fit_gates(*planted(-0.5, noise=0.2)), Caption("a table: gradients of the gates", "check · sgd · head-dim")
        )


def test_the_figure_shows_every_slope_and_rule(figure):
    gates = fit_gates(*planted(-0.5, noise=0.2))
    for panel, site in zip(figure.axes, ("z_alpha", "z_beta"), strict=True):
        mine = [gate for gate in gates if gate.site == site]
        assert sorted(points(panel, "slope")[:, 1]) == pytest.approx(sorted(gate.slope for gate in mine))
        assert sorted(points(panel, "gradient as it is")[:, 1]) == pytest.approx(sorted(g.gradient_slope for g in mine))
        assert sorted(set(points(panel, "rule")[:, 1])) == [-1, -0.5, 0]
        low, high = panel.get_ylim()
        assert all(low < gate.slope < high for gate in mine)
        filled = [
            to_hex(line.get_markerfacecolor()) != "#ffffff" for line in panel.lines if line.get_label() == "slope"
        ]
        assert filled == [len(gate.near) == 1 for gate in mine]
    assert {"−½ independent\ngdn-mup", "0 aligned\nmup-strict", "−1 plain\nmup"} <= set(texts(figure))
    assert clashes(figure) == []


@pytest.mark.filterwarnings("error")
def test_slopes_that_do_not_exist_and_wild_ones_are_drawn():
    runs, coords = planted(-0.5, noise=3.0)
    dead = coords.assign(value=coords["value"].where(coords["step"] != 4, np.nan))
    with canvas.drawing_style():
        figure = draw_gates(fit_gates(runs, dead), Caption("t"))
    assert texts(figure).count(" no slope") == 4
    assert clashes(figure) == []


def test_the_figure_is_among_those_of_a_folder(tmp_path):
    runs, _ = planted_coords()
    coords = plant(runs, -0.5, noise=0.1)
    files = plot_results(Results(runs, pd.DataFrame(), coords, {}), tmp_path, every=True)
    assert {"gates_gdn-mup.png", "gates_gdn-mup.svg"} <= {file.name for file in files}
    without = plot_results(
        Results(runs, pd.DataFrame(), coords[coords["site"] == "mixer_out"], {}), tmp_path / "b", every=True
    )
    assert not any(file.name.startswith("gates") for file in without)
