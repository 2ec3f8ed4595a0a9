"""The precision check from options to answer."""

import pytest
from commands import mupcheck
from tiny_sweeps import tiny, tiny_coord

from mupcheck.cli import exits
from mupcheck.results.reading import finished_runs, load_results
from mupcheck.sweep.plan import plan_sweep
from mupcheck.sweep.precision import counterpart, other_dtype


def test_the_counterpart_is_the_smallest_width_in_the_other_dtype(tmp_path):
    plan = plan_sweep(tiny(refine=True), out=tmp_path)
    other = counterpart(plan)
    assert other.folder == tmp_path / "tiny" / "precision"
    assert {run.width for run in other.runs} == {16}
    assert {run.base_width for run in other.runs} == {16}
    assert {run.dtype for run in other.runs} == {"bfloat16"}
    cells = {(run.parametrization, run.lr, run.seed) for run in plan.runs}
    assert {(run.parametrization, run.lr, run.seed) for run in other.runs} == cells
    assert {run.run_id for run in other.runs}.isdisjoint(run.run_id for run in plan.runs)
    check = counterpart(plan_sweep(tiny_coord(), out=tmp_path))
    assert {run.width for run in check.runs} == {16, 32}
    assert [other_dtype(dtype) for dtype in ("bfloat16", "float64", "float32")] == ["float32", "float32", "bfloat16"]


def test_limits_hold_for_what_it_compares_with_too(tmp_path):
    options = "--data synthetic --vocab-size 32 --device cpu --widths 16,32 --seeds 1 --layers 1 --jobs 1"
    options += " --batch-size 2 --seq-len 16 --lrs 2^-9:2^-7:2 --steps 4 --eval-tokens 64 -p gdn-mup"
    asked = ["lr-sweep", *options.split(), "--out", str(tmp_path), "--check-precision"]
    says = []
    for at_most, wanted in ((4, [4, 0]), (2, [6, 0]), (2, [6, 2]), (2, [6, 3])):
        answer = mupcheck(*asked, "--max-runs", str(at_most))
        assert answer.code == exits.CANNOT_TELL
        assert [len(finished_runs(each)) for each in (tmp_path / "lr", tmp_path / "lr" / "precision")] == wanted
        says.append(answer.err)
    assert "waits for the 2 runs that are missing" in says[0]
    assert "waits for the next call: --max-runs is used up" in says[1]
    assert "the precision check lacks 1 of 3 runs" in says[2]
    assert "float32" in answer.out.splitlines()[-1]


def test_a_refinement_that_goes_on_over_several_calls_ends_with_the_comparison(tmp_path):
    options = "--data synthetic --vocab-size 32 --device cpu --widths 16,32 --seeds 1 --layers 1 --jobs 1 --refine"
    options += " --batch-size 2 --seq-len 16 --lrs 2^-9:2^-5:16 --steps 8 --eval-tokens 64 -p gdn-mup --precision 1"
    asked = ["lr-sweep", *options.split(), "--out", str(tmp_path), "--check-precision", "--max-runs", "3"]
    for _ in range(12):
        answer = mupcheck(*asked)
        assert answer.code in (exits.CANNOT_TELL, exits.FAILED), answer.err
        if "precision check" not in answer.err:
            break
    assert "bfloat16 m" in answer.out.splitlines()[-1]
    assert len(finished_runs(tmp_path / "lr")) > 4


@pytest.mark.parametrize("command", ["lr-sweep", "coord"])
def test_a_sweep_says_what_the_other_dtype_moves(tmp_path, command):
    options = "--data synthetic --vocab-size 32 --device cpu --widths 16,32,64 --seeds 2 --layers 1"
    options += " --batch-size 2 --seq-len 16"
    more = "--lrs 2^-9:2^-5:4 --steps 4 --eval-tokens 64 -p gdn-mup" if command == "lr-sweep" else "--record 0,1"
    asked = [command, *options.split(), *more.split(), "--jobs", "1", "--out", str(tmp_path), "--check-precision"]
    planned = mupcheck(*asked, "--dry-run")
    assert "the precision check trains" in planned.err
    answer = mupcheck(*asked)
    assert answer.code in (exits.FAILED, exits.CANNOT_TELL)
    assert ": bfloat16 m" in answer.out.splitlines()[-1]
    name = "lr" if command == "lr-sweep" else "coord"
    assert set(load_results(tmp_path / name / "precision").runs["dtype"]) == {"bfloat16"}
    # beside other sweeps it is not one of them
    assert set(load_results(tmp_path).runs["sweep"]) == {name}
    as_json = mupcheck(*asked, "--json").json
    record = as_json[0]["precision"][0] if command == "lr-sweep" else as_json["summary"][0]["precision"][0]
    assert (record["dtype"], record["other"]) == ("float32", "bfloat16")
    assert record["verdict"] in ("holds", "moves", "cannot tell")
