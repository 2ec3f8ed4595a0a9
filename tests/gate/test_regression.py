"""The stored slopes of all shipped tables fail where theory says that a table is wrong, and nowhere else."""

from itertools import product
from pathlib import Path

import pytest

from mupcheck.gate.baseline import read_baseline
from mupcheck.theory.exponents import PARAMETERS
from mupcheck.theory.implied import implied_by
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES, Role

BASELINE = Path(__file__).parents[2] / "sweeps" / "baseline.txt"
GATES = {"a_proj", "b_proj"}
SCALARS = {"A_log", "dt_bias"}
# theory.md, sections 2, 3 and 5: where the released code's table is wrong
CODE = {site for site, of in PARAMETERS.items() if of.role in (Role.SHORT_CONV, Role.NORM_GAIN, Role.HEAD_NORM_GAIN)}


@pytest.fixture(scope="module")
def stored():
    return {
        (each.parametrization, each.settings["optimizer"], each.settings["mode"]): each
        for each in read_baseline(BASELINE)
    }


def failed(group, *kinds):
    keys = [entry.key for entry in group.entries.values() if entry.verdict == "fail"]
    return {site for kind, _, site, _ in keys if kind in kinds}


def test_every_table_optimizer_and_mode_is_there(stored):
    assert set(stored) == set(product(TABLES, OPTIMIZERS, MODES))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_tables_fail_where_theory_says(stored, optimizer, mode):
    def updates(name):
        return failed(stored[name, optimizer, mode], "effective_update")

    verdicts = {name: stored[name, optimizer, mode].verdict for name in TABLES}
    assert verdicts["gdn-mup"] == "pass"
    assert {verdicts["sp"], verdicts["sp-fanin"], verdicts["gdn-mup-code"]} == {"fail"}
    if optimizer == "adamw":
        # the step does not see a gradient's size, so the gates' rules are one
        assert verdicts["mup"] == verdicts["mup-strict"] == "pass"
        # of q and k's convs and o_proj each alone; the projections that feed on them have their own right lr
        assert updates("gdn-mup-code") == CODE | {"o_proj"}
    else:
        wrong = GATES | SCALARS if mode == "head-dim" else SCALARS
        for name in ("mup", "mup-strict"):
            assert updates(name) <= wrong
            assert updates(name)
            assert not failed(stored[name, optimizer, mode], "activation", "activation_grad")
        assert CODE - {"norm1_gain", "o_norm_gain"} <= updates("gdn-mup-code") | {"q_conv1d", "k_conv1d"}


@pytest.mark.parametrize("name", TABLES)
def test_a_slope_fails_only_where_its_table_implies_it(stored, name):
    for (parametrization, optimizer, mode), group in stored.items():
        if parametrization != name:
            continue
        entailed = implied_by(TABLES[name], optimizer=optimizer, mode=mode, tied=False)
        for entry in group.entries.values():
            kind, stat, site, when = entry.key
            if entry.verdict == "fail" and (kind, stat, site, when == "later") in entailed:
                low, high = entailed[kind, stat, site, when == "later"]
                ends = [float(end) for end in entry.required.removeprefix("<=").split("..")]
                assert low < min(ends) or high > max(ends), (optimizer, mode, entry)
