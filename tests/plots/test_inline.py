"""results.plot() is one figure: the one that answers, or the one that is named."""

import subprocess
import sys
from dataclasses import replace

import pandas as pd
from matplotlib.figure import Figure
from planted_figures import planted_coords, planted_lrs, planted_steps, results, texts
from small_results import refusal

CHECK = planted_coords(names=("sp", "gdn-mup"))


def of_check(**columns):
    return results(CHECK[0].assign(**columns), coords=CHECK[1])


def test_it_is_the_figure_that_answers():
    shown = results(planted_lrs(names=("sp", "gdn-mup"))).plot()
    assert isinstance(shown, Figure) and "Loss against learning rate" in texts(shown)
    assert shown._repr_png_()[:4] == b"\x89PNG"
    assert any(text.startswith("effective_update: ") for text in texts(of_check().plot()))
    activations = CHECK[1][CHECK[1]["kind"] == "activation"]
    assert any("slopes of every quantity" in t for t in texts(replace(of_one("sp"), coords=activations).plot()))


def of_one(name):
    return results(CHECK[0][CHECK[0]["parametrization"] == name], coords=CHECK[1])


def test_a_name_is_that_of_a_file_or_of_a_kind():
    lrs = results(planted_lrs(-1.0), steps=planted_steps(planted_lrs()))
    assert "Cost of another width's best lr" in texts(lrs.plot("penalty")) == texts(lrs.plot("lrs/penalty"))
    assert "Is the wider model better at every step?" in texts(lrs.plot("wider_is_better"))
    assert any("sp · slopes" in text for text in texts(of_check().plot("slopes_sp")))
    assert any("gdn-mup · slopes" in text for text in texts(of_one("gdn-mup").plot("slopes")))


def test_what_is_not_there_is_told_what_is():
    lrs = results(planted_lrs())
    known = "known: loss_vs_lr, optimum_vs_width, penalty"
    for name in ("los_vs_lr", "coords_activation", "*", ""):
        assert refusal(lrs.plot, name) == f"{name!r} is no figure of these results; {known}"
    both = results(CHECK[0], planted_lrs(), coords=CHECK[1])
    assert refusal(both.plot, "lrs/slopes").endswith(known)
    for name in ("x", "x/slopes"):
        said = refusal(both.plot, name)
        assert "of check slopes, coords_" in said and said.endswith("; of lrs loss_vs_lr, optimum_vs_width, penalty")
    assert "takes the name of a figure, such as 'loss_vs_lr', not " in refusal(lrs.plot, 3)
    nothing = results(CHECK[0], coords=CHECK[1][:0])
    assert "nothing to draw: none of the 18 runs" in refusal(nothing.plot)


def test_of_several_it_says_which_there_are():
    both = results(CHECK[0], planted_lrs(), coords=CHECK[1])
    said = "there are 2 figures; name one of 'check/coords_effective_update', 'lrs/loss_vs_lr'"
    assert refusal(both.plot) == said
    for name in ("lrs/loss_vs_lr", "loss_vs_lr"):
        assert "Loss against learning rate" in texts(both.plot(name))
    assert (
        refusal(of_check().plot, "slopes")
        == "there are 2 figures called 'slopes'; name one of 'slopes_sp', 'slopes_gdn-mup'"
    )
    twice = results(planted_lrs(), planted_lrs().assign(sweep="other"))
    assert refusal(twice.plot, "penalty").endswith("called 'penalty'; name one of 'lrs/penalty', 'other/penalty'")
    two = results(pd.concat([planted_lrs(), planted_lrs().assign(optimizer="sgd")]))
    assert refusal(two.plot).endswith("name one of 'loss_vs_lr_adamw_head-dim', 'loss_vs_lr_sgd_head-dim'")
    assert "Loss against learning rate" in texts(two.plot("loss_vs_lr_sgd_head-dim"))


def test_reading_results_needs_no_figures():
    code = "import sys, mupcheck; mupcheck.load_results; mupcheck.Results.plot; print('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
