"""A run that halving gave up is worse than what is near it, whatever its last loss was, and so never an optimum."""

import math

import numpy as np
import pandas as pd
import pytest
from planted_curves import optimum_of

from mupcheck.learning_rates.optimum import find_optima
from mupcheck.learning_rates.robustness import divergence_threshold, fit_divergence
from mupcheck.results.tables import SCHEMAS

X = np.arange(-9.0, -3)


def frame(stopped=(), status="stopped", width=32):
    """Runs of one width with losses of a parabola around 2^-6, two seeds; `stopped` lrs have a far lower last loss."""
    rows = []
    for x in X:
        for seed in (0, 1):
            gone = x in stopped
            loss = 2 + 0.1 * (x + 6) ** 2 + 0.01 * seed
            rows.append(
                {field.name: None for field in SCHEMAS["runs"]}
                | {"sweep": "s", "kind": "lr", "parametrization": "sp", "optimizer": "adamw", "mode": "head-dim"}
                | {"width": width, "base_width": 32, "log2_lr": x, "lr": 2.0**x, "seed": seed, "run_id": f"{x}{seed}"}
                | {"status": status if gone else "ok", "rules_hash": "r", "clipped_fraction": 0.0}
                | {"train_loss": 1.0 if gone else loss, "val_loss": None if gone else loss}
            )
    return pd.DataFrame(rows)


def test_it_is_never_an_optimum():
    (whole,) = find_optima(frame())
    (found,) = find_optima(frame(stopped=(-9.0, -8.0, -4.0)))
    assert found.log2_lr == pytest.approx(whole.log2_lr, abs=0.1)  # a parabola, however much of it is left
    assert found.flags == whole.flags == ()  # nor does it make an optimum doubtful, as one that diverged below it does
    assert found.ci_low is not None and found.ci_high is not None
    assert [point.n_stopped for point in found.curve] == [2, 2, 0, 0, 0, 2]
    assert not any(point.n_diverged for point in found.curve)


def test_beside_one_an_optimum_is_known_as_well_as_beside_a_diverged_one():
    (stopped,), (diverged,) = (
        find_optima(frame(stopped=(-5.0, -4.0), status=status)) for status in ("stopped", "diverged")
    )
    assert (stopped.log2_lr, stopped.ci_low, stopped.ci_high) == (diverged.log2_lr, diverged.ci_low, diverged.ci_high)
    assert stopped.flags == diverged.flags


def test_where_training_diverges_is_not_judged_by_it():
    (found,) = find_optima(frame(stopped=(-4.0,)))
    assert divergence_threshold(found.curve) is None
    other = optimum_of(64, X, np.where(X > -5, np.inf, 2 + 0.1 * (X + 6) ** 2)[None])
    assert "stopped" in fit_divergence([found, other], confidence=0.9).reason
    assert math.isfinite(found.log2_lr)
