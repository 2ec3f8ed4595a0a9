"""Settings that were read back: by width, after a warm-up, and the power of width that they follow."""

import pandas as pd
import pytest
from planted_figures import WIDTHS, planted_coords

from mupcheck.coordinates.given import settings_given


def planted(lr, *, site="layers.*.up.weight"):
    runs, coords = planted_coords()
    rows = [
        (run["run_id"], step, layer, site, "diagnostic", stat, value * (0.0 if step == 0 else 1.0))
        for run in runs.to_dict("records")
        for stat, value in (("realised_lr", lr(run["width"])), ("realised_wd", 0.0))
        for layer in (0, 1)
        for step in (0, 4)
    ]
    return runs, pd.concat([coords, pd.DataFrame(rows, columns=coords.columns)], ignore_index=True)


@pytest.mark.parametrize("power", [-1.0, 0.0, -0.5])
def test_a_setting_is_told_at_every_width_with_its_power(power):
    found = settings_given(*planted(lambda width: 0.01 * (width / 32) ** power))
    lr = found["layers.*.up.weight", "lr"]
    assert lr.by_width == {width: pytest.approx(0.01 * (width / 32) ** power) for width in WIDTHS}
    assert lr.exponent == pytest.approx(power, abs=1e-5)
    decay = found["layers.*.up.weight", "weight_decay"]
    assert decay.exponent is None and set(decay.by_width.values()) == {0.0}
    assert ("layers.*.up.weight", "eps") not in found


def test_of_what_has_no_settings_none_are_told():
    runs, coords = planted_coords()
    assert settings_given(runs, coords) == settings_given(runs, coords[:0]) == {}
