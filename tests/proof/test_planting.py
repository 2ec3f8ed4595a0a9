"""Patches come from outside and leave no trace; what is counted as caught is what a correct check lacks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mupcheck.proof import edits
from mupcheck.proof.catalogue import FAULTS, choose
from mupcheck.proof.caught import NAMED, Answer, Caught, Repeated, Said, compare, count_kinds, holds, not_planted
from mupcheck.proof.code_faults import CODE_FAULTS
from mupcheck.proof.faults import Fault, Where
from mupcheck.proof.number_faults import NUMBER_FAULTS
from mupcheck.proof.patches import Change, patched
from mupcheck.proof.sweeps import SWEEP_FAULTS, judge_sweep, lrs_mislabelled, planted_sweep
from mupcheck.results.reading import Results
from mupcheck.theory.parametrization import MODES, OPTIMIZERS


class Base:
    def size(self):
        return 1


class Owner(Base):
    @staticmethod
    def other():
        return 2


@pytest.mark.parametrize("raises", [False, True])
def test_a_patch_is_undone_also_where_the_code_breaks(raises):
    before = dict(vars(Owner))
    with (
        pytest.raises(ZeroDivisionError) if raises else patched(()),
        patched(
            [
                Change(Owner, "size", lambda _: 5),
                Change(Owner, "size", lambda _: 6),
                Change(Owner, "other", lambda _: 7),
            ]
        ),
    ):
        assert (Owner().size(), Owner().other()) == (6, 7)
        if raises:
            raise ZeroDivisionError
    assert dict(vars(Owner)) == before
    assert (Owner().size(), Owner().other()) == (1, 2)


def test_what_is_not_there_cannot_be_patched():
    with (
        pytest.raises(AttributeError, match="moved"),
        patched([Change(Owner, "size", None), Change(Owner, "moved", None)]),
    ):
        pass
    assert Owner().size() == 1


@pytest.mark.parametrize(
    "fault", [f for f in CODE_FAULTS if f.patch], ids=lambda fault: f"{fault.name} {fault.optimizer} {fault.mode}"
)
def test_every_patch_finds_what_it_changes_and_puts_it_back(fault):
    changes = list(fault.patch(fault.where))
    assert changes
    before = [vars(owner).get(name) for owner, name, _ in changes]
    with patched(changes):
        owner, name, value = changes[-1]
        assert vars(owner)[name] is value
    assert [vars(owner).get(name) for owner, name, _ in changes] == before


def test_faults_are_many_of_every_kind_and_each_says_what_must_be_said_of_it():
    assert sum(fault.planted for fault in (*CODE_FAULTS, *NUMBER_FAULTS)) >= 100
    settings = {(optimizer, mode) for optimizer in OPTIMIZERS for mode in MODES}
    for kinds in (CODE_FAULTS, NUMBER_FAULTS):
        assert {(fault.optimizer, fault.mode) for fault in kinds} == settings
    keys = [(fault.kind, fault.name, fault.optimizer, fault.mode) for fault in FAULTS]
    assert len(set(keys)) == len(keys)
    for fault in FAULTS:
        assert bool(fault.patch) + bool(fault.edit) <= 1
        assert not (fault.unseen and fault.harmless)
        # without a name or a place anything would count as named
        if fault.planted and fault.kind != "measuring":
            assert fault.named or fault.where != Where(), fault.name


def test_quick_takes_one_of_each_kind_under_each_optimizer():
    few = choose(quick=True)
    assert {fault.kind for fault in few} == {fault.kind for fault in FAULTS}
    assert len(few) < len(FAULTS) / 4
    assert choose(kinds=["decay"], settings=[("sgd", "head-dim")]) == [
        fault for fault in FAULTS if fault.kind == "decay" and fault.optimizer == "sgd"
    ]
    with pytest.raises(ValueError, match="'decays' is no kind of planted fault; known: tables, settings"):
        choose(kinds=["decays"])


# --- what counts ---

FAULT = Fault("f", "adamw", "heads", "update", Where(("q_proj",), layer=1, width=64, step=2), named=("applied",))
CLEAN = Answer("pass", (Said("reason", "", "all is well"),), 0, "clean")
UNSURE = Answer("cannot tell", (Said("no pass", "tokens", "few"), Said("reason", "", "11 slopes")), 11, "clean")
FOUND = Said("no pass", "applied", "q_proj of layer 1 moved by x0.50 at width 64 from step 2 on")


def answer(verdict, *said, numbers="other"):
    return Answer(verdict, (*said, Said("reason", "", "because")), 0, numbers)


def test_a_fault_is_caught_by_what_a_correct_check_lacks():
    assert compare(FAULT, answer("fail"), CLEAN).caught
    assert compare(FAULT, answer("cannot tell", FOUND), CLEAN).caught
    # where even the correct check is not sure, being not sure catches nothing
    assert not compare(FAULT, answer("cannot tell"), UNSURE).caught
    assert not compare(FAULT, answer("cannot tell", Said("no pass", "tokens", "few")), UNSURE).caught
    assert compare(FAULT, answer("cannot tell", FOUND), UNSURE).caught
    assert compare(FAULT, answer("cannot tell"), CLEAN).caught  # of the same seeds
    # a correct check that fails makes every failure worthless
    assert not compare(FAULT, answer("fail"), answer("fail")).caught
    # a finding beside a pass has stopped nobody
    assert not compare(FAULT, answer("pass", FOUND), CLEAN).caught


@pytest.mark.parametrize(
    ("found", "named"),
    [
        (FOUND, True),
        (replace(FOUND, name="realised"), False),
        (replace(FOUND, text=FOUND.text.replace("q_proj", "q_proj_other")), False),
        (replace(FOUND, text=FOUND.text.replace("layer 1", "layer 0")), False),
        (replace(FOUND, text=FOUND.text.replace("width 64", "width 640")), False),
        (replace(FOUND, text=FOUND.text.replace("step 2", "step 9")), False),
        (Said("fail", "applied", "", ("q_proj", "k_proj"), (0, 1), (64,), (3,)), True),
        (Said("cause", "applied", FOUND.text), True),
    ],
)
def test_a_fault_is_named_where_its_name_and_its_place_are_said(found, named):
    assert compare(FAULT, answer("fail", found), CLEAN).named is named


def test_only_the_first_cause_can_name():
    other = Said("cause", "hidden, lr (adamw)", "another")
    assert not compare(FAULT, answer("fail", other, replace(FOUND, effect="cause")), CLEAN).named


def test_what_cannot_be_seen_must_not_be_caught_and_what_is_harmless_must_not_fail():
    unseen, harmless = replace(FAULT, unseen="a constant"), replace(FAULT, harmless=True)
    assert compare(unseen, answer("cannot tell"), UNSURE).good
    assert not compare(unseen, answer("fail"), CLEAN).good
    assert compare(harmless, answer("cannot tell"), UNSURE).good
    assert not compare(harmless, answer("cannot tell", FOUND), CLEAN).good
    assert not compare(harmless, answer("fail"), CLEAN).good
    assert compare(unseen, answer("pass"), CLEAN).named is None


def test_a_patch_that_changes_no_number_is_not_planted():
    untouched = compare(FAULT, answer("pass", numbers="clean"), CLEAN)
    assert not_planted([untouched, compare(FAULT, answer("pass"), CLEAN)]) == [untouched]
    short = replace(FAULT, kind="kernel")
    assert not not_planted([compare(short, answer("pass", numbers="clean"), CLEAN)])


def outcomes(n_named, n_nameless, n_missed=0):
    caught, nameless = (compare(FAULT, answer("fail", *said), CLEAN) for said in ([FOUND], []))
    return [caught] * n_named + [nameless] * n_nameless + [compare(FAULT, answer("pass"), CLEAN)] * n_missed


def test_kinds_are_counted():
    seen = compare(replace(FAULT, unseen="x", kind="init"), answer("fail"), CLEAN)
    alarm = compare(replace(FAULT, harmless=True, kind="init"), answer("fail"), CLEAN)
    update, init = count_kinds([*outcomes(3, 2, 1), seen, alarm])
    assert (update.kind, update.planted, update.caught, update.named) == ("update", 6, 5, 3)
    assert (init.unseen, init.seen, init.harmless, init.alarms, init.planted) == (1, 1, 1, 1, 0)


def test_a_sweep_of_lrs_is_caught_by_any_verdict_but_that_of_a_correct_one():
    fault = replace(FAULT, kind="lr-sweep", where=Where(), named=())
    assert compare(fault, answer("cannot tell"), answer("transfers")).caught
    assert compare(fault, answer("drifts"), answer("transfers")).caught
    assert not compare(fault, answer("transfers"), answer("transfers")).caught
    assert not compare(fault, answer("drifts"), answer("cannot tell")).caught


@pytest.mark.parametrize("mode", MODES)
def test_a_planted_sweep_transfers_and_each_fault_of_it_changes_its_runs(mode):
    clean = planted_sweep("adamw", mode)
    assert judge_sweep(clean).verdict == "transfers"
    before = clean.runs.copy()
    for fault in SWEEP_FAULTS:
        assert not fault.edit(clean, fault.where).runs.equals(before), fault.name
        pd.testing.assert_frame_equal(clean.runs, before)


def test_a_mislabelled_width_has_the_curve_of_other_lrs():
    clean = planted_sweep("adamw", "heads")
    moved = lrs_mislabelled(clean, Where(width=64), octaves=1).runs
    best = moved.loc[moved.groupby(["width", "seed"])["val_loss"].idxmin()].groupby("width")["log2_lr"].median()
    assert list(best) == [-7, -8, -7]


def test_the_proof_holds_only_if_all_is_caught_enough_is_named_and_nothing_correct_fails():
    good = round(100 * NAMED)
    assert holds(outcomes(good, 100 - good), [])
    assert not holds(outcomes(good - 1, 101 - good), [])
    assert not holds(outcomes(good, 100 - good, 1), [])
    assert not holds(outcomes(100, 0), [Repeated("adamw", "heads", {"fail": 1}, ("why",))])
    assert not holds([*outcomes(100, 0), compare(FAULT, answer("fail", FOUND), answer("fail"))], [])
    untouched: Caught = replace(outcomes(1, 0)[0], planted=False)
    assert not holds([*outcomes(100, 0), untouched], [])


# --- edits of numbers ---


@pytest.fixture
def results():
    """Two sites at three widths, two seeds, one layer, steps 0 and 1: every value is another."""
    rows = []
    runs = pd.DataFrame(
        [(f"r{w}{s}", w, s, 16, 100 * w) for w in (16, 32, 64) for s in (0, 1)],
        columns=["run_id", "width", "seed", "base_width", "n_params"],
    )
    for run in runs["run_id"]:
        for site in ("q_proj", "o_proj"):
            rows += [(run, step, 0, site, kind, "rms") for step in (0, 1) for kind in ("weight", "weight_update")]
        rows.append((run, 0, 0, "q_proj", "diagnostic", "n_values"))
    coords = pd.DataFrame(rows, columns=["run_id", "step", "layer", "site", "kind", "stat"])
    coords["value"] = np.arange(1.0, len(coords) + 1)
    steps = pd.DataFrame([(r, step, 3.0 - 0.1 * step) for r in runs["run_id"] for step in range(3)])
    steps.columns = ["run_id", "step", "loss"]
    return Results(runs, steps, coords, {})


def values(results, run_id):
    of = results.coords[(results.coords["run_id"] == run_id) & (results.coords["kind"] != "diagnostic")]
    return list(of.sort_values(["step", "site", "kind"])["value"])


def test_one_width_of_one_site_is_scaled_and_nothing_else(results):
    edited = edits.scaled(results, Where(("q_proj",), width=32), factor=10)
    changed = edited.coords["value"] != results.coords["value"]
    assert set(results.coords.loc[changed, "run_id"]) == {"r320", "r321"}
    assert set(results.coords.loc[changed, "site"]) == {"q_proj"}
    assert "diagnostic" not in set(results.coords.loc[changed, "kind"])
    assert changed.sum() == 2 * 4


def test_a_width_is_a_copy_of_another_seed_by_seed_with_its_own_number_of_values(results):
    edited = edits.copied_width(results, Where(width=64), source=16)
    assert values(edited, "r641") == values(results, "r161")
    assert values(edited, "r321") == values(results, "r321")
    assert edited.runs["n_params"].equals(results.runs["n_params"])
    counts = [r.coords[(r.coords["run_id"] == "r641") & (r.coords["stat"] == "n_values")] for r in (edited, results)]
    assert list(counts[0]["value"]) == list(counts[1]["value"])
    whole = edits.copied_width(results, Where(width=64), source=16, whole=True)
    assert set(whole.runs.loc[whole.runs["width"] == 64, "n_params"]) == {1600}


def test_seeds_and_widths_are_copied_and_exchanged(results):
    assert values(edits.copied_seeds(results, Where()), "r321") == values(results, "r320")
    swapped = edits.exchanged_widths(results, Where(width=16), other=64)
    assert (values(swapped, "r161"), values(swapped, "r641")) == (values(results, "r641"), values(results, "r161"))
    steps = edits.exchanged(results, Where(), column="step", a=0, b=1)
    assert values(steps, "r160")[:4] == values(results, "r160")[4:]


def test_losses_are_turned_round_and_the_given_results_stay(results):
    edited = edits.loss_edited(results, Where(width=32), edit=edits.rising)
    of = edited.steps[edited.steps["run_id"] == "r320"]["loss"]
    assert list(of) == pytest.approx([3.0, 3.1, 3.2])
    assert list(edited.steps[edited.steps["run_id"] == "r160"]["loss"]) == pytest.approx([3.0, 2.9, 2.8])
    assert results.steps["loss"].max() == 3.0
