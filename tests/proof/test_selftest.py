"""The judge catches every planted fault and names it, and leaves a correct table alone."""

from dataclasses import replace

import pytest

from mupcheck.proof.catalogue import FAULTS, choose
from mupcheck.proof.faults import Fault, Where
from mupcheck.proof.patches import Change
from mupcheck.proof.selftest import count_verdicts, plant_faults
from mupcheck.proof.tables import TABLE_FAULTS
from mupcheck.theory.parametrization import MODES, OPTIMIZERS, TABLES, Role
from mupcheck.theory.rules_file import read_table


def test_faults_are_many_and_cover_every_exponent_both_optimizers_and_both_modes():
    planted = [fault for fault in TABLE_FAULTS if fault.planted]
    assert len(planted) >= 20
    assert {(fault.optimizer, fault.mode) for fault in planted} == {(o, m) for o in OPTIMIZERS for m in MODES}
    for optimizer in OPTIMIZERS:
        for mode in MODES:
            dropped = {
                f.rules[0][0]
                for f in FAULTS
                if "exponent dropped" in f.name and (f.optimizer, f.mode) == (optimizer, mode)
            }
            table = TABLES["gdn-mup"]
            assert dropped == {role for role in Role if table.rule(role, optimizer=optimizer, mode=mode).lr}
    assert {fault.rules[0][0] for fault in FAULTS if ": init exponent" in fault.name} == set(Role)
    assert {site for fault in FAULTS for site in fault.multipliers} == {"logits", "o_raw", "mixer_out"}
    assert all(fault.named for fault in planted)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "setting"), list(enumerate((o, m) for o in OPTIMIZERS for m in MODES)))
def test_faults_of_a_table_are_caught_and_named(part, setting):
    # `mupcheck selftest` plants all of them, in six minutes of one core; here a third of each setting, another in each
    faults = [fault for fault in TABLE_FAULTS if (fault.optimizer, fault.mode) == setting][part % 3 :: 3]
    assert len(faults) >= 2
    for each in plant_faults(faults, jobs=1):
        assert each.caught, (each.fault.name, each.verdict, each.said)
        assert each.named is not False, (each.fault.name, each.verdict, each.said)


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "mode"), list(zip(OPTIMIZERS, MODES, strict=True)))
def test_some_faults_of_each_kind_of_code_and_numbers_are_caught_and_what_cannot_be_seen_is_not(optimizer, mode):
    # `mupcheck selftest` plants all of them; here is one of each kind under each optimizer
    few = choose(quick=True)
    faults = [f for f in few if (f.optimizer, f.mode) == (optimizer, mode) and f.kind not in ("tables", "settings")]
    assert faults
    for each in plant_faults(faults, jobs=1):
        assert each.good, (each.fault.name, each.verdict, each.said)
        assert each.named is not False, (each.fault.name, each.verdict, each.said)
        assert each.planted or each.fault.kind == "kernel", each.fault.name


@pytest.fixture(scope="module")
def gdn_mup(tmp_path_factory):
    """Results of one correct table, as the selftest trains it, with few seeds at small widths."""
    from mupcheck.spec.reading import make_sweep
    from mupcheck.sweep.runner import run_sweep

    given = {"kind": "coord", "data": "synthetic", "widths": [64, 128, 256], "seeds": 8, "record": [0, 1, 3]}
    return run_sweep(make_sweep(given), out=tmp_path_factory.mktemp("selftest"), device="cpu", jobs=1)


def test_a_correct_table_is_counted_as_what_the_judge_says(gdn_mup):
    found = count_verdicts(gdn_mup, "adamw", "head-dim", n_seeds=4)
    assert sum(found.verdicts.values()) == 2
    assert "fail" not in found.verdicts
    # a table that is not what it says: the other one's updates are all off by 1
    wrong = gdn_mup.coords["kind"] == "effective_update"
    width = gdn_mup.coords["run_id"].map(gdn_mup.runs.set_index("run_id")["width"])
    grown = gdn_mup.coords["value"].mask(wrong, gdn_mup.coords["value"] * width)
    found = count_verdicts(replace(gdn_mup, coords=gdn_mup.coords.assign(value=grown)), "adamw", "head-dim", n_seeds=4)
    assert found.verdicts == {"fail": 2}
    assert len(found.reasons) == 2


def patch_of_nothing(_: Where):
    from mupcheck.training.optim import AdamW

    yield Change(AdamW, "_update", AdamW._update)


def patch_that_breaks(_: Where):
    from mupcheck.training.optim import AdamW

    yield Change(AdamW, "_update", None)


def test_a_fault_is_not_caught_where_there_is_none_and_one_that_stops_the_training_is():
    # the negative control of the proof itself: a change to nothing must come out as missed
    same = ((Role.HIDDEN, "lr", -1.0),)
    setting = ("adamw", "head-dim")
    nothing = Fault("nothing", *setting, rules=same, named=("hidden, lr (adamw)",), settings={"widths": [32, 64, 128]})
    code = Fault("nothing in the code", *setting, "update", named=("applied",), patch=patch_of_nothing)
    broken = Fault("broken code", *setting, "update", named=("not callable",), patch=patch_that_breaks)
    found = {each.fault: each for each in plant_faults([nothing, code, broken], jobs=1)}
    assert {fault: (each.caught, each.named) for fault, each in found.items()} == {
        nothing: (False, False), code: (False, False), broken: (True, True),
    }  # fmt: skip
    assert (found[code].planted, found[broken].planted) == (False, True)
    assert (found[broken].verdict, found[broken].clean) == ("stopped", found[code].verdict)


def test_rules_are_written_as_a_user_would(tmp_path):
    from mupcheck.proof.selftest import _write_rules

    for i, fault in enumerate(fault for fault in FAULTS if fault.rules or fault.multipliers):
        path = tmp_path / f"{i}.toml"
        _write_rules(fault, path)
        table = read_table(path)
        for role, field, exponent in fault.rules:
            rule = table.rule(role, optimizer=fault.optimizer, mode=fault.mode)
            assert getattr(rule, field) == pytest.approx(exponent)
        for site, exponent in fault.multipliers.items():
            assert table.multiplier(site, mode=fault.mode) == exponent
