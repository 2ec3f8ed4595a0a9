"""Quantiles are those of scipy.stats, which takes longer to import."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mupcheck.learning_rates import quantiles as q

P = np.array([1e-9, 1e-4, 0.025, 0.5, 0.95, 1 - 1e-6])[:, None]
DOF = np.array([1.0, 2.0, 3.5, 15.0, 63.0, 1e6])
T = np.array([-40.0, -1.0, 0.0, 0.3, 5.0, 40.0])[:, None]
X = np.array([0.0, 1e-9, 0.3, 5.0, 400.0, np.inf])[:, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (q.t_ppf, stats.t.ppf, P),
        (q.t_isf, stats.t.isf, P),
        (q.t_sf, stats.t.sf, T),
        (q.chi2_ppf, stats.chi2.ppf, P),
        (q.chi2_isf, stats.chi2.isf, P),
        (q.chi2_sf, stats.chi2.sf, X),
    ],
)
def test_they_are_those_of_scipy_stats(ours, theirs, values):
    assert np.array_equal(ours(values, DOF), theirs(values, DOF))
    assert np.array_equal(ours(float(values[4, 0]), 7), theirs(float(values[4, 0]), 7))
    assert not np.allclose(ours(values, DOF), theirs(values, DOF + 1))


def test_the_normal_is_scipys():
    assert np.array_equal(q.normal_cdf(T), stats.norm.cdf(T))
    assert np.array_equal(q.normal_ppf(P), stats.norm.ppf(P))


@pytest.mark.parametrize("below", [1, 6.5, 1e4])
def test_f_is_scipys(below):
    assert np.array_equal(q.f_ppf(P, DOF, below), stats.f.ppf(P, DOF, below))
    assert np.array_equal(q.f_sf(X, DOF, below), stats.f.sf(X, DOF, below))
    assert not np.allclose(q.f_sf(X, DOF, below), stats.f.sf(X, below, DOF))


@pytest.mark.parametrize("n", [1, 2, 40])
def test_false_discoveries_are_scipys(n):
    p = np.random.default_rng(n).random(n) ** 3
    p[n // 2 :] = p[n // 2]  # ties
    assert np.array_equal(q.false_discoveries(p), stats.false_discovery_control(p))


@pytest.mark.parametrize("module", ["coordinates.folder", "coordinates.power", "learning_rates.drift", "report"])
def test_what_judges_does_not_wait_for_scipy_stats(module):
    code = f"import sys, mupcheck.{module}; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
