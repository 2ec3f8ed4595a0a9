"""Which figures are drawn, and figures without files."""

import os
import subprocess
import sys
from io import BytesIO

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure
from planted_figures import planted_coords, planted_lrs, planted_steps, results, texts

import mupcheck
from mupcheck.plots import figures, plot_results
from mupcheck.plots.catalog import choose, sketches

FEW = ["slopes_gdn-mup", "slopes_sp", "coords_activation", "coords_effective_update", "loss_vs_lr", "optimum_vs_width"]


@pytest.fixture(scope="module")
def both():
    runs, coords = planted_coords(names=("sp", "gdn-mup"))
    return results(runs, planted_lrs(), coords=coords, steps=planted_steps(planted_lrs()))


@pytest.fixture(scope="module")
def found(both):
    return sketches(both)


def test_the_default_is_the_few_that_answer_and_all_is_all(found):
    assert choose(found, None, every=True) == found
    assert choose(found, None, every=False) == [sketch for sketch in found if sketch.answers]
    assert sorted(sketch.stem for sketch in found if sketch.answers) == sorted(FEW)
    rest = {sketch.stem for sketch in found if not sketch.answers}
    assert {"coords_weight_update", "coords_sp_weight_update", "penalty", "wider_is_better"} <= rest
    costly = sketches(results(planted_lrs(-1.0)))
    assert [s.stem for s in costly if s.answers] == ["loss_vs_lr", "optimum_vs_width", "penalty"]


def test_only_takes_names_and_patterns_and_an_unknown_one_lists_the_known(found):
    def stems(only):
        return sorted(sketch.stem for sketch in choose(found, only, every=False))

    for only in ("loss_vs_lr,slopes", ["loss_vs_lr", "slopes_*"]):
        assert stems(only) == ["loss_vs_lr", "slopes_gdn-mup", "slopes_sp"]
    assert stems("coords_sp_act*") == [
        "coords_sp_activation", "coords_sp_activation_grad", "coords_sp_activation_update"
    ]  # fmt: skip
    for unknown in ("los_vs_lr", ",", "loss_vs_lr,x"):
        with pytest.raises(
            ValueError, match=r"no figure of these results; known: slopes, coords_.*loss_vs_lr"
        ) as error:
            choose(found, unknown, every=True)
        assert "\n" not in str(error.value)


def test_what_was_not_drawn_is_told(both, tmp_path):
    told = []
    plot_results(results(planted_lrs()), tmp_path, tell=told.append)
    assert told == ["1 more figure with --all: penalty"]
    plot_results(results(planted_lrs()), tmp_path, every=True, tell=told.append)
    plot_results(results(planted_lrs()), tmp_path, only="loss_vs_lr", tell=told.append)
    assert len(told) == 1


def test_figures_are_matplotlibs_and_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    drawn = mupcheck.figures(results(planted_lrs()))
    assert list(drawn) == ["loss_vs_lr", "optimum_vs_width"]
    assert all(isinstance(figure, Figure) for figure in drawn.values())
    assert list(tmp_path.iterdir()) == []
    assert drawn["loss_vs_lr"]._repr_png_()[:4] == b"\x89PNG"


def test_names_carry_the_sweep_where_there_are_several(both):
    assert set(figures(both, "loss_vs_lr,coords_activation")) == {"check/coords_activation", "lrs/loss_vs_lr"}


def test_a_figure_shown_under_other_settings_looks_the_same():
    def png():
        file = BytesIO()
        figures(results(planted_lrs()), "optimum_vs_width")["optimum_vs_width"].savefig(file)
        return file.getvalue()

    plain = png()
    with mpl.rc_context({"font.size": 20, "font.family": "serif", "axes.facecolor": "black", "text.usetex": False}):
        assert png() == plain


def test_a_backend_that_is_not_installed_does_no_harm():
    backend = "module://no_such_package.backend_inline"  # a notebook sets one for the programs that it starts
    script = "import os, sys, mupcheck.plots; print(os.environ['MPLBACKEND'], 'matplotlib.pyplot' in sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | {"MPLBACKEND": backend}, capture_output=True, text=True
    )
    assert (run.stdout.split(), run.stderr) == ([backend, "False"], "")


def test_a_figure_says_how_it_was_measured(both):
    runs = both.runs.assign(started_at=mpl.dates.num2date(20_000))  # 2024-10-04
    facts = "3 seeds · 60 steps · data stdlib · base width 32 · lr 2⁻¹⁰ to 2⁻³ (8) · 90% intervals · mupcheck"
    drawn = figures(results(runs, coords=both.coords), "loss_vs_lr,optimum_vs_width,penalty,slopes,coords_activation")
    for name, figure in drawn.items():
        said = " ".join(text.replace("\xa0", " ") for text in texts(figure) if "seeds ·" in text or "2024" in text)
        expected = facts if name.startswith("lrs") else facts.replace("2⁻¹⁰ to 2⁻³ (8)", "0.01")
        for fact in expected.split(" · "):
            assert fact in " ".join(texts(figure)).replace("\xa0", " "), (name, fact)
        assert "2024-10-04" in said, name
        sweep = name.partition("/")[0]
        assert f"{sweep} · adamw · head-dim" in texts(figure)
