"""What is said before a run is what comes out."""

import numpy as np
import pytest
from planted_slopes import EFFECTIVE, make_coords, make_runs

from mupcheck.coordinates.power import SOURCES, TYPICAL, chance_of_pass, resolve
from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.theory.required import WEIGHTS

A_LOG = SOURCES["sgd", "head-dim"]["A_log"]
WIDTHS = (32, 64, 128, 256)  # of which the scatter was measured


@pytest.mark.parametrize("n_seeds", [4, 16])
def test_intervals_are_as_long_as_was_said(n_seeds):
    said = resolve(WIDTHS, n_seeds, optimizer="sgd")
    runs = make_runs(widths=WIDTHS, seeds=range(n_seeds))
    halves = []
    for seed in range(60):
        row = fit_slopes(runs, make_coords(runs, {EFFECTIVE: 0.0}, noise=A_LOG.scatter, seed=seed)).iloc[0]
        halves.append((row["ci_high"] - row["ci_low"]) / 2)
    assert np.mean(halves) == pytest.approx(said.noisiest, rel=0.15)  # 60 of them scatter by 40% / sqrt(60) at 4 seeds


def test_more_seeds_and_a_wider_range_resolve_more():
    few, many = (resolve((64, 128, 256, 512), n, optimizer="adamw") for n in (4, 16))
    narrow = resolve((64, 128, 256), 16, optimizer="adamw")
    assert many.typical < narrow.typical
    assert many.typical < few.typical
    assert many.undecided < narrow.undecided < few.undecided
    assert 0.25 + many.typical < many.smallest_fault < few.smallest_fault < 0.5


@pytest.mark.parametrize("n_seeds", [3, 8])
def test_a_fault_of_the_size_that_was_said_fails_in_four_of_five_checks(n_seeds):
    sites = [site for site in WEIGHTS if site != "q_proj"]
    off = resolve(WIDTHS, n_seeds, optimizer="adamw").smallest_fault
    slopes = {("effective_update", "rms", site, 0, 1): 0.0 for site in sites} | {EFFECTIVE: off}
    runs, failed = make_runs(widths=WIDTHS, seeds=range(n_seeds)), 0
    for seed in range(60):
        table = fit_slopes(runs, make_coords(runs, slopes, noise=TYPICAL["adamw"].scatter, seed=seed))
        failed += table.set_index("site")["p_fail"]["q_proj"] <= 0.05
    assert 0.65 <= failed / 60 <= 0.98  # 0.8, with three standard deviations of 0.05


@pytest.mark.parametrize(("off", "n_seeds"), [(0.0, 4), (0.0, 8), (0.15, 8), (-0.15, 16), (0.25, 16)])
def test_the_chance_of_a_pass_is_that_of_drawn_slopes(off, n_seeds):
    scatter, n = 0.25, 4000
    runs = np.random.default_rng(1).normal(off, scatter, (n, n_seeds))
    half = {4: 2.353, 8: 1.895, 16: 1.753}[n_seeds] * runs.std(axis=1, ddof=1) / np.sqrt(n_seeds)
    passed = (np.abs(runs.mean(axis=1)) + half < 0.25).mean()
    said = chance_of_pass(scatter, off, 0.25, n_seeds=n_seeds, confidence=0.9)
    assert said == pytest.approx(passed, abs=0.03)  # 4000 draws: 3 standard errors of at most 0.008, and 64 steps


@pytest.mark.parametrize(
    ("widths", "model", "typical", "noisiest"),
    [
        ((64, 128, 256), {"optimizer": "adamw"}, 0.0192, 0.179),
        ((64, 128, 256), {"optimizer": "sgd"}, 0.0966, 0.316),
        ((32, 64, 128, 256), {"optimizer": "sgd", "mode": "heads", "n_layers": 3}, 0.0773, 0.223),
        ((32, 64, 128), {"optimizer": "adamw", "mode": "heads", "n_layers": 6}, 0.0214, 0.318),
    ],
)
def test_the_intervals_of_other_models_were_known_before_they_ran(widths, model, typical, noisiest):
    # half-widths at 8 seeds, from 48 seeds of `gdn-mup` on a CPU, torch 2.13, 2026-11-26; nothing was fitted on these
    said = resolve(widths, 8, **model)
    # to a fifth, of which the scatter of 48 seeds is half
    assert said.noisiest == pytest.approx(noisiest, rel=0.22)
    assert said.typical == pytest.approx(typical, rel=0.3)


def test_the_seeds_that_decide_are_named():
    said = resolve(WIDTHS, 8, optimizer="sgd")
    assert said.undecided > 0.5
    assert f"about {said.seeds} seeds would decide 95%" in str(said)
    assert resolve(WIDTHS, said.seeds, optimizer="sgd").undecided <= 0.05
    assert resolve(WIDTHS, said.seeds - 1, optimizer="sgd").undecided > 0.05
    assert "would decide" not in str(resolve(WIDTHS, said.seeds, optimizer="sgd"))
    assert "more widths" in str(resolve((64, 65, 66), 4, optimizer="sgd"))


def test_the_defaults_decide():
    # what remains is left to the top-up
    for optimizer, n_seeds in (("adamw", 16), ("sgd", 32)):
        for mode in ("head-dim", "heads"):
            assert resolve(WIDTHS, n_seeds, optimizer=optimizer, mode=mode).undecided < 0.2


def test_no_interval_is_no_resolution():
    assert resolve((64, 128, 256), 1, optimizer="adamw") is None
    assert resolve((64, 128), 8, optimizer="adamw") is None
