"""Figures of planted results: all that was measured is on them, inside the axes, beside cases in which it is not."""

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.figure import Figure
from planted_figures import (
    T,
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
from mupcheck.plots import plot_results
from mupcheck.plots.coordinates import draw_coordinates
from mupcheck.plots.losses import draw_losses
from mupcheck.plots.optima import draw_optima
from mupcheck.plots.overview import draw_slopes


def test_files_are_those_documented(tmp_path, monkeypatch):
    def savefig(figure, path, **options):
        path.write_text("")

    monkeypatch.setattr(Figure, "savefig", savefig)
    steps = planted_steps(planted_lrs(-1.0))
    both = results(planted_coords()[0], planted_lrs(-1.0), steps=steps)
    files = plot_results(both, tmp_path, every=True)
    kinds = ("effective_update", "activation", "activation_update", "activation_grad", "weight_update")
    stems = ["check/slopes_gdn-mup", *(f"check/coords_{kind}" for kind in (*kinds, "weight_update_spectral"))]
    stems += ["lrs/loss_vs_lr", "lrs/optimum_vs_width", "lrs/penalty", "lrs/wider_is_better"]
    assert [str(file.relative_to(tmp_path)) for file in files] == [
        f"{s}.{end}" for s in stems for end in ("png", "svg")
    ]
    assert all(file.exists() for file in files)
    names = {file.stem for file in plot_results(results(planted_lrs()), tmp_path, every=True)}
    assert names == {"loss_vs_lr", "optimum_vs_width", "penalty"}, "without steps no width can be compared step by step"
    runs, coords = planted_coords(names=("sp", "gdn-mup"))
    two = plot_results(results(runs, coords=coords), tmp_path, every=True)
    assert {"coords_activation", "coords_sp_activation", "coords_gdn-mup_activation"} <= {file.stem for file in two}


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
    assert "no slope" in texts(draw_slopes(dead, dead, T))
    figure = draw_coordinates(*sizes_of(runs, coords.assign(value=0.0)), T)
    assert len(points(figure.axes[0], "zero")) == 4 * len(runs) * 3
    one_width = draw_coordinates(*sizes_of(*planted_coords(widths=(64,))), T)
    assert "? cannot tell" in texts(one_width)
    gone = planted_lrs().assign(status="diverged")
    crosses = points(draw_losses(transfer(gone), T).axes[0], "diverged")
    assert sorted(crosses[:, 0]) == sorted(gone.loc[gone["seed"] == 0, "log2_lr"])
    assert "? cannot tell" in texts(draw_optima(transfer(gone), T))
