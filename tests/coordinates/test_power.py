"""What is said before a run is what comes out."""

import numpy as np
import pytest
from planted_slopes import EFFECTIVE, make_coords, make_runs

from mupcheck.coordinates.power import SCATTER, resolve
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.theory.required import WEIGHTS


@pytest.mark.parametrize("n_seeds", [4, 16])
@pytest.mark.parametrize("widths", [(64, 128, 256), (64, 128, 256, 512)])
def test_intervals_are_as_long_as_was_said(widths, n_seeds):
    said = resolve(widths, n_seeds, optimizer="sgd")
    runs = make_runs(widths=widths, seeds=range(n_seeds))
    halves = []
    for seed in range(60):
        row = fit_slopes(runs, make_coords(runs, {EFFECTIVE: 0.0}, noise=SCATTER["sgd"][1], seed=seed)).iloc[0]
        halves.append((row["ci_high"] - row["ci_low"]) / 2)
    assert np.mean(halves) == pytest.approx(said.noisiest, rel=0.15)  # 60 of them scatter by 40% / sqrt(60) at 4 seeds


def test_more_seeds_and_a_wider_range_resolve_more():
    few, many = (resolve((64, 128, 256, 512), n, optimizer="adamw") for n in (4, 16))
    narrow = resolve((64, 128, 256), 16, optimizer="adamw")
    assert many.typical < narrow.typical
    assert many.typical < few.typical
    assert 0.25 + many.typical < many.smallest_fault < few.smallest_fault < 0.5


@pytest.mark.parametrize("n_seeds", [3, 8])
def test_a_fault_of_the_size_that_was_said_fails_in_four_of_five_checks(n_seeds):
    widths, sites = (64, 128, 256, 512), [site for site in WEIGHTS if site != "q_proj"]
    off = resolve(widths, n_seeds, optimizer="adamw").smallest_fault
    slopes = {("effective_update", "rms", site, 0, 1): 0.0 for site in sites} | {EFFECTIVE: off}
    runs, failed = make_runs(widths=widths, seeds=range(n_seeds)), 0
    for seed in range(60):
        table = fit_slopes(runs, make_coords(runs, slopes, noise=SCATTER["adamw"][0], seed=seed))
        failed += table.set_index("site")["verdict"]["q_proj"] == "fail"
    assert 0.65 <= failed / 60 <= 0.98  # 0.8, with three standard deviations of 0.05


def test_the_seeds_that_the_noisiest_needs_are_named():
    said = resolve((64, 128, 256), 4, optimizer="sgd")
    assert said.noisiest > 0.25
    assert f"about {said.seeds} seeds" in str(said)
    assert resolve((64, 128, 256), said.seeds, optimizer="sgd").noisiest < 0.25
    assert resolve((64, 128, 256), said.seeds - 1, optimizer="sgd").noisiest >= 0.25
    assert "nothing can pass" not in str(resolve((64, 128, 256, 512), 16, optimizer="sgd"))
    assert "more widths" in str(resolve((64, 65, 66), 4, optimizer="sgd"))


def test_no_interval_is_no_resolution():
    assert resolve((64, 128, 256), 1, optimizer="adamw") is None
    assert resolve((64, 128), 8, optimizer="adamw") is None
