"""The script that says how often the verdict is right, on few sweeps: it simulates what it says, and judges by ours."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "sweeps" / "simulate_lr.py"
spec = importlib.util.spec_from_file_location("simulate_lr", SCRIPT)
simulate_lr = importlib.util.module_from_spec(spec)
spec.loader.exec_module(simulate_lr)


def row(kind, drift, *, n_seeds=6, n_sweeps=25):
    sweeps = simulate_lr.Cell(kind, n_seeds, drift, simulate_lr.EQUAL, simulate_lr.EQUAL, n_sweeps, 0)
    cells = [cell.strip() for cell in simulate_lr.judge_cell(sweeps).strip("|").split("|")]
    return dict(zip(("transfers", "drifts", "cannot tell", "covers"), map(float, cells[3:7]), strict=True))


def test_default_sweeps_are_decided_and_not_falsely():
    held, drifting = row("symmetric", 0.0), row("lopsided", -0.9)
    # 97 and 99 of 100 in 1,000; of 25, four may miss with a chance below 1%
    assert held["transfers"] >= 84 and held["drifts"] == 0
    assert drifting["drifts"] >= 84 and drifting["transfers"] == 0
    assert held["covers"] >= 72  # 90 of 100, known to 6; three times that


@pytest.mark.parametrize("kind", simulate_lr.KINDS)
def test_every_kind_of_curve_has_its_minimum_where_it_says(kind):
    shape, _ = simulate_lr.KINDS[kind]
    z = np.linspace(-3, 3, 6001)
    for width in range(3):
        assert z[np.argmin(shape(z, width))] == pytest.approx(0, abs=1e-3)  # the spacing of z
        bend = (shape(np.array([-0.01, 0.0, 0.01]), width) @ [1, -2, 1]) / 1e-4
        assert bend == pytest.approx(simulate_lr.BEND, rel=1e-3)  # a third derivative has no part in it
    assert np.isinf(shape(np.array([2.0]), 0)[0]) == ("diverging" in kind or "cliff" in kind)
