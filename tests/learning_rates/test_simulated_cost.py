"""The script that measures the error rates: what it plants is what it says, and both verdicts come out of it."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "sweeps" / "simulate_cost.py"


@pytest.fixture(scope="module")
def simulate():
    spec = importlib.util.spec_from_file_location("simulate_cost", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_the_stated_cost_is_planted(simulate):
    quiet = simulate.Kind("quiet", simulate.as_measured, noise=1e-9)
    for percent in simulate.PERCENTS:
        moved = simulate.way(quiet, percent)
        assert 100 * float(quiet.rise(np.array(-moved))) / simulate.LOSS == pytest.approx(percent, abs=1e-6)
        optima = simulate.one_sweep(quiet, moved, np.random.default_rng(0), start=-5.5)
        assert [optimum.width for optimum in optima] == [32, 64, 128]
        # the last curve is lowest where the optimum was moved to
        mean = np.array([np.inf if point.loss is None else point.loss for point in optima[-1].curve])
        assert abs(simulate.LRS[mean.argmin()] - (-5.5 + moved)) <= 0.6


def test_each_kind_rises_on_both_sides_of_its_minimum(simulate):
    u = np.linspace(-4, 2.5, 200)
    for kind in simulate.KINDS:
        rise = kind.rise(u)
        assert rise.min() >= 0 and abs(u[rise.argmin()]) < 0.05
        assert np.all(np.diff(rise[u < 0]) < 0) and np.all(np.diff(rise[u > 0]) > 0)


def test_a_cell_counts_verdicts_and_misses(simulate):
    """Ten sweeps: those of 0% are negligible in more than 99 of 100, those of 5% costly likewise."""
    kind = simulate.KINDS[0]
    negligible, costly, above, below = simulate.cell(kind, 0.0, 10)
    assert negligible >= 0.9 and costly == 0 and below == 0 and above <= 0.2
    negligible, costly, above, below = simulate.cell(kind, 5.0, 10)
    assert negligible == 0 and costly >= 0.9 and above + below <= 0.2


def test_forecasts_are_counted_on_runs_as_they_are_stored(simulate):
    hits, half = simulate.covers(simulate.KINDS[0], -0.3, 3)
    assert hits >= 1 / 3 and 0 < half < 4
