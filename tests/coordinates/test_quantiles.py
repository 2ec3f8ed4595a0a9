"""Quantiles are those of scipy.stats, which takes longer to import."""

import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from mupcheck.coordinates import quantiles as q

P = np.array([1e-9, 1e-4, 0.025, 0.5, 0.95, 1 - 1e-6])[:, None]
DOF = np.array([1.0, 2.0, 3.5, 15.0, 63.0, 1e6])
T = np.array([-40.0, -1.0, 0.0, 0.3, 5.0, 40.0])[:, None]


@pytest.mark.parametrize(
    ("ours", "theirs", "values"),
    [
        (q.t_ppf, stats.t.ppf, P),
        (q.t_isf, stats.t.isf, P),
        (q.t_sf, stats.t.sf, T),
        (q.chi2_ppf, stats.chi2.ppf, P),
        (q.chi2_isf, stats.chi2.isf, P),
    ],
)
def test_they_are_those_of_scipy_stats(ours, theirs, values):
    assert np.array_equal(ours(values, DOF), theirs(values, DOF))
    assert np.array_equal(ours(float(values[4, 0]), 7), theirs(float(values[4, 0]), 7))
    assert not np.allclose(ours(values, DOF), theirs(values, DOF + 1))


def test_the_normal_is_scipys():
    assert np.array_equal(q.normal_cdf(T), stats.norm.cdf(T))


def test_what_judges_coordinates_does_not_wait_for_scipy_stats():
    code = "import sys, mupcheck.coordinates.folder, mupcheck.coordinates.power; print('scipy.stats' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
