"""What guards look at: the value that decides, on the side of the limit where the judge's finding says it is."""

import numpy as np
import pandas as pd
import pytest
from planted_figures import SEEDS, WIDTHS, planted_coords, results

from mupcheck.coordinates.guards import GUARDS, guarded
from mupcheck.coordinates.judge import judge

FINDING = {"o_norm_eps_ratio": "o_norm eps", "adam_eps_ratio": "adam eps"}
SITE = {"o_norm_eps_ratio": "o_raw", "adam_eps_ratio": "q_proj", "alpha_saturated": "alpha", "beta_saturated": "beta"}


def with_diagnostic(stat, values):
    """A check that passes, with `values` of one diagnostic: a value for every (layer, step), times 1 to 3 by seed."""
    runs, coords = planted_coords()
    rows = [
        (run["run_id"], step, layer, SITE[stat], "diagnostic", stat, value)
        for run in runs.to_dict("records")
        for (layer, step), value in values(run["width"], run["seed"]).items()
    ]
    return runs, pd.concat([coords, pd.DataFrame(rows, columns=coords.columns)], ignore_index=True)


@pytest.mark.parametrize("guard", GUARDS, ids=lambda guard: guard.stat)
@pytest.mark.parametrize("beyond", [False, True])
def test_a_guard_is_beyond_its_limit_where_the_judge_finds_something(guard, beyond):
    nearest = guard.limit * (0.9 if beyond == guard.below else 1.1)
    far = guard.limit * (50 if guard.below else 0.1)

    def values(width, seed):
        worst = nearest if width == WIDTHS[-1] else far
        # one seed of three is far beyond, which no median sees
        alone = {0: 1.0, 1: 1.0, 2: 1e-3 if guard.below else 1.9}[seed]
        return {(0, 0): far, (1, 4): worst * alone, (0, 4): np.inf}

    runs, coords = with_diagnostic(guard.stat, values)
    ((found, table),) = guarded(runs, coords)
    assert found == guard and table["width"].tolist() == list(WIDTHS)
    last = table.iloc[-1]
    assert (last["value"], last["layer"], last["step"]) == (pytest.approx(nearest), 1, 4)
    assert table["value"].iloc[0] == pytest.approx(far)
    (judgement,) = judge(results(runs, coords=coords))
    names = {finding.name for finding in judgement.findings}
    assert (FINDING.get(guard.stat, "gates saturated") in names) == beyond


def test_a_weight_without_a_gradient_is_none_of_adams():
    runs, coords = with_diagnostic("adam_eps_ratio", lambda width, seed: {(0, 1): 0.0, (0, 4): 100.0})
    ((_, table),) = guarded(runs, coords)
    assert (table["value"] == 100).all() and (table["step"] == 4).all()
    runs, coords = with_diagnostic("adam_eps_ratio", lambda width, seed: {(0, 1): 0.0})
    assert list(guarded(runs, coords)) == []


def test_runs_that_failed_and_those_of_other_sweeps_are_left_out():
    runs, coords = with_diagnostic("o_norm_eps_ratio", lambda width, seed: {(0, 0): float(100 + seed)})
    lost = runs.assign(status=["failed" if seed == 0 else "ok" for seed in runs["seed"]])
    assert [next(guarded(of, coords))[1]["value"].iloc[0] for of in (runs, lost)] == [101.0, 101.5]
    assert SEEDS == 3 and list(guarded(runs, coords[:0])) == []
    ((_, table),) = guarded(runs[runs["width"] == WIDTHS[0]], coords)
    assert table["width"].tolist() == [WIDTHS[0]]
