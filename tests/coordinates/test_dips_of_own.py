"""One step of one layer that is off is no fault of a user's model; a layer that is off at every step is."""

import pandas as pd

from mupcheck.coordinates.own import without_dips


def slopes_of(*by_step):
    return pd.DataFrame(
        [
            {
                "kind": "effective_update", "stat": "rms", "site": "up", "layer": 1, "step": step, "slope": slope,
                "required_low": 0.0, "required_high": 0.0, "tolerance": 0.25, "reason": "slope",
                "verdict": "fail" if abs(slope) > 0.25 else "pass",
            }
            for step, slope in enumerate(by_step, start=1)
        ]
    )  # fmt: skip


def test_one_step_that_is_off_fails_nothing():
    judged = without_dips(slopes_of(-0.35, -0.1, -0.15))
    assert judged["verdict"].tolist() == ["cannot tell", "pass", "pass"]
    assert "over all steps" in judged["reason"][0]


def test_a_layer_that_is_off_at_every_step_fails():
    assert without_dips(slopes_of(0.5, 0.45, 0.5))["verdict"].tolist() == ["fail"] * 3
    assert without_dips(slopes_of(1.0, 0.2, 0.2))["verdict"].tolist() == ["fail", "pass", "pass"]
