"""Runs whose files say that they were trained in other ways are not compared, by either judge."""

import numpy as np
import pandas as pd
import pytest
from commands import mupcheck
from planted_checks import plant, write
from planted_figures import planted_lrs
from planted_slopes import RESIDUAL, make_coords, make_runs
from small_results import without

from mupcheck.coordinates.slopes import fit_slopes
from mupcheck.learning_rates.drift import transfer
from mupcheck.results.comparable import seeds_text
from mupcheck.results.tables import ADDED, SETTINGS


@pytest.mark.parametrize("field", SETTINGS)
def test_a_coordinate_check_refuses_another_setting(field):
    runs = make_runs().assign(**dict.fromkeys(SETTINGS, 1.0))
    coords = make_coords(runs, {RESIDUAL: 0.0})
    assert len(fit_slopes(runs, coords))
    runs.loc[3, field] = 2.0
    with pytest.raises(ValueError, match=rf"differ in {field} \("):
        fit_slopes(runs, coords)


def test_a_sweep_of_lrs_refuses_another_setting():
    runs = planted_lrs().assign(**dict.fromkeys(SETTINGS, 1.0))
    assert transfer(runs)
    runs.loc[runs["width"] == 64, "eps"] = 1e-6
    with pytest.raises(ValueError, match="differ in eps"):
        transfer(runs)


def test_runs_of_files_that_do_not_say_a_setting_are_compared_all_the_same():
    runs = make_runs().assign(**dict.fromkeys(SETTINGS, 1.0))
    runs.loc[3, list(SETTINGS)] = np.nan
    coords = make_coords(runs, {RESIDUAL: 0.0})
    assert len(fit_slopes(runs, coords))
    # where a file says that the default applies, that is another setting than a number
    runs.loc[4, "projection_std"] = np.nan
    with pytest.raises(ValueError, match="differ in projection_std"):
        fit_slopes(runs, coords)


def test_files_from_before_the_settings_are_judged_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(plant(), tmp_path / "results")
    now = mupcheck("check", "results", "--json")
    without(ADDED, tmp_path / "results" / "s")
    before = mupcheck("check", "results", "--json")
    assert before.out == now.out and before.code == now.code == 0


def test_seeds_are_counted_table_by_table():
    runs = pd.DataFrame({"parametrization": ["sp", "sp", "mup"], "seed": [0, 1, 0]})
    said = [seeds_text(some) for some in (runs, runs[:2], runs[2:])]
    assert said == ["1 to 2 seeds", "2 seeds", "1 seed"]
