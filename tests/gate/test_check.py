"""The gate: what fails, passes and cannot be told, with and without a baseline, as results and as a user meets it."""

from dataclasses import replace
from math import isnan, nan

import pytest
from planted_checks import EFFECTIVE, FREE, RESIDUAL, RIGHT, plant, together
from planted_curves import sweep

from mupcheck.coordinates.judge import judge
from mupcheck.gate.baseline import read_baseline, store
from mupcheck.gate.check import check_results, renew_baseline
from mupcheck.gate.report import Report, explain, notes, off_by
from mupcheck.results.reading import Results

WRONG = RIGHT | {(*EFFECTIVE, 1): 0.5}


def baseline_of(results):
    return [store(judgement) for judgement in judge(results)]


def one(results, **options):
    (checked,) = check_results(results, **options).groups
    return checked


# --- against theory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slopes", "in_file", "option", "outcome", "headline"),
    [
        (RIGHT, None, None, "ok", "pass, as expected"),
        (WRONG, None, None, "failed", "fail, expected pass"),
        (WRONG, "fail", None, "ok", "fail, as expected"),
        (RIGHT, "fail", None, "failed", "pass, expected fail"),
        (RIGHT, "fail", "pass", "ok", "pass, as expected"),
        (WRONG, "pass", "fail", "ok", "fail, as expected"),
        (RIGHT, None, "fail", "failed", "pass, expected fail"),
    ],
)
def test_the_outcome_is_verdict_and_expectation(slopes, in_file, option, outcome, headline):
    checked = one(plant(slopes, expect=in_file), expect=option)
    assert (checked.outcome, checked.headline) == (outcome, headline)
    assert (explain(checked) == []) == (outcome == "ok")


def test_noise_cannot_be_told_whatever_is_expected():
    for expect in (None, "pass", "fail"):
        checked = one(plant(noise=2.0), expect=expect)
        assert (checked.outcome, checked.headline) == ("cannot tell", "cannot tell")
        assert "the interval lies across the tolerance" in checked.reason
        assert "seeds" in checked.answer.next_step


def test_a_failure_is_explained():
    lines = explain(one(plant(WRONG)))
    assert lines[0].startswith("reason: effective_update rms of a_proj")
    assert "required 0 +- 0.25" in lines[0]


def test_the_worst_outcome_is_the_report_s():
    ok, failed = plant(), plant(WRONG, parametrization="sp")
    unknown = plant(noise=2.0, parametrization="mup")
    for parts, outcome in (((ok,), "ok"), ((ok, unknown), "cannot tell"), ((ok, unknown, failed), "failed")):
        report = check_results(together(*parts))
        assert report.outcome == outcome
        assert report.worst_first[0].outcome == outcome
    assert replace(check_results(ok), missing=("x",)).outcome == "cannot tell"


@pytest.mark.parametrize(
    ("slope", "low", "high", "off"),
    [
        (0.5, 0, 0, 0.5),
        (-0.2, 0, 0, -0.2),
        (0, -0.5, 0, 0),
        (-0.7, -0.5, 0, -0.2),
        (-9, -float("inf"), 0, 0),
        (1, nan, nan, nan),
    ],
)
def test_the_distance_from_what_is_required_is_signed_and_0_inside(slope, low, high, off):
    found = off_by(slope, low, high)
    assert found == pytest.approx(off) if not isnan(off) else isnan(found)


# --- never a silent pass ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "said"),
    [
        (lambda: plant(missing=2), "2 of 18 runs of s are missing"),
        (lambda: plant(WRONG, expect="fail", missing=2), "2 of 18 runs of s are missing"),
        (lambda: plant(widths=(32, 64)), "2 widths (32, 64), where a slope needs at least 3"),
        (lambda: plant(seeds=(0,)), "one seed"),
        (lambda: with_value(nan), "its rms is nan at width 256, seed 3"),
        (lambda: with_value(float("inf")), "its rms is inf at width 256, seed 3"),
        (lambda: with_value(0.0), "value 0 at width 256, seed 3"),
        (lambda: without_run(), "no seed has a value at every width"),
        (lambda: diverged(), "1 of 16 runs diverged, at width 256"),
    ],
)
def test_what_is_not_there_or_not_a_number_cannot_be_told(results, said):
    checked = one(results())
    assert checked.outcome == "cannot tell"
    assert said in checked.reason


@pytest.mark.parametrize(("true", "missing", "outcome"), [(-1.0, [], "failed"), (0.0, ["one", "two"], "cannot tell")])
def test_a_drift_is_said_once_whatever_the_reason(true, missing, outcome):
    runs = sweep(true, noise=0.01)
    sweeps = {"s": {"run_ids": [*runs["run_id"], *missing]}}
    checked = one(Results(runs=runs, steps=runs[:0], coords=runs[:0], sweeps=sweeps), expect="transfers")
    assert checked.outcome == outcome and ("are missing" in checked.reason) == bool(missing)
    assert sum(f"drift {checked.answer.drift.slope:+.2f} [" in line for line in explain(checked)) == 1


def with_value(value):
    results = plant()
    coords = results.coords
    coords.loc[(coords["site"] == EFFECTIVE[2]) & coords["run_id"].str.endswith("-256-3"), "value"] = value
    return results


def without_run():
    results = plant(seeds=(0, 1))
    keep = ~results.coords["run_id"].str.contains("-64-")
    return replace(results, coords=results.coords[keep])


def diverged():
    results = plant()
    runs = results.runs.copy()
    runs.loc[runs["run_id"].str.endswith("-256-3"), "status"] = "diverged"
    return replace(results, runs=runs)


@pytest.mark.parametrize(
    ("field", "changes"), [("lr", {"lr": 0.5}), ("data_hash", {"data_hash": "x"}), ("n_layers", {"n_layers": 9})]
)
def test_mixed_specs_are_refused_by_the_field_that_differs(field, changes):
    mixed = together(plant(seeds=(0, 1)), plant(seeds=(2, 3), **changes))
    with pytest.raises(ValueError, match=f"differ in {field} "):
        check_results(mixed)


def test_nothing_to_judge_is_refused():
    results = plant()
    with pytest.raises(ValueError, match="nothing to judge"):
        check_results(replace(results, runs=results.runs.iloc[:0], coords=results.coords.iloc[:0]))
    with pytest.raises(ValueError, match="expect = 'drifts' is no verdict of what is there; try pass or fail"):
        check_results(results, expect="drifts")


# --- against a baseline -----------------------------------------------------------------------------------------------


def test_distance_and_drift_are_told_apart():
    then = baseline_of(plant(expect="fail"))
    still_right = one(plant(RIGHT | {(*EFFECTIVE, 1): 0.05}), baseline=then, where="b.txt")
    assert (still_right.verdict, still_right.drift, still_right.outcome) == ("pass", "drifted", "failed")
    assert still_right.headline == "pass, as expected, drifted from the baseline"
    assert "1 of 3 compared slopes drifted from b.txt: effective_update rms of a_proj" in still_right.reason
    still_wrong = one(plant(WRONG), baseline=baseline_of(plant(WRONG)))
    assert (still_wrong.verdict, still_wrong.drift, still_wrong.outcome) == ("fail", "same", "failed")
    both = one(plant(WRONG), baseline=then, where="b.txt")
    assert both.headline == "fail, expected pass, drifted from the baseline"
    assert "required 0" in both.reason and "pass then, fail now" in both.reason
    known = one(plant(WRONG, expect="fail"), baseline=baseline_of(plant(WRONG)))
    assert (known.drift, known.outcome) == ("same", "ok")


def test_a_slope_that_passed_and_fails_counts_however_little_it_moved():
    results, key = plant(WRONG, expect="fail"), (*EFFECTIVE, "later")
    (then,) = baseline_of(results)
    for was, drift, noted in (("pass", "drifted", 0), ("cannot tell", "same", 1), ("fail", "same", 0)):
        then.entries[key] = replace(then.entries[key], verdict=was)
        checked = one(results, baseline=[then])
        assert checked.drift == drift
        assert len(notes(checked)) == noted, "any other change of verdict is said"
        assert (f"{was} then, fail now" in " ".join((checked.reason, *notes(checked)))) == (was != "fail")


def test_new_slopes_are_good_to_know_and_gone_ones_cannot_be_told():
    more = RIGHT | {("activation", "rms", "logits", 0): 0.0}
    grown = one(plant(more), baseline=baseline_of(plant()))
    assert (grown.drift, grown.outcome) == ("same", "ok")
    assert notes(grown) == ["1 judged slope(s) not in the baseline; --update-baseline adds them"]
    shrunk = one(plant(), baseline=baseline_of(plant(more)), where="b.txt")
    assert (shrunk.drift, shrunk.outcome) == ("cannot tell", "cannot tell")
    assert "activation rms of logits, step 0: " in shrunk.reason and "not among what is judged now" in shrunk.reason


def test_a_group_that_the_baseline_does_not_have_cannot_be_told():
    both = together(plant(), plant(parametrization="mup"))
    report = check_results(both, baseline=baseline_of(plant()), where="b.txt")
    assert [checked.outcome for checked in report.groups] == ["ok", "cannot tell"]
    assert "mup (adamw, head-dim) of s is not in b.txt; add it with --update-baseline" in report.groups[1].reason


@pytest.mark.parametrize(
    ("field", "changes", "then", "now"),
    [
        ("sweep", {"sweep": "t"}, "s", "t"),
        ("mode", {"mode": "heads", "head_k_dim": 8, "head_v_dim": 16}, "head-dim", "heads"),
        ("optimizer", {"optimizer": "sgd"}, "adamw", "sgd"),
        ("parametrization", {"parametrization": "mup"}, "gdn-mup", "mup"),
    ],
)
def test_another_s_baseline_is_told_by_the_field_that_differs(field, changes, then, now):
    for slopes, outcome in ((RIGHT, "cannot tell"), (WRONG, "failed")):
        results = plant(slopes, **changes)
        if field == "mode":
            results = replace(results, runs=results.runs.assign(head_k_dim=8, head_v_dim=16))
        report = check_results(results, baseline=baseline_of(plant()), where="b.txt")
        (line,) = report.unfit
        assert f"{field} is {then} there and {now} in the results" in line and "\n" not in line
        assert report.outcome == report.groups[0].outcome == outcome, "it hides no failure"
        assert (report.groups[0].drift, report.groups[0].comparisons) == ("cannot tell", ())
        assert line in report.groups[0].reason


def test_another_way_to_measure_is_told_unless_runs_are_missing():
    then = baseline_of(plant())
    for slopes, outcome in ((RIGHT, "cannot tell"), (WRONG, "failed")):
        report = check_results(plant(slopes, widths=(32, 64, 128)), baseline=then)
        assert "has widths = 32, 64, 128, 256" in report.unfit[0]
        assert report.outcome == outcome
    report = check_results(plant(widths=(32, 64, 128), missing=4), baseline=then)
    assert (report.outcome, report.groups[0].drift, report.unfit) == ("cannot tell", "cannot tell", ())
    assert "4 of 16 runs of s are missing" in report.groups[0].reason


def test_runs_that_diverged_are_not_compared_with_a_baseline():
    checked = one(diverged(), baseline=baseline_of(plant(RIGHT | {(*EFFECTIVE, 1): 0.2})))
    assert (checked.outcome, checked.drift, checked.comparisons) == ("cannot tell", "cannot tell", ())
    assert "1 of 16 runs diverged" in checked.reason


def test_what_moved_farthest_is_named_first():
    now = RIGHT | {(*EFFECTIVE, 1): 0.05, (*RESIDUAL, 0): -0.2, (*FREE, 1): 3.0}
    then = RIGHT | {("activation", "rms", "embedding", 0): 0.0}
    moved = one(plant(now), baseline=baseline_of(plant(then))).moved
    assert [each.key[2] for each in moved] == ["residual", "a_proj", "embedding"], "what is gone comes last"


def test_what_failed_is_named_before_what_cannot_be_told_however_far_it_is():
    checked = one(plant(), baseline=baseline_of(plant()))
    first, second, third = checked.comparisons
    doubtful, drifted = replace(second, verdict="cannot tell", drift=0.2), replace(third, verdict="drifted", drift=0.1)
    assert replace(checked, comparisons=(first, doubtful, drifted)).moved == [drifted, doubtful]


def test_a_slope_that_cannot_be_compared_is_no_pass():
    (then,) = baseline_of(plant())
    key = (*EFFECTIVE, "later")
    then.entries[key] = replace(then.entries[key], slope=nan, verdict="cannot tell")
    checked = one(plant(), baseline=[then], where="b.txt")
    assert (checked.verdict, checked.drift, checked.outcome) == ("pass", "cannot tell", "cannot tell")
    assert "1 of 3 compared slopes could not be compared with b.txt: effective_update rms of a_proj" in checked.reason


# --- renewing ---------------------------------------------------------------------------------------------------------


def test_a_baseline_is_written_and_renewed(tmp_path):
    path = tmp_path / "b.txt"
    both = together(plant(), plant(WRONG, parametrization="sp", expect="fail"))
    said = renew_baseline(path, check_results(both), keep_other_sweeps=False)
    assert said == f"{path} was written: 2 group(s), 6 judged slopes (mean_abs left out); 6 new, changed or gone"
    assert check_results(both, baseline=read_baseline(path)).outcome == "ok"
    before = path.read_text().splitlines()
    assert "; 0 new, changed" in renew_baseline(path, check_results(both), keep_other_sweeps=False)
    assert path.read_text().splitlines() == before
    moved = plant(RIGHT | {(*EFFECTIVE, 1): 0.1})
    assert "1 group(s), 3 judged slopes (mean_abs left out); 4 new, changed" in renew_baseline(
        path, check_results(moved), keep_other_sweeps=True
    )
    assert [each.group[1] for each in read_baseline(path)] == ["gdn-mup"], "sp of this sweep is gone"
    assert len(set(path.read_text().splitlines()) - set(before)) == 1, "one line of the diff for one slope that moved"


def test_other_sweeps_stay_if_asked(tmp_path):
    path = tmp_path / "b.txt"
    renew_baseline(path, check_results(together(plant(), plant(sweep="t"))), keep_other_sweeps=False)
    renew_baseline(path, check_results(plant()), keep_other_sweeps=True)
    assert {each.sweep for each in read_baseline(path)} == {"s", "t"}
    renew_baseline(path, check_results(plant()), keep_other_sweeps=False)
    assert {each.sweep for each in read_baseline(path)} == {"s"}


@pytest.mark.parametrize(
    "report",
    [
        lambda: check_results(plant(WRONG)),
        lambda: check_results(plant(expect="fail")),
        lambda: check_results(plant(noise=2.0)),
        lambda: check_results(together(plant(), plant(noise=2.0, parametrization="mup"))),
        lambda: check_results(plant(missing=1)),
        lambda: replace(check_results(plant()), missing=("no run of t is there",)),
    ],
)
def test_what_is_not_right_is_not_recorded(tmp_path, report):
    path = tmp_path / "b.txt"
    said = renew_baseline(path, report(), keep_other_sweeps=False)
    assert said.startswith(f"{path} was not written")
    assert not path.exists()


def test_what_is_no_baseline_is_not_overwritten(tmp_path):
    path = tmp_path / "b.txt"
    path.write_text("my notes")
    with pytest.raises(ValueError, match="is not a baseline of mupcheck"):
        renew_baseline(path, check_results(plant()), keep_other_sweeps=False)
    assert path.read_text() == "my notes"
    with pytest.raises(ValueError, match="there is none here"):
        renew_baseline(path, Report(()), keep_other_sweeps=False)
