"""What one call may do: it ends in time, says nothing wrong of what is left, and the next one goes on."""

import pytest
from tiny_sweeps import assert_same, numbers, tiny, trained

from mupcheck.results.reading import load_results, say_incomplete
from mupcheck.sweep.limits import Limits, first_runs
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.rounds import rounds
from mupcheck.sweep.runner import execute, run_sweep


def test_groups_are_cut_to_a_number_of_runs():
    groups = [("a", "b", "c"), ("d", "e")]
    assert [first_runs(groups, n) for n in (0, 2, 3, 4)] == [(), (("a", "b"),), (("a", "b", "c"),), (groups[0], ("d",))]
    assert first_runs(groups, 9) == tuple(groups)


@pytest.mark.parametrize("limit", [{"seconds": 0}, {"group_seconds": -1}, {"max_runs": 0}, {"seconds": float("nan")}])
def test_a_limit_is_above_0(limit):
    with pytest.raises(ValueError, match=f"{next(iter(limit))}=.* is not above 0"):
        Limits(**limit)


def test_a_sweep_of_some_runs_at_a_time_is_the_sweep(done, tmp_path):
    _, whole, _ = done
    for there in (3, 6, 8):
        results, progress = trained(tiny(), tmp_path, jobs=1, limits=Limits(max_runs=3))
        assert len(results.runs) == progress[-1].runs_finished == there
        assert say_incomplete(results, "tiny").startswith(f"{8 - there} of 8 runs" if there < 8 else "")
        assert set(results.runs["run_id"]) <= set(whole.runs["run_id"])
    assert_same(numbers(results), numbers(whole), rtol=1e-5)  # in other groups, which may round otherwise


def test_a_limit_holds_for_all_rounds_together(tmp_path):
    sweep = tiny(name="refined", refine=True, widths=(16,), parametrizations=("sp",))
    plans = rounds(plan_sweep(sweep, out=tmp_path, limits=Limits(max_runs=3)))
    missing = []
    for plan in plans:
        list(execute(plan, jobs=1))
        missing.append(plan.missing)
    assert sum(missing) == 3 and len(missing) > 1
    assert plan.left_out > 0
    assert len(load_results(tmp_path / "refined").runs) == 3


@pytest.mark.parametrize("jobs", [1, 2])
def test_when_the_time_is_over_no_group_starts(tmp_path, jobs):
    sweep = tiny(widths=(16, 32, 48))
    results = run_sweep(sweep, out=tmp_path, device="cpu", jobs=jobs, limits=Limits(seconds=1e-6))
    assert len(results.runs) in (4, 8)  # what had begun is finished
    assert "12 runs of tiny are missing" in say_incomplete(results, "tiny")
    assert len(run_sweep(sweep, out=tmp_path, device="cpu", jobs=jobs).runs) == 12
